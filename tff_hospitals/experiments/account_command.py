"""Tells the epsilon of DP-SGD, or the noise for a target epsilon, without training anything.

tff-hospitals account --sampling_probability=4/199 --noise_multiplier=1.1 --steps=1500 --delta=1e-3
tff-hospitals account --sampling_probability=4/199 --target_epsilon=1 --steps=1500 --delta=1e-3
tff-hospitals account --dataset=heart_disease
tff-hospitals account --strategy=blt --steps=1000 --min_separation=100 --participations=10
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tff_hospitals.experiments import account_dataset, account_strategy

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of one question to the accountant."""
    flags.DEFINE_string("sampling_probability", None, "chance of each record to join a step, e.g. 0.02 or 4/199")
    flags.DEFINE_float("noise_multiplier", None, "standard deviation of the noise on the sum over the clip norm")
    flags.DEFINE_integer("steps", None, "number of steps (required)")
    flags.DEFINE_float("delta", None, "delta, well below 1 / records (required)")
    flags.DEFINE_float("target_epsilon", None, "find the noise for this epsilon, instead of --noise_multiplier")
    flags.DEFINE_string(
        "sampling", "poisson", "how batches are drawn: poisson, fixed_size, shuffled, random_allocation or none"
    )
    flags.DEFINE_string("conversion", "rdp", "that --target_epsilon is meant in: rdp, pld or rdp_classical")
    flags.DEFINE_string("adjacency", None, "add_or_remove_one, replace_one or replace_special; default: as --sampling")
    flags.DEFINE_integer("records", None, "number of records (with --sampling=fixed_size, and to check --delta)")
    flags.DEFINE_integer("batch", None, "records in a batch (with --sampling=fixed_size)")
    flags.DEFINE_string("dataset", None, "tell what all runs on this data set released together: a name or a path")
    flags.DEFINE_string("schema", None, "schema file of your own data, with --dataset")
    flags.DEFINE_bool("json", False, "print one JSON object")
    account_strategy.define_flags()


def run() -> None:
    """Answers what the flags ask."""
    if FLAGS.dataset is not None:
        _refuse_beside("dataset", ("dataset", "schema", "json"))
        _print(account_dataset.answer(FLAGS.dataset, FLAGS.schema), account_dataset.text)
        return
    _refuse_beside(None, ("schema",))
    if FLAGS.strategy is not None:
        _print(account_strategy.answer_flags(), account_strategy.text)
        return
    found = answer(
        sampling_probability=FLAGS.sampling_probability,
        noise_multiplier=FLAGS.noise_multiplier,
        steps=FLAGS.steps,
        delta=FLAGS.delta,
        target_epsilon=FLAGS.target_epsilon,
        sampling=FLAGS.sampling,
        conversion=FLAGS.conversion,
        adjacency=FLAGS.adjacency,
        records=FLAGS.records,
        batch=FLAGS.batch,
    )
    _print(found, text)


def _refuse_beside(question: str | None, names: Sequence[str]) -> None:
    """Refuses flags of another question: with one, all that are not in `names`; without, those in `names`."""
    from tff_hospitals.foundations.validation import Problem, raise_if

    own = [flag.name for flag in FLAGS.get_key_flags_for_module(__name__)]
    own += [flag.name for flag in FLAGS.get_key_flags_for_module(account_strategy.__name__)]
    given = [name for name in own if FLAGS[name].present]
    if question is None:
        wrong, bound = [name for name in given if name in names], "is only used with --dataset"
    else:
        wrong, bound = [name for name in given if name not in names], f"is not used with --{question}"
    raise_if(Problem(f"--{name}", FLAGS[name].value, bound, "drop it") for name in wrong)


def _print(found: dict[str, Any], words: Callable[[dict[str, Any]], str]) -> None:
    if FLAGS.json:
        import json

        from tff_hospitals.foundations.files import plain

        print(json.dumps(plain(found), indent=2, allow_nan=False))
    else:
        print(words(found))


