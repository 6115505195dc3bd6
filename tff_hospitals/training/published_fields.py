"""Every field of every file and message of a run: what it says, who may see it, and which release covers it.

Whatever leaves a protected unit is inside the guarantee or does not leave. A run directory has three kinds of places:

| place | who may read it |
|---|---|
| the files at its top | what a run may show: settings, what was computed from noised releases, the accounting |
| `inside/` | people inside only: exact figures of records or hospitals, which no epsilon covers |
| `checkpoints/`, `updates/`, fields of kind seed or house | the program that goes on with the run, or audits it |

`publishing.publish` copies the first kind alone. A run without a mechanism protects nothing: its files hold everything
and nothing is set apart; publishing it still leaves out what a hospital-level guarantee would.

>>> from tff_hospitals.plan.plan import Plan
>>> private = Plan().replace(privacy={"mechanism": "fixed_clip", "noise_multiplier": 1.0}, weighting="equal")
>>> leaves(private)("metrics.csv", "train_loss"), leaves(Plan())("metrics.csv", "train_loss")
(False, True)
>>> leaves(private)("metrics.csv", "epsilon_rdp")
True
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.metrics import METRICS, summary_fields
from tff_hospitals.training.run_streams import hides_cohorts

INSIDE = "inside"
"""The folder of a run directory for what no epsilon covers."""


def is_private(plan: Plan) -> bool:
    """Whether a plan protects any unit."""
    return any(mechanism.private for mechanism, _ in mechanisms.layers(plan.privacy))


def _protects_hospitals(plan: Plan) -> bool:
    return mechanisms.hospital_level(plan.privacy).private


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of field.

    Attributes:
      says: what such a field says.
      covered_by: why it may leave, where it may.
      leaves: whether it may, under a plan with a mechanism.
      published: whether it is ever copied out of the house.
    """

    says: str
    covered_by: str
    leaves: Callable[[Plan], bool]
    published: bool = True


def _always(_: Plan) -> bool:
    return True


def _never(_: Plan) -> bool:
    return False


KINDS: Mapping[str, Kind] = {
    "settings": Kind("what was chosen before anybody looked at records", "follows from public settings alone", _always),
    "released": Kind(
        "computed from noised updates and nothing else",
        "the events of the ledger: whatever is computed from their results costs nothing more",
        _always,
    ),
    "accounting": Kind(
        "what the guarantee is",
        "computed from settings, from steps taken and, under record-level privacy, from record counts, which that "
        "guarantee takes for public",
        _always,
    ),
    "sizes": Kind(
        "how many records a hospital has, or steps that follow from it",
        "record counts are public under record-level privacy; a guarantee for hospitals hides them",
        lambda plan: not _protects_hospitals(plan),
    ),
    "participation": Kind(
        "who took part when, or how many did",
        "nothing rests on it, unless the guarantee is amplified by Poisson sampling of hospitals: then it is hidden",
        lambda plan: not hides_cohorts(plan),
    ),
    "steps": Kind(
        "steps that a hospital took in a round",
        "as record counts and participation",
        lambda plan: not _protects_hospitals(plan) and not hides_cohorts(plan),
    ),
    "evaluation": Kind("exact figures of test records", "no event covers test records", _never),
    "training": Kind("exact figures of training records, or of updates without noise", "no event covers them", _never),
    "timing": Kind(
        "how long something took, which depends on sizes of cohorts and batches", "no event covers it", _never
    ),
    "seed": Kind("the seed of random streams", "kept for resuming; never published", _always, published=False),
    "pages": Kind(
        "pages and pictures for people inside, made of everything", "never published", _always, published=False
    ),
    "house": Kind("what the program needs to go on", "never published", _always, published=False),
}

