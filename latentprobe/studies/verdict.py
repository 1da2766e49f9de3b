"""From a summary to sentences, never more than the table bears.

1. The headline says which part carries the gain: the slots, if cutting them off costs accuracy and
   another problem's slots carry that problem's answer; the markers, if they keep most of the gain,
   the format alone does not, and every slot condition is `equivalent`, the donor's and the cuts
   among them. Otherwise it says why it cannot
   tell (no gain, conditions not run, too few problems), and only when none of these holds, that no
   single part explains the gain.
2. Then one sentence per question: is there a gain, do slots matter, does content transfer, what do
   markers and format keep, how noisy is the apparatus.
3. Where a weak test and a strong one disagree, the last sentences say so.

A sentence is only written when the conditions it rests on were run.
"""

import math
from collections.abc import Sequence

from latentprobe.studies.summary import ConditionSummary, StudySummary

SLOT_CONTENT = ("zero", "mean", "noise-norm")
CUTS = ("cut-slots-image", "cut-answer-slots")
DONOR = "donor-different-answer"
MOST = 0.8  # share of the gain, or of answers, called "most"
FOLLOWED = 0.5


def sentences(summary: StudySummary) -> tuple[str, ...]:
    """Return the verdict in sentences, the headline first."""
    found = {one.condition: one for one in summary.conditions}
    parts = (
        _headline(summary, found),
        _gain(summary, found),
        _cuts(summary, found),
        _donor(found),
        _retained(summary, found),
        _weak_test(found),
        _noise_floor(found),
        _scorers(found),
        _unreached(found),
        _failed(summary),
    )
    return tuple(part for part in parts if part)


def _headline(summary: StudySummary, found: dict[str, ConditionSummary]) -> str:
    if _slots_carry(summary, found):
        return (
            "The answer comes through the latent slots: cutting them off breaks it, and another "
            "problem's slots bring that problem's answer."
        )
    if _markers_carry(found):
        return (
            "The boundary markers carry the gain: what the slots hold makes no difference larger "
            "than the margin."
        )
    return _why_not(summary, found)


def _why_not(summary: StudySummary, found: dict[str, ConditionSummary]) -> str:
    """Say why no part can be named as carrying the gain."""
    reference = found.get(summary.reference)
    if reference is not None and reference.verdict == "equivalent":
        return f"There is no gain to explain: full and {summary.reference} are equivalent."
    if reference is not None and reference.verdict == "different" and not _costs(reference):
        return f"There is no gain to explain: full does worse than {summary.reference}."
    asked = (summary.reference, "markers-only", *CUTS, DONOR)
    missing = [name for name in asked if name not in found]
    if missing:
        return (
            "Which part carries the gain was not tested in full: "
            f"{', '.join(missing)} {'was' if len(missing) == 1 else 'were'} not run."
        )
    open_ones = [name for name in asked if found[name].verdict == "inconclusive"]
    if open_ones:
        fewest = math.ceil(math.log(0.05) / math.log(1 - summary.margin))
        return (
            f"These {summary.n_problems} problems cannot tell which part carries the gain: "
            f"{', '.join(open_ones)} {'is' if len(open_ones) == 1 else 'are'} inconclusive "
            f"(`equivalent` needs {fewest} problems at the least)."
        )
    return "No single part of the latent span explains the gain by these tests."


def _slots_carry(summary: StudySummary, found: dict[str, ConditionSummary]) -> bool:
    if not all(name in found and _costs(found[name]) for name in (*CUTS, DONOR)):
        return False
    followed = found[DONOR].donor_followed
    return followed is not None and followed >= max(FOLLOWED, 2 * (summary.chance or 0.0))


def _markers_carry(found: dict[str, ConditionSummary]) -> bool:
    content = [found[name] for name in (*SLOT_CONTENT, *CUTS, DONOR) if name in found]
    indifferent = DONOR in found and all(one.verdict == "equivalent" for one in content)
    template = found["format-only"].retained if "format-only" in found else None
    by_format = template is not None and template.value is not None and template.value >= MOST
    kept = found["markers-only"].retained if "markers-only" in found else None
    return indifferent and not by_format and bool(kept and kept.low and kept.low >= MOST)


