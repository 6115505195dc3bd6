"""Data sets by name: the one entry point of everything that needs hospitals.

>>> dataset = load_dataset("heart_disease")
>>> dataset.ids
('cleveland', 'hungary', 'switzerland', 'va_long_beach')
>>> load_dataset("heart_disease", partition="dirichlet", sites=20, alpha=0.3).partition  # doctest: +ELLIPSIS
'simulated: 486 records over 20 sites of equal size, each with a mix of labels from Dirichlet(0.3 x prior) (pooled ...'
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from tff_hospitals.foundations.files import DataError, RecordError
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.hospitals import (
    heart_disease,
    image_folders,
    images,
    own_data,
    simulation_sets,
    synthetic,
    tcga_brca,
)
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.partitions import PARTITIONS
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named data set: who makes it, what it is, and the options that it takes beside those of the partition.

    Where it has hospitals of its own that cannot be spread anew, `natural` says why.
    """

    load: Callable[..., HospitalDataset]
    words: str
    options: tuple[str, ...]
    scaling: str | None = None  # the default kind; None where features are not scaled by choice
    natural: str = ""


_SCALING_OPTIONS = ("scaling", "scaling_noise_multiplier", "scaling_streams")
_DIVISION_OPTIONS = ("test_fraction", "min_records", "split")

_READ_LATE = "its hospitals are read when they are needed"

_ENTRIES = {
    "heart_disease": Entry(
        heart_disease.heart_disease,
        "UCI Heart Disease, four hospitals, 740 complete rows and 13 columns as in FLamby's benchmark",
        (*_DIVISION_OPTIONS, *_SCALING_OPTIONS),
        scaling="per_hospital",
    ),
    "heart_disease_all_rows": Entry(
        heart_disease.heart_disease_all_rows,
        "UCI Heart Disease, four hospitals, all 920 patients with empty cells filled and marked",
        (*_DIVISION_OPTIONS, *_SCALING_OPTIONS, "impute"),
        scaling="fixed_bounds",
    ),
    "digits": Entry(
        images.digits,
        "1,797 handwritten digits, 8 x 8 pixels, over simulated sites",
        (*_DIVISION_OPTIONS, "labels"),
    ),
    "fashion_mnist": Entry(
        images.fashion_mnist,
        "70,000 images of clothes, 28 x 28 pixels, over simulated sites (needs the idx files in a folder)",
        (*_DIVISION_OPTIONS, "folder", "records"),
    ),
    "synthetic": Entry(
        synthetic.synthetic,
        "made-up Gaussian records with linear labels, any number of sites, for benchmarks",
        ("records_per_site", "features", "num_classes", "label_noise", "test_records_per_site", "lazy"),
        natural="its sites are made as they are",
    ),
    "mnist": Entry(
        images.mnist,
        "70,000 handwritten digits, 28 x 28 pixels, over simulated sites (needs Keras' mnist.npz or the idx files)",
        (*_DIVISION_OPTIONS, "folder", "records"),
    ),
    "emnist": Entry(
        simulation_sets.emnist,
        "handwritten characters of up to 3,400 writers (needs TFF's emnist_all.sqlite or fed_emnist_*.h5)",
        ("folder", "only_digits"),
        natural=_READ_LATE,
    ),
    "cifar100": Entry(
        simulation_sets.cifar100,
        "images of 100 classes at up to 500 clients (needs TFF's cifar100.sqlite or fed_cifar100_*.h5)",
        ("folder",),
        natural=_READ_LATE,
    ),
    "shakespeare": Entry(
        simulation_sets.shakespeare,
        "the next character in the text of up to 715 roles (needs TFF's shakespeare.sqlite or shakespeare_*.h5)",
        ("folder", "window", "stride"),
        natural=_READ_LATE,
    ),
    "stack_overflow": Entry(
        simulation_sets.stack_overflow,
        "whether a post is a question, by its words, at 100 or more users (needs TFF's stackoverflow.sqlite)",
        ("folder", "words"),
        natural=_READ_LATE,
    ),
    "tcga_brca": Entry(
        tcga_brca.tcga_brca,
        "breast cancer, 1,088 patients, by 6 regions or by real hospitals (needs FLamby's brca.csv)",
        (*_DIVISION_OPTIONS, *_SCALING_OPTIONS, "folder", "hospitals", "least"),
        scaling="fixed_bounds",
    ),
    "isic2019": Entry(
        image_folders.isic2019,
        "skin lesions, 23,247 pictures of 6 hospitals (needs the files of FLamby's preparation)",
        ("folder", "size"),
        natural=_READ_LATE,
    ),
    "image_folder": Entry(
        image_folders.image_folder,
        "your own pictures: a folder for each hospital, and in it one for each class",
        ("test_fraction", "split", "folder", "height", "width", "channels"),
        natural=_READ_LATE,
    ),
}


def register(name: str, entry: Entry) -> None:
    """Makes a data set known by a name.

    Raises:
      ValueError: when another one has the name.
    """
    if _ENTRIES.get(name, entry) is not entry:
        raise ValueError(f"data set {name!r} is there already. Remedy: give the new one another name.")
    _ENTRIES[name] = entry