FIELDS: Mapping[str, Mapping[str, str]] = {
    "plan.json": {"seed": "seed", "data.seed": "seed", "*": "settings"},
    "record.json": {
        "schema_version": "settings",
        "identity": "house",
        "data_key": "house",
        "model": "house",
        "attempt": "house",
        "extended_from": "settings",
        "seed": "seed",
        "runtime": "settings",
        "started": "settings",
        "versions": "settings",
        "machine": "settings",
        "dataset": "settings",
        "dataset.hospitals.*.train_records": "sizes",
        "dataset.hospitals.*.test_records": "sizes",
        "dataset.warnings": "training",
        "dataset.fingerprint": "house",
        "reproducible": "settings",
        "not_covered": "settings",
        "warnings": "training",
    },
    "metrics.csv": {
        "round": "settings",
        "hospital": "settings",
        "train_loss": "training",
        "steps": "steps",
        "learning_rate": "settings",
        "unit": "settings",
        "epsilon_rdp": "accounting",
        "epsilon_pld": "accounting",
        "delta": "settings",
        "bytes_down": "participation",
        "bytes_up": "participation",
        "signal_to_noise": "released",
        "records": "evaluation",
        **dict.fromkeys(METRICS, "evaluation"),
    },
    "timing.csv": {"round": "timing", "seconds": "timing"},
    "bytes.csv": {"*": "participation"},
    "drift.csv": {"*": "training"},
    "ledger.json": {"*": "accounting"},
    "charges.jsonl": {"*": "house"},
    "summary.json": {
        "schema_version": "settings",
        "status": "settings",
        "method": "settings",
        "label": "settings",
        "seed": "seed",
        "unit": "settings",
        "target_epsilon": "settings",
        "epsilon": "accounting",
        "epsilon_rdp": "accounting",
        "epsilon_pld": "accounting",
        "epsilon_pld_missing": "accounting",
        "epsilon_per_hospital": "accounting",
        "worst_hospital": "accounting",
        "delta": "accounting",
        "adjacency": "accounting",
        "conversion": "accounting",
        "noise_multiplier_per_hospital": "accounting",
        "bytes_up": "participation",
        "bytes_down": "participation",
        "seconds_per_round": "timing",
        "rounds": "settings",
        "stop_reason": "accounting",
        "runtime": "settings",
        "engine": "settings",
        "overhead_seconds_per_round": "timing",
        "guarantee": "accounting",
        "certificate": "accounting",
        "second_unit": "accounting",
        "second_epsilon": "accounting",
        "second_conversion": "accounting",
        "second_noise_multiplier": "accounting",
        "records_per_patient": "settings",
        "epsilon_per_patient": "accounting",
        "reproducible": "settings",
        "event_stated": "settings",
        "clip_norms": "released",
        "signal_to_noise": "released",
        "warnings": "training",
        "statements": "accounting",
        "communication": "participation",
        "communication.drift_mean": "training",
        "curve": "evaluation",
        "curve.*.round": "settings",
        "curve.*.epsilon": "accounting",
        "curve.*.bytes_up": "participation",
        "curve.*.bytes_down": "participation",
        "published_fields": "settings",
        **dict.fromkeys(summary_fields({}, dict.fromkeys(METRICS, 0.0)), "evaluation"),
    },
    "model.keras": {"*": "released"},
    "guarantee.html": {"*": "accounting"},
    "guarantee.json": {"*": "accounting"},
    "model.weights.h5": {"*": "released"},
    "model_config.json": {"*": "settings"},
    "report.html": {"*": "pages"},
    "summary.csv": {"*": "pages"},
    "plots/": {"*": "pages"},
    "audit.json": {"*": "pages"},
    "checkpoints/": {"*": "house"},
    "updates/": {"*": "house"},
    "terminal": {
        "round": "settings",
        "rounds": "settings",
        "loss": "evaluation",
        "accuracy": "evaluation",
        "epsilon": "accounting",
        "unit": "settings",
        "bytes": "participation",
    },
    "message to the server": {
        "delta": "released",
        "packed": "released",
        "weight": "sizes",
        "count": "participation",
        "below": "released",
        "below_zeroing": "released",
        "cut_off": "released",
        "loss_sum": "training",
        "records": "training",
        "steps": "steps",
        "update_norm": "released",
    },
}
"""Kinds by file and field; dots lead into JSON, `*` stands for any one key, and alone for all that is not named."""


@functools.lru_cache(maxsize=8192)  # every run of a comparison asks for the same fields again
def kind_of(file: str, field: str) -> Kind | None:
    """The kind of a field: of the longest entry of the table that leads to it; None when there is none.

    >>> kind_of("record.json", "dataset.hospitals.3.train_records") is KINDS["sizes"]
    True
    >>> kind_of("record.json", "something new") is None
    True
    """
    path = field.split(".")
    found: tuple[int, str] | None = None
    for pattern, name in FIELDS.get(file, {}).items():
        parts = pattern.split(".")
        fits = len(parts) <= len(path) and all(part in ("*", key) for part, key in zip(parts, path))
        rank = len(parts) if pattern != "*" else 0
        if fits and (found is None or rank > found[0]):
            found = (rank, name)
    return None if found is None else KINDS[found[1]]