def _costs(one: ConditionSummary) -> bool:
    """Whether a condition is `different` from full, and worse."""
    return one.verdict == "different" and bool(one.difference and one.difference.estimate.high < 0)


def _gain(summary: StudySummary, found: dict[str, ConditionSummary]) -> str:
    full, reference = found.get("full"), found.get(summary.reference)
    if full is None or reference is None or reference.difference is None:
        return ""
    chance = "" if summary.chance is None else f"; guessing gives {summary.chance:.2f}"
    stated = f"full scores {full.accuracy}, {summary.reference} {reference.accuracy}{chance}"
    if _costs(reference):
        return f"There is a gain to explain: {stated}."
    if reference.verdict == "different":
        return f"There is a loss, not a gain: {stated}."
    return (
        f"No gain over {summary.reference} could be shown, so there is little to explain: {stated}."
    )


def _cuts(summary: StudySummary, found: dict[str, ConditionSummary]) -> str:
    present = [found[name] for name in CUTS if name in found]
    return _listed("With attention to or from the slots cut", present)


def _donor(found: dict[str, ConditionSummary]) -> str:
    donor = found.get(DONOR)
    if donor is None or donor.donor_followed is None:
        return ""
    return (
        f"With the slots of a problem that has another answer, {donor.donor_followed:.0%} of "
        f"answers are the donor's; accuracy is {donor.accuracy} ({donor.verdict}, against full)."
    )


def _retained(summary: StudySummary, found: dict[str, ConditionSummary]) -> str:
    if summary.reference not in found or not _costs(found[summary.reference]):
        return ""
    kept = []
    for name in ("markers-only", "format-only"):
        retained = found[name].retained if name in found else None
        if retained is not None and retained.value is not None:
            kept.append(f"{name} keeps {retained}")
    return f"Of the gain, {' and '.join(kept)} (1 is all, 0 none)." if kept else ""


def _unreached(found: dict[str, ConditionSummary]) -> str:
    missed = [f"{name} ({one.unreached} trials)" for name, one in found.items() if one.unreached]
    if not missed:
        return ""
    return f"Applied at no position, so that nothing can be read off them: {', '.join(missed)}."


def _failed(summary: StudySummary) -> str:
    failed = [f"{one.condition} ({one.errors})" for one in summary.conditions if one.errors]
    return f"Trials that failed and are left out: {', '.join(failed)}." if failed else ""


def _weak_test(found: dict[str, ConditionSummary]) -> str:
    """Say how replacing the fed vectors compares with cutting attention."""
    content = [found[name] for name in SLOT_CONTENT if name in found]
    stated = _listed("With the fed vectors replaced", content)
    cut = [found[name] for name in CUTS if name in found]
    if not content or not cut:
        return stated
    best = max(content, key=lambda one: one.accuracy.value)
    worst = min(cut, key=lambda one: one.accuracy.value)
    if best.accuracy.low <= worst.accuracy.high:
        return stated
    if worst.verdict == "different":
        stated += (
            f" Replacing fed vectors understates the slots here ({best.condition} leaves "
            f"{best.accuracy.value:.2f}): a slot re-reads the image in every layer."
        )
    return stated


def _noise_floor(found: dict[str, ConditionSummary]) -> str:
    again = found.get("full-again")
    if again is None or again.answer_changed is None:
        return ""
    return f"The same recipe run twice changes {again.answer_changed:.0%} of answers."


def _scorers(found: dict[str, ConditionSummary]) -> str:
    torn = [
        name
        for name, one in found.items()
        if one.verdict is not None and one.verdict_loglik is not None and not one.survives_scorer
    ]
    if not torn:
        return ""
    return (
        f"The two scorers (parsed answer, option log-likelihood) disagree on {', '.join(torn)}: "
        "read these as effects on format as well."
    )


def _listed(lead: str, conditions: Sequence[ConditionSummary]) -> str:
    if not conditions:
        return ""
    stated = "; ".join(f"{c.condition} {c.accuracy} ({c.verdict})" for c in conditions)
    return f"{lead}: {stated}."
