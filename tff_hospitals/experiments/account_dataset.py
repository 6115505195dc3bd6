"""The odometer of a data set in words: everything that was ever released about it, and what it adds up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import counted


def answer(name: str, schema: str | None = None) -> dict[str, Any]:
    """What all runs on a data set released together.

    Args:
      name: of the data set, or the path of own data.
      schema: of own data.

    Returns:
      Plain types: `joint`, one entry for each unit of privacy that a run protected; `runs`, one for each release;
      `without_guarantee`, runs that no epsilon covers.

    Raises:
      InvalidInput, RecordError: as `load_dataset`; a damaged odometer.
    """
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.training.odometer import Odometer

    dataset = load_dataset(name, schema=schema)
    odometer = Odometer(dataset.secret)
    if not odometer:
        bound = "has no odometer: nothing of data in memory outlives the process"
        raise_if([Problem("--dataset", name, bound, "name a data set that lies in files")])
    runs = []
    for charge in odometer.releases():
        spent = {unit: charge.ledger.worst_epsilon(unit)[0] for unit in charge.ledger.units()}
        runs.append(
            {
                "method": charge.words.get("method"),
                "began": charge.words.get("began"),
                "rounds": charge.rounds,
                "settled": charge.settled,
                "epsilon": spent,
                "delta": charge.ledger.delta,
            }
        )
    return {
        "dataset": dataset.name,
        "odometer": str(odometer.file.path) if odometer.file is not None else None,
        "joint": [
            {
                "unit": total.unit,
                "epsilon": total.epsilon,
                "delta": total.delta,
                "adjacency": total.adjacency,
                "runs": total.runs,
            }
            for total in odometer.totals()
        ],
        "runs": runs,
        "without_guarantee": len(odometer.without_guarantee()),
    }


def text(found: dict[str, Any]) -> str:
    """An answer for a terminal: the sums first, then the releases."""
    lines = [f"data set   {found['dataset']}, odometer {found['odometer']}"]
    if not found["runs"]:
        return "\n".join([*lines, "released   nothing yet"])
    for total in found["joint"]:
        runs = "1 release" if total["runs"] == 1 else f"{total['runs']} releases together"
        lines.append(
            f"joint      epsilon {total['epsilon']:.4g} per {total['unit']} at delta {total['delta']:g}, {runs}"
        )
    if found["without_guarantee"]:
        lines.append(
            f"and        {counted(found['without_guarantee'], 'run')} without a mechanism, which no epsilon covers"
        )
    return "\n".join([*lines, *(f"released   {line}" for line in _releases(found["runs"]))])


def _releases(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Releases of a day that are alike, such as the seeds of a comparison, in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        day, _, clock = str(run["began"] or "")[:16].partition("T")
        alike.setdefault((day, _words(run)), []).append(clock)
    for (day, words), clocks in alike.items():
        until = f" to {clocks[-1]}" if clocks[-1] != clocks[0] else ""
        times = f"{len(clocks)} times " if len(clocks) > 1 else ""
        yield f"{day} {clocks[0]}{until}  {times}{words}"


def _words(run: Mapping[str, Any]) -> str:
    spent = ", ".join(f"epsilon {value:.4g} per {unit}" for unit, value in run["epsilon"].items())
    return f"{run['method']}, {counted(run['rounds'], 'round')}: {spent or 'no guarantee'}"
