"""Membership inference: was this record trained on? Scores are high for what looks like a member.

Three attacks of growing strength, on losses that somebody measured on a model:

* `loss_threshold`: small loss, member (Yeom et al. 2018, arXiv:1709.01604);
* `calibrated`: how much smaller than for models that never saw the record (Watson et al. 2022, arXiv:2111.08440);
* `lira`: likelihood ratio of the record's confidence under shadow models with and without it (Carlini et al. 2022,
  arXiv:2112.03570).

>>> import numpy as np
>>> shadows = Shadows(losses=np.array([[0.1, 2.0], [0.9, 2.2]]), included=np.array([[True, False], [False, True]]))
>>> calibrated(np.array([0.2, 2.1]), shadows).round(3).tolist()
[0.7, -0.1]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.audits import statistics
from tff_hospitals.foundations.validation import InvalidInput, Problem

_SMALLEST_SPREAD = 1e-3
_FEW = 64  # shadow models with (or without) a record below which its own deviation is too rough to use


@dataclasses.dataclass(frozen=True, eq=False)
class Shadows:
    """Models trained on other random halves of the same records.

    Attributes:
      losses: [models, records], of each record under each model.
      included: [models, records], whether the model was trained on the record.
    """

    losses: np.ndarray
    included: np.ndarray

    def mean_out(self) -> np.ndarray:
        """Mean loss of each record under models that never saw it [records]: how hard it is."""
        return _mean_where(self.losses, ~self.included)


def _mean_where(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over models, over all of them where none is chosen."""
    count = chosen.sum(axis=0)
    mean = np.where(chosen, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    return np.where(count > 0, mean, values.mean(axis=0))


def loss_threshold(losses: np.ndarray) -> np.ndarray:
    """Scores [records] from losses [records] of the attacked model."""
    return -np.asarray(losses, np.float64)


def calibrated(losses: np.ndarray, shadows: Shadows) -> np.ndarray:
    """Scores [records]: the record's loss without it minus its loss on the attacked model."""
    return shadows.mean_out() - np.asarray(losses, np.float64)


def logit_confidence(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the probability p = exp(-loss) that the model gives to the right class.

    >>> logit_confidence(np.array([np.log(2.0)])).round(6).tolist()
    [0.0]
    """
    losses = np.maximum(np.asarray(losses, np.float64), 1e-12)
    return -losses - np.log(-np.expm1(-losses))


def lira(losses: np.ndarray, shadows: Shadows, *, regression: bool = False) -> np.ndarray:
    """Scores [records]: log likelihood ratio of two Gaussians, with and without the record.

    The two means are the record's own; the deviation is its own where there are shadow models enough, else one that all
    records share, as the authors advise.

    Args:
      losses: [records] of the attacked model.
      shadows: models with and without each record.
      regression: losses are squared errors: their logarithm is modelled instead of a confidence.
    """
    view = (lambda values: -np.log(np.maximum(values, 1e-12))) if regression else logit_confidence
    values, seen = view(shadows.losses), view(np.asarray(losses, np.float64))
    likelihoods = []
    for chosen in (shadows.included, ~shadows.included):
        mean = _mean_where(values, chosen)
        count = chosen.sum(axis=0)
        squares = np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0)
        shared = squares.sum() / max(1, (count - 1).clip(0).sum())
        own = np.where(count >= _FEW, squares / np.maximum(count - 1, 1), shared)
        spread = np.sqrt(np.maximum(own, _SMALLEST_SPREAD**2))
        likelihoods.append(-0.5 * ((seen - mean) / spread) ** 2 - np.log(spread))
    return likelihoods[0] - likelihoods[1]


def across_rounds(losses: np.ndarray, shadows: Sequence[Shadows]) -> np.ndarray:
    """Scores [records] of somebody who saw the model of several rounds: calibrated losses added up.

    Args:
      losses: [rounds, records] of the broadcast models.
      shadows: shadow models of the same rounds, or of the end of training for all of them.
    """
    return np.mean([calibrated(row, shadow) for row, shadow in zip(losses, shadows)], axis=0)


def outliers(difficulty: np.ndarray, share: float = 0.1) -> np.ndarray:
    """The hardest records [records]: those that models which never saw them fit worst.

    Hardness is judged by other models, so that being chosen says nothing about membership.
    """
    count = max(1, round(share * len(difficulty)))
    chosen = np.zeros(len(difficulty), bool)
    chosen[np.argsort(difficulty, kind="stable")[-count:]] = True
    return chosen


def by_group(
    scores: np.ndarray,
    members: np.ndarray,
    groups: Mapping[str, np.ndarray],
    *,
    fprs: Sequence[float] = (0.01, 0.001),
    confidence: float = 0.95,
) -> dict[str, statistics.Outcome]:
    """Outcome of one attack on each group of records that has both members and others.

    Args:
      scores, members: [records].
      groups: masks [records] by name: all, each hospital, outliers.
      fprs, confidence: as for `statistics.evaluate`.
    """
    found = {}
    for name, chosen in groups.items():
        inside, outside = scores[chosen & members], scores[chosen & ~members]
        if len(inside) and len(outside):
            found[name] = statistics.evaluate(inside, outside, fprs=fprs, confidence=confidence)
    return found


def suite(
    losses_in: np.ndarray, losses_out: np.ndarray, scores_in: Any = None, scores_out: Any = None
) -> dict[str, float]:
    """Areas under the ROC by TensorFlow Privacy's own attack suite, by attack type.

    Args:
      losses_in, losses_out: losses of members and others.
      scores_in, scores_out: class probabilities [records, classes] of the same records; with them the suite trains
        attack models (logistic regression) beside its thresholds.

    Source: TensorFlow Privacy, `membership_inference_attack`; the suite's defaults.
    """
    import importlib

    folder = "tensorflow_privacy.privacy.privacy_tests.membership_inference_attack"
    try:
        module = importlib.import_module(f"{folder}.membership_inference_attack")
        structures = importlib.import_module(f"{folder}.data_structures")
    except ModuleNotFoundError as error:
        remedy = "install tensorflow-privacy from its source, or do without: the attacks here cover its thresholds"
        bound = f"lacks its attack suite ({error}); the wheel of version 0.9.0 was released without privacy_tests"
        raise InvalidInput([Problem("suite", "tensorflow_privacy", bound, remedy)]) from error
    data = structures.AttackInputData(loss_train=losses_in, loss_test=losses_out)
    kinds = [structures.AttackType.THRESHOLD_ATTACK]
    if scores_in is not None:
        data.probs_train, data.probs_test = scores_in, scores_out
        kinds.append(structures.AttackType.LOGISTIC_REGRESSION)
    results = module.run_attacks(data, attack_types=tuple(kinds)).single_attack_results
    return {result.attack_type.value: float(result.get_auc()) for result in results}
