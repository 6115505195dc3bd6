"""Hospitals whose records are picture files: PNG and JPEG, decoded when they are needed.

| layout | set |
|---|---|
| `FOLDER/HOSPITAL/CLASS/*.png` (or .jpg, .jpeg) | `image_folder`: your own |
| `FOLDER/train_test_folds.csv`, `FOLDER/ISIC_2019_Training_Input_preprocessed/*.jpg` | `isic2019`, as FLamby makes it |

Decoded by Pillow, which comes with the drawing of reports: this layer stays free of TensorFlow. A picture is cut to its
middle where its sides are in another proportion, made as large as asked for, and divided by 255.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem, counted, in_range, raise_if, whole_number
from tff_hospitals.hospitals.checks import id_problem, no_training_problem, untested_warnings
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.hospital import Part, Preprocessing
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital
from tff_hospitals.hospitals.secret import DataSecret, secret_of
from tff_hospitals.hospitals.splits import by_record

KINDS = (".png", ".jpg", ".jpeg")
ISIC_HOSPITALS = ("BCN", "HAM_vidir_molemax", "HAM_vidir_modern", "HAM_rosendahl", "MSK", "HAM_vienna_dias")
_ISIC_TABLES = ("train_test_folds.csv", "train_test_split")
_ISIC_PICTURES = "ISIC_2019_Training_Input_preprocessed"
_TEST_FRACTION = 0.2
_LAYOUT = "FOLDER/HOSPITAL/CLASS/*.png (or .jpg, .jpeg)"

_NO_PICTURE = (OSError, ValueError, SyntaxError)

Pictures = dict[str, dict[str, list[tuple[pathlib.Path, int]]]]
"""By hospital and side ("train" or "test"): path and class of each picture."""


def image_folder(
    division: Division | None = None,
    folder: os.PathLike[str] | str | None = None,
    height: int = 32,
    width: int = 32,
    channels: int = 3,
) -> HospitalDataset:
    """Pictures in a folder for each hospital, and in it one for each class.

    Args:
      division: seed, split and test fraction (default one fifth); a picture's side follows from its path and a key.
      folder: that holds the folders of the hospitals.
      height, width: of what a model sees.
      channels: 1 (grey) or 3.

    Raises:
      InvalidInput: no folder, sizes out of range, a hospital without pictures for training, all files that are no
        whole pictures.
      RecordError: no pictures.
    """
    if folder is None:
        bound = f"must hold a folder for each hospital, and in it one for each class: {_LAYOUT}"
        raise InvalidInput([Problem("folder", None, bound, "give --data_option=folder=FOLDER")])
    place, division = pathlib.Path(folder).expanduser(), division or Division()
    raise_if([_as_they_are("image_folder", division)])
    fraction = _TEST_FRACTION if division.test_fraction is None else division.test_fraction
    raise_if([in_range("test_fraction", fraction, low=0.0, high=0.5, low_open=True, remedy="give 0.2")])
    paths = sorted(path for path in place.glob("*/*/*") if path.suffix.lower() in KINDS)
    if not paths:
        raise RecordError(
            f"no pictures in {place}: a folder for each hospital, and in it one for each class, are expected. Remedy: "
            f"put them into {place / 'HOSPITAL' / 'CLASS'}, as {', '.join(KINDS)}."
        )
    classes = sorted({path.parent.name for path in paths})
    raise_if([id_problem("hospital", name) for name in sorted({path.parts[-3] for path in paths})])
    secret = secret_of(place)
    names = ["/".join(path.parts[-3:]).encode() for path in paths]
    tested = by_record(secret, names, test_fraction=fraction, seed=division.seed, number=division.split)
    found: Pictures = {}
    for path, test in zip(paths, tested):
        sides = found.setdefault(path.parts[-3], {"train": [], "test": []})
        sides["test" if test else "train"].append((path, classes.index(path.parent.name)))
    return _dataset(
        "image_folder",
        found,
        (height, width, channels),
        len(classes),
        secret,
        provenance=f"pictures in {place.name}; classes {', '.join(classes)}",
        licence="not stated",
        split_rule=f"by record: a keyed hash of the picture's path, compared with the test fraction {fraction:g}",
    )


def isic2019(
    division: Division | None = None, folder: os.PathLike[str] | str | None = None, size: int = 64
) -> HospitalDataset:
    """Fed-ISIC2019 as FLamby prepares it: 23,247 pictures of skin lesions from 6 hospitals, 8 classes, its split.

    Args:
      division: its seed; FLamby's test pictures stay test records.
      folder: with the table of folds and the folder of preprocessed pictures.
      size: height and width of what a model sees.

    Raises:
      RecordError: files are missing (says how to get them and under which terms), or are not what was published.

    Source: Ogier du Terrail et al. 2022, arXiv:2210.04620.
    """
    raise_if([_as_they_are("isic2019", division or Division())])
    place = pathlib.Path("." if folder is None else folder).expanduser()
    table = next((place / name for name in _ISIC_TABLES if (place / name).is_file()), None)
    if folder is None or table is None or not (place / _ISIC_PICTURES).is_dir():
        looked = "a folder that --data_option=folder=FOLDER names" if folder is None else place
        raise RecordError(
            f"no {_ISIC_TABLES[0]} and {_ISIC_PICTURES} in {looked}. Remedy: accept the terms of ISIC 2019 and "
            "HAM10000 on their pages, run FLamby's download_isic.py and resize_images.py, and give "
            "--data_option=folder=FOLDER. Terms: CC BY-NC 4.0, with attribution."
        )
    found: Pictures = {}
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in ("image", "target", "fold2") if name not in (reader.fieldnames or ())]
        if missing:
            raise RecordError(f"{table} has no column {', '.join(missing)}. Remedy: take FLamby's file as it is.")
        for line in reader:
            side, _, number = str(line["fold2"]).partition("_")
            target = str(line["target"]).partition(".")[0]
            fits = side in ("train", "test") and number in map(str, range(len(ISIC_HOSPITALS))) and target.isdigit()
            if not fits or int(target) > 7:
                raise RecordError(
                    f"{table}, line {reader.line_num}: fold2 {line['fold2']!r} and target {line['target']!r} must be "
                    "train_0 to test_5 and 0 to 7. Remedy: take FLamby's file as it is."
                )
            sides = found.setdefault(ISIC_HOSPITALS[int(number)], {"train": [], "test": []})
            sides[side].append((place / _ISIC_PICTURES / f"{line['image']}.jpg", int(target)))
    return _dataset(
        "isic2019",
        {name: found[name] for name in ISIC_HOSPITALS if name in found},
        (size, size, 3),
        8,
        secret_of(place),
        provenance="Fed-ISIC2019: BCN20000 (Combalia et al. 2019), HAM10000 (Tschandl et al. 2018), MSK (Codella "
        "et al. 2018), as in FLamby (arXiv:2210.04620)",
        licence="CC BY-NC 4.0",
        split_rule="given: FLamby's published split",
    )


def _as_they_are(name: str, division: Division) -> Problem | None:
    if division.sites is None:
        return None
    return Problem("sites", division.sites, f"is not used by {name}, whose hospitals are taken as they are", "drop it")


def _dataset(
    name: str,
    found: Pictures,
    shape: tuple[int, int, int],
    classes: int,
    secret: DataSecret,
    *,
    provenance: str,
    licence: str,
    split_rule: str,
) -> HospitalDataset:
    height, width, channels = shape
    raise_if(
        [
            *(
                whole_number(*one, low=1, high=4096, remedy="give pixels")
                for one in (("height", height), ("width", width))
            ),
            None if channels in (1, 3) else Problem("channels", channels, "must be 1 (grey) or 3", "give 1 or 3"),
            None if classes > 1 else Problem("classes", classes, "must be two or more", "add folders of classes"),
            *(no_training_problem(one) for one, sides in found.items() if not sides["train"]),
            *_broken([path for sides in found.values() for side in sides.values() for path, _ in side]),
        ]
    )
    signature = ModelSignature(shape, classes, "multiclass" if classes > 2 else "binary")

    def make(hospital_id: str, side: str) -> Part:
        pictures = found[hospital_id][side]
        features = [decoded(path, height, width, channels) for path, _ in pictures]
        empty = np.zeros((0, *shape), np.float32)
        return Part(np.stack(features) if features else empty, np.array([label for _, label in pictures], np.int64))

    store = PartStore()
    hospitals = tuple(
        lazy_hospital(one, len(sides["train"]), len(sides["test"]), make, store, signature)
        for one, sides in found.items()
    )
    digest = hashlib.sha256()
    for one, sides in found.items():
        for side, pictures in sides.items():
            for path, label in pictures:
                digest.update(f"{one} {side} {path.name} {label} {_size_of(path)}\n".encode())
    words = f"pictures cut to their middle, {height} x {width}, divided by 255 (nothing is learnt from the records)"
    return HospitalDataset(
        name=name,
        hospitals=hospitals,
        task=signature.task,
        num_classes=classes,
        feature_shape=shape,
        feature_names=(),
        provenance=provenance,
        licence=licence,
        simulated=False,
        partition=f"natural: {counted(len(hospitals), 'hospital')}, each with its own pictures",
        preprocessing=Preprocessing("fixed_bounds", True, words),
        split_rule=split_rule,
        inside_warnings=untested_warnings(hospitals),
        secret=secret,
        recipe=f"{name} {shape} {digest.hexdigest()}",
    )


def _broken(paths: Sequence[pathlib.Path]) -> list[Problem]:
    """A problem for every file that cannot be decoded: it would else be met in the middle of training."""
    with futures.ThreadPoolExecutor() as pool:
        reasons = list(pool.map(_reason, paths))
    return [
        Problem("picture", str(path), reason, "replace it, or take it out")
        for path, reason in zip(paths, reasons)
        if reason
    ]


def _reason(path: pathlib.Path) -> str:
    """Why a file cannot be decoded; empty where it can."""
    try:
        held = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return _reason_of(path, held.st_size, held.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _reason_of(path: pathlib.Path, size: int, changed: int) -> str:
    """As `_reason`, once for a file as it is: its size and its time are part of the question."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.draft(None, (8, 8))  # of JPEG all is read, and as little as possible computed
            picture.load()
    except (*_NO_PICTURE, Image.DecompressionBombError) as error:
        return f"is no whole picture: {str(error) or type(error).__name__}"
    return ""


def _size_of(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}. Remedy: fetch it again.") from error


def decoded(path: pathlib.Path, height: int, width: int, channels: int) -> np.ndarray:
    """A picture as float32 of shape [height, width, channels], from 0 to 1.

    Raises:
      RecordError: a file that is no whole picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            whole = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(whole, (width, height))
    except (*_NO_PICTURE, Image.DecompressionBombError) as error:
        raise RecordError(f"{path} is no whole picture: {error}. Remedy: replace it, or take it out.") from error
    return np.asarray(fitted, np.float32).reshape(height, width, channels) / np.float32(255)