def leaves(plan: Plan) -> Callable[[str, str], bool]:
    """Says whether a field of a file may stand outside of `inside/` under a plan; one that the table does not know may
    not.
    """
    if not is_private(plan):
        return lambda file, field: True
    allowed = {kind for kind in KINDS.values() if kind.leaves(plan)}
    return lambda file, field: kind_of(file, field) in allowed


def may_be_published(plan: Plan) -> Callable[[str, str], bool]:
    """Says whether a field of a file may leave the house; without a mechanism only what a guarantee for hospitals would
    let out.
    """
    strict = plan if is_private(plan) else plan.replace(privacy={"mechanism": "fixed_clip"})
    allowed = {kind for kind in KINDS.values() if kind.published and kind.leaves(strict)}
    return lambda file, field: kind_of(file, field) in allowed


def part_of(file: str, value: Any, allowed: Callable[[str, str], bool], path: str = "") -> Any:
    """The part of a JSON value whose fields are allowed.

    >>> part_of("timing.csv", {"round": 1, "seconds": 2.0}, lambda file, field: field == "round")
    {'round': 1}
    """
    if path and not isinstance(value, (Mapping, list, tuple)):
        return value
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    kept = {}
    for key, item in items:
        here = f"{path}.{key}" if path else str(key)
        nested = isinstance(item, (Mapping, list, tuple)) and item
        if nested or allowed(file, here):
            part = part_of(file, item, allowed, here) if nested else item
            if not nested or part or allowed(file, here):
                kept[key] = part
    return kept if isinstance(value, Mapping) else list(kept.values())


def described(plan: Plan) -> dict[str, Any]:
    """The table for one plan, for its summary: fields by file that stand outside of `inside/`, with their kinds; what
    is not covered; and what the kinds mean.
    """
    named: dict[str, dict[str, str]] = {}
    apart: dict[str, list[str]] = {}
    allowed = leaves(plan)
    for file, field, name in _entries():
        if allowed(file, field):
            named.setdefault(file, {})[field] = name
        else:
            apart.setdefault(file, []).append(field)
    kinds = {name for fields in named.values() for name in fields.values()}
    nothing = "nothing: this run has no mechanism, and no guarantee"
    private = is_private(plan)
    return {
        "fields": named,
        "not_covered": apart,
        "covered_by": {name: kind.covered_by if private else nothing for name, kind in KINDS.items() if name in kinds},
    }


_EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "record": {"privacy": {"mechanism": "dp_sgd"}},
    "hospital": {"privacy": {"mechanism": "fixed_clip"}},
    "hospital, sampled": {"privacy": {"mechanism": "fixed_clip"}, "cohort": {"kind": "poisson"}},
    "both": {"privacy": {"mechanism": "dp_sgd", "outer": "fixed_clip"}},
}


def markdown() -> str:
    """docs/published_fields.md."""
    units = {unit: leaves(Plan().replace(**changes)) for unit, changes in _EXAMPLES.items()}
    head = ["file or message", "field", "kind", *units, "published"]
    lines = [_DOCUMENT, f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for file, field, name in _entries():
        marks = ["yes" if allowed(file, field) else f"`{INSIDE}/`" for allowed in units.values()]
        out = "yes" if KINDS[name].published else "never"
        lines.append(f"| {file} | {field.replace('*', chr(92) + '*')} | {name} | {' | '.join(marks)} | {out} |")
    lines += ["", "| kind | says | covered by |", "|---|---|---|"]
    lines += [f"| {name} | {kind.says} | {kind.covered_by} |" for name, kind in KINDS.items()]
    return "\n".join(lines) + "\n"


def _entries() -> Iterator[tuple[str, str, str]]:
    for file, fields in FIELDS.items():
        for field, name in fields.items():
            yield file, field, name


_DOCUMENT = """# What a run shows, and which release covers it

Made by `./run -m tff_hospitals.training.published_fields` from the table in the code; a test holds the two equal.
Columns are units of privacy: `sampled` means hospitals drawn by Poisson sampling, which amplifies the guarantee.
`inside/` is a folder of the run directory for people inside only: no epsilon covers what lies there, and
`tff-hospitals publish` never copies it. A run without a mechanism protects nothing: its files hold everything.
A star stands for any key. Messages and the terminal are listed too; what a terminal shows is for who runs it.
"""


if __name__ == "__main__":
    print(markdown(), end="")
