"""How alike a record and its rebuilt copy are: PSNR and SSIM of images, errors of columns in their own units.

>>> import numpy as np
>>> image = np.kron(np.eye(2), np.ones((4, 4)))
>>> round(psnr(image, image + 0.1), 2), psnr(image, image)
(20.0, inf)
>>> round(ssim(image, image), 6)
1.0
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.validation import Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital, HospitalDataset


def psnr(image: np.ndarray, rebuilt: np.ndarray, brightest: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images."""
    error = float(np.mean((np.asarray(image, np.float64) - np.asarray(rebuilt, np.float64)) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(brightest**2 / error)


def ssim(image: np.ndarray, rebuilt: np.ndarray, brightest: float = 1.0, window: int = 7) -> float:
    """Structural similarity, mean over all square windows: 1 for equal images, near 0 for unrelated ones.

    Args:
      image, rebuilt: [height, width] or [height, width, channels].
      brightest: largest possible value.
      window: side of the square window (smaller images use their own side).

    Source: Wang et al. 2004, IEEE Transactions on Image Processing 13(4), with uniform weights.
    """
    a, b = np.asarray(image, np.float64), np.asarray(rebuilt, np.float64)
    if a.shape != b.shape or a.ndim < 2:
        raise_if(
            [Problem("rebuilt", b.shape, f"must have the shape of the image, {a.shape}", "compare like with like")]
        )
    if a.ndim == 3:
        return float(np.mean([ssim(a[..., c], b[..., c], brightest, window) for c in range(a.shape[-1])]))
    side = min(window, *a.shape)
    views = [np.lib.stride_tricks.sliding_window_view(one, (side, side)) for one in (a, b)]
    means = [view.mean(axis=(-2, -1)) for view in views]
    variances = [view.var(axis=(-2, -1), ddof=1) for view in views]
    centred = (views[0] - means[0][..., None, None]) * (views[1] - means[1][..., None, None])
    covariance = centred.sum(axis=(-2, -1)) / (side * side - 1)
    c1, c2 = (0.01 * brightest) ** 2, (0.03 * brightest) ** 2
    top = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    bottom = (means[0] ** 2 + means[1] ** 2 + c1) * (variances[0] + variances[1] + c2)
    return float((top / bottom).mean())


@dataclasses.dataclass(frozen=True)
class RebuiltRow:
    """One record of a table beside its rebuilt copy, in original units.

    Attributes:
      original, rebuilt: cells by column: numbers, or the words of a category.
      errors: absolute error of each numeric column, in its unit; for categories 0 when right and 1 when wrong.
    """

    original: dict[str, Any]
    rebuilt: dict[str, Any]
    errors: dict[str, float]


def rebuilt_row(dataset: HospitalDataset, hospital: Hospital, record: np.ndarray, rebuilt: np.ndarray) -> RebuiltRow:
    """A record and its copy as somebody at the hospital would read them.

    Args:
      dataset: for its schema; without one, columns keep their encoded names.
      hospital: whose scaler restores the units.
      record, rebuilt: features [columns] as the model sees them.
    """
    cells = [_cells(dataset, hospital, one) for one in (record, rebuilt)]
    errors = {}
    for name, value in cells[0].items():
        other = cells[1][name]
        numeric = isinstance(value, float)
        errors[name] = abs(value - other) if numeric else float(value != other)
    return RebuiltRow(cells[0], cells[1], errors)


def _cells(dataset: HospitalDataset, hospital: Hospital, record: np.ndarray) -> dict[str, Any]:
    values = hospital.restore(np.asarray(record, np.float64).ravel())
    if dataset.schema is None:
        names = dataset.feature_names or tuple(f"feature_{i}" for i in range(len(values)))
        return {name: _rounded(value) for name, value in zip(names, values)}
    from tff_hospitals.hospitals import decode

    cells = {name: column[0] for name, column in decode(dataset.schema, values).items()}
    return {name: _rounded(cell) if isinstance(cell, float) else cell for name, cell in cells.items()}


def _rounded(value: float) -> float:
    """Without the last digits that float32 features do not have."""
    return round(float(value), 4) + 0.0


def relative_error(record: np.ndarray, rebuilt: np.ndarray, spread: np.ndarray) -> float:
    """Root mean square error over the features, each in standard deviations of the data: 0 exact, 1.4 a random other
    record.

    Args:
      record, rebuilt: one record's features.
      spread: standard deviation of each feature; constant features are left out.
    """
    spread = np.asarray(spread, np.float64).ravel()
    varies = spread > 1e-9
    difference = (np.asarray(record, np.float64) - np.asarray(rebuilt, np.float64)).ravel()[varies] / spread[varies]
    return float(np.sqrt(np.mean(difference**2)))
