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
    flags.DEFINE_list("uplink_mbps", ["10"], "speed from a hospital, megabits per second; one for all or one each")
    flags.DEFINE_list("downlink_mbps", ["50"], "speed to a hospital, megabits per second; one for all or one each")
    flags.DEFINE_list("latency_ms", ["20"], "one-way delay in milliseconds; one for all or one each")
    flags.DEFINE_float("synthetic_sd", 0.01, "deviation of the synthetic values; matters to threshold:t alone")
    flags.DEFINE_bool("json", False, "print the forecast as JSON")


def run() -> None:
    """Forecasts what the flags describe."""
    from tff_hospitals.communication import forecast, parse_chain
    from tff_hospitals.foundations import validation

    validation.raise_if(
        validation.Problem(f"--{name}", None, "must be given", f"add --{name}=...")
        for name in ("model_shapes", "hospitals", "rounds")
        if FLAGS[name].value is None
    )
    problems: list[validation.Problem] = []
    shapes = _try(lambda: forecast.parse_shapes(FLAGS.model_shapes), problems)
    broadcast = _try(lambda: parse_chain(FLAGS.broadcast, name="broadcast"), problems)
    upload = _try(lambda: parse_chain(FLAGS.upload, name="upload"), problems)
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
    lines += ["", f"{'':<9}{'bytes of the run':>20}{'seconds a round':>18}{'seconds of the run':>20}"]
    for name in ("encoded", "float32"):
        row = found[name]
        lines.append(f"{name:<9}{row['run_bytes']:>20,.0f}{row['round_seconds']:>18.3f}{row['run_seconds']:>20.1f}")
    lines.append(
        "bytes of the run = (bytes down + bytes up) x hospitals x share x rounds; seconds are those on the wire of the "
        "slowest link;\nerror = ||decoded - values||^2 / ||values||^2 of one payload"
    )
    return "\n".join(lines)
