"""Who the clients are, as far as a plan has to know: ids and numbers of records, never the records themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Union

from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if, whole_number
from tff_hospitals.hospitals import NO_PREPROCESSING, HospitalDataset, Part
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital

if TYPE_CHECKING:
    from tff_hospitals.foundations.signature import ModelSignature

Clients = Union[HospitalDataset, Mapping[str, int]]
NOBODY = {"client": 1}  # where nothing depends on who takes part


class ClientSizes(HospitalDataset):
    """Hospitals of which ids and numbers of records are known here, and no records."""

    def examples(self, count: int = 64) -> None:
        """None: the records are with the clients."""
        return


def described(clients: Clients | None, signature: ModelSignature) -> HospitalDataset:
    """The clients as hospitals, whose records nobody can read here.

    Args:
      clients: a data set, numbers of training records by id, or None for a plan that promises nothing.
      signature: of the model.

    Raises:
      InvalidInput: no clients, a number that is not whole, or a data set that the model does not fit.
    """
    if isinstance(clients, HospitalDataset):
        given = (tuple(clients.feature_shape), clients.num_classes, clients.task)
        own = (signature.feature_shape, signature.num_classes, signature.task)
        if given != own:
            bound = f"must be those of the model, {own}: features, classes, task"
            raise InvalidInput([Problem("clients", given, bound, "build the model for this data set")])
        return clients
    sizes = dict(NOBODY if clients is None else clients)
    remedy = "give the number of each client's training records"
    raise_if([whole_number(f"records of client {name}", size, low=1, remedy=remedy) for name, size in sizes.items()])
    store = PartStore()
    return ClientSizes(
        name="clients of a TFF program",
        hospitals=tuple(lazy_hospital(name, int(size), 0, _unread, store, signature) for name, size in sizes.items()),
        task=signature.task,
        num_classes=signature.num_classes,
        feature_shape=signature.feature_shape,
        feature_names=(),
        provenance="given to a TFF program by its caller",
        licence="unknown",
        simulated=True,
        partition="the caller's",
        preprocessing=NO_PREPROCESSING,
        recipe=f"sizes {sorted(sizes.items())}",
    )


def _unread(hospital_id: str, word: str) -> Part:
    raise RuntimeError(f"the {word} records of {hospital_id!r} are with its client: a TFF program hands them to `next`")