def answer(
    *,
    sampling_probability: str | float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    delta: float | None = None,
    target_epsilon: float | None = None,
    sampling: str = "poisson",
    conversion: str = "rdp",
    adjacency: str | None = None,
    records: int | None = None,
    batch: int | None = None,
) -> dict[str, Any]:
    """Epsilon of DP-SGD steps by each conversion, and the noise multiplier that was given or found.

    Args:
      sampling_probability: a number, or a text such as "4/199"; needed unless sampling is fixed_size or none.
      noise_multiplier, target_epsilon: exactly one of them.
      steps, delta, sampling, conversion, adjacency, records, batch: as in `calibrate_noise`.

    Returns:
      Plain types; "epsilon_pld" is None where the sampling has no such analysis.

    Raises:
      InvalidInput: every problem of the input at once.

    >>> found = answer(sampling_probability="256/60000", noise_multiplier=1.1, steps=14062, delta=1e-5)
    >>> round(found["epsilon_rdp"], 4), round(found["epsilon_pld"], 3)
    (2.5966, 2.382)
    """
    from tff_hospitals.accounting import epsilon
    from tff_hospitals.accounting import sampling as sampling_lib
    from tff_hospitals.accounting.calibration import calibrate_noise
    from tff_hospitals.accounting.cautions import delta_warning
    from tff_hospitals.foundations import validation

    probability, wrong = _probability(sampling_probability, sampling, records, batch)
    problems = [wrong, _one_question(noise_multiplier, target_epsilon)]
    if noise_multiplier is not None:
        remedy = "give a noise multiplier such as 1.1"
        low, high = sampling_lib.LEAST_NOISE, sampling_lib.MOST_NOISE
        problems.append(validation.in_range("--noise_multiplier", noise_multiplier, low=low, high=high, remedy=remedy))
    if target_epsilon is not None:
        remedy = "give a positive --target_epsilon"
        problems.append(validation.in_range("--target_epsilon", target_epsilon, low=0.0, low_open=True, remedy=remedy))
    for name, value, example in (("--steps", steps, "1500"), ("--delta", delta, "1e-5")):
        if value is None:
            problems.append(validation.Problem(name, None, "must be given", f"add it, for example {name}={example}"))
    if delta is not None:
        problems.append(epsilon.delta_problem(delta))
    for name, number in (("--records", records), ("--batch", batch)):
        if number is not None:
            high = sampling_lib.MOST_STEPS
            problems.append(validation.whole_number(name, number, low=1, high=high, remedy="give a number of records"))
    problems.append(validation.one_of("conversion", conversion, epsilon.CONVERSIONS))
    problems += sampling_lib.sampling_problems(sampling, 1 if steps is None else steps, probability)
    validation.raise_if(problems)
    if steps is None or delta is None:  # refused above
        return {}
    adjacency = adjacency or sampling_lib.adjacency_of(sampling)
    how: dict[str, Any] = {"sampling": sampling, "sampling_probability": probability}
    if sampling == "fixed_size":
        how |= {"records": records, "batch": batch}
    noise = noise_multiplier
    if noise is None:
        noise = calibrate_noise(target_epsilon or 0.0, delta, steps, conversion=conversion, adjacency=adjacency, **how)
    event, count = sampling_lib.sampled_events(noise, steps=steps, **how)
    pairs = [(event, count)]
    able = epsilon.conversions_of(pairs, delta, adjacency)
    found: dict[str, Any] = {
        f"epsilon_{name}": (
            epsilon.epsilon_of(pairs, delta, adjacency=adjacency, conversion=name) if name in able else None
        )
        for name in ("rdp", "pld", "rdp_classical")
    }
    warning = delta_warning(delta, records) if records is not None else None
    return {
        **found,
        "noise_multiplier": noise,
        "target_epsilon": target_epsilon,
        "target_conversion": conversion if noise_multiplier is None else None,
        "steps": steps,
        "delta": delta,
        "unit": "record",
        "adjacency": adjacency,
        "sampling": sampling,
        "sampling_probability": probability,
        "assumption": event.sampling,
        "warnings": [str(warning)] if warning is not None else [],
    }


