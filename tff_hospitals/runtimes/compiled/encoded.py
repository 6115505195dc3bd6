"""Rounds whose payloads are really encoded: the codec stands between a hospital's half and the server's.

The halves are compiled as everywhere. Between them, each hospital's update becomes bytes and the bytes become the
update that the server adds up, so that what is counted is what was sent. Hospitals run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition
from tff_hospitals.processes.encoded_transfer import norm_of
from tff_hospitals.processes.local_training import Element
from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes.compiled import chunked, device_data
from tff_hospitals.runtimes.compiled.server_half import Broadcast, Report
from tff_hospitals.runtimes.compiled.side_by_side import SideBySideProgram


class EncodedProgram(SideBySideProgram):
    """Compiled pieces for all plans with the composition's signature, with its transfer between them.

    Args:
      composition: a composed plan that has an transfer.
      threads: hospitals at once; as many as there are cores by default.
    """

    def __init__(self, composition: Composition, threads: int | None = None):
        if composition.transfer is None:
            raise ValueError("this plan encodes nothing: run it with one of the dense programs")
        super().__init__(composition, threads)
        self._exchange = composition.transfer
        self._prepare = tf.function(self._prepared, autograph=False, reduce_retracing=not self._few_sizes)
        self._receive = tf.function(composition.aggregator.received, autograph=False, reduce_retracing=True)

    def hospital(
        self,
        broadcast: Broadcast,
        one: HospitalRound,
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> chunked.Found:
        """One hospital's contribution as the server decodes it, and its report."""
        if not self._exchange.encodes_upload:
            return super().hospital(broadcast, one, data, frozen, kept)
        name, element = one.hospital.hospital_id, self._element(one, data, frozen)
        if self._parts.client_work.starts_apart:
            element["kept"] = tf.constant(kept[name])
        prepared, metrics = self._prepare(broadcast, element)
        update = [part.numpy() for part in prepared["delta"]]
        upload = self._exchange.at(broadcast.round_number).send_upload(update, one.upload_key, kept.get(name))
        counted = upload.update if one.late is None else tuple(np.float32(one.late) * part for part in upload.update)
        decoded = tuple(tf.constant(part) for part in counted)
        contribution = self._receive(broadcast.parameters, prepared, decoded, element["weight"])
        norm = norm_of(counted)
        return contribution, [Report(name, metrics.numpy(), True, upload.payload_bytes, norm, upload.residual)]

    def _prepared(self, broadcast: Broadcast, element: Element) -> tuple[Structure, tf.Tensor]:
        return self._parts.prepared_upload(broadcast.state, broadcast.parameters, element)
