"""Reads a schema from YAML or TOML.

Values are read as text and understood by what they are for: `positive: yes` means the cell "yes", whatever YAML thinks
of it.

>>> schema = schema_from_mapping(
...     {
...         "features": [
...             {"name": "age", "bounds": ["18", "100"]},
...             {"name": "sex", "kind": "binary", "categories": ["f", "m"]},
...         ],
...         "target": {"name": "ill", "positive": "yes"},
...         "scaling": "fixed_bounds",
...     }
... )
>>> schema.feature("age").high, schema.target.positive, schema.column_names
(100.0, ('yes',), ('age', 'sex'))
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.hospitals.dates import UNITS, days
from tff_hospitals.hospitals.features import Feature, Target
from tff_hospitals.hospitals.schema import Schema

SUFFIXES = (".yaml", ".yml", ".toml")
OPEN = "open"  # of bounds that somebody still has to state


def read_schema(path: os.PathLike[str] | str, *, whole: bool = True) -> Schema:
    """The schema in a YAML or TOML file.

    Args:
      path: the file.
      whole: whether the schema must be sound; without it, bounds may still be open.

    Raises:
      RecordError: when the file cannot be read as YAML or TOML.
      InvalidInput: names every entry that is unknown, missing or out of place.
    """
    target = pathlib.Path(path)
    raise_if(
        [one_of("schema file extension", target.suffix.lower(), SUFFIXES, remedy="write the schema as YAML or TOML")]
    )
    try:
        text = unicodedata.normalize("NFC", target.read_text(encoding="utf-8-sig"))  # as cells are
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"schema {target} cannot be read: {error}. Remedy: name a readable UTF-8 file.") from error
    try:
        content = _parse_toml(text) if target.suffix.lower() == ".toml" else _parse_yaml(text)
    except ImportError as error:
        raise RecordError(f"schema {target} needs a package: {error}. Remedy: write the schema as YAML.") from error
    except Exception as error:  # each parser has its own kind of error, all of them mean the same
        cause = " ".join(str(error).split())
        kind = target.suffix[1:].upper()
        raise RecordError(f"schema {target} is not valid {kind}: {cause}. Remedy: mend it.") from error
    if not isinstance(content, Mapping):
        raise RecordError(f"schema {target} holds no entries. Remedy: it needs at least features and target.")
    return schema_from_mapping(content, whole=whole)


def _parse_yaml(text: str) -> Any:
    yaml: Any = importlib.import_module("yaml")
    return yaml.load(text, Loader=yaml.BaseLoader)  # all scalars stay text; makes no objects


def _parse_toml(text: str) -> Any:
    try:
        toml = importlib.import_module("tomllib")  # Python 3.11 and later
    except ImportError:
        toml = importlib.import_module("tomli")
    return toml.loads(text)


def schema_from_mapping(content: Mapping[str, Any], *, whole: bool = True) -> Schema:
    """The schema that nested plain values describe (text, numbers, lists, mappings); `whole` as in `read_schema`.

    Raises:
      InvalidInput: with all problems at once.
    """
    problems: list[Problem] = []
    features = []
    listed = content.get("features")
    if isinstance(listed, Mapping):  # {age: {kind: numeric}} is as good as a list
        listed = [{"name": name, **(entry if isinstance(entry, Mapping) else {})} for name, entry in listed.items()]
    if not isinstance(listed, list):
        problems.append(Problem("features", listed, "must be a list of columns", "list name, kind and bounds of each"))
        listed = []
    for position, entry in enumerate(listed, 1):
        if isinstance(entry, str):
            entry = {"name": entry}
        name = entry.get("name", position) if isinstance(entry, Mapping) else position
        features.append(_build(Feature, f"features[{name}]", entry, problems))
    target = _build(Target, "target", content.get("target"), problems)
    rest = {key: value for key, value in content.items() if key not in ("features", "target")}
    schema = _build(Schema, "", rest, problems, features=tuple(f for f in features if f), target=target or Target(""))
    if problems or schema is None:
        raise InvalidInput(problems)
    raise_if(schema.problems() if whole else [])
    return schema


def _build(kind: Callable[..., Any], where: str, entry: Any, problems: list[Problem], **given: Any) -> Any:
    """An object of a schema class from a mapping; appends to `problems` and returns None when that fails."""
    if not isinstance(entry, Mapping):
        problems.append(Problem(where, entry, "must be entries such as name and kind", "see data/example_own_data"))
        return None
    entry = dict(entry)
    bounds = entry.pop("bounds", None)
    if bounds == OPEN:
        bounds = None
    if isinstance(bounds, (list, tuple)) and len(bounds) == 2:
        entry["low"], entry["high"] = _days(bounds, entry) if entry.get("kind") == "date" else bounds
    elif bounds is not None:
        problems.append(Problem(f"{where}.bounds", bounds, "must be [low, high]", "give two numbers"))
    known = {field.name: field for field in dataclasses.fields(kind) if field.name not in given}  # type: ignore[arg-type]
    values: dict[str, Any] = dict(given)
    failed = False
    for key, value in entry.items():
        if value == OPEN and key == "records_per_patient":
            continue
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            problems.append(one_of(place, key, [*known, "bounds"]) or Problem(place, key, "is unknown", "drop it"))
            continue
        try:
            values[key] = _convert(str(known[key].type), value)
        except ValueError as error:
            failed = True
            problems.append(Problem(place, value, str(error), "mend the schema"))
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            failed = True
            problems.append(Problem(f"{where}.{name}", None, "must be given", "add it to the schema"))
    return None if failed else kind(**values)


def _convert(annotation: str, value: Any) -> Any:
    """A value from a file as the type of the field; annotations are text because of deferred evaluation."""
    if annotation.startswith("Mapping[str, Mapping"):
        value = _entries(value)
        return {_text(key): {_text(k): _text(v) for k, v in _entries(one).items()} for key, one in value.items()}
    if annotation == "Spellings":
        return {_text(key): _convert("tuple", words) for key, words in _entries(value).items()}
    if annotation == "Conversions":
        rules = {_text(key): rule for key, rule in _entries(value).items()}
        return {
            key: tuple(map(_number, rule if isinstance(rule, (list, tuple)) else [rule])) for key, rule in rules.items()
        }
    if annotation.startswith("tuple"):
        return tuple(_text(item) for item in (value if isinstance(value, (list, tuple)) else [value]))
    if isinstance(value, (list, tuple, Mapping)):
        raise ValueError("must be a single value")
    if annotation == "float | str | None":
        return _number_or_text(value)
    if annotation.startswith("bool"):
        word = _text(value).lower()
        if word not in ("true", "false"):
            raise ValueError("must be true or false")
        return word == "true"
    if annotation.startswith("float"):
        return _number(value)
    if annotation.startswith("int"):
        number = _number(value)
        if number != int(number):
            raise ValueError("must be a whole number")
        return int(number)
    return _text(value)


def _days(bounds: Sequence[Any], entry: Mapping[str, Any]) -> list[Any]:
    """Bounds of a date column; dates among them as the time from its `since`."""
    start = days(_text(entry.get("since", "1970-01-01"))) or 0.0
    length = UNITS.get(_text(entry.get("unit", "days")), 1.0)
    return [bound if (day := days(_text(bound))) is None else (day - start) / length for bound in bounds]


def _entries(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be entries of the form NAME: ..")
    return value


def _number(value: Any) -> float:
    try:
        return float(_text(value))
    except ValueError:
        raise ValueError("must be a number") from None


def _number_or_text(value: Any) -> float | str:
    try:
        return float(_text(value))
    except ValueError:
        return _text(value)


def _text(value: Any) -> str:
    """Text as it stands in the file; TOML's booleans and numbers as a table would show them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
