"""TensorFlow Federated's simulation sets, from the files in which it keeps them: records of writers, roles and users.

Nothing is fetched. Where a file is missing, the error says where it was looked for, how to get it, and its terms.

| set | a record | classes |
|---|---|---|
| `emnist` | an image of a letter or digit, 28 x 28 | 62, or 10 digits |
| `cifar100` | an image, 32 x 32 x 3 | 100 |
| `shakespeare` | some characters of a role's text, one-hot | the next character: `CHARACTERS` and one for all others |
| `stack_overflow` | shares of the most frequent words in a user's post | whether it is a question |

Clients are simulated hospitals. They are read when they are needed, so that a set may be larger than memory.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import Problem, raise_if, whole_number
from tff_hospitals.hospitals.checks import id_problem, untested_warnings
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.federated_files import ClientFile, open_split
from tff_hospitals.hospitals.hospital import Part, Preprocessing
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital
from tff_hospitals.hospitals.secret import public_secret, secret_of
from tff_hospitals.hospitals.splits import shuffled

CACHES = ("~/.tff", "~/.keras/datasets")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""Of `shakespeare`; any other character is one more class."""
_WORD_COUNTS = "stackoverflow.word_count"


@dataclasses.dataclass(frozen=True)
class _Published:
    """A published set.

    Attributes:
      name: of the data set here.
      module: of `tff.simulation.datasets`, which fetches it.
      files: a database that holds all splits, or one file each for training and testing.
      provenance, licence: of the records.
      clients: what a client is.
    """

    name: str
    module: str
    files: tuple[str, tuple[str, str]]
    provenance: str
    licence: str
    clients: str


_EMNIST = _Published(
    "emnist",
    "emnist",
    ("emnist_all.sqlite", ("fed_emnist_train.h5", "fed_emnist_test.h5")),
    "Federated EMNIST (Cohen et al. 2017, arXiv:1702.05373; by writer in LEAF, Caldas et al. 2018, arXiv:1812.01097)",
    "NIST Special Database 19, a work of the US government",
    "writers",
)
_EMNIST_DIGITS = dataclasses.replace(
    _EMNIST, files=("emnist_all.sqlite", ("fed_emnist_digitsonly_train.h5", "fed_emnist_digitsonly_test.h5"))
)
_CIFAR100 = _Published(
    "cifar100",
    "cifar100",
    ("cifar100.sqlite", ("fed_cifar100_train.h5", "fed_cifar100_test.h5")),
    "CIFAR-100 (Krizhevsky 2009), over clients by Pachinko allocation of its coarse labels (Reddi et al. 2021, "
    "arXiv:2003.00295)",
    "none stated by its author; free for research by custom",
    "simulated clients",
)
_SHAKESPEARE = _Published(
    "shakespeare",
    "shakespeare",
    ("shakespeare.sqlite", ("shakespeare_train.h5", "shakespeare_test.h5")),
    "The Complete Works of William Shakespeare, by role (LEAF, Caldas et al. 2018, arXiv:1812.01097)",
    "public domain",
    "roles",
)
_STACK_OVERFLOW = _Published(
    "stack_overflow",
    "stackoverflow",
    ("stackoverflow.sqlite", ("stackoverflow_train.h5", "stackoverflow_test.h5")),
    "Stack Overflow questions and answers, by user, as TensorFlow Federated keeps them",
    "CC BY-SA 3.0",
    "users",
)


def emnist(
    division: Division | None = None, folder: os.PathLike[str] | str | None = None, only_digits: bool = False
) -> HospitalDataset:
    """Handwritten characters by writer: 3,400 writers, 62 classes (3,383 writers of digits, 10 classes).

    Args:
      division: `sites` takes so many writers, drawn from its seed; None takes all.
      folder: of the file; default: TFF's and Keras' caches.
      only_digits: digits alone.

    Raises:
      RecordError: no such file (says how to get it), or one that cannot be read.
    """

    def part(fields: dict[str, Any]) -> Part:
        return Part(np.asarray(fields["pixels"], np.float32).reshape(-1, 28, 28, 1), _classes(fields["label"]))

    published = _EMNIST_DIGITS if only_digits else _EMNIST
    splits = ("digits_only_train", "digits_only_test") if only_digits else ("all_train", "all_test")
    classes = 10 if only_digits else 62
    words = "pixels from 0 to 1, as published"
    return _lazy(published, splits, division, folder, part, ModelSignature((28, 28, 1), classes, "multiclass"), words)


