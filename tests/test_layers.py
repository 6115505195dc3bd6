"""Imports go down only: read from the source, so that an arrow that no test happens to run is seen as well."""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

import tff_hospitals

PACKAGE = pathlib.Path(tff_hospitals.__file__).parent
TENSORFLOW = {"tensorflow", "tensorflow_federated", "tensorflow_privacy", "keras", "jax"}
HEAVY = {*TENSORFLOW, "scipy", "pandas", "matplotlib", "sklearn"}
RANKS = {
    "": 0,  # the package itself
    "foundations": 0,
    "accounting": 1,
    "communication": 1,
    "hospitals": 2,
    "models": 2,
    "plan": 3,
    "processes": 4,
    "runtimes": 5,
    "training": 5,
    "tff": 5,
    "audits": 6,
    "deployment": 6,
    "experiments": 7,
    "reports": 7,
    "installation": 7,
    "__main__": 7,
}


@dataclasses.dataclass(frozen=True)
class Arrow:
    """One import: who, whom, in which line, and whether it happens when the importing module is loaded."""

    source: str
    target: str
    line: int
    at_load: bool


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def unit(module: str) -> str:
    """The part of the package that has a rank: `tff_hospitals.accounting.ledger` is in `accounting`."""
    return module.split(".")[1] if "." in module else ""


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_in(nodes: list[ast.stmt], at_load: bool) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    found = []
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append((node, at_load))
        inside = (
            at_load and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_for_types_only(node)
        )
        for field in ("body", "orelse", "finalbody"):
            found += imports_in(getattr(node, field, []), inside or (at_load and field == "orelse"))
        for handler in getattr(node, "handlers", []):
            found += imports_in(handler.body, inside)
    return found


def arrows_of(module: str, path: pathlib.Path) -> list[Arrow]:
    arrows = []
    for node, at_load in imports_in(ast.parse(path.read_text()).body, at_load=True):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path}:{node.lineno}: relative import; name the module in full"
            base = node.module or ""
            inner = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in MODULES else base for name in inner]
        arrows += [Arrow(module, target, node.lineno, at_load) for target in targets]
    return arrows


ARROWS = [arrow for module, path in MODULES.items() for arrow in arrows_of(module, path)]
OWN = [arrow for arrow in ARROWS if arrow.target.split(".")[0] == "tff_hospitals"]


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """A path that comes back to where it started, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            circle = visit(target, [*path, node])
            if circle:
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := visit(node, []))), [])


def all_circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Every largest set of nodes that reach each other."""
    reached: dict[str, set[str]] = {}
    for node in graph:
        reached[node], waiting = set(), [node]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in reached[node]:
                    reached[node].add(target)
                    waiting.append(target)
    together = [{other for other in found if node in reached.get(other, ())} for node, found in reached.items()]
    return [one for number, one in enumerate(together) if one and one not in together[:number]]


def loaded_with(module: str) -> dict[str, list[str]]:
    """Every module that loading `module` loads, by source text alone, each with the way that leads to it."""
    ways = {module: [module]}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
        for target in [*parents, *(arrow.target for arrow in ARROWS if arrow.source == name and arrow.at_load)]:
            if target not in ways:
                ways[target] = [*ways[name], target]
                if target in MODULES:
                    waiting.append(target)
    return ways


def is_entrance(module: str) -> bool:
    """Whether a module is loaded before anybody has asked for work: a package, a command, its flags."""
    names = module.split(".")
    if unit(module) == "experiments":
        return names[-1].endswith("command") or names[-1] in ("flag_groups", "front_door") or len(names) == 2
    if unit(module) in ("accounting", "communication", "hospitals", "models", "tff"):
        return len(names) == 2 or names[-1] == "command"
    return unit(module) in ("", "foundations", "plan", "installation")


def is_free_of_tensorflow(module: str) -> bool:
    return RANKS[unit(module)] <= 1 or unit(module) in ("hospitals", "plan")


ENTRANCES = [module for module in MODULES if is_entrance(module)]


def test_every_part_has_a_rank() -> None:
    assert {unit(module) for module in MODULES} - set(RANKS) == set()


def test_imports_go_down_only() -> None:
    upward = [arrow for arrow in OWN if RANKS[unit(arrow.target)] > RANKS[unit(arrow.source)]]
    assert upward == []


def test_parts_of_one_rank_do_not_import_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for arrow in OWN:
        if unit(arrow.source) != unit(arrow.target):
            graph.setdefault(unit(arrow.source), set()).add(unit(arrow.target))
    assert find_circle(graph) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Late imports and those for types alone count: who needs the other to be understood cannot be moved without it."""
    graph: dict[str, set[str]] = {}
    for arrow in OWN:
        if arrow.target in MODULES and arrow.source != arrow.target:
            graph.setdefault(arrow.source, set()).add(arrow.target)
    assert all_circles(graph) == []


def test_the_checks_see_what_they_should() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) == []
    assert all_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"e"}, "e": {"f"}, "f": {"d"}}) == [
        {"b", "c"},
        {"d", "e", "f"},
    ]
    source = """
import a
if TYPE_CHECKING:
    import b
else:
    import c
def f():
    import d
try:
    import e
except ImportError:
    import f
"""
    found = {node.names[0].name: at_load for node, at_load in imports_in(ast.parse(source).body, at_load=True)}
    assert found == {"a": True, "b": False, "c": True, "d": False, "e": True, "f": True}


def heavy_modules(module: str, heavy: set[str]) -> dict[str, list[str]]:
    return {target: way for target, way in loaded_with(module).items() if target.split(".")[0] in heavy}


@pytest.mark.parametrize("module", ENTRANCES)
def test_entrances_load_nothing_heavy(module: str) -> None:
    assert heavy_modules(module, HEAVY) == {}


@pytest.mark.parametrize("module", [module for module in MODULES if is_free_of_tensorflow(module)])
def test_the_lower_layers_load_no_tensorflow(module: str) -> None:
    assert heavy_modules(module, TENSORFLOW) == {}


def modules_after(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys\nsys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    child = subprocess.run(
        [sys.executable, "-c", code + report, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
    )
    return set(json.loads(child.stderr))


def test_entrances_load_nothing_heavy_through_other_packages() -> None:
    assert modules_after("import " + ", ".join(ENTRANCES)) & HEAVY == set()


def test_the_lower_layers_load_no_tensorflow_through_other_packages() -> None:
    lower = [module for module in MODULES if is_free_of_tensorflow(module)]
    assert modules_after("import " + ", ".join(lower)) & TENSORFLOW == set()


SCRIPTS = sorted((PACKAGE.parent / "scripts").glob("*.py"))
RUN_SCRIPT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_of_a_script_loads_nothing_heavy(script: pathlib.Path) -> None:
    loaded = modules_after(RUN_SCRIPT, str(script), "--help")
    assert "tff_hospitals" in loaded
    assert loaded & HEAVY == set()
