"""Attacks a finished run and says whether its promise of privacy holds.

tff-hospitals audit --run_dir=runs/private
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem

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
    flags.DEFINE_integer("audit_runs", 30_000, "most runs with, and as many without, one record or hospital")
    flags.DEFINE_string("json", None, "also write every self-test, bound and what was not tested to this file")
    flags.DEFINE_bool("report", True, "draw report.html of the run again, with the audit in it")


def run() -> None:
    """Audits what the flags name; exits with 1 when the promise is broken, with 3 when too little of it was tested."""
    command.need_run_dir()
    parts = None if FLAGS.attacks is None else tuple(FLAGS.attacks)
    if FLAGS.json and parts is not None and "promise" not in parts:
        remedy = "add promise to --attacks, or read audit.json in the run directory"
        raise InvalidInput([Problem("--json", FLAGS.json, "holds the test of the promise, which is not made", remedy)])
    fprs = None if FLAGS.fpr is None else command.numbers("fpr", FLAGS.fpr, float)
    from tff_hospitals.audits.options import AuditOptions
    from tff_hospitals.audits.run_audit import audit_run
    from tff_hospitals.audits.sentences import sentences

    options = AuditOptions(
        parts=parts,
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
    if FLAGS.json:
        content = {name: result.get(name) for name in ("run", "dataset", "model")}
        files.write_json(pathlib.Path(FLAGS.json), {**content, **result.get("promise", {})})
        written.append(FLAGS.json)
    print(f"{result['seconds']:.0f} s; results: {', '.join(written)}")
    tested = result.get("promise")
    if tested is None:
        return
    # A run without a promise is no failure of an audit that was asked for everything.
    code = 0 if parts is None and not tested["units"] else tested["exit_code"]
    if code:
        print(tested["words"], file=sys.stderr)
        sys.exit(code)
