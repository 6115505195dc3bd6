"""TFF's aggregators and TensorFlow Privacy's optimisers as methods, beside our twins and in the same loop."""

from __future__ import annotations

import collections
import functools
import io
import json

import numpy as np
import pytest
import toy

from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments import methods
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms import own_factory
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

TWINS = {
    "tff_gaussian_fixed": "fixed_clip",
    "tff_gaussian_adaptive": "adaptive_clip",
    "tff_tree_adaptive": "tree",
    "tfp_dp_sgd": "dp_sgd",
    "tfp_dp_sgd_fast": "dp_sgd",
}
WITHOUT_EVENT = {"tff_tree_adaptive", "tff_ddp_secure", "tff_robust", "tff_compressed"}
STEPS, CLIP = 8, 0.5
BASE = Plan(rounds=3).replace(
    client={"local_steps": 4, "batch_size": 5, "learning_rate": 0.1}, privacy={"delta": 1e-2, "clip_norm": 0.3}
)


@pytest.fixture(scope="module")
def hospitals():
    return toy.hospitals([16] * 12)


def plan_of(name, target=8.0, **privacy):
    plan = METHODS[name].plan(BASE, target)
    return plan.replace(privacy={"target_epsilon": None, **privacy}) if privacy else plan


def run_of(name, hospitals, **options):
    return train(plan_of(name, **options.pop("privacy", {})), hospitals, runtime=METHODS[name].runs_on or "compiled")


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    known, rows = dict(mechanisms.MECHANISMS), dict(METHODS)
    yield
    for name in set(mechanisms.MECHANISMS) - set(known):
        mechanisms.registry._MECHANISMS.pop(name)
    for name in set(METHODS) - set(rows):
        METHODS.pop(name)


def test_every_one_of_them_is_a_row_and_is_tested_here():
    foreign = {name for name, one in mechanisms.MECHANISMS.items() if one.runs_on}
    assert foreign == {*TWINS, *WITHOUT_EVENT}
    assert foreign == {name for name, method in METHODS.items() if method.runs_on}
    assert {name for name in foreign if not mechanisms.named(name).private} == WITHOUT_EVENT


@pytest.mark.parametrize("name", sorted({*TWINS, *WITHOUT_EVENT}))
def test_a_plan_with_it_is_sound_and_its_noise_is_that_of_the_twin(name, hospitals):
    plan = plan_of(name)
    assert review.problems(plan, hospitals) == []
    noise = noise_plan.make(plan, hospitals)
    assert (noise.unit == "none") is (name in WITHOUT_EVENT)
    warned = review.warnings(plan, hospitals)
    assert any("no event" in text for text in warned) is (name in WITHOUT_EVENT)
    assert any("cannot be seeded" in text for text in warned) is not mechanisms.repeatable(plan.privacy)
    if name in TWINS:
        twin = noise_plan.make(plan_of(TWINS[name]), hospitals)
        assert noise.server_multiplier == twin.server_multiplier
        assert noise.server_multiplier > 0 or dict(noise.multipliers) == dict(twin.multipliers)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "tff_gaussian_fixed" else pytest.mark.slow)
        for name in TWINS
        if name.startswith("tff")
    ],
)
def test_without_noise_it_computes_what_the_twin_computes(name, hospitals):
    given = {"noise_multiplier": 0.0}
    theirs, ours = run_of(name, hospitals, privacy=given), run_of(TWINS[name], hospitals, privacy=given)
    for one, other in zip(theirs.weights, ours.weights):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theirs.summary["clip_norms"], ours.summary["clip_norms"], rtol=1e-4)


