"""Predicts bytes and transfer time of a run, before anyone trains.

tff-hospitals bandwidth --model_shapes=784x200,200,200x10,10 --hospitals=4 --rounds=15 --upload=rotate,quantize:4
"""

from __future__ import annotations

from typing import Any

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of a forecast."""
    flags.DEFINE_string("model_shapes", None, "shapes of the tensors, e.g. 784x200,200,200x10,10 (required)")
    flags.DEFINE_integer("hospitals", None, "number of hospitals (required)")
    flags.DEFINE_integer("rounds", None, "number of rounds (required)")
    flags.DEFINE_float("fraction_selected", 1.0, "share of the hospitals that takes part in a round")
    flags.DEFINE_string("broadcast", "none", "chain of encoders on the way down, e.g. delta,rotate,quantize:8")
    flags.DEFINE_string("upload", "none", "chain of encoders on the way up, e.g. topk:0.01,ternary:mean,entropy")
    flags.DEFINE_string(
        "by_round", "", "bits that change by round, e.g. upload_bits=linear:0.25,broadcast_bits=step:5:0.5"
    )
    flags.DEFINE_list("uplink_mbps", ["10"], "speed from a hospital, megabits per second; one for all or one each")
    flags.DEFINE_list("downlink_mbps", ["50"], "speed to a hospital, megabits per second; one for all or one each")
    flags.DEFINE_list("latency_ms", ["20"], "one-way delay in milliseconds; one for all or one each")
    flags.DEFINE_float("synthetic_sd", 0.01, "deviation of the synthetic values; matters to threshold:t alone")
    flags.DEFINE_bool("json", False, "print the forecast as JSON")


def run() -> None:
    """Forecasts what the flags describe."""
    from tff_hospitals.communication import forecast
    from tff_hospitals.foundations import validation

    validation.raise_if(
        validation.Problem(f"--{name}", None, "must be given", f"add --{name}=...")
        for name in ("model_shapes", "hospitals", "rounds")
        if FLAGS[name].value is None
    )
    problems: list[validation.Problem] = []
    shapes = _try(lambda: forecast.parse_shapes(FLAGS.model_shapes), problems)
    understood = len(problems)
    _try(_only_bits, problems)
    by_round = FLAGS.by_round if len(problems) == understood else ""  # what nobody can read is said once
    broadcast = _try(lambda: _chains("broadcast", FLAGS.broadcast, by_round), problems)
    upload = _try(lambda: _chains("upload", FLAGS.upload, by_round), problems)
    links = _try(_links, problems)
    validation.raise_if(problems)
    found = forecast.forecast(
        shapes,
        broadcast,
        upload,
        links,
        hospitals=FLAGS.hospitals,
        rounds=FLAGS.rounds,
        fraction_selected=FLAGS.fraction_selected,
        sd=FLAGS.synthetic_sd,
    )
    if FLAGS.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        print(text(found))


def _try(make: Any, problems: list) -> Any:
    from tff_hospitals.foundations import validation

    try:
        return make()
    except validation.InvalidInput as error:
        problems += error.problems
        return None


def _chains(direction: str, text: str, by_round: str) -> Any:
    """The chain of one way; of every round, where its bits change."""
    from tff_hospitals.communication import parse_chain
    from tff_hospitals.plan import chains
    from tff_hospitals.plan.parts import MOST_ROUNDS

    rounds = max(1, min(FLAGS.rounds, MOST_ROUNDS))
    found = chains.of_rounds(parse_chain(text, name=direction), direction, by_round, rounds)
    return found if len(found) > 1 else found[0]


def _only_bits() -> None:
    """Settings by round that a forecast does not follow are refused: what they change, it would not count."""
    from tff_hospitals.foundations import validation
    from tff_hospitals.plan import schedules
    from tff_hospitals.plan.parts import MOST_ROUNDS

    bound, remedy = "changes no size of a payload", f"give {' or '.join(schedules.BITS)} alone"
    given = schedules.parse(FLAGS.by_round)
    found = [validation.Problem("--by_round", name, bound, remedy) for name in given if name not in schedules.BITS]
    if given and FLAGS.rounds > MOST_ROUNDS:
        bound = f"must be <= {MOST_ROUNDS} with settings by round"
        found.append(validation.Problem("--rounds", FLAGS.rounds, bound, "forecast fewer rounds"))
    validation.raise_if(found)


def _links() -> list:
    from tff_hospitals.communication import bandwidth
    from tff_hospitals.foundations import validation

    given = {
        "uplink_mbps": command.numbers("uplink_mbps", FLAGS.uplink_mbps, float),
        "downlink_mbps": command.numbers("downlink_mbps", FLAGS.downlink_mbps, float),
        "latency_ms": command.numbers("latency_ms", FLAGS.latency_ms, float),
    }
    most = max(map(len, given.values()))
    bound, remedy = f"must be one number or {most} of them", "give one for all or one per hospital"
    validation.raise_if(
        validation.Problem(f"--{name}", ",".join(FLAGS[name].value or ()), bound, remedy)
        for name, numbers in given.items()
        if len(numbers) not in (1, most)
    )
    columns = [numbers if len(numbers) == most else numbers * most for numbers in given.values()]
    return [bandwidth.Link(*each) for each in zip(*columns)]


def text(found: dict[str, Any]) -> str:
    """A forecast as a few lines for a terminal."""
    lines = [
        f"{found['values']:,} values in {found['tensors']} tensors, {found['dense_bytes']:,} bytes as float32; "
        f"{found['hospitals']} hospitals, share in a round {found['fraction_selected']:g}, {found['rounds']} rounds",
        f"payloads measured on {found['measured_on']}",
        "",
        f"{'way':<5}{'chain':<40}{'bytes':>18}{'at least':>18}{'at most':>18}"
        f"{'bits/value':>12}{'times fewer':>13}{'error':>10}",
    ]
    for way in ("down", "up"):
        row = found[way]
        lines.append(
            f"{way:<5}{row['chain']:<40}{row['bytes']:>18,.0f}{row['bytes_at_least']:>18,}{row['bytes_at_most']:>18,}"
            f"{row['bits_per_value']:>12.4f}{row['times_fewer_than_float32']:>13.1f}{row['normalised_error']:>10.3g}"
        )
        lines += [
            f"{'':<5}{one['chain']:<40}{one['bytes']:>18,.0f}  in {one['rounds']} of {found['rounds']} rounds"
            for one in row.get("by_round", ())
        ]
    lines += ["", f"{'':<9}{'bytes of the run':>20}{'seconds a round':>18}{'seconds of the run':>20}"]
    for name in ("encoded", "float32"):
        row = found[name]
        lines.append(f"{name:<9}{row['run_bytes']:>20,.0f}{row['round_seconds']:>18.3f}{row['run_seconds']:>20.1f}")
    lines.append(
        "bytes of the run = (bytes down + bytes up) x hospitals x share x rounds; seconds are those on the wire of the "
        "slowest link;\nerror = ||decoded - values||^2 / ||values||^2 of one payload"
    )
    return "\n".join(lines)
