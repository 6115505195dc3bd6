"""Made-up records of any size, for scaling benchmarks: Gaussian features, labels from one linear rule.

>>> dataset = synthetic(sites=3, records_per_site=(8, 20, 5), features=4)
>>> dataset.records(train=True)
{'site-0001': 8, 'site-0002': 20, 'site-0003': 5}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import Problem, in_range, raise_if, whole_number
from tff_hospitals.hospitals.checks import one_class_warnings
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.hospital import NO_PREPROCESSING, Hospital, Part
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital
from tff_hospitals.hospitals.partitions import site_ids
from tff_hospitals.hospitals.secret import public_secret

_LAZY_BYTES = 2 * 2**30  # above it sites are made when they are needed, unless the caller says otherwise


def synthetic(
    *,
    sites: int = 10,
    records_per_site: int | Sequence[int] = 200,
    features: int | Sequence[int] = 20,
    num_classes: int = 2,
    label_noise: float = 1.0,
    test_records_per_site: int = 20,
    lazy: bool | None = None,
    seed: int = 0,
) -> HospitalDataset:
    """Standard normal features; the label is the class whose random linear score, with noise, is highest.

    A site's records come from the stream of its id: more sites, or more records at one, change no other site.

    Args:
      sites: number of sites.
      records_per_site: training records of each site; one number for all, or one per site.
      features: number of columns, or a shape such as (28, 28, 1).
      num_classes: 2 or more.
      label_noise: standard deviation of the noise on scores, whose own deviation is 1; 0 makes classes linearly
        separable.
      test_records_per_site: test records of each site, 0 or more.
      lazy: make a site's records whenever they are needed and keep only the last ones; by default for more than 2 GiB.
        The records are the same; the warning about sites with one class only is left out.
      seed: of everything.

    Raises:
      InvalidInput: numbers out of range.
    """
    shape = (features,) if isinstance(features, int) else tuple(features)
    counts = [records_per_site] * sites if isinstance(records_per_site, int) else list(records_per_site)
    raise_if(
        [
            whole_number("sites", sites, low=1, remedy="give 1 or more"),
            *(whole_number("features", size, low=1, remedy="give 1 or more") for size in shape),
            *(whole_number("records_per_site", n, low=1, remedy="give 1 or more") for n in sorted(set(counts))),
            Problem(
                "records_per_site", len(counts), f"must be one number or {sites}, one per site", "give one per site"
            )
            if len(counts) != sites
            else None,
            whole_number("num_classes", num_classes, low=2, remedy="give 2 or more"),
            whole_number("test_records_per_site", test_records_per_site, low=0, remedy="give 0 or more"),
            in_range("label_noise", label_noise, low=0.0, remedy="give 0 or more"),
        ]
    )
    streams = Streams.from_seed(seed).child("data", "synthetic")
    width = int(np.prod(shape))
    # Two classes share one score with opposite signs, so that a logistic regression can be exact.
    rule = streams.child("rule").generator().standard_normal((width, num_classes)) / np.sqrt(width)
    if num_classes == 2:
        rule[:, 0] = -rule[:, 1]

    def make(site: str, name: str) -> Part:
        generator = streams.child(site, name).generator()
        records = of_site[site] if name == "train" else test_records_per_site
        values = generator.standard_normal((records, width), np.float32)
        noise = generator.standard_normal((records, num_classes)) * label_noise
        return Part(values.reshape(records, *shape), np.argmax(values @ rule + noise, axis=1))

    of_site = dict(zip(site_ids(sites), counts))
    if lazy is None:
        lazy = 4 * width * (sum(counts) + sites * test_records_per_site) > _LAZY_BYTES
    task = "binary" if num_classes == 2 else "multiclass"
    hospitals: list[Hospital] = []
    store = PartStore()
    for site, count in of_site.items():
        if lazy:
            signature = ModelSignature(shape, num_classes, task)
            hospitals.append(lazy_hospital(site, count, test_records_per_site, make, store, signature))
        else:
            hospitals.append(Hospital(site, make(site, "train"), make(site, "test")))
    names = tuple(f"x{number}" for number in range(1, width + 1)) if len(shape) == 1 else ()
    return HospitalDataset(
        name="synthetic",
        hospitals=tuple(hospitals),
        task=task,
        num_classes=num_classes,
        feature_shape=shape,
        feature_names=names,
        provenance=f"made up by a random number generator, seed {seed}",
        licence="none needed",
        simulated=True,
        partition=f"simulated: {sites} sites whose records come from one distribution (IID)",
        preprocessing=NO_PREPROCESSING,
        split_rule="given: training and test records are drawn apart",
        inside_warnings=() if lazy else one_class_warnings(hospitals, task),
        secret=public_secret("synthetic"),
        recipe=f"synthetic {seed} {label_noise} {num_classes} {shape}" if lazy else "",
    )