def _one_question(noise_multiplier: float | None, target_epsilon: float | None) -> Any:
    from tff_hospitals.foundations.validation import Problem

    if (noise_multiplier is None) != (target_epsilon is None):
        return None
    given = "neither" if noise_multiplier is None else f"{noise_multiplier} and {target_epsilon}"
    remedy = "give the noise to learn epsilon, or the target to learn the noise"
    return Problem("--noise_multiplier, --target_epsilon", given, "exactly one of them must be given", remedy)


def _probability(given: str | float | None, sampling: str, records: int | None, batch: int | None) -> tuple[float, Any]:
    """The sampling probability as a number, and what is wrong with how it was given."""
    from tff_hospitals.foundations.validation import Problem

    if sampling == "fixed_size":
        if records is None or batch is None:
            remedy = "add --records=... and --batch=..."
            bound = "both must be given for fixed_size sampling"
            return 1.0, Problem("--records, --batch", (records, batch), bound, remedy)
        return (batch / records if 0 < batch <= records else 1.0), None  # the event says what is wrong with others
    if given is None:
        remedy = "add --sampling_probability=..., or --sampling=none if every record takes part in every step"
        wrong = Problem("--sampling_probability", None, f"must be given for {sampling} sampling", remedy)
        return 1.0, None if sampling == "none" else wrong
    try:
        probability = account_strategy.number(given)
    except (ValueError, ZeroDivisionError):
        return 1.0, Problem("--sampling_probability", given, "must be a number or a fraction", "write 0.02 or 4/199")
    if sampling == "none" and probability != 1:
        remedy = "leave it out, or choose the sampling that it describes"
        return 1.0, Problem("--sampling_probability", given, "must be 1 for --sampling=none", remedy)
    return probability, None


def rounded_up(noise_multiplier: float) -> str:
    """Six significant digits, never less than the number: fed back, they keep the promise.

    >>> rounded_up(0.7368701), rounded_up(2.5), rounded_up(1234567.1)
    ('0.736871', '2.5', '1234570')
    """
    import decimal

    exact = decimal.Decimal(noise_multiplier)
    up = decimal.Context(prec=6, rounding=decimal.ROUND_CEILING).plus(exact)
    return f"{up.normalize():f}" if abs(up.adjusted()) < 10 else f"{up.normalize():e}"


def text(found: dict[str, Any]) -> str:
    """An answer for a terminal: the numbers, and everything without which they would mean nothing."""
    import textwrap

    from tff_hospitals.accounting import ADJACENCIES, CONVERSIONS
    from tff_hospitals.accounting.statements import meaning

    lines = []
    if found["target_epsilon"] is not None:
        noise, target = rounded_up(found["noise_multiplier"]), found["target_epsilon"]
        lines.append(f"noise multiplier  {noise}, the least for epsilon {target:g} by {found['target_conversion']}")
    else:
        lines.append(f"noise multiplier  {found['noise_multiplier']:g}")
    for name in ("rdp", "pld", "rdp_classical"):
        value = found[f"epsilon_{name}"]
        why = "not known for this sampling" if found["sampling"] == "random_allocation" else "too large to be computed"
        shown = f"none: {why}" if value is None else f"{value:.6g}"
        lines.append(f"epsilon           {shown:<10} {name}: {CONVERSIONS[name]}")
    lines += [
        f"delta             {found['delta']:g}, over {found['steps']} steps",
        "unit              one record (patient)",
        f"adjacency         {found['adjacency']}: {ADJACENCIES[found['adjacency']]}",
        f"sampling          {found['assumption']}",
        f"meaning           {meaning(found['epsilon_rdp'], found['delta'], found['adjacency'])}",
    ]
    lines += [f"warning           {warning}" for warning in found["warnings"]]
    return "\n".join(textwrap.fill(line, 118, subsequent_indent=" " * 18, break_long_words=False) for line in lines)
