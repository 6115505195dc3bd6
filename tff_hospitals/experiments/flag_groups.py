"""Command-line flags that build a plan; light enough that `--help` is instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.checks.options import help_of
from tff_hospitals.plan.options import Option, options_of
from tff_hospitals.plan.plan import Plan

FLAGS = flags.FLAGS
_DEFINERS: dict[type, Any] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}


def plan_options(also: Sequence[str] = ()) -> tuple[Option, ...]:
    """The options of a plan that every command has as flags, and those named in `also`."""
    return tuple(one for one in options_of(Plan) if one.on_command_line or one.flag in also)


def define_plan_flags(also: Sequence[str] = ()) -> None:
    """Defines one flag per option of a plan, and the repeated `--data_option` and `--model_option`.

    Defaults are empty: what is not given comes from the data set's preset.

    Args:
      also: options that are a flag of this command alone, such as `seed`.
    """
    for option in plan_options(also):
        _DEFINERS[option.kind](option.flag, None, help_of(option))
    flags.DEFINE_multi_string("data_option", [], "name=value, an option of the data set or partition")
    flags.DEFINE_multi_string("model_option", [], "name=value, an option of the model")
    flags.DEFINE_list(
        "trainable",
        None,
        "layers to train and send, by names or patterns such as output,dense_*; others are frozen",
    )
    flags.DEFINE_string("pretrained", None, "saved Keras weights to start from (.keras, .weights.h5 or .h5)")
    flags.DEFINE_integer("lora_rank", None, "train and send low-rank adapters of this rank instead of dense layers")
    flags.DEFINE_string("schema", None, "schema file of your own data (YAML or TOML)")
    flags.DEFINE_string("scaling", None, "per_hospital, pooled, fixed_bounds or dp_moments (tables)")
    flags.DEFINE_string("tuned_on", None, "data set that the settings were searched on (as in best.flags of tune)")


def define_run_flags() -> None:
    """Where results go and what executes the rounds."""
    flags.DEFINE_string("run_dir", None, "folder for everything that is left behind (required)")
    flags.DEFINE_bool("progress", True, "show progress")
    flags.DEFINE_integer("store_updates", None, "keep every hospital's update of every k-th round, for the audit")
    flags.DEFINE_float(
        "max_total_epsilon", None, "refuse a run with which all runs on these data together would release more"
    )
    flags.DEFINE_string("runtime", "compiled", "compiled, native (TFF's own executor, the reference) or cluster (Ray)")
    flags.DEFINE_string("cluster_address", None, "host:port of a Ray cluster; by default one is started here")
    flags.DEFINE_float("cluster_time_limit_seconds", 120.0, "give a cluster up that does not answer within this time")


def define_chunk_flag() -> None:
    """What only a single run has: its rounds are cut in pieces, a comparison is spread run by run."""
    flags.DEFINE_integer(
        "cluster_hospitals_per_chunk",
        None,
        "hospitals that a processor of the cluster trains in one go; fewer keep more processors busy",
    )


def runtime_options() -> dict[str, Any]:
    """Options of the runtime; `--cluster_...` without `--runtime=cluster` is refused.

    Raises:
      InvalidInput: an unknown runtime, a flag that it does not use, a limit that is not positive.
    """
    from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if, whole_number
    from tff_hospitals.runtimes import RUNTIMES

    names = ["cluster_address", "cluster_time_limit_seconds"]
    names += [name for name in ("cluster_hospitals_per_chunk",) if name in FLAGS]
    chosen, limit = FLAGS.runtime, FLAGS.cluster_time_limit_seconds
    size = FLAGS[names[2]].value if len(names) > 2 else None
    found = [one_of("runtime", chosen, RUNTIMES)]
    if chosen in RUNTIMES and not RUNTIMES[chosen].holds_records:
        bound, remedy = "runs where the hospitals are, not from this command", "start it by scripts/federation.py"
        found.append(Problem("--runtime", chosen, bound, remedy))
    found.append(in_range("--cluster_time_limit_seconds", limit, low=0.0, low_open=True, remedy="give seconds above 0"))
    if size is not None:
        found.append(whole_number("--cluster_hospitals_per_chunk", size, low=1, remedy="give 1 or more hospitals"))
    if chosen != "cluster":
        bound, remedy = "is only used with runtime=cluster", "drop it or choose --runtime=cluster"
        given = [name for name in names if FLAGS[name].present]
        found.extend(Problem(f"--{name}", FLAGS[name].value, bound, remedy) for name in given)
    raise_if(found)
    if chosen != "cluster":
        return {}
    chunks = {} if size is None else {"hospitals_per_chunk": size}
    return {"address": FLAGS.cluster_address, "time_limit_seconds": limit, **chunks}


def given_options(also: Sequence[str] = ()) -> dict[str, Any]:
    """The options that the user gave, by flag name; `also` as in `define_plan_flags`."""
    return {one.flag: FLAGS[one.flag].value for one in plan_options(also) if FLAGS[one.flag].present}


def tuning_problems(dataset: str) -> list[Problem]:
    """Settings that were searched on other data than those of a run."""
    if FLAGS.tuned_on in (None, dataset):
        return []
    bound = f"is not the data set of this run, {dataset}: what suits one does not suit another"
    return [
        Problem("--tuned_on", FLAGS.tuned_on, bound, "search again with tune, or drop --tuned_on if it is meant so")
    ]


def data_options() -> dict[str, Any]:
    """Options of the data set: --data_option, --schema and --scaling."""
    found = parse_settings("data_option", FLAGS.data_option)
    for name in ("schema", "scaling"):
        if FLAGS[name].value is not None:
            found[name] = FLAGS[name].value
    return found


def model_options() -> dict[str, Any]:
    """Options of the model: --model_option, --trainable, --pretrained and --lora_rank."""
    found = parse_settings("model_option", FLAGS.model_option)
    for name in ("trainable", "pretrained", "lora_rank"):
        if FLAGS[name].present:
            found[name] = FLAGS[name].value
    for name in ("hidden_units", "filters"):  # of a list with one size nothing but its number is written
        if isinstance(found.get(name), int):
            found[name] = [found[name]]
    return found


def parse_settings(flag: str, texts: Iterable[str]) -> dict[str, Any]:
    """`name=value` settings as a dict; numbers, booleans and lists (a+b) become what they look like.

    >>> parse_settings("data_option", ["alpha=0.3", "impute=median", "missing_labels=1+2"])
    {'alpha': 0.3, 'impute': 'median', 'missing_labels': [1, 2]}
    """
    settings = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InvalidInput([Problem(f"--{flag}", text, "must be name=value", f"write --{flag}=alpha=0.3")])
        settings[name.strip()] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    if "+" in text and not text.startswith("+") and all(_is_number(piece) for piece in text.split("+")):
        return [_value(piece) for piece in text.split("+")]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_number(text: str) -> bool:
    return isinstance(_value(text), (int, float)) if "+" not in text else False
