"""The server of a federation: its folder, one port, and the one training loop."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tff_hospitals.deployment import status
from tff_hospitals.deployment.agreement import FILE_NAME as AGREEMENT
from tff_hospitals.deployment.agreement import Agreement, no_records
from tff_hospitals.deployment.federation import Federation
from tff_hospitals.deployment.founding import SIGNING_KEY
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.deployment.keys import SigningKey, read_private, write_private
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.hospitals import DataSecret
from tff_hospitals.hospitals.secret import KEY_BYTES

if TYPE_CHECKING:
    from tff_hospitals.deployment.engines import Engine
    from tff_hospitals.training.results import Progress, Run

_NOISE_KEY = "noise.key"


def run_server(
    folder: pathlib.Path,
    listen: str,
    run_dir: pathlib.Path,
    *,
    engine: Engine,
    insecure: bool = False,
    wait_seconds: float = 300.0,
    on_listening: Callable[[str], None] | None = None,
    on_round: Callable[[Progress], None] | None = None,
) -> Run:
    """Trains the agreement's plan with the hospitals that present themselves.

    Args:
      folder: of the server, as `founding` makes it.
      listen: `host:port`; port 0 takes a free one.
      run_dir: as of any run; started again, it goes on from the last checkpoint.
      engine: that carries the messages.
      insecure: without TLS, on the loopback interface only.
      wait_seconds: for hospitals to present themselves.
      on_listening: told the address.
      on_round: called after every round.

    Raises:
      InvalidInput, RecordError: what is wrong with the folder.
      DeploymentError: too few hospitals.
    """
    from tff_hospitals import models
    from tff_hospitals.deployment.wire import Wire
    from tff_hospitals.processes import composition
    from tff_hospitals.training.loop import train

    agreement = Agreement.read(folder / AGREEMENT)
    key = SigningKey.read(folder / SIGNING_KEY)
    plan = agreement.the_plan()
    dataset = agreement.dataset(_own_secret(folder), no_records)
    model = models.build_model(plan.model.name, dataset, **dict(plan.model.options))
    parts = composition.compose(plan, dataset, model)
    tls = None if insecure else folder
    transport = engine.listen(tls, listen, agreement.ids, Wire(parts).most_bytes)
    federation = Federation(agreement, key, transport, Journal(folder / "journal.jsonl"))
    federation.process = parts.signature
    with _closed(federation), status.kept(federation, status.place(run_dir, plan)):
        if on_listening is not None:
            on_listening(transport.address)
        federation.wait_for(agreement.ids, wait_seconds, agreement.fewest_hospitals)
        return train(
            plan,
            dataset,
            run_dir=run_dir,
            runtime="deployed",
            model=model,
            runtime_options={"federation": federation},
            on_round=on_round,
        )


@contextlib.contextmanager
def _closed(federation: Federation) -> Iterator[None]:
    try:
        yield
    finally:
        federation.close()


def _own_secret(folder: pathlib.Path) -> DataSecret:
    """The secret that the server's own noise follows from; made at first use, it never leaves the folder."""
    path = folder / _NOISE_KEY
    if not os.path.lexists(path):
        write_private(path, secrets.token_bytes(KEY_BYTES))
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise RecordError(
            f"{path} has {len(key)} bytes: must be {KEY_BYTES}. Remedy: restore it from a backup, or remove it: "
            "a new one is made, and the run must begin anew."
        )
    return DataSecret(key, False, None)
