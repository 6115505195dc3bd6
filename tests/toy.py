"""Small hospitals for tests: Gaussian records with linear labels, sizes given, nothing loaded from disk."""

from __future__ import annotations

import numpy as np

from tff_hospitals.hospitals import NO_PREPROCESSING, Hospital, HospitalDataset, Part
from tff_hospitals.hospitals.secret import public_secret


def part(generator, records, shape, classes):
    features = generator.normal(size=(records, *shape)).astype(np.float32)
    scores = features.reshape(records, -1)[:, :classes] + 0.3 * generator.normal(size=(records, classes))
    labels = (scores[:, 0] > 0).astype(np.int64) if classes == 2 else scores.argmax(axis=1).astype(np.int64)
    return Part(features, labels)


def hospitals(sizes=(20, 13, 7), shape=(5,), classes=2, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    made = []
    for number, records in enumerate(sizes):
        train, test = part(generator, records, shape, classes), part(generator, 10, shape, classes)
        train = Part(train.features * np.float32(scale), train.labels)
        made.append(Hospital(f"site_{number}", train, test))
    return HospitalDataset(
        name="toy",
        hospitals=tuple(made),
        task="binary" if classes == 2 else "multiclass",
        num_classes=classes,
        feature_shape=shape,
        feature_names=(),
        provenance="made up",
        licence="none",
        simulated=True,
        partition="by hand",
        preprocessing=NO_PREPROCESSING,
        secret=public_secret("toy"),
    )


class Killed(Exception):
    """A run that was interrupted from outside."""


def killed_and_resumed(plan, dataset, run_dir, after):
    """Trains until a round has ended, is killed there, and trains on from the last checkpoint."""
    from tff_hospitals.training.loop import train

    def kill(progress):
        if progress.round == after:
            raise Killed

    try:
        train(plan, dataset, run_dir=run_dir, on_round=kill)
    except Killed:
        return train(plan, dataset, run_dir=run_dir)
    raise AssertionError("the run ended before it was killed")
