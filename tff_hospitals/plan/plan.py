"""The plan of a run: one frozen, serialisable object that says everything that training will do.

A plan names the hospitals, the model, the cohort, the client work, the privacy mechanism, the encodings, the server
optimiser and when to stop. It is data: what is wrong with a plan, `plan.review` says.

>>> plan = Plan(method="fedavg", client=ClientPlan(learning_rate=0.01, local_steps=100, batch_size=4))
>>> Plan.from_json(plan.to_json()) == plan
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.plan.options import POSITIVE, option
from tff_hospitals.plan.parts import (
    MOST_ROUNDS,
    MOST_SEED,
    TIMED,
    UPLOAD_ENCODED,
    WEIGHTINGS,
    ClientPlan,
    CohortPlan,
    DataPlan,
    LinkPlan,
    ModelPlan,
    PrivacyPlan,
    ServerPlan,
    StoppingPlan,
)
from tff_hospitals.plan.personal import PersonalPlan


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that one run does. See the module's docstring for an example.

    `method` is the label in tables; every other field is an option, or a part that is made of options.
    """

    method: str = "fedavg"
    data: DataPlan = dataclasses.field(default_factory=DataPlan)
    model: ModelPlan = dataclasses.field(default_factory=ModelPlan)
    cohort: CohortPlan = dataclasses.field(default_factory=CohortPlan)
    client: ClientPlan = dataclasses.field(default_factory=ClientPlan)
    weighting: str = option(
        "records", "a hospital counts by its training records, or like every other", choices=lambda: WEIGHTINGS
    )
    privacy: PrivacyPlan = dataclasses.field(default_factory=PrivacyPlan)
    broadcast: str = option("", "encoders from server to hospitals, such as delta,rotate,quantize:8")
    upload: str = option("", "encoders from hospital to server, such as rotate,quantize:4")
    error_feedback: bool = option(
        False, "a hospital adds what its encoder left out to its next update", used=UPLOAD_ENCODED
    )
    skip_below: float | None = option(
        None,
        "a hospital sends nothing when its update's L2 norm is below this",
        **POSITIVE,
        unit="L2 norm",
        remedy="give the L2 norm below which an update is not worth sending",
    )
    poison: str = option("", "hospitals that attack the training, such as sign_flip:site_3:10 (see plan.poison)")
    by_round: str = option(
        "",
        "settings that change by round, such as clip_norm=linear:0.5,proximal_mu=cosine (see plan.schedules)",
    )
    speeds: str = option(
        "",
        "simulated seconds of a local step at each hospital, such as constant:0.01 or lognormal:0.01:1 (see "
        "plan.speeds)",
    )
    target_accuracy: float | None = option(
        None,
        "accuracy on all test records whose simulated time is told; by default 90 % of the run's last",
        low=0.0,
        high=1.0,
        low_open=True,
        used=TIMED,
    )
    link: LinkPlan = dataclasses.field(default_factory=LinkPlan)
    server: ServerPlan = dataclasses.field(default_factory=ServerPlan)
    stopping: StoppingPlan = dataclasses.field(default_factory=StoppingPlan)
    personal: PersonalPlan = dataclasses.field(default_factory=PersonalPlan)
    rounds: int = option(15, "round limit", low=1, high=MOST_ROUNDS, unit="rounds")
    evaluate_every: int = option(1, "rounds between evaluations", low=1, unit="rounds")
    checkpoint_every: int = option(5, "rounds between checkpoints", low=1, unit="rounds")
    seed: int = option(42, "root of every random stream of the run", on_command_line=False, low=0, high=MOST_SEED)

    def replace(self, **changes: Any) -> Plan:
        """A copy with fields changed; a part takes a mapping of its own fields.

        >>> Plan().replace(rounds=3, client={"batch_size": 8}).client.batch_size
        8
        """
        values = {
            name: dataclasses.replace(getattr(self, name), **value)
            if dataclasses.is_dataclass(getattr(self, name)) and isinstance(value, Mapping)
            else value
            for name, value in changes.items()
        }
        return dataclasses.replace(self, **values)

    def in_step(self) -> Plan:
        """The plan with all hospitals beginning every round together, where they are asynchronous; else itself.

        >>> Plan(speeds="constant:1").replace(cohort={"kind": "buffered", "hospitals_per_round": 2}).in_step() == Plan()
        True
        """
        if not self.cohort.asynchronous:
            return self
        return self.replace(cohort=CohortPlan(), speeds="", target_accuracy=None)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        return files.plain(dataclasses.asdict(self))

    @property
    def label(self) -> str:
        """What the run is called: its method, or its mechanism where only that was chosen.

        >>> Plan().label, Plan().replace(privacy={"mechanism": "dp_sgd"}).label, Plan(method="mine").label
        ('fedavg', 'dp_sgd', 'mine')
        """
        if self.method != type(self).method:
            return self.method
        without = {type(self.privacy).mechanism: self.method}  # the mechanism of a plan that names none
        return without.get(self.privacy.mechanism, self.privacy.mechanism)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
          records.RecordError: when a field is unknown (written by another version).
        """
        parts = {field.name: field for field in dataclasses.fields(cls)}
        made: dict[str, Any] = {}
        for name, item in value.items():
            if name not in parts:
                raise files.RecordError(
                    f"plan field {name!r} is unknown. Remedy: read it with the version that wrote it."
                )
            default: Any = getattr(cls(), name)
            try:
                part: Any = type(default)
                made[name] = part(**item) if dataclasses.is_dataclass(default) else item
            except TypeError as error:
                raise files.RecordError(
                    f"plan part {name!r} does not fit: {error}. Remedy: read it with the version that wrote it."
                ) from error
        return cls(**made)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits: equal plans, equal fingerprints."""
        return files.fingerprint(self.to_json())
