"""Environments of the libraries that `peers.py` and `limit.py` measure: their versions, all of them fixed.

`foundations.own_environment` makes them on request, once, from the package index that pip uses.
"""

from __future__ import annotations

import pathlib

from tff_hospitals.foundations import own_environment
from tff_hospitals.foundations.own_environment import Unusable, clean

__all__ = ["PINS", "SIZES", "Unusable", "clean", "is_ready", "main_versions", "prepare"]

# FedJAX 0.0.17 is of 2023, and works with this jax. Flower 1.42.0 asks for a certifi newer than any that the index had
# when these were fixed. What torch brings along for graphics cards is fixed by torch itself.
PINS = {
    "fedjax": """
        absl-py==2.5.1 certifi==2026.10.18 charset-normalizer==3.5.2 chex==0.1.86 dm-haiku==0.0.11 etils==1.15.0
        fedjax==0.0.17 flax==0.8.4 fsspec==2026.9.0 idna==3.20 jax==0.4.23 jaxlib==0.4.23 jmp==0.0.4
        markdown-it-py==4.3.0 mdurl==0.1.2 ml_dtypes==0.5.4 msgpack==1.2.4 nest-asyncio==1.6.0 numpy==1.26.4
        opt_einsum==3.4.0 optax==0.1.9 orbax-checkpoint==0.5.16 protobuf==7.36.2 Pygments==2.21.0 PyYAML==6.0.3
        requests==2.34.2 rich==15.0.0 scipy==1.11.4 tabulate==0.10.0 tensorstore==0.1.86 toolz==1.2.0
        typing_extensions==4.16.0 urllib3==2.8.0 zipp==4.1.2
    """,
    "flower": """
        alembic==1.20.1 annotated-doc==0.0.7 annotated-types==0.8.0 anyio==4.16.0 attrs==26.1.0 certifi==2026.10.18
        cffi==2.1.1 charset-normalizer==3.5.2 click==8.5.1 cryptography==50.0.2 fastapi==0.138.2 filelock==4.2.11
        flwr[simulation]==1.41.0 greenlet==3.5.6 grpcio==1.85.1 grpcio-health-checking==1.81.1 h11==0.16.0
        httpcore==1.0.9 httptools==0.9.0 httpx==0.28.1 idna==3.20 iterators==0.0.2 jax==0.4.23 jaxlib==0.4.23
        jsonschema==4.26.0 jsonschema-specifications==2025.9.1 Mako==1.4.3 markdown-it-py==4.3.0 MarkupSafe==3.0.4
        mdurl==0.1.2 ml_dtypes==0.5.4 msgpack==1.2.4 numpy==1.26.4 opt_einsum==3.4.0 packaging==25.0 pathspec==1.1.1
        prompt_toolkit==3.0.53 protobuf==6.33.6 pycparser==3.12 pycryptodome==3.24.1 pydantic==2.14.3
        pydantic_core==2.50.4 Pygments==2.21.0 python-dotenv==1.2.4 PyYAML==6.0.3 ray==2.55.1 referencing==0.37.0
        requests==2.34.2 rich==14.3.4 rpds-py==2026.9.1 scipy==1.11.4 shellingham==1.5.4 SQLAlchemy==2.1.9
        starlette==1.3.1 tomli==2.5.0 tomli_w==1.2.0 typer==0.20.1 typing-inspection==0.4.5 typing_extensions==4.16.0
        urllib3==2.8.0 uv==0.12.24 uvicorn==0.49.0 uvloop==0.23.0 watchfiles==1.3.0 wcwidth==0.9.4 websockets==17.4
    """,
    "jax": "jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 numpy==2.4.6 opt_einsum==3.4.0 scipy==1.17.1",
    "pfl": """
        absl-py==1.4.0 attrs==23.2.0 dill==0.4.1 dm-tree==0.1.10 dp-accounting==0.5.1 filelock==4.2.11
        fsspec==2026.9.0 Jinja2==3.1.6 MarkupSafe==3.0.4 mpmath==1.3.0 multiprocess==0.70.19 networkx==3.6.1
        numpy==2.4.6 packaging==25.0 pfl[pytorch]==0.6.0 prv-accountant==0.2.0 scipy==1.17.1 setuptools==84.2.1
        sympy==1.14.0 torch==2.13.0 typing_extensions==4.16.0 wheel==0.45.1 wrapt==2.5.2
    """,
}
LIBRARIES = ("fedjax", "flower", "pfl")  # of federated learning; JAX alone is the limit that limit.py looks for
SIZES = (
    "fedjax takes 0.7 GB of disk, flower 1.0 GB, pfl 1.1 GB where pip finds a CPU-only wheel of torch (as with one in \
PIP_FIND_LINKS); the index itself has only the one for graphics cards, of which pip fetches 2.7 GB"
)
# The library and what its speed depends on.
_BESIDE = {
    "jax": ("jax", "jaxlib"),
    "fedjax": ("fedjax", "jaxlib"),
    "flower": ("flwr", "ray", "jaxlib"),
    "pfl": ("pfl", "torch"),
}


def main_versions(peer: str) -> str:
    """The library and what its speed depends on: `fedjax 0.0.17, jaxlib 0.4.23`."""
    versions = dict(pin.split("==") for pin in PINS[peer].split())
    by_name = {name.split("[")[0]: version for name, version in versions.items()}
    return ", ".join(f"{name} {by_name[name]}" for name in _BESIDE[peer])


def is_ready(peer: str, environment: pathlib.Path) -> bool:
    """Whether the environment was finished, with these versions."""
    return _wanted(peer).is_ready(environment)


def prepare(peer: str, folder: pathlib.Path) -> pathlib.Path:
    """The Python of the peer's environment, which is made if it is not there.

    Args:
      peer: a key of PINS.
      folder: of all environments; each has the name of its peer.

    Raises:
      Unusable: no Python of the right version, a folder that is somebody else's, an installer that failed.
    """
    return own_environment.prepare(_wanted(peer), folder)


def _wanted(peer: str) -> own_environment.Wanted:
    return own_environment.Wanted(peer, PINS[peer], "--environments", pathlib.Path(__file__).name)
