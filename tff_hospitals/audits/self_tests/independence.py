"""Is every noise a noise of its own: across hospitals, rounds, steps, tensors, seeds and runs?

Noise that occurs twice cancels in a difference, and then protects nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.looks import spread
from tff_hospitals.audits.self_tests.measures import Correlation, differences
from tff_hospitals.audits.self_tests.noises import Noise, Observed

_MOST_ROWS = 400  # that are compared with each other
_MOST_COORDINATES = 64
_FEWEST_DRAWS = 8
_WORD = 4  # numbers in a row that no two noises share by chance


def check(seen: Observed, others: Sequence[Noise] = ()) -> list[Finding]:
    """Correlations of everything that should have nothing in common.

    Args:
      seen: noise of the audited run and of other seeds.
      others: noise of another plan's run with the same seed, hospitals and rounds.
    """
    own = seen.of_this_run()
    found = [_hospitals_and_rounds(seen, own), _steps(seen, own), _coordinates(seen, own)]
    found += [_rounds_over_seeds(seen)]
    found += _across(seen, own, [one for one in seen.noises if one.run != seen.own], "seeds")
    found += _across(seen, own, others, "runs")
    return [*(one for one in found if one is not None), _repeats(seen, own)]


def _hospitals_and_rounds(seen: Observed, own: list[Noise]) -> Finding | None:
    """Every two of a hospital's noise in a round."""
    chosen = _some(own, _MOST_ROWS)
    labels = [_label(one) for one in chosen]
    return _closest(f"{seen.name}, hospitals and rounds", _rows([one.values.ravel() for one in chosen]), labels)


def _steps(seen: Observed, own: list[Noise]) -> Finding | None:
    """Every two parts of a round, over all hospitals and rounds."""
    parts = max((len(one.values) for one in own), default=0)
    whole = [one.values for one in own if len(one.values) == parts]
    if parts < 2 or not whole:
        return None
    rows = np.concatenate(whole, axis=1)
    chosen = list(spread(parts, min(parts, _MOST_ROWS)))
    return _closest(f"{seen.name}, steps", rows[chosen], [f"step {at + 1} of {parts}" for at in chosen])