def list_datasets() -> dict[str, str]:
    """Names of the data sets and what they are."""
    return {name: entry.words for name, entry in _ENTRIES.items()}


def load_dataset(
    name: os.PathLike[str] | str,
    *,
    partition: str = "natural",
    sites: int | None = None,
    seed: int = 0,
    schema: Schema | os.PathLike[str] | str | None = None,
    **options: Any,
) -> HospitalDataset:
    """A data set by name, or a user's own by path.

    Args:
      name: a name in `list_datasets()`, or the path of a folder or file of own data.
      partition: "natural" (the hospitals as they are; for a data set without hospitals an even random spread) or a name
        in `PARTITIONS`: then records are pooled and spread anew, and the data set says that it is simulated.
      sites: number of simulated sites.
      seed: of partition, split and preprocessing noise; 0 leaves own data with the seed of its schema.
      schema: own data only: the schema or its file.
      **options: of the partition (`alpha`, `missing_per_site`, `missing_labels`), of the split (`test_fraction`,
        `split`, `min_records`), of the scaling (`scaling`, `scaling_noise_multiplier`, `scaling_streams`) and of the
        data set (see each one's own function).

    Raises:
      InvalidInput: unknown names (offers the nearest), options that nothing uses, values out of range.
      DataError: files that cannot be read or are not what was published.
    """
    try:
        return _loaded(name, partition, sites, seed, schema, options)
    except RecordError as error:
        raise DataError(str(error)) from error


def _loaded(
    name: os.PathLike[str] | str,
    partition: str,
    sites: int | None,
    seed: int,
    schema: Schema | os.PathLike[str] | str | None,
    options: dict[str, Any],
) -> HospitalDataset:
    text = os.fspath(name)
    if text not in _ENTRIES and _is_path(text):
        return _load_own(pathlib.Path(text).expanduser(), partition, sites, seed, schema, options)
    raise_if([one_of("dataset", text, _ENTRIES)])
    entry = _ENTRIES[text]
    if schema is not None:
        raise InvalidInput([Problem("schema", str(schema), f"is not used by {text}", "drop it, or name a folder")])
    _check_options(text, partition, entry.options, options)
    if entry.natural and partition != "natural":
        bound = f"is not offered for {text}: {entry.natural}"
        raise InvalidInput([Problem("partition", partition, bound, "drop it")])
    if entry.load is synthetic.synthetic:
        return synthetic.synthetic(seed=seed, sites=10 if sites is None else sites, **options)
    division = _division(partition, sites, seed, options)
    scaling = _scaling(options, entry.scaling)
    return entry.load(division, **options, **({} if scaling is None else {"scaling": scaling}))


def _load_own(
    place: pathlib.Path,
    partition: str,
    sites: int | None,
    seed: int,
    schema: Schema | os.PathLike[str] | str | None,
    options: dict[str, Any],
) -> HospitalDataset:
    _check_options(str(place), partition, (*_DIVISION_OPTIONS, *_SCALING_OPTIONS), options)
    rules = own_data.schema_of(place, schema)
    division = _division(partition, sites, seed or rules.seed, options)
    scaling = _scaling(options, rules.scaling or "per_hospital", rules.scaling_noise_multiplier)
    return own_data.own_data(place, schema=rules, division=division, scaling=scaling)


def _is_path(text: str) -> bool:
    """A path has a separator or an extension, or is there; a bare word that is not there is a misspelled name."""
    return "/" in text or os.sep in text or bool(pathlib.Path(text).suffix) or pathlib.Path(text).exists()


def _partition_options(partition: str) -> list[str]:
    return list(inspect.signature(PARTITIONS[partition]).parameters)[3:] if partition in PARTITIONS else []


def _check_options(name: str, partition: str, known: tuple[str, ...], options: Mapping[str, Any]) -> None:
    raise_if([one_of("partition", partition, ["natural", *PARTITIONS])])
    takes = sorted({*known, *_partition_options(partition)})
    found = []
    for option in options:
        if option in takes:
            continue
        users = [kind for kind in PARTITIONS if option in _partition_options(kind)]
        remedy = f"choose partition {' or '.join(users)}, or drop it" if users else None
        found.append(one_of(f"option of {name} with partition {partition}", option, takes, remedy=remedy))
    raise_if(found)


def _division(partition: str, sites: int | None, seed: int, options: dict[str, Any]) -> Division:
    """Takes the options that belong to partition and split out of `options`."""
    return Division(
        partition=partition,
        sites=sites,
        seed=seed,
        test_fraction=options.pop("test_fraction", None),
        min_records=options.pop("min_records", 1),
        options={key: options.pop(key) for key in _partition_options(partition) if key in options},
        split=options.pop("split", 0),
    )


def _scaling(options: dict[str, Any], default: str | None, noise_multiplier: float | None = None) -> Scaling | None:
    """Takes the options that belong to scaling out of `options`; None where the data set is not scaled by choice."""
    if default is None:
        return None
    kind = options.pop("scaling", default)
    given = options.pop("scaling_noise_multiplier", noise_multiplier if kind == "dp_moments" else None)
    return Scaling(kind, given, options.pop("scaling_streams", None))
