"""The environment in which Flower runs: made on request, because its packages do not go with TensorFlow's.

The version is fixed to the last figure: our two programs use modules that Flower calls private.
"""

from __future__ import annotations

import os
import pathlib

from tff_hospitals.foundations import own_environment

FLOWER_VERSION = "1.42.0"
_PINS = """
    alembic==1.20.1 annotated-doc==0.0.7 annotated-types==0.8.0 anyio==4.16.0 certifi==2026.10.19.post1 cffi==2.1.1
    charset-normalizer==3.5.3 click==8.5.1 cryptography==50.0.2 fastapi==0.138.2 flwr==1.42.0 greenlet==3.5.6
    grpcio==1.85.3 grpcio-health-checking==1.81.1 h11==0.16.0 httpcore==1.0.9 httptools==0.9.0 httpx==0.28.1 idna==3.20
    iterators==0.0.2 Mako==1.4.3 markdown-it-py==4.3.0 MarkupSafe==3.0.4 mdurl==0.1.2 numpy==2.4.6 packaging==25.0
    pathspec==1.1.1 prompt_toolkit==3.0.53 protobuf==6.33.6 pycparser==3.12 pycryptodome==3.24.1 pydantic==2.14.4
    pydantic_core==2.50.5 Pygments==2.21.0 python-dotenv==1.2.4 PyYAML==6.0.4 requests==2.34.2 rich==14.3.4
    shellingham==1.5.4 SQLAlchemy==2.1.9 starlette==1.3.1 tomli==2.5.0 tomli_w==1.2.0 typer==0.20.1
    typing-inspection==0.4.5 typing_extensions==4.16.0 urllib3==2.8.0 uv==0.13.9 uvicorn==0.49.0 uvloop==0.23.0
    watchfiles==1.3.0 wcwidth==0.9.4 websockets==17.4
"""
SIZE = "it takes 0.3 GB of disk"
_WANTED = own_environment.Wanted(
    f"flower-{FLOWER_VERSION}", _PINS, "--flower_environments", "deployment/flower_environment.py"
)


def usual_folder() -> pathlib.Path:
    """Where environments lie unless somebody says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "tff_hospitals" / "environments"


def prepare(folder: pathlib.Path | None = None) -> pathlib.Path:
    """The Python of Flower's environment, which is made from the package index if it is not there.

    Args:
      folder: of environments; None: the usual one.

    Raises:
      Unusable: it cannot be made; the message says what the installer said, and what to do.
    """
    return own_environment.prepare(_WANTED, usual_folder() if folder is None else folder)


def existing(folder: pathlib.Path | None = None) -> pathlib.Path | None:
    """The Python of an environment that is there already; None: there is none."""
    environment = (usual_folder() if folder is None else folder) / _WANTED.name
    return own_environment.python_of(environment) if _WANTED.is_ready(environment) else None
