"""Chains as a whole: what decodes is what the encoder said, for every chain and every awkward tensor."""

from __future__ import annotations

import math
import zlib

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from communication_chains import KEY, all_chains, hard_tensors, joined, named
from hypothesis import strategies as st

from tff_hospitals.communication import Chain, Feedback, parse_chain, sizes
from tff_hospitals.communication.stages.sparsify import TopK
from tff_hospitals.communication.stages.uniform import Quantize
from tff_hospitals.foundations.validation import InvalidInput

CHAINS = all_chains()
finite = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=True)
any_arrays = st.lists(
    hypothesis.extra.numpy.arrays(
        np.float32, hypothesis.extra.numpy.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9), elements=finite
    ),
    max_size=3,
)


def check_round_trip(chain: Chain, arrays: list[np.ndarray]) -> None:
    shapes = [array.shape for array in arrays]
    payload, decoded, state = chain.encode(named(arrays), KEY)
    received = chain.decode(payload, shapes, KEY)
    assert state is None
    assert [array.shape for array in received] == shapes
    assert joined(received).tobytes() == joined(decoded).tobytes()
    assert received == [] or all(array.dtype == np.float32 for array in received)
    assert np.isfinite(joined(received)).all()
    low, high = sizes.payload_bytes(chain, shapes)
    assert low <= len(payload) <= high
    assert sum(section.bytes for section in chain.sections(payload, shapes, KEY)) == len(payload)
    norm, growth = (float(np.linalg.norm(joined(a).astype(np.float64))) for a in (arrays, received))
    assert growth <= norm * chain.norm_growth(shapes) * (1 + 1e-5) + 1e-44 * math.sqrt(joined(arrays).size)
    if chain.lossless:
        assert joined(received).tobytes() == joined(arrays).tobytes()


@pytest.mark.parametrize("what", hard_tensors())
def test_every_chain_takes_hard_tensors(what):
    assert len(CHAINS) > 250
    turn = list(hard_tensors()).index(what)  # a sixth of the chains per kind of tensor, each time another one
    for chain in CHAINS[turn % 6 :: 6]:
        check_round_trip(chain, hard_tensors()[what])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(chain=st.sampled_from(CHAINS), arrays=any_arrays)
def test_any_chain_takes_any_finite_tensors(chain, arrays):
    check_round_trip(chain, arrays)


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(chain=st.sampled_from([c for c in CHAINS if c.contraction]), seed=st.integers(0, 99))
def test_a_contraction_never_errs_by_more_than_the_update(chain, seed):
    # randk and rotate are contractions on average only: hence the tenth of slack, which a blow-up by 2 would break.
    values = np.random.default_rng(seed).standard_t(2, 5000).astype(np.float32)
    decoded = chain.encode([("w", values)], KEY).decoded[0]
    assert np.linalg.norm(decoded - values) <= 1.1 * np.linalg.norm(values)


def test_a_chain_reads_its_own_text():
    for chain in CHAINS:
        assert parse_chain(str(chain)) == chain
    assert str(parse_chain(" rotate , topk:0.010 ,quantize:4,entropy")) == "rotate,topk:0.01,quantize:4,entropy"
    assert str(parse_chain("")) == str(parse_chain("none")) == "none"
    assert parse_chain("none") == Chain()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantise:4", ["quantize"]),
        ("rotat,tpk:0.1", ["'rotate'", "'topk'"]),
        ("quantize:0", ["1", "16"]),
        ("quantize:17", ["quantize bits=17", "16"]),
        ("quantize:4.5", ["whole number"]),
        ("quantize", ["needs an argument", "quantize:bits"]),
        ("quantize:4:up", ["'up'", "nearest"]),
        ("eden:5", ["4"]),
        ("topk:0", ["> 0"]),
        ("topk:1.5", ["<= 1"]),
        ("randk:-0.1", ["> 0"]),
        ("topk:nan", ["finite"]),
        ("threshold:x", ["number"]),
        ("quantize:4,rotate", ["rotate must come before quantize", "floats", "rotate,quantize:4"]),
        ("topk:0.1,rotate", ["spreads"]),
        ("quantize:4,topk:0.1", ["topk must come before quantize"]),
        ("entropy,quantize:4", ["no values left", "quantize:4,entropy"]),
        ("rotate,delta", ["delta must come before rotate"]),
        ("topk:0.1,randk:0.1", ["both", "sparsify"]),
        ("quantize:4,onebit:biased", ["both", "quantise"]),
        ("onebit", ["rotate,onebit", "onebit:biased"]),
        ("eden:2:biased", ["rotate,eden:2:biased"]),
        ("rotate,topk:0.1,onebit", ["unbiased only", "onebit:biased"]),
        ("ternary:mean", ["topk:0.01,ternary:mean"]),
        ("rotate,,entropy", ["must be one of"]),
    ],
)
def test_a_bad_chain_is_refused_with_the_reason(text, words):
    with pytest.raises(InvalidInput) as error:
        parse_chain(text, name="upload")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value)) < 600


