"""The first and the last stage of a chain: the difference to a reference, and entropy coding."""

from __future__ import annotations

import dataclasses

from tff_hospitals.communication import stage
from tff_hospitals.communication.forms import Form, register


@dataclasses.dataclass(frozen=True)
class Delta(stage.Stage):
    """`delta`: encodes the difference to a reference that both ends hold (the last decoded model), and adds it back.

    The reference being what was decoded, not what was meant, each payload also mends the error of the one before. For
    the first one, both ends may build the initial model from its seed, or start at zeros and send it whole.
    """

    rank = stage.DELTA
    name = "delta"


@dataclasses.dataclass(frozen=True)
class Entropy(stage.Stage):
    """`entropy`: codes positions and symbols in as few bytes as they need; loses nothing.

    The length of a payload then depends on the values (as with `threshold`), and whoever counts bytes sees it: where
    values must stay private, encode what has been noised already.
    """

    rank = stage.ENTROPY
    name = "entropy"


register(Form("delta", lambda plain: Delta()))
register(Form("entropy", lambda plain: Entropy()))
