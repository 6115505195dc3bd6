"""Do hospitals take part as the plan and the ledger say: all, so many, in turn, or each with its own chance?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.measures import Share, Spread, differences
from tff_hospitals.plan import noise as noise_plan

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws

_ROUNDS_OF_CHANCE = 20_000  # drawn where chance decides; drawing who takes part is cheap


def check(run: LoadedRun, draws: Draws) -> list[Finding]:
    """Who takes part in the run's rounds, and (where chance decides) in many more."""
    plan, ids = run.plan.cohort, run.dataset.ids
    cohorts = [draws.cohort(number) for number in range(run.rounds)]
    if plan.kind == "poisson":
        return _chance(run, draws, float(plan.sampling_probability or 0.0))
    found = []
    if plan.kind in ("all", "fixed_size", "buffered"):
        sizes = [len(ids)] * run.rounds
        if plan.kind != "all":
            sizes = [noise_plan.hospitals_in_round(run.plan, number) or len(ids) for number in range(run.rounds)]
        wrong = sum(len(set(cohort)) != size for cohort, size in zip(cohorts, sizes))
        few, many = min(sizes, default=0), max(sizes, default=0)
        where = f"{run.rounds} rounds of {few if few == many else f'{few} to {many}'} hospitals"
        found.append(Finding("batches", "size of the cohorts", None, differences(wrong, "another size"), where))
    if plan.kind == "cyclic":
        found.append(_turns(run, cohorts, plan.period(len(ids))))
    return found


def _turns(run: LoadedRun, cohorts: list[tuple[str, ...]], period: int) -> Finding:
    """Hospitals that are back too early, or in another round of the cycle than before."""
    wrong = 0
    for name in run.dataset.ids:
        rounds = np.array([number for number, cohort in enumerate(cohorts) if name in cohort])
        wrong += int((np.diff(rounds) != period).sum())
    where = f"{run.rounds} rounds, every hospital in one of {period}"
    return Finding("batches", "order and period of the cohorts", None, differences(wrong, "another turn"), where)


def _chance(run: LoadedRun, draws: Draws, q: float) -> list[Finding]:
    ids = run.dataset.ids
    rounds = max(run.rounds, _ROUNDS_OF_CHANCE // len(ids))
    position = {name: at for at, name in enumerate(ids)}
    table = np.zeros((rounds, len(ids)), np.int64)
    for number in range(rounds):
        for name in draws.cohort(number):
            table[number, position[name]] += 1
    where = f"{rounds} rounds of {len(ids)} hospitals, q = {q:.4g}"
    found = [
        Finding("batches", "as many hospitals as declared", None, Share(int(table.sum()), table.size, q), where),
    ]
    if q < 1:
        sizes = Spread.of(table.sum(axis=1), len(ids), q)
        found.append(Finding("batches", "cohorts vary as declared", None, sizes, where))
        uses = Spread.of(table.sum(axis=0), rounds, q)
        found.append(Finding("batches", "hospitals vary as declared", None, uses, where))
    return found