def test_stages_that_the_parser_did_not_make_are_checked_too():
    with pytest.raises(InvalidInput, match="quantize bits=20"):
        Chain((Quantize(20),))
    with pytest.raises(InvalidInput, match="topk fraction=3"):
        Chain((TopK(3),))


def test_all_problems_of_a_chain_come_at_once():
    with pytest.raises(InvalidInput) as error:
        parse_chain("quantize:99,topk:7,blur")
    assert len(error.value.problems) == 3


def test_values_that_are_not_finite_are_refused_by_tensor_and_index():
    kernel, bias = np.zeros((3, 4), np.float32), np.zeros(5, np.float32)
    kernel[1, 2], bias[4] = np.nan, -np.inf
    with pytest.raises(InvalidInput) as error:
        parse_chain("quantize:8").encode([("dense/kernel", kernel), ("dense/bias", bias)], KEY)
    assert [problem.name for problem in error.value.problems] == ["dense/kernel[1, 2]", "dense/bias[4]"]
    assert "nan" in str(error.value)
    assert "-inf" in str(error.value)


def test_other_types_than_float32_are_refused():
    with pytest.raises(InvalidInput, match="weights='float64': must be float32"):
        Chain().encode([("weights", np.zeros(3))])


def test_a_missing_key_or_reference_is_named():
    with pytest.raises(InvalidInput, match="key=None"):
        parse_chain("rotate,onebit").encode([("w", np.zeros(3, np.float32))])
    with pytest.raises(InvalidInput, match="two whole numbers"):
        parse_chain("rotate,onebit").encode([("w", np.zeros(3, np.float32))], key=[1.0, 2.0])
    with pytest.raises(InvalidInput, match="both ends hold"):
        parse_chain("delta,float16").encode([("w", np.zeros(3, np.float32))])
    with pytest.raises(InvalidInput, match=r"\(4,\)"):
        parse_chain("delta").encode([("w", np.zeros(3, np.float32))], reference=[np.zeros(4, np.float32)])


def test_delta_sends_what_changed_and_both_ends_agree():
    generator = np.random.default_rng(1)
    chain = parse_chain("delta,rotate,quantize:4,entropy")
    model = [generator.standard_normal((30, 20)).astype(np.float32)]
    held = [np.zeros((30, 20), np.float32)]
    errors = []
    for round_number in range(6):  # a model that stands still: the difference shrinks, so the error does
        payload, at_server, _ = chain.encode(named(model), KEY + round_number, reference=held)
        at_hospital = chain.decode(payload, [(30, 20)], KEY + round_number, reference=held)
        assert at_hospital[0].tobytes() == at_server[0].tobytes()
        held = at_server
        errors.append(float(np.linalg.norm(model[0] - held[0])))
    assert errors[-1] < 1e-3 * errors[0]


def test_a_difference_beyond_float32_is_refused_by_index():
    big = np.full(3, 3e38, np.float32)
    with pytest.raises(InvalidInput, match=r"w\[0\].*beyond float32"):
        parse_chain("delta").encode([("w", big)], reference=[-big])


def test_error_feedback_sends_in_the_end_what_it_left_out():
    # The same update each time, 1 value in 10 sent: the sum of what is decoded differs from that of what was given by
    # the residual alone, and that stays bounded, while without feedback the small values never arrive at all.
    update = np.linspace(0.1, 1, 50, dtype=np.float32)
    chain = parse_chain("topk:0.1,quantize:8:nearest")
    state, total = Feedback.zeros([(50,)]), np.zeros(50)
    for _ in range(200):
        _, decoded, state = chain.encode([("w", update)], KEY, state)
        total += decoded[0]
    np.testing.assert_allclose(total + state.residual, 200 * update, rtol=1e-4)
    assert np.abs(state.residual).max() < 12  # the longest wait, 10 rounds or so, times the largest value
    without = sum(chain.encode([("w", update)], KEY).decoded[0] for _ in range(3))
    assert (without[:40] == 0).all()


def test_a_residual_of_huge_values_stays_finite():
    values = np.array([3.4e38, -3.4e38, 1e38, 3.3e38] * 5, np.float32)
    for text in ["rotate,onebit:biased", "rotate,quantize:2:nearest", "topk:0.1,ternary:mean", "float16"]:
        state = parse_chain(text).encode([("w", values)], KEY, Feedback.zeros([(20,)])).state
        assert np.isfinite(state.residual).all()


