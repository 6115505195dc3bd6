"""A run that is killed before or after any single write to the disk: what it released is charged, and it goes on."""

from __future__ import annotations

import dataclasses

import pytest
import toy

from tff_hospitals.foundations import files
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.charges import ChargeFile
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.session import Session

pytestmark = pytest.mark.tensorflow
PLAN = Plan(rounds=4, checkpoint_every=2, evaluate_every=2, weighting="equal", seed=1).replace(
    client={"local_steps": 2, "batch_size": 5}, privacy={"mechanism": "fixed_clip", "noise_multiplier": 2.0}
)
_MOST_WRITES = 60  # more than a run makes


class Killed(BaseException):
    """As a signal does it: nothing in the library catches it."""


class Killer:
    """Counts writes, and ends the process before or after one of them."""

    def __init__(self, patch):
        self.left, self.before, self.writes, self.released = None, True, 0, 0
        self._wrap(patch, files, "write_bytes")
        self._wrap(patch, ChargeFile, "append")
        enter = Session.enter

        def entering(session, inputs, *rest, **more):
            self.released += len(inputs)  # their results exist from here on
            return enter(session, inputs, *rest, **more)

        patch.setattr(Session, "enter", entering)

    def _wrap(self, patch, owner, name):
        write = getattr(owner, name)

        def writing(*arguments, **more):
            self.writes += 1
            last = self.left is not None and self.writes == self.left
            if last and self.before:
                raise Killed
            write(*arguments, **more)
            if last:
                raise Killed

        patch.setattr(owner, name, writing)

    def arm(self, write, before):
        """Kills at a write, counted from 1; None: never."""
        self.left, self.before, self.writes, self.released = write, before, 0, 0


@pytest.fixture(scope="module")
def model():
    return build_model(PLAN, toy.hospitals())


def data_at(folder):
    return dataclasses.replace(toy.hospitals(), secret=DataSecret(bytes(range(32)), False, folder))


every_write = pytest.mark.slow


@pytest.mark.parametrize(
    ("secure", "before", "step"),
    [
        (True, True, 5),
        (False, False, 7),
        *(pytest.param(secure, before, 1, marks=every_write) for secure in (True, False) for before in (True, False)),
    ],
)
def test_charges_are_never_fewer_than_released_rounds(secure, before, step, model, tmp_path, monkeypatch):
    killer = Killer(monkeypatch)
    plan = PLAN.replace(privacy={"secure_noise": secure})
    killer.arm(None, before)
    whole = train(plan, data_at(tmp_path / "state"), run_dir=tmp_path / "whole", model=model)
    writes = killer.writes
    assert 10 < writes < _MOST_WRITES
    for write in range(1, writes + 1, step):
        folder, data = tmp_path / f"run{write}", data_at(tmp_path / f"state{write}")
        killer.arm(write, before)
        with pytest.raises(Killed):
            train(plan, data, run_dir=folder, model=model)
        released = killer.released
        charged = sum(charge.ledger.steps("hospital") for charge in Odometer(data.secret).releases())
        assert charged >= released, write
        killer.arm(None, before)
        resumed = train(plan, data, run_dir=folder, model=model)
        released += killer.released
        assert resumed.summary["rounds"] == plan.rounds
        assert sum(one.ledger.steps("hospital") for one in Odometer(data.secret).releases()) >= plan.rounds
        if secure:  # what was drawn twice was released twice
            assert resumed.ledger.steps("hospital") >= released, write
            assert resumed.summary["epsilon"] >= whole.summary["epsilon"]
        else:  # the same bits, and one release
            assert len(Odometer(data.secret).releases()) == 1, write
            for name in ("metrics.csv", "ledger.json"):
                assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (write, name)