def updates(name, dataset, noise, **client):
    """Every hospital's update of two rounds on the batches of one stream, by the client work of a method alone."""
    import tensorflow as tf

    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.processes import composition
    from tff_hospitals.processes.rounds import own_element
    from tff_hospitals.training.loop import build_model
    from tff_hospitals.training.round_inputs import RoundDrawer

    plan = METHODS[name].plan(BASE, None).replace(rounds=2, client={"local_steps": STEPS, "batch_size": 5, **client})
    plan = plan.replace(privacy={"target_epsilon": None, "noise_multiplier": noise, "clip_norm": CLIP})
    parts = composition.compose(plan, dataset, build_model(plan, dataset))
    drawer = RoundDrawer(plan, dataset, noise_plan.make(plan, dataset), Streams.from_seed(0))
    weights, frozen = parts.model.initial_weights(Streams.from_seed(0).child("model").key())
    start = tuple(map(tf.constant, weights))

    @functools.partial(tf.function, autograph=False, reduce_retracing=True)
    def work(number, element):
        return parts.client_work(start, number, element).delta[0]

    found = []
    for number in range(2):
        for one in drawer.draw(number).cohort:
            element = own_element(one, "binary", frozen)
            found.append(np.ravel(work(tf.constant(number), element)))
    return np.stack(found)


@pytest.mark.parametrize("name", [pytest.param("tfp_dp_sgd", marks=pytest.mark.slow), "tfp_dp_sgd_fast"])
def test_tensorflow_privacy_clips_as_we_do_and_its_noise_is_as_loud_and_never_repeats(name):
    some = toy.hospitals([10, 14, 7], shape=(40,))
    ours, theirs = updates("dp_sgd", some, 0.0), updates(name, some, 0.0)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-6)
    assert np.abs(ours).max() > 1e-3
    # Features of zero have no gradient: what moves the weights is the noise alone, whose size is known.
    rate, noise = 0.1, 2.0
    silent = toy.hospitals([10] * 6, shape=(40,), scale=0.0)
    drawn = updates(name, silent, noise, learning_rate=rate)
    assert np.std(drawn) == pytest.approx(rate * noise * CLIP / 5 * np.sqrt(STEPS), rel=0.15)  # 480 draws
    correlations = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 0.65  # of 40 coordinates each: one deviation is 0.16


# -- factories of one's own --------------------------------------------------------------------------------------------


def gaussian(noise_multiplier, clients_per_round, clip_norm):
    import tensorflow_federated as tff

    return tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(noise_multiplier, clients_per_round, clip_norm)


def quieter(noise_multiplier, clients_per_round):
    return gaussian(noise_multiplier / 2, clients_per_round, 1.0)


def nothing_at_all(noise_multiplier):
    import tensorflow_federated as tff

    return tff.aggregators.UnweightedMeanFactory()


def row_of(factory, hospitals, **options):
    method = methods.register_factory(f"own_{factory.__name__}", factory)
    return train(method.plan(BASE, 8.0), hospitals, runtime="native", **options)


def test_a_factory_that_takes_the_noise_is_charged_and_gives_tffs_epsilon(hospitals):
    run, twin = row_of(gaussian, hospitals), run_of("fixed_clip", hospitals)
    assert run.ledger == twin.ledger
    assert run.summary["unit"] == "hospital"
    assert run.summary["epsilon"] == twin.summary["epsilon"] <= 8.0
    assert run.summary["runtime"] == "native"
    assert run.summary["reproducible"] is False
    assert "nobody can seed it" in run.summary["guarantee"]
    assert run.summary["event_stated"]


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (quieter, "TFF states a Gaussian of noise multiplier"),
        pytest.param(nothing_at_all, "TFF states no event that is a Gaussian", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_claimed_when_tff_states_another_event_than_was_charged(factory, words, hospitals):
    from tff_hospitals.processes.aggregators.from_tff import EventMismatch

    with pytest.raises(EventMismatch, match=words):
        row_of(factory, hospitals)


@pytest.mark.slow
def test_a_factory_without_an_event_promises_nothing(hospitals):
    import tensorflow_federated as tff

    method = methods.register_factory("plain_mean_of_tff", tff.aggregators.MeanFactory())
    run = train(method.plan(BASE, 8.0), hospitals, runtime="native")
    twin = train(METHODS["weighted_mean"].plan(BASE, None), hospitals)
    for one, other in zip(run.weights, twin.weights):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert run.summary["unit"] == "none"
    assert run.summary["event_stated"] is False


def at_clients():
    """A factory whose result stays at the clients."""
    import tensorflow_federated as tff

    class AtClients(tff.aggregators.UnweightedAggregationFactory):
        def create(self, value_type):
            @tff.federated_computation
            def init():
                return tff.federated_value((), tff.SERVER)

            @tff.federated_computation(init.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS))
            def following(state, value):
                return tff.templates.MeasuredProcessOutput(state, value, tff.federated_value((), tff.SERVER))

            return tff.templates.AggregationProcess(init, following)

    return AtClients()


