"""Everything that the documentation shows is run: files that it prints whole, code blocks, commands."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

import forked
import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [path for path in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("**/*.md"))) if path.is_file()]
BLOCK = re.compile(r'^```(?:python|yaml(?= title))(?: title="(?P<title>[\w./]+)")?\n(?P<code>.*?)^```$', re.M | re.S)
COMMAND = re.compile(r"^    (?P<command>(?:\./run|tff-hospitals) .*)$", re.M)
PRINTS = re.compile(r"\bprints `([^`]+)`|with the (?:row|head) `([^`]+)`")
NEEDS_MORE = (
    *("-m pytest", "=my_package."),  # the tests themselves; what is the reader's own
    *("-m docs.", "requirements-docs.lock"),  # tests/test_browser.py builds the site
    "tff-hospitals lesson",  # minutes each; tests/test_lessons.py runs them in small
)

FROM_A_CLONE = "quick_start.md"  # tests/test_stranger.py runs it


class Section:
    """What one section of a page shows."""

    def __init__(self, page: pathlib.Path, title: str, text: str):
        self.page, self.title, self.text = page, title, text
        self.files: dict[str, str] = {}
        self.scripts: list[str] = []
        for block in BLOCK.finditer(text):
            if block["title"]:
                self.files[block["title"]] = self.files.get(block["title"], "") + block["code"]
            else:
                self.scripts.append(block["code"])
        self.commands = [
            one["command"] for one in COMMAND.finditer(text) if not any(word in one["command"] for word in NEEDS_MORE)
        ]
        self.printed = [row or head for row, head in PRINTS.findall(text)]

    def __repr__(self) -> str:
        return f"{self.page.name}: {self.title}"


def sections() -> list[Section]:
    found = []
    for page in PAGES:
        parts = re.split(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
        found += [Section(page, title, text) for title, text in zip(parts[1::2], parts[2::2])]
    return found


SECTIONS = sections()


def to_be_run(page: pathlib.Path) -> list[str]:
    """Commands of a page, in its order, without those that its own files make possible."""
    if page.name == "measurements.md":  # benchmarks take hours
        return []
    return [command for one in SECTIONS if one.page == page and not one.files for command in one.commands]


@pytest.fixture(scope="module")
def commands() -> Iterator[forked.Commands]:
    with forked.Commands() as started:
        yield started


@pytest.fixture
def run(commands: forked.Commands) -> Callable[..., str]:
    """Runs Python in a folder, which must end well, and gives what it printed.

    In a process that has imported TensorFlow already, or from the beginning as a user's: `afresh`.
    """

    def run_it(arguments: list[str], folder: pathlib.Path, afresh: bool = False) -> str:
        environment = {
            "PYTHONPATH": os.pathsep.join([str(folder), str(CHECKOUT)]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "COLUMNS": "140",
        }
        if afresh:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=folder,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
        else:
            done = commands.run(arguments, folder, environment)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run_it


def prepared(folder: pathlib.Path) -> pathlib.Path:
    """A folder that looks like the checkout to a command, so that what it writes lands elsewhere."""
    for name in ("scripts", "presets", "data", "benchmarks"):
        (folder / name).symlink_to(CHECKOUT / name)
    return folder


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("section", [one for one in SECTIONS if one.files and one.page.name != FROM_A_CLONE], ids=repr)
def test_files_of_a_section_do_what_it_says(section: Section, tmp_path: pathlib.Path, run: Callable[..., str]) -> None:
    for name, code in section.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    scripts = [name for name in section.files if "print(" in section.files[name]]
    printed = "".join(run([name], tmp_path) for name in scripts)
    for command in section.commands:
        printed += run(["-m", "tff_hospitals", *shlex.split(command)[1:]], tmp_path)
    assert section.printed, "a worked example says what it prints"
    for words in section.printed:
        assert words in printed


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("section", [one for one in SECTIONS if one.scripts and not one.files], ids=repr)
def test_code_blocks_run(section: Section, tmp_path: pathlib.Path, run: Callable[..., str]) -> None:
    for number, code in enumerate(section.scripts):
        script = prepared(tmp_path) / f"block{number}.py" if number == 0 else tmp_path / f"block{number}.py"
        script.write_text(code, encoding="utf-8")
        run([script.name], tmp_path, afresh=section.page.name == "README.md")


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if COMMAND.search(page.read_text(encoding="utf-8"))], ids=str)
def test_commands_run_in_the_order_of_the_page(
    page: pathlib.Path, tmp_path: pathlib.Path, run: Callable[..., str]
) -> None:
    folder = prepared(tmp_path)
    for command in to_be_run(page):
        words = shlex.split(command, comments=True)[1:]
        program = words if command.startswith("./run") else ["-m", "tff_hospitals", *words]
        run(program, folder, afresh=page.name == "README.md")


def test_the_pages_show_something(checkout: pathlib.Path) -> None:
    assert sum(len(section.files) for section in SECTIONS) >= 8
    assert sum(len(section.commands) for section in SECTIONS) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
