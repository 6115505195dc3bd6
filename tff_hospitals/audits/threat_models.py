"""Who attacks, what that party sees, and which defence stops it.

Every attack of this package names the threat model that it assumes; every defence names those that it stops. A defence
that is not listed for a threat model does not help against it, however strong it is elsewhere: noise that the server
  adds protects the released model and does nothing against the server itself.

>>> ATTACKS["gradient_matching"].assumes
'curious_server'
>>> defences_against("curious_server")
('dp_sgd', 'secure_sum')
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """One kind of attacker: what it sees, and what it may change."""

    name: str
    title: str
    words: str


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack and the weakest attacker that can carry it out."""

    name: str
    title: str
    assumes: str
    words: str


@dataclasses.dataclass(frozen=True)
class Defence:
    """A defence, the threat models that it stops with a guarantee, and those that it only hampers."""

    name: str
    title: str
    stops: tuple[str, ...]
    hampers: tuple[str, ...]
    words: str


def _by_name(entries: tuple) -> dict:
    return {entry.name: entry for entry in entries}


THREAT_MODELS: dict[str, ThreatModel] = _by_name(
    (
        ThreatModel(
            "curious_server",
            "Curious server",
            "follows the protocol and reads every hospital's plain update",
        ),
        ThreatModel(
            "sum_server",
            "Server behind a secure sum",
            "follows the protocol and reads only the sum of the updates of a round",
        ),
        ThreatModel(
            "other_hospital",
            "Another hospital",
            "takes part in training and reads the broadcast model of every round",
        ),
        ThreatModel("outsider", "Outsider", "holds the final model and nothing else"),
        ThreatModel(
            "malicious_server",
            "Malicious server",
            "reads every hospital's plain update and broadcasts weights of its own choice",
        ),
    )
)

ATTACKS: dict[str, Attack] = _by_name(
    (
        Attack("loss_threshold", "Membership by loss", "outsider", "calls a record a member when its loss is small"),
        Attack(
            "calibrated",
            "Membership by calibrated loss",
            "outsider",
            "subtracts how hard the record is for models that never saw it",
        ),
        Attack(
            "lira",
            "Membership by likelihood ratio (LiRA)",
            "outsider",
            "compares the record's confidence with that of shadow models trained with and without it",
        ),
        Attack(
            "across_rounds",
            "Membership across rounds",
            "other_hospital",
            "adds up the calibrated losses of a record over the broadcast models",
        ),
        Attack("attribute", "Attribute inference from the model", "outsider", "tries every value of a hidden column"),
        Attack(
            "attribute_update",
            "Attribute inference from an update",
            "curious_server",
            "tries every value of a hidden column against the hospital's update",
        ),
        Attack("analytic", "Analytic recovery", "curious_server", "divides gradients of a dense first layer"),
        Attack("gradient_matching", "Gradient matching", "curious_server", "searches records with the same gradient"),
        Attack("labels", "Label recovery", "curious_server", "reads labels off the gradient of the last layer"),
        Attack(
            "planted_layer",
            "Planted layer",
            "malicious_server",
            "broadcasts a first layer whose units split the records by one measure",
        ),
        Attack(
            "canaries",
            "Canaries",
            "curious_server",
            "guesses which inserted records were trained on, with every update in view",
        ),
    )
)

DEFENCES: dict[str, Defence] = _by_name(
    (
        Defence("none", "no defence", (), (), "plain federated averaging"),
        Defence(
            "clipping",
            "clipping alone",
            (),
            (),
            "bounds the size of an update and nothing else: a ratio of gradients stays what it was",
        ),
        Defence(
            "dp_sgd",
            "record-level noise in the hospital",
            ("curious_server", "sum_server", "other_hospital", "outsider", "malicious_server"),
            (),
            "the noise is in the update before it leaves, so nobody outside sees anything without it",
        ),
        Defence(
            "hospital_noise",
            "hospital-level noise at the server",
            ("other_hospital", "outsider"),
            (),
            "protects what the server releases; the server itself sees plain updates",
        ),
        Defence(
            "local_steps",
            "more local steps and larger batches",
            (),
            ("curious_server", "malicious_server"),
            "mixes more records into an update; no guarantee",
        ),
        Defence("quantisation", "quantised upload", (), ("curious_server",), "rounds the update; no guarantee"),
        Defence("sparsification", "sparse upload", (), ("curious_server",), "sends few coordinates; no guarantee"),
        Defence(
            "secure_sum",
            "secure sum",
            ("curious_server",),
            ("malicious_server",),
            "leaves the server the sum alone, which says nothing about whose record is in it but still holds records",
        ),
        Defence(
            "partial_layers",
            "training the last layers only",
            (),
            ("curious_server", "malicious_server"),
            "the first layer's gradient never leaves; what reaches the last layers can still be matched",
        ),
    )
)


def defences_against(threat_model: str) -> tuple[str, ...]:
    """Names of the defences that stop a threat model with a guarantee.

    Raises:
      validation.InvalidInput: an unknown threat model.
    """
    from tff_hospitals.foundations.validation import one_of, raise_if

    raise_if([one_of("threat_model", threat_model, THREAT_MODELS)])
    return tuple(name for name, defence in DEFENCES.items() if threat_model in defence.stops)
