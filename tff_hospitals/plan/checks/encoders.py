"""What a plan may not say about its encoders, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import mechanisms

if TYPE_CHECKING:
    from tff_hospitals.communication import Chain
    from tff_hospitals.plan.plan import Plan


def problems(plan: Plan) -> list[Problem | None]:
    """All clashes of the encoders with each other, with the mechanism and with the link.

    >>> from tff_hospitals.plan import Plan
    >>> found = problems(Plan(broadcast="quantize:40", upload="quantize:4,rotate"))
    >>> [problem.name for problem in found if problem is not None]
    ['quantize bits', 'upload']
    """
    from tff_hospitals.communication import parse_chain  # numpy is not needed to show --help

    found: list[Problem | None] = [*_link(plan)]
    chains: dict[str, Chain] = {}
    for direction, text in (("broadcast", plan.broadcast), ("upload", plan.upload)):
        try:
            chains[direction] = parse_chain(text, name=direction)
        except InvalidInput as error:
            found.extend(error.problems)
        else:
            feedback = direction == "upload" and plan.error_feedback
            found.extend(chains[direction].usage_problems(direction=direction, error_feedback=feedback))
    if "upload" in chains and mechanisms.understood(plan.privacy):
        found.extend(_upload(plan, chains["upload"]))
    return found


def _link(plan: Plan) -> list[Problem | None]:
    link = plan.link
    found: list[Problem | None] = []
    if (link.uplink_mbps is None) != (link.downlink_mbps is None):
        bound = "a round needs both directions"
        remedy = "give --uplink_mbps and --downlink_mbps, or neither"
        found.append(Problem("uplink_mbps, downlink_mbps", "one of the two", bound, remedy))
    if link.latency_ms and not link.stated:
        bound = "is only used with a stated link"
        found.append(Problem("latency_ms", link.latency_ms, bound, "give --uplink_mbps and --downlink_mbps too"))
    return found


def _upload(plan: Plan, chain: Chain) -> list[Problem]:
    around = mechanisms.hospital_level(plan.privacy)
    used = bool(chain.stages) or plan.skip_below is not None
    found: list[Problem] = []
    if plan.error_feedback and chain.lossless:
        bound = "has nothing to feed back: the upload loses nothing"
        found.append(Problem("error_feedback", True, bound, "choose an upload such as topk:0.01,ternary:mean,entropy"))
    if used and mechanisms.summed_securely(plan.privacy):
        bound = (
            "under a secure sum the server sees no hospital's payload, so it cannot decode one: what is added up must "
            "be whole numbers of one size"
        )
        remedy = "drop --upload; the mechanism's own rotation and --modulus_bits are its encoder"
        found.append(Problem("upload", str(chain), bound, remedy))
        return found
    if around.private and plan.error_feedback and around.noise_by != "hospital":
        bound = (
            f"{around.name} pays for one clipped update per round; error feedback carries what was cut off into later "
            "rounds, and a state that the ledger does not know of would enter every later release"
        )
        found.append(Problem("error_feedback", True, bound, "drop --error_feedback, or take an unbiased upload"))
    if around.noise_by == "server":
        leaking = [str(each) for each in chain.stages if each.name in ("entropy", "threshold")]
        if leaking:
            bound = (
                f"the length of what {', '.join(leaking)} sends depends on the update, which {around.name} noises only "
                "later, at the server: whoever counts bytes learns what no epsilon covers"
            )
            remedy = "take stages of fixed length (rotate,quantize:4 or randk:0.1), or noise at the hospital (dp_sgd)"
            found.append(Problem("upload", str(chain), bound, remedy))
        if plan.skip_below is not None:
            bound = (
                f"whether a hospital sends depends on its update, which {around.name} noises only later, at the server"
            )
            found.append(Problem("skip_below", plan.skip_below, bound, "drop --skip_below"))
    return found


def warnings(plan: Plan) -> list[str]:
    """What is allowed but deserves a word."""
    from tff_hospitals.communication import parse_chain, stage

    words = []
    upload = parse_chain(plan.upload)
    if upload.stages and mechanisms.hospital_level(plan.privacy).noise_by == "server":
        words.append(
            f"updates are clipped, then encoded ({upload}), and clipped again when the server has decoded them: one "
            "hospital moves the sum by at most the clip norm, so the noise and its epsilon stand as without an encoder."
        )
    if upload.bias == stage.BIASED and not plan.error_feedback and not upload.lossless:
        words.append(
            f"the upload {upload} is biased: what it leaves out is never sent. Remedy: --error_feedback, or an "
            "unbiased chain such as rotate,quantize:4."
        )
    return words
