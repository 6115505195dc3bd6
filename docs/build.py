"""Builds the documentation as a site without outside requests; any warning is an error.

    ./run -m docs.build site

writes the folder `site`. It needs the packages of requirements-docs.lock. MkDocs loads this file too, as a hook: it
makes the pages of the reference from docstrings, one for each package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
INSTALL = "./run -m pip install --no-deps --require-hashes --only-binary :all: --requirement requirements-docs.lock"
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")


def main(arguments: list[str]) -> int:
    """Builds the site into the folder that the only argument names; returns an exit code."""
    if len(arguments) != 1:
        print("usage: ./run -m docs.build FOLDER", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {', '.join(missing)}: not installed. Remedy: {INSTALL}", file=sys.stderr)
        return 2
    output = pathlib.Path(arguments[0]).resolve()
    if output.exists() and not (output / "sitemap.xml").is_file() and any(output.iterdir()):
        print(f"error: {output} holds something else. Remedy: name an empty or a new folder.", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    done = subprocess.run(
        [*command, "--config-file", str(CHECKOUT / "mkdocs.yml"), "--site-dir", str(output)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        check=False,
    )
    if done.returncode == 0:
        print(f"site: {output / 'index.html'} ({len(list(output.rglob('*.html')))} pages)")
    return done.returncode


def packages() -> dict[str, list[str]]:
    """Every package of the library with its public modules, as dotted names."""
    found = {}
    for path in sorted((CHECKOUT / "tff_hospitals").rglob("__init__.py")):
        name = ".".join(path.parent.relative_to(CHECKOUT).parts)
        modules = sorted(one.stem for one in path.parent.glob("*.py") if not one.name.startswith("_"))
        found[name] = [f"{name}.{one}" for one in modules]
    return found


def title(page: pathlib.Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return found[1] if found else page.stem


def on_config(config: Any) -> Any:
    """Adds lessons and reference to the menu."""
    folder = pathlib.Path(config.docs_dir) / "lessons"
    pages = [folder / "index.md", *sorted(one for one in folder.glob("*.md") if one.name != "index.md")]
    reference = ["reference/index.md", *({name: f"reference/{name}.md"} for name in packages())]
    config.nav += [
        {"Lessons": [{title(page): f"lessons/{page.name}"} for page in pages]},
        {"Reference": reference},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the notebook and the pages of the reference."""
    from mkdocs.structure.files import File

    from docs import notebook

    shown = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    files.append(File.generated(config, "notebook.md", content=notebook.page(shown)))

    lines = ["# Reference", "", "Made from the docstrings of every package; imports go down only.", ""]
    for name, modules in packages().items():
        text = "\n\n".join([f"# {name}", *(f"::: {one}" for one in modules or [name])])
        files.append(File.generated(config, f"reference/{name}.md", content=text + "\n"))
        lines.append(f"* [{name}]({name}.md)")
    files.append(File.generated(config, "reference/index.md", content="\n".join(lines) + "\n"))
    return files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