def of_one_tensor():
    """A factory that takes single tensors alone."""
    import tensorflow_federated as tff

    class OneTensor(tff.aggregators.UnweightedAggregationFactory):
        def create(self, value_type):
            if not isinstance(value_type, tff.TensorType):
                raise TypeError(f"expected a tensor, found {value_type}")
            return tff.aggregators.SumFactory().create(value_type)

    return OneTensor()


def counting():
    """A factory that returns the number of clients in place of their mean."""
    import tensorflow_federated as tff

    class Counting(tff.aggregators.UnweightedAggregationFactory):
        def create(self, value_type):
            @tff.federated_computation
            def init():
                return tff.federated_value((), tff.SERVER)

            @tff.tensorflow.computation(value_type)
            def one(value):
                return np.float32(1.0)

            @tff.federated_computation(init.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS))
            def following(state, value):
                count = tff.federated_sum(tff.federated_map(one, value))
                return tff.templates.MeasuredProcessOutput(state, count, tff.federated_value((), tff.SERVER))

            return tff.templates.AggregationProcess(init, following)

    return Counting()


def no_factory_in_it():
    return 3.0


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (at_clients, "must be placed at SERVER"),
        (of_one_tensor, "does not take updates of this form: expected a tensor"),
        (counting, "returns float32 for updates of type"),
        (no_factory_in_it, "gave float, which is no aggregation factory"),
    ],
)
def test_a_factory_that_does_not_fit_is_named_on_one_screen_before_anything_is_trained(
    factory, words, hospitals, tmp_path
):
    with pytest.raises(InvalidInput, match=words) as caught:
        row_of(factory, hospitals, run_dir=tmp_path / "run")
    assert len(str(caught.value)) < 1200
    assert f"own_{factory.__name__}" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_factory_is_refused_by_name(hospitals, tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="is no aggregation factory and no function that returns one"):
        own_factory.enter("seven", 7)
    with pytest.raises(InvalidInput, match="needs rounds, and is given noise_multiplier"):
        own_factory.enter("needy", lambda rounds: None)
    with pytest.raises(InvalidInput, match="is the name of a mechanism already"):
        methods.register_factory("tree", gaussian)
    (tmp_path / "mine_of_nobody.py").write_text("seven = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, words in {
        "mine_of_nobody:seven": "names 'seven', which mine_of_nobody does not register",
        "mine_of_nobody:eight": "names 'eight', which mine_of_nobody does not register",
        "no_such_module:x": "cannot be imported: there is no module 'no_such_module' on Python's path",
    }.items():
        with pytest.raises(InvalidInput, match=words):
            methods.find_methods((name,))