def cifar100(division: Division | None = None, folder: os.PathLike[str] | str | None = None) -> HospitalDataset:
    """Images of 100 classes at 500 clients; the 100 test clients are the test parts of the first of them.

    Args:
      division: `sites` takes so many clients, drawn from its seed; None takes all.
      folder: of the file; default: TFF's and Keras' caches.

    Raises:
      RecordError: no such file (says how to get it), or one that cannot be read.
    """

    def part(fields: dict[str, Any]) -> Part:
        images = np.asarray(fields["image"], np.float32).reshape(-1, 32, 32, 3) / np.float32(255)
        return Part(images, _classes(fields["label"]))

    signature = ModelSignature((32, 32, 3), 100, "multiclass")
    words = "pixels divided by 255, the brightest possible (nothing is learnt from the records)"
    return _lazy(_CIFAR100, ("train", "test"), division, folder, part, signature, words)


def shakespeare(
    division: Division | None = None,
    folder: os.PathLike[str] | str | None = None,
    window: int = 16,
    stride: int = 8,
) -> HospitalDataset:
    """The next character after `window` ones of a role's text: 715 roles, 97 classes.

    Args:
      division: `sites` takes so many roles, drawn from its seed; None takes all.
      folder: of the file; default: TFF's and Keras' caches.
      window: characters of a record, one-hot.
      stride: characters from one record of a text to the next.

    Raises:
      RecordError: no such file (says how to get it), or one that cannot be read.
    """
    raise_if([whole_number(*one, low=1, remedy="give 1 or more") for one in (("window", window), ("stride", stride))])
    classes = len(CHARACTERS) + 1
    codes = np.full(256, len(CHARACTERS))
    codes[list(CHARACTERS.encode())] = np.arange(len(CHARACTERS))

    def texts(fields: dict[str, Any]) -> list[np.ndarray]:
        return [codes[np.frombuffer(text, np.uint8)] for text in fields["snippets"]]

    def records(fields: dict[str, Any]) -> int:
        return sum(max(0, -(-(len(text) - window) // stride)) for text in fields["snippets"])

    def part(fields: dict[str, Any]) -> Part:
        starts = [(text, np.arange(0, len(text) - window, stride)) for text in texts(fields) if len(text) > window]
        places = [text[at[:, None] + np.arange(window + 1)] for text, at in starts]
        cut = np.concatenate(places) if places else np.zeros((0, window + 1), int)
        return Part(np.eye(classes, dtype=np.float32)[cut[:, :-1]], _classes(cut[:, -1]))

    signature = ModelSignature((window, classes), classes, "multiclass")
    words = f"characters one-hot: {len(CHARACTERS)} public ones and one for all others; {window} for each record"
    return _lazy(_SHAKESPEARE, ("train", "test"), division, folder, part, signature, words, records)


def stack_overflow(
    division: Division | None = None, folder: os.PathLike[str] | str | None = None, words: int = 500
) -> HospitalDataset:
    """Whether a post is a question, by the words in it: up to 342,477 users.

    Args:
      division: `sites` takes so many users, drawn from its seed; None takes 100.
      folder: of the file and of `stackoverflow.word_count`; default: TFF's and Keras' caches.
      words: how many of the most frequent words are features: the share of a post's words that each has.

    Raises:
      RecordError: no such files (says how to get them), or ones that cannot be read.
    """
    raise_if([whole_number("words", words, low=1, remedy="give 1 or more")])
    known = _frequent_words(folder, words)

    def part(fields: dict[str, Any]) -> Part:
        found = np.zeros((len(fields["tokens"]), len(known)), np.float32)
        for row, text in enumerate(fields["tokens"]):
            tokens = text.decode("utf-8", "replace").split(" ")
            for token in tokens:
                if token in known:
                    found[row, known[token]] += 1.0 / len(tokens)
        return Part(found, _classes([kind == b"question" for kind in fields["type"]]))

    division = division or Division()
    division = dataclasses.replace(division, sites=100 if division.sites is None else division.sites)
    signature = ModelSignature((len(known),), 2, "binary")
    said = f"shares of the {len(known)} words that are most frequent by the published counts"
    return _lazy(_STACK_OVERFLOW, ("train", "test"), division, folder, part, signature, said)


def _classes(labels: Any) -> np.ndarray:
    return np.asarray(labels, np.int64).reshape(-1)


def _lazy(
    published: _Published,
    splits: tuple[str, str],
    division: Division | None,
    folder: os.PathLike[str] | str | None,
    part: Callable[[dict[str, Any]], Part],
    signature: ModelSignature,
    words: str,
    counted: Callable[[dict[str, Any]], int] | None = None,
) -> HospitalDataset:
    """The data set of a published one, whose records are read on access.

    Args:
      published: which.
      splits: names of its splits for training and testing in a database.
      division, folder: what is asked for.
      part: arrays of the fields of a client's records.
      signature: that they have.
      words: how features are made.
      counted: records of a client by its fields, where they are not those of the file.
    """
    division = division or Division()
    place, files = _split_files(published, splits, folder)
    sizes = [file.sizes() for file in files]
    clients = _drawn(list(sizes[0]), division)
    ids = _plain_ids(clients)
    if counted is not None:
        for file, known in zip(files, sizes):
            known.update({one: counted(file.records(one)) for one in clients if one in known})
    named = {name: one for name, one in zip(ids, clients) if sizes[0][one]}
    raise_if([] if named else [Problem("sites", division.sites, "leaves no records", "take more of them")])

    def make(hospital_id: str, side: str) -> Part:
        file, known = (files[side == "test"], sizes[side == "test"])
        one = named[hospital_id]
        if not known.get(one):
            return Part(np.zeros((0, *signature.feature_shape), np.float32), np.zeros(0, np.int64))
        return part(file.records(one))

    store = PartStore()
    hospitals = tuple(
        lazy_hospital(name, sizes[0][one], sizes[1].get(one, 0), make, store, signature) for name, one in named.items()
    )
    made = " ".join(file.name() for file in files)
    return HospitalDataset(
        name=published.name,
        hospitals=hospitals,
        task=signature.task,
        num_classes=signature.num_classes,
        feature_shape=signature.feature_shape,
        feature_names=(),
        provenance=f"{published.provenance}, from {place.name}",
        licence=published.licence,
        simulated=True,
        partition=f"simulated: {len(hospitals)} of {len(sizes[0])} {published.clients} as hospitals, as published",
        preprocessing=Preprocessing("fixed_bounds", True, words),
        split_rule="given: the published split into training and test records",
        inside_warnings=untested_warnings(hospitals),
        # What lies in a folder that the user names may be something else.
        secret=public_secret(published.name) if folder is None else secret_of(place),
        recipe=f"{published.name} {made} {sorted(named.items())} {words}",
    )


def _drawn(clients: list[str], division: Division) -> list[str]:
    """The clients that are taken, in order."""
    if division.sites is None:
        return clients
    raise_if([whole_number("sites", division.sites, low=1, high=len(clients), remedy="take fewer of them")])
    order = shuffled(Streams.from_seed(division.seed).child("data", "clients").generator(), len(clients))
    return [clients[at] for at in np.sort(order[: division.sites])]


def _plain_ids(clients: Sequence[str]) -> list[str]:
    """Ids that may name files: unfit characters become underlines, and ids that are then equal get a number."""
    found: list[str] = []
    for number, one in enumerate(clients):
        name = "".join("_" if letter in '/\\:,"' or not letter.isprintable() else letter for letter in one).strip(" .")
        if id_problem("client", name) is not None or name in found:
            name = f"client_{number}"
        found.append(name)
    return found


def _split_files(
    published: _Published, splits: tuple[str, str], folder: os.PathLike[str] | str | None
) -> tuple[pathlib.Path, tuple[ClientFile, ClientFile]]:
    """The file (of two: the one for training), and both splits."""
    database, pair = published.files
    for place in _places(folder):
        if (place / database).is_file():
            path = place / database
            return path, (open_split(path, splits[0]), open_split(path, splits[1]))
        if (place / pair[0]).is_file():
            missing = place / pair[1]
            if not missing.is_file():
                raise RecordError(f"{missing} does not exist, beside {pair[0]}. Remedy: {_how_to_get(published)}")
            return place / pair[0], (open_split(place / pair[0], splits[0]), open_split(missing, splits[1]))
    looked = " or ".join(map(str, _places(folder)))
    raise RecordError(
        f"no {database} (or {pair[0]} and {pair[1]}) in {looked}. Remedy: {_how_to_get(published)} "
        f"Terms: {published.licence}."
    )


def _places(folder: os.PathLike[str] | str | None) -> list[pathlib.Path]:
    return [pathlib.Path(place).expanduser() for place in ([folder] if folder else CACHES)]


def _how_to_get(published: _Published) -> str:
    return (
        f"run tff.simulation.datasets.{published.module}.load_data() once where there is a network, and copy the file "
        "here, or name its folder by --data_option=folder=FOLDER."
    )


def _frequent_words(folder: os.PathLike[str] | str | None, words: int) -> dict[str, int]:
    """The most frequent words by the published counts, each with its place."""
    path = next((place / _WORD_COUNTS for place in _places(folder) if (place / _WORD_COUNTS).is_file()), None)
    if path is None:
        raise RecordError(
            f"no {_WORD_COUNTS} in {' or '.join(map(str, _places(folder)))}. Remedy: run "
            "tff.simulation.datasets.stackoverflow.load_word_counts() once where there is a network, and copy the file "
            f"here, or name its folder by --data_option=folder=FOLDER. Terms: {_STACK_OVERFLOW.licence}."
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    counts = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
    bad = [number for number, pair in enumerate(counts, 1) if len(pair) != 2 or not pair[1].isdigit()]
    if bad or not counts:
        raise RecordError(f"{path}, line {bad[0] if bad else 1}: must be a word and its count. Remedy: fetch it again.")
    ranked = sorted(counts, key=lambda pair: -int(pair[1]))[:words]
    return {pair[0]: place for place, pair in enumerate(ranked)}
