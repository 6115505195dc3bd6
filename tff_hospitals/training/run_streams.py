"""Every random stream of a run, and what each of them follows from: the only place that says so.

| stream | follows from | who may know it |
|---|---|---|
| initial weights; cohorts and batches whose sampling no guarantee rests on | the seed | everybody |
| noise, roundings, rotations; Poisson batches and cohorts; bits of encoders | whole run and secret | see below |
| the same with `secure_noise` | the operating system | nobody |

The whole run is its plan, its data, its model and its seed; the secret is the key of the data set.

So two runs share noise only where they are the same release bit for bit: take away what is common to two models that
carry the same noise, and what is left has none. What no guarantee rests on stays common to all plans of one seed, so
that methods are compared on the same start and the same batches. A run without any mechanism protects nothing, and all
of its streams follow from the seed.

The key of embedded public data is public (see `hospitals.secret`): runs on them are reproducible everywhere, and
protect nobody from a reader who draws their noise again. That is what research mode means.

>>> from tff_hospitals.hospitals import load_dataset
>>> data = load_dataset("heart_disease")
>>> private = Plan().replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
>>> one, other = (run_streams(private.replace(rounds=rounds), data) for rounds in (15, 16))
>>> bool((one.weights() == other.weights()).all()), bool((one.server_noise() == other.server_noise()).any())
(True, False)
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.hospital_draws import RunStreams

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

HARMLESS = ("evaluate_every", "checkpoint_every", "personal", "target_accuracy")
"""Fields of a plan that change nothing of what is released: plans that differ in them alone are the same release."""


def release_name(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel | None = None, continues: Sequence[str] = ()
) -> str:
    """32 hexadecimal digits that two runs share only if they release the same bits; without the key they tell nothing.

    Args:
      plan: all of it counts, but for `HARMLESS` fields; and the code of extensions, which may do anything.
      dataset: its records count, and its secret key.
      model: code and configuration count. None: the plan's name for it alone.
      continues: names of the releases that the run was extended from, the first one first.
    """
    settings = {name: value for name, value in plan.to_json().items() if name not in HARMLESS}
    words = json.dumps(settings, sort_keys=True)
    identity = str(getattr(model, "identity", ""))
    return dataset.secret.child("release").digest(words, dataset.fingerprint(), identity, *_own_code(plan), *continues)


def _own_code(plan: Plan) -> list[str]:
    """Name and digest of each module of a user's own that has a part in the run: edited, it releases something else."""
    package = __name__.partition(".")[0]
    mechanisms_of = {type(one).__module__ for one, _ in mechanisms.layers(plan.privacy)}
    found = []
    for name in sorted({*extensions.loaded(), *mechanisms_of}):
        if name.partition(".")[0] != package:
            file = getattr(sys.modules.get(name), "__file__", None)
            code = b"" if file is None else pathlib.Path(file).read_bytes()
            found.append(f"{name} {hashlib.sha256(code).hexdigest()}")
    return found


def run_streams(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel | None = None, continues: Sequence[str] = ()
) -> RunStreams:
    """The streams of the run of a plan.

    Args:
      plan, dataset, model, continues: as for `release_name`. Streams without a model are those of no real run; they
        serve where only their distribution counts.
    """
    common = Streams.from_seed(plan.seed)
    if plan.privacy.secure_noise:
        own = Streams.from_operating_system()
    elif not any(one.private for one, _ in mechanisms.layers(plan.privacy)):
        own = common
    else:
        name, noise = release_name(plan, dataset, model, continues), dataset.secret.child("noise")
        own = Streams(bytes.fromhex(noise.digest(name, "first half") + noise.digest(name, "second half")))
    return RunStreams(common, own, draws_poisson_batches(plan), hides_cohorts(plan))


def draws_poisson_batches(plan: Plan) -> bool:
    """Whether a hospital draws its batches by Poisson sampling, on which the epsilon of its records rests."""
    mechanism = mechanisms.record_level(plan.privacy)
    return mechanism is not None and mechanism.batches_of(plan.privacy) in ("poisson", "cyclic_poisson")


def hides_cohorts(plan: Plan) -> bool:
    """Whether the epsilon of a hospital rests on nobody knowing in which rounds it takes part.

    Around a record-level mechanism it does not: the ledger of the records names the rounds of every hospital.
    """
    alone = mechanisms.record_level(plan.privacy) is None
    return alone and plan.cohort.kind == "poisson" and mechanisms.hospital_level(plan.privacy).noise_by == "server"