def test_a_factory_that_is_called_like_a_mechanism_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "mine_of_that_name.py").write_text("def tree(clients_per_round):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (method,) = methods.find_methods(("mine_of_that_name:tree",))
    assert not method.private
    assert mechanisms.named("mine_of_that_name:tree").computed_by == own_factory.COMPUTED_BY
    assert mechanisms.named("tree").private


def test_what_tff_refuses_is_told_in_its_words(hospitals):
    plan = plan_of("tff_gaussian_fixed").replace(upload="quantize:4", broadcast="quantize:8")
    assert [problem.name for problem in review.problems(plan)] == ["upload"]
    secure = plan_of("tff_gaussian_fixed").replace(privacy={"secure_sum": True})
    assert [problem.name for problem in review.problems(secure)] == ["secure_sum"]
    for runtime in ("compiled", "cluster"):
        with pytest.raises(InvalidInput, match="is run by TFF's own executor alone"):
            train(plan_of("tff_gaussian_fixed"), hospitals, runtime=runtime)

    def refusing(clients_per_round):
        return gaussian(1.0, clients_per_round, -1.0)

    with pytest.raises(InvalidInput, match="is refused: clip must be positive"):
        row_of(refusing, hospitals)
    cnn, images = plan_of("tfp_dp_sgd_fast").replace(model={"name": "cnn"}), toy.hospitals([16] * 4, shape=(8, 8, 1))
    with pytest.raises(InvalidInput, match="registry does not know"):
        train(cnn, images, runtime="native")


def test_states_of_tff_are_kept_as_bytes():
    from tff_hospitals.processes.aggregators import from_tff

    event = collections.namedtuple("Event", ["module_name", "noise_multiplier"])
    state = collections.OrderedDict(a=(np.float32(1.5), ()), event=[event(b"dp_accounting.dp_event", np.float32(2))])
    again = from_tff.unpacked(from_tff.packed(state), state)
    assert again["event"][0] == event(b"dp_accounting.dp_event", np.float32(2))
    assert again["a"] == (np.float32(1.5), ())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tff_gaussian_adaptive", "tff_tree_adaptive"])
def test_an_interrupted_run_goes_on_with_tffs_state(name, hospitals, tmp_path):
    plan = plan_of(name).replace(rounds=4, checkpoint_every=1)

    class Interrupted(Exception):
        pass

    def stop(progress):
        if progress.round == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(plan, hospitals, runtime="native", run_dir=tmp_path, on_round=stop)
    whole = train(plan, hospitals, runtime="native", run_dir=tmp_path)
    assert whole.summary["rounds"] == 4
    assert len(whole.summary["clip_norms"]) == 4
    norms = np.array(whole.summary["clip_norms"], float)
    if name == "tff_gaussian_adaptive":
        assert len(set(norms)) == 4  # the norm went on from where it was
    else:
        assert norms == pytest.approx([0.3] * 4)  # a tree that is never restarted keeps its norm


@pytest.mark.slow
def test_rows_of_tff_stand_in_the_table_beside_their_twins(tmp_path):
    from tff_hospitals import reports

    names = ("fixed_clip", "adaptive_clip", "tff_gaussian_adaptive", "tff_robust", "tff_compressed", "tff_ddp_secure")
    asked = comparisons.Comparison(
        names,
        (8.0,),
        (1,),
        given={"rounds": 2, "local_steps": 5, "partition": "iid", "sites": 20},
        dataset="heart_disease",
    )
    summary = comparisons.run(asked, tmp_path)
    rows = {row["method"]: row for row in summary["rows"]}
    assert list(rows) == list(names)
    assert {name: row["runtime"] for name, row in rows.items()} == {
        name: METHODS[name].runs_on or "compiled" for name in names
    }
    assert rows["tff_gaussian_adaptive"]["epsilon"] == rows["adaptive_clip"]["epsilon"]
    assert rows["tff_robust"]["epsilon"] is None
    reports.write_report(tmp_path)
    assert (tmp_path / "plots" / "clip_norm_by_round.png").exists()
    printed = io.StringIO()
    reports.print_table(reports.read_summary(tmp_path), printed)
    assert printed.getvalue().count("no event") >= 3
    assert json.loads((tmp_path / "summary.json").read_text())["rows"]
