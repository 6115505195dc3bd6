"""How records come to hospitals and to train and test parts.

First each record's side is decided, by itself (see `splits`). Hospitals as they are keep their own records. Simulated
sites are a partition of the training records of all; a test record goes to one of the sites that train on records of
its label, with their numbers as odds. Who is at which simulated site does depend on the others: it is a simulation on
pooled records and says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, counted, in_range, one_of, raise_if, whole_number
from tff_hospitals.hospitals.checks import no_training_problem
from tff_hospitals.hospitals.partitions import PARTITIONS, Partition, partition
from tff_hospitals.hospitals.preprocessing import Site
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.hospitals.splits import by_record, content_ids, draws

# Sites of a data set that has no hospitals of its own, unless the caller says otherwise.
DEFAULT_SITES = 10
DEFAULT_TEST_FRACTION = 0.34


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Records that one real hospital collected (or all records of a data set without hospitals), before scaling.

    Attributes:
      hospital_id: its id.
      values: of shape [records, *feature_shape] in original units.
      labels: of shape [records].
      tested: row numbers of the test records where a split is given; None splits by record.
      ids: what each record is known by to the split; None: its own cells.
      patients: whether `ids` are those of patients, who may have several records each.
    """

    hospital_id: str
    values: np.ndarray
    labels: np.ndarray
    tested: np.ndarray | None = None
    ids: Sequence[bytes] | None = None
    patients: bool = False

    def row_ids(self) -> Sequence[bytes]:
        """One id per record."""
        return content_ids(self.values, self.labels) if self.ids is None else self.ids


@dataclasses.dataclass(frozen=True)
class Division:
    """How records come to hospitals and to train and test parts.

    Attributes:
      partition: "natural" or a name in `partitions.PARTITIONS`.
      sites: number of simulated sites; None takes as many as there are hospitals (10 where there are none).
      seed: of partition, split and preprocessing noise.
      test_fraction: chance of each record to be kept for testing; None leaves it to the data set.
      min_records: a partition that leaves a site with fewer training records is refused.
      options: of the partition, such as {"alpha": 0.3}.
      split: number of the split where it is repeated; each has test records of its own.
    """

    partition: str = "natural"
    sites: int | None = None
    seed: int = 0
    test_fraction: float | None = None
    min_records: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    split: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Divided:
    """What came of it.

    Attributes:
      sites: hospitals with their train and test rows.
      partition: how records came to hospitals, in words.
      split_rule: how they came to train and test parts, in words.
      simulated: whether the hospitals are.
    """

    sites: list[Site]
    partition: str
    split_rule: str
    simulated: bool


def divide(
    pools: Sequence[Pool],
    division: Division,
    secret: DataSecret,
    *,
    has_hospitals: bool,
    test_fraction: float = DEFAULT_TEST_FRACTION,
    given: str = "",
) -> Divided:
    """Sites with their train and test rows.

    Args:
      pools: natural hospitals, or one pool.
      division: what is asked for.
      secret: of the data set: a record's side follows from it.
      has_hospitals: whether the pools are hospitals; if not, "natural" means an even random spread.
      test_fraction: of this data set, unless `division` has another.
      given: where the pools' split is given: by what, in words.

    Raises:
      InvalidInput: unknown partition, unfit options, sites that stay too small.
    """
    fraction = test_fraction if division.test_fraction is None else division.test_fraction
    found = [
        one_of("partition", division.partition, ["natural", *PARTITIONS]),
        in_range("test_fraction", fraction, low=0.0, high=0.5, low_open=True, remedy="give 0.2 or 0.34"),
        whole_number("split", division.split, low=0, remedy="give 0, 1, 2, ..."),
    ]
    for name, value in (("test_fraction", division.test_fraction), ("split", division.split or None)):
        if given and value is not None:
            found.append(Problem(name, value, f"has no meaning here: {given}", "drop it"))
    natural = division.partition == "natural" and has_hospitals
    raise_if([*found, *(_natural_problems(pools, division) if natural else [])])
    ids = [pool.row_ids() for pool in pools]
    sides = [_tested(pool, names, fraction, division, secret) for pool, names in zip(pools, ids)]
    if natural:
        sites = [
            _site(pool.hospital_id, pool.values, pool.labels, side, _patients([pool], [names]))
            for pool, names, side in zip(pools, ids, sides)
        ]
        words = f"natural: {counted(len(pools), 'hospital')}, each with its own records"
    else:
        names = [name for one in ids for name in one]
        patients = _patients(pools, ids)
        sites, words = _simulated(pools, np.concatenate(sides), names, patients, division, secret, has_hospitals)
    raise_if([no_training_problem(site.hospital_id) for site in sites if not len(site.trained)])
    rule = f"given: {given}" if given else _words(pools[0], fraction, division)
    return Divided(sites, words, rule, not natural)


def _words(pool: Pool, test_fraction: float, division: Division) -> str:
    """Every pool of a data set has the same kind of ids."""
    own = "the record's own cells, so that equal records lie on one side"
    what = "the patient, so that all records of one lie on one side" if pool.patients else "the record's id"
    return (
        f"by record: a keyed hash of {own if pool.ids is None else what}, compared with the test fraction "
        f"{test_fraction:g}"
        + (f"; split {division.split}" if division.split else "")  # never the seed: it is published
    )