def test_a_skipped_update_waits_in_the_state():
    chain, update = parse_chain("topk:1"), [("w", np.array([1, -2], np.float32))]
    state = Feedback.zeros([(2,)]).after_skip(update).after_skip(update)
    _, decoded, state = chain.encode(update, None, state)
    assert decoded[0].tolist() == [3, -6]
    assert state.residual.tolist() == [0, 0]


def test_error_feedback_is_refused_where_it_diverges():
    state = Feedback.zeros([(3,)])
    for text in ["quantize:4", "randk:0.1", "rotate,onebit", "ternary", "quantize:1:nearest"]:
        with pytest.raises(InvalidInput, match="error feedback needs"):
            parse_chain(text).encode([("w", np.ones(3, np.float32))], KEY, state)
    ones = np.ones(3, np.float32)
    with pytest.raises(InvalidInput, match="send it twice"):
        parse_chain("delta,topk:0.5").encode([("w", ones)], None, state, reference=[ones])
    with pytest.raises(InvalidInput, match=r"state=\(3,\)"):
        parse_chain("topk:0.5").encode([("w", np.ones(4, np.float32))], None, state)


def test_delta_is_refused_on_the_way_up():
    assert "already is a difference" in str(parse_chain("delta,float16").usage_problems(direction="upload")[0])
    assert parse_chain("delta,float16").usage_problems(direction="broadcast") == []


def test_what_a_chain_says_of_its_bias():
    assert parse_chain("rotate,randk:0.1,quantize:4,entropy").unbiased
    assert parse_chain("rotate,onebit").bias == "nearly unbiased"
    assert not parse_chain("rotate,onebit").unbiased
    assert parse_chain("topk:0.1,quantize:4").bias == "biased"
    assert parse_chain("entropy").lossless
    assert not parse_chain("delta").lossless


def test_encoding_leaves_its_input_alone_and_is_a_function_of_the_key():
    values = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    kept = values.copy()
    for chain in CHAINS[::9]:
        first, again, other = (chain.encode([("w", values)], key).payload for key in (KEY, KEY, KEY + 1))
        assert first == again
        assert (first != other) == chain.needs_key
    assert (values == kept).all()


def test_strided_input_is_read_in_row_major_order():
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    payload, decoded, _ = Chain().encode([("w", grid.T[::2])])
    assert (decoded[0] == grid.T[::2]).all()
    assert len(payload) == 9 + 1 + 24


# Written by format version 1 under the key (1, 2); the last number is the crc32 of the decoded float32 bytes.
KEPT_PAYLOADS = [
    ("none", "544801140b0200004040000080bfa333f86c", 2, 1389673242),
    ("rotate,quantize:4:nearest", "544801a43e0c005655c5bf398e833f6f9da49a5b89908648b7ddb1", 12, 411798923),
    ("rotate,onebit", "544801821d0c009c8fa140ed050b17939e", 12, 881761435),
    ("quantize:3", "544801c8be0c000000c0bf92240940a569f82a099561f778", 12, 3670823249),
    ("topk:0.25,ternary:mean,entropy", "54480160810c000054075555d540000585d8243e", 12, 1410350725),
    ("threshold:0.5,ternary:mean,entropy", "5448017dbad8040005000334e1844857020000803f0015d1bc6cfd", 600, 3363447919),
    ("randk:0.25,float16", "54480129c20c000000003b00e880f40000c943b1e2", 12, 1302791080),
    ("ternary", "54480130390c0000001041797b0433bd411a", 12, 697980551),
]


@pytest.mark.parametrize(("text", "payload", "size", "checksum"), KEPT_PAYLOADS)
def test_payloads_of_version_1_decode_to_the_same_bits_on_every_machine(text, payload, size, checksum):
    decoded = parse_chain(text).decode(bytes.fromhex(payload), [(size,)], [1, 2])
    assert zlib.crc32(decoded[0].tobytes()) == checksum


@pytest.mark.slow
def test_ten_million_values_through_every_kind_of_chain():
    values = np.random.default_rng(0).standard_t(3, 10**7).astype(np.float32)
    texts = ["rotate,quantize:4,entropy", "quantize:11", "rotate,onebit", "topk:0.01,ternary:mean,entropy", "ternary"]
    for text in [*texts, "rotate,randk:0.1,eden:4:biased,entropy", "threshold:2,entropy"]:
        check_round_trip(parse_chain(text), [values])
