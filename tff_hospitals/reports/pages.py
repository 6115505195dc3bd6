"""What the HTML pages share: templates with escaping on, badges, the data section, links that stay in the folder."""

from __future__ import annotations

import datetime
import functools
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import tff_hospitals
from tff_hospitals.reports.plot_style import Picture, css_variables
from tff_hospitals.reports.summary import DatasetFacts

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page of a template; every value is escaped except the figures, which the package drew itself."""
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return str(
        _environment()
        .get_template(template)
        .render(
            package_version=tff_hospitals.__version__,
            css=_trusted(css),
            palette_light=_trusted(css_variables(dark=False)),
            palette_dark=_trusted(css_variables(dark=True)),
            **values,
        )
    )


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _trusted(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)


def figures(pictures: Sequence[Picture], files: bool) -> list[dict[str, Any]]:
    """Pictures as templates take them; `files` tells whether their PNG files lie in plots/."""
    return [
        {
            "name": picture.name,
            "title": picture.title,
            "caption": picture.caption,
            "svg": _trusted(picture.svg),
            "file": f"plots/{picture.name}.png" if files else "",
        }
        for picture in pictures
    ]


def link(*parts: str) -> str:
    """A relative link to a file below the page's folder; quoted, so that no name can leave it or add a scheme."""
    return "./" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


def kind_of_hospitals(data: DatasetFacts) -> str:
    """Whether the hospitals are real or simulated, in words."""
    if data.simulated is None:
        return "not recorded whether they are real or simulated"
    if data.simulated:
        return "simulated: the records were dealt out to sites by the partition below, no real hospital held them"
    return "real: every record stays with the hospital that collected it"


def badges(data: DatasetFacts | None, others: Sequence[str]) -> list[dict[str, Any]]:
    """The line under the title; simulated hospitals are said first and stand out."""
    found = []
    if data is not None:
        if data.simulated:
            found.append({"text": "simulated hospitals", "caution": True})
        elif data.simulated is not None:
            found.append({"text": "real hospitals", "caution": False})
        found.append({"text": data.name, "caution": False})
    return [*found, *({"text": text, "caution": False} for text in others if text)]


def data_section(data: DatasetFacts) -> dict[str, Any]:
    """Provenance, licence, partition and sizes, as the template takes them."""
    steps = data.preprocessing if isinstance(data.preprocessing, Mapping) else {}
    leak = "It uses statistics of the records that no guarantee here covers." if steps.get("private") is False else ""
    warnings = data.extra.get("warnings")
    return {
        "name": data.name,
        "kind": kind_of_hospitals(data),
        "simulated": bool(data.simulated),
        "partition": data.partition,
        "preprocessing": data.preprocessing_words,
        "leak": leak,
        "provenance": data.provenance,
        "licence": data.licence,
        "fingerprint": str(data.extra.get("fingerprint") or ""),
        "warnings": [str(text) for text in warnings] if isinstance(warnings, (list, tuple)) else [],
        "hospitals": [
            {"id": hospital.id, "train": _count(hospital.train_records), "test": _count(hospital.test_records)}
            for hospital in data.hospitals
        ],
    }


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}".replace(",", "\u202f")


def pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as texts, nested objects as `outer.inner`."""
    found: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found += [(f"{key}.{inner}", text) for inner, text in pairs(value)]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            found.append((str(key), text))
    return found


def readable_time(text: str) -> str:
    """A recorded time without seconds, other texts as they stand.

    >>> readable_time("2024-01-01T08:30:05+00:00")
    '2024-01-01 08:30 UTC'
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = " UTC" if moment.utcoffset() == datetime.timedelta(0) else moment.strftime(" %z").rstrip()
    return f"{moment:%Y-%m-%d %H:%M}{zone}"