def _coordinates(seen: Observed, own: list[Noise]) -> Finding | None:
    """Every two numbers of a draw, of one tensor or of two."""
    labels, places = [], []
    each = max(2, _MOST_COORDINATES // len(seen.tensors))
    for tensor, part in seen.tensors.items():
        size = part.stop - part.start
        for at in spread(size, min(size, each)):
            places.append(part.start + at)
            labels.append(f"{tensor} {at}")
    if len(places) < 2:
        return None
    columns = np.concatenate([one.values[:, places] for one in own]).T
    return _closest(f"{seen.name}, tensors and their numbers", columns, labels)


def _rounds_over_seeds(seen: Observed) -> Finding | None:
    """Every two rounds, over what many seeds drew in them: finds what few numbers a round do not show."""
    by_place: dict[tuple[str | None, int], dict[str, np.ndarray]] = {}
    for one in seen.noises:
        by_place.setdefault((one.hospital, one.round), {})[one.run] = one.values.ravel()[:_MOST_COORDINATES]
    most = max(len(of) for of in by_place.values())
    rows = {place: of for place, of in by_place.items() if len(of) == most}
    chosen = [list(rows)[at] for at in spread(len(rows), min(len(rows), _MOST_ROWS))]
    vectors = [np.concatenate(list(_cut(rows[place].values()))) for place in chosen]
    labels = [f"{hospital or 'the server'} round {number}" for hospital, number in chosen]
    return _closest(f"{seen.name}, rounds of many seeds", _rows(vectors), labels)


def _cut(vectors: Iterable[np.ndarray]) -> list[np.ndarray]:
    every = list(vectors)
    shortest = min((len(one) for one in every), default=0)
    return [one[:shortest] for one in every]


def _across(seen: Observed, own: list[Noise], others: Sequence[Noise], what: str) -> list[Finding]:
    """The run's noise and that of other runs at the same hospitals and rounds: round by round, and all of it."""
    here = {(one.hospital, one.round): one.values.ravel() for one in own}
    by_run: dict[str, list[tuple[np.ndarray, np.ndarray, str]]] = {}
    for other in others:
        mine = here.get((other.hospital, other.round))
        if mine is not None:
            a, b = _rows([mine, other.values.ravel()])
            by_run.setdefault(other.run, []).append((a, b, f"{_label(other)} and {other.run}"))
    whole = [
        (np.concatenate([a for a, _, _ in pairs]), np.concatenate([b for _, b, _ in pairs]), run)
        for run, pairs in by_run.items()
    ]
    each = [pair for pairs in by_run.values() for pair in pairs]
    found = [_pairs(f"{seen.name}, {what}", whole), _pairs(f"{seen.name}, {what}, round by round", each)]
    return [one for one in found if one is not None]


def _pairs(what: str, pairs: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> Finding | None:
    """The closest of pairs that each stand for themselves."""
    pairs = [pair for pair in pairs if len(pair[0]) >= _FEWEST_DRAWS]
    if not pairs:
        return None
    correlations = [float(_correlations(np.stack([a, b]))[0, 1]) for a, b, _ in pairs]
    at = int(np.argmax(np.abs(correlations)))
    draws = min(len(a) for a, _, _ in pairs)
    words = f"closest of {len(pairs)} pairs, {pairs[at][2]}: r = {correlations[at]:.3f} over {draws} draws"
    return Finding("independence", what, None, Correlation(correlations[at], draws, len(pairs)), words)


def _repeats(seen: Observed, own: list[Noise]) -> Finding:
    """Runs of numbers that occur twice anywhere, shifted or not."""
    rows = [row for one in own for row in np.round(one.values, 3)]
    words = [np.lib.stride_tricks.sliding_window_view(row, _WORD) for row in rows if len(row) >= _WORD]
    if not words:
        return Finding("independence", f"{seen.name}, repeats", None, differences(0, "nothing"), "too few numbers")
    every = np.concatenate(words)
    every = every[:: -(-len(every) // 1_000_000)]
    repeated = len(every) - len(np.unique(every, axis=0))
    text = f"{repeated} of {len(every)} runs of {_WORD} numbers occur twice"
    measure = differences(max(0, repeated - _by_chance(len(every))), "noise that is used twice anywhere")
    return Finding("independence", f"{seen.name}, repeats", None, measure, text)


def _by_chance(count: int) -> int:
    """How many repeats chance explains, generously: the chance that two words agree is (1e-3 / (2 sqrt(pi)))^4."""
    expected = count**2 / 2 * (1e-3 / (2 * np.sqrt(np.pi))) ** _WORD
    return int(3 + 10 * expected)


def _closest(what: str, rows: np.ndarray, labels: Sequence[str]) -> Finding | None:
    """The two rows with the largest correlation."""
    count, draws = rows.shape if len(rows) else (0, 0)
    if count < 2 or draws < _FEWEST_DRAWS:
        return None
    r = _correlations(rows)
    np.fill_diagonal(r, 0.0)
    a, b = (int(at) for at in np.unravel_index(int(np.abs(r).argmax()), r.shape))
    pairs = count * (count - 1) // 2
    words = f"closest of {pairs} pairs, {labels[a]} and {labels[b]}: r = {r[a, b]:.3f} over {draws} draws"
    return Finding("independence", what, None, Correlation(float(r[a, b]), draws, pairs), words)


def _correlations(rows: np.ndarray) -> np.ndarray:
    """Pairwise, [rows, rows]; a row that does not vary goes with nothing (loudness finds it)."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(axis=1))
    centred = centred / np.maximum(norms, 1e-300)[:, None]
    return np.clip(centred @ centred.T, -1.0, 1.0)


def _rows(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors of different lengths, cut to the shortest."""
    return np.array(_cut(vectors))


def _some(noises: list[Noise], most: int) -> list[Noise]:
    return [noises[at] for at in spread(len(noises), min(len(noises), most))]


def _label(one: Noise) -> str:
    return f"{one.hospital or 'the server'} round {one.round}"
