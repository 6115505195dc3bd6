"""Every sound chain of one stage per kind, and tensors that are hard to encode, for the tests of communication."""

from __future__ import annotations

import itertools

import numpy as np

from tff_hospitals.communication import Chain, parse_chain
from tff_hospitals.foundations.validation import InvalidInput

KEY = np.array([3, -5], np.int64)
SPARSIFIERS = ["", "threshold:0.5", "topk:0.3", "randk:0.3", "randk:0.3:unscaled"]
QUANTISERS = [
    *["", "quantize:1", "quantize:3", "quantize:8", "quantize:11", "quantize:16", "quantize:1:nearest"],
    *["quantize:4:nearest", "quantize:16:nearest", "onebit", "onebit:biased", "eden:2", "eden:4", "eden:3:biased"],
    *["ternary", "ternary:mean", "float16", "bfloat16"],
]


def all_chains() -> list[Chain]:
    """Every combination that is sound; refusing the others is tested on its own."""
    found = []
    for parts in itertools.product(["", "rotate"], SPARSIFIERS, QUANTISERS, ["", "entropy"]):
        try:
            found.append(parse_chain(",".join(part for part in parts if part)))
        except InvalidInput:
            continue
    return found


def hard_tensors() -> dict[str, list[np.ndarray]]:
    """Lists of tensors by what is hard about them."""
    generator = np.random.default_rng(0)
    spike = np.zeros(100, np.float32)
    spike[37] = -3
    normal = generator.standard_normal
    return {
        "none at all": [],
        "size 0": [np.zeros((0, 4), np.float32)],
        "size 1": [np.array([-2.5], np.float32)],
        "a scalar": [np.array(0.75, np.float32)],
        "zeros": [np.zeros((5, 7), np.float32), np.zeros(3, np.float32)],
        "minus zero": [np.full(9, -0.0, np.float32)],
        "one spike": [spike],
        "denormals": [(normal(40) * 1e-42).astype(np.float32)],
        "one denormal": [np.array([0, 1e-45, 0, 0], np.float32)],
        "all equal": [np.full((4, 4), 0.1, np.float32), np.full(17, -7, np.float32)],
        "huge": [np.array([3.4028235e38, -3.4028235e38, 1e38, 0], np.float32)],
        "huge and tiny": [np.array([1e38, 1e-38, -1e30, 1e-45, 1], np.float32)],
        "tiny": [(normal(70) * 1e-30).astype(np.float32)],
        "two values": [np.where(normal(50) > 0, np.float32(1), np.float32(-1)).astype(np.float32)],
        "neighbours": [np.array([1, np.nextafter(np.float32(1), np.float32(2))] * 9, np.float32)],
        "offset": [(1000 + normal(64) * 1e-3).astype(np.float32)],
        "several": [array.astype(np.float32) for array in (normal((13, 5)), np.zeros(0), normal(130) * 1e-4)],
        "heavy tails": [generator.standard_t(1.1, 333).astype(np.float32)],
    }


def named(arrays: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Arrays with names."""
    return [(f"layer{index}", array) for index, array in enumerate(arrays)]


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """All values in one vector."""
    return np.concatenate([np.ravel(array) for array in arrays]) if arrays else np.zeros(0, np.float32)
