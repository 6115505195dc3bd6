"""Image sets spread over simulated hospitals: scikit-learn's digits (always there), MNIST, Fashion-MNIST (from files).

>>> dataset = digits(Division(sites=20))
>>> dataset.feature_shape, len(dataset.hospitals), sum(dataset.records(train=True).values())
((8, 8, 1), 20, 1445)
"""

from __future__ import annotations

import gzip
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import raise_if, whole_number
from tff_hospitals.hospitals.assembly import image_fields
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division, Pool
from tff_hospitals.hospitals.secret import public_secret, secret_of
from tff_hospitals.hospitals.splits import shuffled

FASHION_MNIST_FOLDERS = (
    "/usr/share/datasets/fashion-mnist",  # Debian and Ubuntu: package dataset-fashion-mnist
    "~/.keras/datasets/fashion-mnist",
)
MNIST_FOLDERS = ("~/.keras/datasets", "~/.keras/datasets/mnist")
_KERAS_FILE = "mnist.npz"
_MNIST_LICENCE = "CC BY-SA 3.0"
_IDX_FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def digits(division: Division | None = None, labels: Sequence[int] | None = None) -> HospitalDataset:
    """1,797 handwritten digits of 8 x 8 pixels in 10 classes, spread over simulated sites (10 unless said otherwise).

    Args:
      division: partition, sites, seed and test fraction (default one fifth).
      labels: the digits to keep; None keeps all. The number of classes stays 10, so that a model that was pretrained on
        some digits can be trained further on others.

    Source: Alpaydin and Kaynak 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, as in scikit-learn.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    values, target = loaded.images[..., np.newaxis].astype(np.float32), loaded.target.astype(np.int64)
    words = ""
    if labels is not None:
        wanted = [labels] if isinstance(labels, int) else list(labels)
        remedy = "name digits, for example labels=5+6+7+8+9"
        raise_if([whole_number("labels", one, low=0, high=9, remedy=remedy) for one in wanted])
        kept = np.isin(target, wanted)
        values, target, words = values[kept], target[kept], f", digits {', '.join(map(str, sorted(set(wanted))))} only"
    fields = image_fields(
        Pool("digits", values, target),
        division or Division(),
        secret=public_secret("digits"),
        brightest=16,
        num_classes=10,
        test_fraction=0.2,
    )
    return HospitalDataset(
        name="digits",
        provenance="Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, doi 10.24432/C50P49), "
        f"test set, as in scikit-learn{words}",
        licence="CC BY 4.0",
        **fields,
    )


def fashion_mnist(
    division: Division | None = None, folder: os.PathLike[str] | str | None = None, records: int | None = None
) -> HospitalDataset:
    """70,000 images of clothes, 28 x 28 pixels in 10 classes, spread over simulated sites.

    The published test images stay test images.

    Args:
      division: partition, sites and seed.
      folder: of the four idx files, plain or gzip; default: where Debian's package or Keras puts them.
      records: take a random subset of so many images; None takes all (220 MB).

    Raises:
      RecordError: files are missing, truncated or not idx files.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """
    place = _folder_of_files(
        "Fashion-MNIST", folder, FASHION_MNIST_FOLDERS, "install the Debian package dataset-fashion-mnist", "MIT"
    )
    source = "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)"
    return _published_images("fashion_mnist", place, division, folder, records, source, "MIT")


def mnist(
    division: Division | None = None, folder: os.PathLike[str] | str | None = None, records: int | None = None
) -> HospitalDataset:
    """70,000 images of handwritten digits, 28 x 28 pixels, spread over simulated sites.

    The published test images stay test images.

    Args:
      division: partition, sites and seed.
      folder: of Keras' mnist.npz or of the four idx files, plain or gzip; default: where Keras puts them.
      records: take a random subset of so many images; None takes all (220 MB).

    Raises:
      RecordError: files are missing (says how to get them), truncated or of another kind.

    Source: LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791.
    """
    how = "run keras.datasets.mnist.load_data() once where there is a network, and copy mnist.npz"
    place = _folder_of_files("MNIST", folder, MNIST_FOLDERS, how, _MNIST_LICENCE)
    source = "MNIST (LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791)"
    return _published_images("mnist", place, division, folder, records, source, _MNIST_LICENCE)


def _published_images(
    name: str,
    place: pathlib.Path,
    division: Division | None,
    folder: os.PathLike[str] | str | None,
    records: int | None,
    source: str,
    licence: str,
) -> HospitalDataset:
    """28 x 28 images in 10 classes whose test images are given."""
    npz = name == "mnist" and (place / _KERAS_FILE).is_file()
    pairs = (
        _read_npz(place / _KERAS_FILE)
        if npz
        else [(_read_idx(place, images, 3), _read_idx(place, labels, 1)) for images, labels in _IDX_FILES]
    )
    images = np.concatenate([pair[0] for pair in pairs])
    labels = np.concatenate([pair[1] for pair in pairs]).astype(np.int64)
    if len(images) != len(labels):
        raise RecordError(
            f"{place} holds {len(images)} images and {len(labels)} labels. Remedy: fetch the files again."
        )
    division = division or Division()
    tested = np.arange(len(labels)) >= len(pairs[0][1])
    if records is not None:
        raise_if([whole_number("records", records, low=1, high=len(labels), remedy="take fewer images")])
        streams = Streams.from_seed(division.seed).child("data", "subset")
        kept = np.sort(shuffled(streams.generator(), len(labels))[:records])
        images, labels, tested = images[kept], labels[kept], tested[kept]
    fields = image_fields(
        Pool(name, images[..., np.newaxis], labels, np.flatnonzero(tested)),
        division,
        # What lies in a folder that the user names may be something else.
        secret=public_secret(name) if folder is None else secret_of(place),
        brightest=255,
        num_classes=10,
        test_fraction=1 / 7,
        given="the published test images are kept",
    )
    return HospitalDataset(name=name, provenance=f"{source}, {len(labels)} of 70,000 images", licence=licence, **fields)


def _folder_of_files(
    title: str, folder: os.PathLike[str] | str | None, usual: Sequence[str], how: str, terms: str
) -> pathlib.Path:
    """The folder that holds the files of a set.

    Raises:
      RecordError: none does; names where it was looked, how to get them and their terms.
    """
    candidates = [pathlib.Path(place).expanduser() for place in ([folder] if folder else usual)]
    for candidate in candidates:
        if _idx_path(candidate, _IDX_FILES[0][0]) is not None:
            return candidate
        if title == "MNIST" and (candidate / _KERAS_FILE).is_file():
            return candidate
    raise RecordError(
        f"no {title} ({_IDX_FILES[0][0]}, plain or .gz) in {' or '.join(map(str, candidates))}. "
        f"Remedy: {how}, or give --data_option=folder=FOLDER, with the four idx files. Terms: {terms}."
    )


def _read_npz(path: pathlib.Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keras' file: images and labels for training, then for testing."""
    try:
        with np.load(path, allow_pickle=False) as held:
            pairs = [(held[f"x_{side}"], held[f"y_{side}"]) for side in ("train", "test")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{path} cannot be read: {error}. Remedy: fetch it again.") from error
    if any(images.shape[1:] != (28, 28) or labels.ndim != 1 for images, labels in pairs):
        shapes = ", ".join(str(array.shape) for pair in pairs for array in pair)
        raise RecordError(f"{path} holds arrays of shapes {shapes}: no MNIST. Remedy: fetch it again.")
    return pairs


def _idx_path(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: pathlib.Path, name: str, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes: two zeros, type 8, number of dimensions, big-endian sizes, values."""
    path = _idx_path(folder, name)
    if path is None:
        raise RecordError(f"{folder / name} does not exist, plain or .gz. Remedy: put all four idx files there.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{path} cannot be read: {error}. Remedy: fetch it again.") from error
    header = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:header], ">u4").astype(int) if len(content) >= header else np.zeros(0, int)
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != header + int(np.prod(sizes)):
        raise RecordError(
            f"{path} is no whole idx file of bytes in {dimensions} dimensions ({len(content)} bytes). "
            "Remedy: fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(tuple(sizes))
