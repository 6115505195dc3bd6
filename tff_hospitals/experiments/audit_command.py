"""Attacks a finished run and says whether its promise of privacy holds.

tff-hospitals audit --run_dir=runs/private
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of an audit."""
    flags.DEFINE_string("run_dir", None, "folder of a finished run, or one below runs/ of a comparison (required)")
    flags.DEFINE_list(
        "attacks",
        None,
        "membership, attribute, reconstruction, updates (needs --store_updates of the training), promise, defences; "
        "default: all that apply",
    )
    flags.DEFINE_list("fpr", None, "false positive rates of membership attacks; default 0.01,0.001 where possible")
    flags.DEFINE_list("attribute", None, "columns to infer; default: the first binary and the first numeric one")
    flags.DEFINE_float("confidence", 0.95, "of every interval and bound")
    flags.DEFINE_integer("shadow_models", 32, "models trained on other splits of the records, for membership attacks")
    flags.DEFINE_integer("rebuilt_records", 20, "records that reconstruction attacks")
    flags.DEFINE_integer("audit_runs", 200, "repeated runs with, and as many without, one record or hospital")
    flags.DEFINE_bool("report", True, "draw report.html of the run again, with the audit in it")


def run() -> None:
    """Audits what the flags name; exits with 1 when the promise does not hold."""
    command.need_run_dir()
    fprs = None if FLAGS.fpr is None else command.numbers("fpr", FLAGS.fpr, float)
    from tff_hospitals.audits.run_audit import AuditOptions, audit_run, sentences

    options = AuditOptions(
        parts=None if FLAGS.attacks is None else tuple(FLAGS.attacks),
        fprs=fprs,
        confidence=FLAGS.confidence,
        shadow_models=FLAGS.shadow_models,
        attributes=None if FLAGS.attribute is None else tuple(FLAGS.attribute),
        rebuilt_records=FLAGS.rebuilt_records,
        audit_runs=FLAGS.audit_runs,
    )
    folder = pathlib.Path(FLAGS.run_dir)
    result = audit_run(folder, options, on_part=lambda part: print(f"{part} ...", file=sys.stderr))
    print("\n".join(sentences(result)))
    written = [str(folder / "audit.json")]
    if FLAGS.report:
        from tff_hospitals import reports

        written.append(str(reports.write_report(folder)[-1]))
    print(f"{result['seconds']:.0f} s; results: {', '.join(written)}")
    if "promise" in result and not result["promise"]["holds"]:
        print("the promise does NOT hold: see the lines above", file=sys.stderr)
        sys.exit(command.FAILED)
