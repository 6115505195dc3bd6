"""Spreads the records of one pool over simulated hospitals.

| name | a site's records | options |
|---|---|---|
| `iid` | an equal share, at random | - |
| `dirichlet` | an equal share whose mix of labels is drawn from a Dirichlet distribution | `alpha` |
| `quantity_skew` | a random mix, of a size drawn from a Dirichlet distribution | `alpha` |
| `missing_classes` | all labels but some that the site lacks | `missing_per_site` or `missing_labels` |

(`natural`, the hospitals that collected the records, is no partition: it is what a data set is before one.)

Each is a pure function of the labels, the sites and a random stream; draws that belong to a site or a label come from
the stream named after it. All say that they are simulated. A partition that would leave a site with fewer than
`min_records` is refused by name.

>>> labels = np.arange(100) % 2
>>> split = partition("dirichlet", labels, sites=4, streams=Streams.from_seed(0), alpha=0.5)
>>> [len(rows) for rows in split.rows], split.ids[0]
([25, 25, 25, 25], 'site-0001')
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput, Problem, in_range, one_of, raise_if, whole_number
from tff_hospitals.hospitals.splits import shuffled


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """Which records went where.

    Attributes:
      ids: site ids, "site-0001" and so on; a site keeps its id when others are added.
      rows: for each site its row numbers in the pool, int64, sorted; every row of the pool is in exactly one site.
      words: the partition in words, for the run record.
    """

    ids: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    words: str


def site_ids(sites: int) -> tuple[str, ...]:
    """Ids of simulated sites, stable and in sorting order up to 9,999."""
    return tuple(f"site-{number:04d}" for number in range(1, sites + 1))


def partition(
    kind: str, labels: np.ndarray, *, sites: int, streams: Streams, min_records: int = 1, **options: Any
) -> Partition:
    """Spreads records over simulated sites.

    Args:
      kind: a name in `PARTITIONS`.
      labels: of shape [records]; class numbers (numbers of any kind for `iid` and `quantity_skew`).
      sites: number of sites.
      streams: source of all draws.
      min_records: refuse a partition that leaves a site with fewer.
      **options: as the kind takes them.

    Raises:
      InvalidInput: unknown kind or option, values out of range, sites that would stay too small.
    """
    raise_if([one_of("partition", kind, PARTITIONS)])
    method = PARTITIONS[kind]
    known = list(inspect.signature(method).parameters)[3:]
    raise_if(
        [
            *(
                Problem(f"{kind} option", name, f"must be one of {', '.join(known) or 'none at all'}", "drop it")
                for name in options
                if name not in known
            ),
            whole_number("sites", sites, low=1, remedy="give the number of simulated sites"),
            whole_number("min_records", min_records, low=0, remedy="give 1 or more records per site"),
        ]
    )
    if sites * min_records > len(labels):
        most = len(labels) // max(min_records, 1)
        bound = f"must be <= {most}: {len(labels)} records, at least {min_records} per site"
        raise InvalidInput([Problem("sites", sites, bound, "take fewer sites")])
    labels = np.asarray(labels)
    rows, words = method(labels, sites, streams.child("partition", kind), **options)
    ids = site_ids(sites)
    small = [(name, len(site)) for name, site in zip(ids, rows) if len(site) < min_records]
    if small:
        shown = ", ".join(f"{name}: {count}" for name, count in small[:4])
        bound = f"must leave every site {min_records} or more records; {len(small)} sites have fewer ({shown})"
        remedy = "take fewer sites, a larger alpha, another seed or a smaller min_records"
        raise InvalidInput([Problem("partition", kind, bound, remedy)])
    return Partition(ids, tuple(np.sort(site) for site in rows), f"simulated: {words}")


Rows = Sequence[np.ndarray]


def iid(labels: np.ndarray, sites: int, streams: Streams) -> tuple[Rows, str]:
    """Equal shares at random; sizes differ by one at most."""
    rows = np.array_split(shuffled(streams.generator(), len(labels)), sites)
    return rows, f"{len(labels)} records spread evenly at random (IID) over {sites} sites"


def dirichlet(labels: np.ndarray, sites: int, streams: Streams, alpha: float = 1.0) -> tuple[Rows, str]:
    """Label skew: each site draws its mix of labels from Dirichlet(alpha x the pool's mix).

    Sites fill up one after the other, without replacement; where a label has run out, a site goes on with the rest of
    its mix. Large alpha is IID, small alpha gives sites of one label. Where others write Dirichlet(a) per label, this
    alpha is a x labels.

    Source: Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", arXiv:1909.06335.
    """
    raise_if([in_range("alpha", alpha, low=1e-6, remedy="give 0.1 (strong skew) to 100 (nearly IID)")])
    pools = _rows_by_label(labels, streams)
    left = np.array([len(pool) for pool in pools])
    prior = left / left.sum()
    sizes = [len(share) for share in np.array_split(np.arange(len(labels)), sites)]
    rows = []
    for name, size in zip(site_ids(sites), sizes):
        generator = streams.child("site", name).generator()
        taken = _draw_mix(generator, alpha * prior, left, size)
        starts = np.array([len(pool) for pool in pools]) - left
        rows.append(np.concatenate([pool[s : s + n] for pool, s, n in zip(pools, starts, taken)]))
        left = left - taken
    mix = f"each with a mix of labels from Dirichlet({alpha:g} x prior)"
    return rows, f"{len(labels)} records over {sites} sites of equal size, {mix}"


def _draw_mix(generator: np.random.Generator, concentration: np.ndarray, left: np.ndarray, size: int) -> np.ndarray:
    """How many records of each label a site takes: `size` in all, never more than are left."""
    mix = generator.dirichlet(concentration)
    taken = np.zeros_like(left)
    while taken.sum() < size:
        free = left - taken
        odds = np.where(free > 0, mix, 0.0)
        if not odds.sum() > 0:  # nothing left of the labels it wants: it wants others
            odds = np.zeros(len(left))
            odds[free > 0] = generator.dirichlet(concentration[free > 0])
        taken += np.minimum(generator.multinomial(size - taken.sum(), odds / odds.sum()), free)
    return taken


def quantity_skew(labels: np.ndarray, sites: int, streams: Streams, alpha: float = 1.0) -> tuple[Rows, str]:
    """Sizes from Dirichlet(alpha), labels at random; every site has one record at least.

    Source: Li, Diao, Chen and He 2022, "Federated Learning on Non-IID Data Silos: An Experimental Study",
    arXiv:2102.02079.
    """
    raise_if([in_range("alpha", alpha, low=1e-6, remedy="give 0.5 (very unequal) to 100 (nearly equal)")])
    shares = streams.child("sizes").generator().dirichlet(np.full(sites, float(alpha)))
    spare = len(labels) - sites
    cuts = 1 + np.floor(np.cumsum(shares) * spare + 0.5).astype(int) + np.arange(sites)
    rows = np.split(shuffled(streams.generator(), len(labels)), cuts[:-1])
    return rows, f"{len(labels)} records at random over {sites} sites with shares from Dirichlet({alpha:g})"


def missing_classes(
    labels: np.ndarray,
    sites: int,
    streams: Streams,
    missing_per_site: int | None = None,
    missing_labels: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None,
) -> tuple[Rows, str]:
    """Each site lacks some labels; a label's records are dealt evenly to the sites that have it.

    Args:
      labels: class numbers.
      sites: number of sites.
      streams: source of all draws.
      missing_per_site: how many labels each site lacks (default 1): those that it has are neighbours on a random circle
        of labels, so that every label is somewhere.
      missing_labels: instead, the labels that each site lacks: by site id (others lack none), or one list per site.
    """
    known = np.unique(labels)
    absent = _absent(known, sites, streams, missing_per_site, missing_labels)
    parts: list[list[np.ndarray]] = [[] for _ in range(sites)]
    sizes = [0] * sites
    for label, pool in zip(known, _rows_by_label(labels, streams)):
        holders = [site for site in range(sites) if int(label) not in absent[site]]
        if not holders:
            bound = f"every site would lack label {int(label)} ({len(pool)} records)"
            raise InvalidInput([Problem("missing_labels", absent, bound, "let one site have it")])
        turn = int(streams.child("turn", int(label)).generator().random() * len(holders))
        # The larger shares go to the sites that have least so far, in an order that starts at a random site.
        waiting = sorted(holders[turn:] + holders[:turn], key=lambda site: sizes[site])
        for site, share in zip(waiting, np.array_split(pool, len(holders))):
            parts[site].append(share)
            sizes[site] += len(share)
    rows = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts]
    counts = sorted({len(labels_absent) for labels_absent in absent})
    lacking = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    words = f"{len(labels)} records over {sites} sites, each lacking {lacking} of {len(known)} labels"
    if sites <= 10:
        lists = zip(site_ids(sites), absent)
        words += " (" + ", ".join(f"{name} lacks {', '.join(map(str, a)) or 'none'}" for name, a in lists) + ")"
    return rows, words


def _absent(
    known: np.ndarray,
    sites: int,
    streams: Streams,
    missing_per_site: int | None,
    missing_labels: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None,
) -> list[list[int]]:
    """For each site the labels that it lacks, sorted."""
    if missing_labels is not None:
        if missing_per_site is not None:
            remedy = "give one of the two"
            raise InvalidInput([Problem("missing_per_site", missing_per_site, "excludes missing_labels", remedy)])
        names = site_ids(sites)
        if isinstance(missing_labels, Mapping):
            raise_if([one_of("missing_labels", name, names) for name in missing_labels])
            listed = [list(missing_labels.get(name, ())) for name in names]
        else:
            listed = [list(labels) for labels in missing_labels]
        if len(listed) != sites:
            raise InvalidInput(
                [Problem("missing_labels", len(listed), f"must have {sites} lists", "give one per site")]
            )
        strange = sorted({int(label) for labels in listed for label in labels} - set(known.tolist()))
        if strange:
            raise InvalidInput([Problem("missing_labels", strange, f"must be among {known.tolist()}", "drop them")])
        return [sorted({int(label) for label in labels}) for labels in listed]
    lacking = 1 if missing_per_site is None else missing_per_site
    raise_if([whole_number("missing_per_site", lacking, low=0, high=len(known) - 1, remedy="leave each site a label")])
    held = len(known) - lacking
    if held * sites < len(known):
        most = len(known) - -(-len(known) // sites)
        bound = f"must be <= {most}: {sites} sites with {held} labels each cannot hold all {len(known)}"
        raise InvalidInput([Problem("missing_per_site", lacking, bound, "take more sites")])
    circle = known[shuffled(streams.child("circle").generator(), len(known))]
    windows = [{int(circle[(site * held + k) % len(known)]) for k in range(held)} for site in range(sites)]
    return [sorted(set(known.tolist()) - window) for window in windows]


def _rows_by_label(labels: np.ndarray, streams: Streams) -> list[np.ndarray]:
    """Row numbers of each label in increasing order of labels, shuffled by the label's own stream."""
    pools = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        pools.append(rows[shuffled(streams.child("label", int(label)).generator(), len(rows))])
    return pools


PARTITIONS: dict[str, Callable[..., tuple[Rows, str]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "quantity_skew": quantity_skew,
    "missing_classes": missing_classes,
}