def _natural_problems(pools: Sequence[Pool], division: Division) -> list[Problem | None]:
    """Settings that hospitals as they are cannot honour: each would be ignored in silence otherwise."""
    known = ", ".join(PARTITIONS)
    bound = f"has no meaning for the natural partition: its {len(pools)} hospitals are taken as they are"
    found: list[Problem | None] = [
        Problem(name, value, bound, f"drop it, or choose partition {known}") for name, value in division.options.items()
    ]
    if division.sites not in (None, len(pools)):
        found.append(Problem("sites", division.sites, bound, f"drop it, or choose partition {known}"))
    small = [f"{pool.hospital_id}: {len(pool.labels)}" for pool in pools if len(pool.labels) < division.min_records]
    if small:
        words = f"must be <= the records of every hospital ({', '.join(small[:4])})"
        found.append(Problem("min_records", division.min_records, words, "lower it, or leave those hospitals out"))
    return found


def _tested(pool: Pool, ids: Sequence[bytes], fraction: float, division: Division, secret: DataSecret) -> np.ndarray:
    if pool.tested is None:
        return by_record(secret, ids, test_fraction=fraction, seed=division.seed, number=division.split)
    side = np.zeros(len(pool.labels), bool)
    side[pool.tested] = True
    return side


def _site(hospital_id: str, values: np.ndarray, labels: np.ndarray, tested: np.ndarray, patients: np.ndarray) -> Site:
    return Site(hospital_id, values, labels, np.flatnonzero(tested), np.flatnonzero(~tested), patients)


def _patients(pools: Sequence[Pool], ids: Sequence[Sequence[bytes]]) -> np.ndarray:
    """A number for the patient of every record of all pools, whatever the split."""
    if not pools[0].patients:
        return np.arange(sum(map(len, ids)))
    numbers: dict[tuple[int, bytes], int] = {}
    every = [(place, one) for place, of_pool in enumerate(ids) for one in of_pool]
    return np.array([numbers.setdefault(key, len(numbers)) for key in every])


def _simulated(
    pools: Sequence[Pool],
    tested: np.ndarray,
    ids: Sequence[bytes],
    patients: np.ndarray,
    division: Division,
    secret: DataSecret,
    has_hospitals: bool,
) -> tuple[list[Site], str]:
    """Sites that share out the training records of all pools; test records go where their label is trained on."""
    values = np.concatenate([pool.values for pool in pools])
    labels = np.concatenate([pool.labels for pool in pools])
    count = division.sites if division.sites is not None else len(pools) if has_hospitals else DEFAULT_SITES
    trained = np.flatnonzero(~tested)
    # What is spread: records, or patients with all of their records (of the label of their first one).
    groups = _groups([ids[row] for row in trained]) if pools[0].patients else [[at] for at in range(len(trained))]
    made = partition(
        "iid" if division.partition == "natural" else division.partition,
        labels[trained[[group[0] for group in groups]]],
        sites=count,
        streams=Streams.from_seed(division.seed).child("data"),
        min_records=division.min_records,
        **division.options,
    )
    shares = [trained[[at for group in share for at in groups[group]]] for share in made.rows]
    followers = _follow(labels, shares, np.flatnonzero(tested), draws(secret, "site", ids, division.seed))
    sites = []
    for site, share, others in zip(made.ids, shares, followers):
        rows = np.sort(np.concatenate([share, others]))
        sites.append(_site(site, values[rows], labels[rows], tested[rows], patients[rows]))
    return sites, _simulated_words(made, pools, int(tested.sum()), has_hospitals)


def _groups(ids: Sequence[bytes]) -> list[list[int]]:
    """Positions of each id, in the order of first appearance."""
    found: dict[bytes, list[int]] = {}
    for at, one in enumerate(ids):
        found.setdefault(one, []).append(at)
    return list(found.values())


def _follow(
    labels: np.ndarray, shares: Sequence[np.ndarray], tested: np.ndarray, drawn: np.ndarray
) -> list[np.ndarray]:
    """For each site its test rows: a test record goes to a site with the odds of its label's training records there."""
    counted = np.issubdtype(labels.dtype, np.integer)  # numbers to predict are no classes: sites by size alone
    site_of = np.zeros(len(labels), int)
    for label in np.unique(labels[tested]) if counted else [None]:
        rows = tested[labels[tested] == label] if counted else tested
        odds = np.array([(labels[share] == label).sum() if counted else len(share) for share in shares], float)
        if not odds.any():  # nobody trains on this label
            odds = np.array([len(share) for share in shares], float)
        site_of[rows] = np.searchsorted(np.cumsum(odds) / odds.sum(), drawn[rows], side="right")
    return [tested[site_of[tested] == site] for site in range(len(shares))]


def _simulated_words(made: Partition, pools: Sequence[Pool], tested: int, has_hospitals: bool) -> str:
    origin = f"pooled from {len(pools)} real hospitals" if has_hospitals else "the data set has no hospitals of its own"
    return f"{made.words} ({origin}; training records are spread, {tested} test records follow those of their label)"
