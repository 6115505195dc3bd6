"""What a terminal says about an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.audits.threat_models import ATTACKS, THREAT_MODELS

_MOST_LINES = 12  # of failed self-tests: one fault can fail hundreds


def sentences(result: dict[str, Any]) -> Sequence[str]:
    """What a terminal says about an audit: one line per finding."""
    lines = []
    if "membership" in result:
        for name, attack in result["membership"]["attacks"].items():
            outcome = attack["groups"].get("all")
            if outcome is None:
                continue
            interval = outcome["auc_interval"]
            text = f"{ATTACKS[name].title}: AUC {outcome['auc']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
            for rate in outcome["tprs"]:
                text += f", TPR {100 * rate['tpr']:.1f} % at {100 * rate['asked_fpr']:g} % FPR"
            for asked in outcome["unsupported"]:
                text += f"; {100 * asked:g} % FPR needs more records (smallest {100 * outcome['smallest_fpr']:.2g} %)"
            lines.append(text)
    for gain in result.get("attribute", []):
        lines.append(
            f"Attribute {gain['attribute']} at {gain['hospital']} from the {gain['from']}: "
            f"{100 * gain['attack']:.1f} % right, gain over imputation {100 * gain['gain']:+.1f} points "
            f"({100 * gain['interval']['low']:+.1f} to {100 * gain['interval']['high']:+.1f})"
        )
    if "reconstruction" in result:
        found = result["reconstruction"]
        lines.append(
            f"Reconstruction ({found['words']}): median error {found['error']:.3g} standard deviations"
            + (f", labels right {100 * found['label_accuracy']:.0f} %" if found["label_accuracy"] is not None else "")
        )
        for one in found["others"]:
            title = f"{ATTACKS[one['attack']].title} ({THREAT_MODELS[ATTACKS[one['attack']].assumes].title.lower()})"
            if "error" in one:
                lines.append(f"{title}: median error {one['error']:.3g} standard deviations")
            else:
                lines.append(
                    f"{title}: {100 * one['share_recovered']:.0f} % of {one['records']} records recovered exactly"
                )
    if "updates" in result:
        share = max((one["share_recovered"] for one in result["updates"]), default=0.0)
        lines.append(f"Stored updates: at most {100 * share:.1f} % of a hospital's records recovered exactly")
    if "promise" in result:
        lines += _of_promise(result["promise"])
    lines += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return lines


def _of_promise(found: Mapping[str, Any]) -> list[str]:
    """Bounds, self-tests that failed, what was not tested, and the verdict last."""
    lines = [one["words"] for one in found["bounds"]]
    tests = found["self_tests"]
    failed = [one for one in tests if not one["passed"]]
    lines.append(f"Self-tests of the mechanism: {len(tests) - len(failed)} passed, {len(failed)} failed")
    shown = [f"FAILED {one['name']}{_at(one)}: {one['words']}" for one in failed]
    lines += shown[:_MOST_LINES]
    if len(shown) > _MOST_LINES:
        lines.append(f"... and {len(shown) - _MOST_LINES} more: see audit.json")
    lines += [f"NOT TESTED {one['name']}{_at(one)}: {one['reason']}" for one in found["not_tested"]]
    return [*lines, found["words"]]


def _at(one: Mapping[str, Any]) -> str:
    return "" if one["hospital"] is None else f" at {one['hospital']}"
