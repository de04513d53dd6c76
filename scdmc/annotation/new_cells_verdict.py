"""May the labels of new cells be trusted? Rules that turn measured numbers into a verdict (docs/annotate.md)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scdmc.reports.page import Verdict

GOOD, CAUTION, BAD = "good", "caution", "bad"


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on; NaN for what was not measured.

    Attributes
    ----------
    n_types
        Types of the reference.
    accuracy, macro_f1, calibration_error
        Of held-out reference cells.
    shared_genes, reference_genes, new_genes
        Genes of both, of the reference, of the new cells.
    share_far
        Share of the new cells that lie farther from the reference than 95% of its own cells.
    share_unknown
        Share of the new cells without a label.
    doubtful
        Types whose labels are doubtful for another reason than few cells, the largest first.
    share_doubtful
        Share of the labelled new cells that have one of these labels.
    """

    n_types: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    shared_genes: int
    reference_genes: int
    new_genes: int
    share_far: float
    share_unknown: float
    doubtful: tuple[str, ...]
    share_doubtful: float


@dataclass(frozen=True)
class Rule:
    """A number that lowers the verdict.

    Attributes
    ----------
    value
        Number of the evidence; higher is worse.
    caution, bad
        Above the first the verdict is one of caution, above the second that labels must not be trusted.
    text
        What is said then.
    """

    value: Callable[[Evidence], float]
    caution: float
    bad: float
    text: Callable[[Evidence], str]

    def level(self, evidence: Evidence) -> str:
        """One of good, caution, bad; NaN is good."""
        value = self.value(evidence)
        return BAD if value > self.bad else CAUTION if value > self.caution else GOOD


RULES = (
    Rule(lambda e: float(e.n_types < 2), 0, 0, lambda e: "the reference has one type only, so nothing was told apart"),
    Rule(lambda e: 1 - e.accuracy, 0.15, 0.4,
         lambda e: f"{1 - e.accuracy:.0%} of the held-out reference cells got a wrong label"),
    Rule(lambda e: 1 - e.macro_f1, 0.25, 0.5,
         lambda e: f"averaged over types, the held-out score (macro-F1) is {e.macro_f1:.2f}"),
    Rule(lambda e: e.calibration_error, 0.1, 1,
         lambda e: f"probabilities miss the share of right labels by {e.calibration_error:.0%} on average"),
    Rule(lambda e: -e.shared_genes, -500, -50,
         lambda e: f"only {e.shared_genes:,} genes are shared"),
    Rule(lambda e: 1 - e.shared_genes / max(e.reference_genes, 1), 0.5, 1,
         lambda e: f"{1 - e.shared_genes / max(e.reference_genes, 1):.0%} of the reference's genes could not be used"),
    Rule(lambda e: e.share_far, 0.2, 0.8,
         lambda e: f"{e.share_far:.0%} of the new cells lie far from the reference"),
    Rule(lambda e: e.share_unknown, 0.15, 0.5,
         lambda e: f"{e.share_unknown:.0%} of the new cells have no label"),
    Rule(lambda e: e.share_doubtful, 0.1, 0.6,
         lambda e: f"{e.share_doubtful:.0%} of the labelled cells have a doubtful label"),
)  # fmt: skip


def verdict_of(evidence: Evidence) -> Verdict:
    """The verdict and at most three sentences: held-out scores, nearness to the reference, what to check.

    The worst of :data:`RULES` decides. Without held-out scores the verdict is one of caution at best.

    Parameters
    ----------
    evidence
        What was measured.
    """
    levels = [rule.level(evidence) for rule in RULES]
    is_measured = np.isfinite(evidence.macro_f1)
    level = BAD if BAD in levels else CAUTION if CAUTION in levels or not is_measured else GOOD
    problems = [rule.text(evidence) for rule, found in zip(RULES, levels, strict=True) if found == level != GOOD]
    if level == CAUTION and evidence.doubtful:
        headline = "Trust the broad picture, check the types named below"
    else:
        headline = {
            GOOD: "Most labels can be trusted",
            CAUTION: "Trust the broad picture, check a sample by hand",
            BAD: "Do not trust these labels",
        }[level]
    reasons = [_of_scores(evidence), _of_nearness(evidence), _of_problems(problems, evidence)]
    return Verdict(level, headline, tuple(reason for reason in reasons if reason))


def _of_scores(evidence: Evidence) -> str:
    if not np.isfinite(evidence.macro_f1):
        return "Nothing is known of how right the labels are: no reference cells were held out."
    return (
        f"Of reference cells that the classifier had not seen, {evidence.accuracy:.0%} got the right label "
        f"(macro-F1 {evidence.macro_f1:.2f})."
    )


def _of_nearness(evidence: Evidence) -> str:
    return (
        f"The new cells share {evidence.shared_genes:,} of the reference's {evidence.reference_genes:,} genes; "
        f"{evidence.share_far:.0%} of them lie farther from the reference than 95% of its own cells "
        f"(5% would be usual), and {evidence.share_unknown:.0%} have no label."
    )


def _of_problems(problems: list[str], evidence: Evidence) -> str:
    text = "What speaks against the labels: " + "; ".join(problems) + "." if problems else ""
    if not evidence.doubtful:
        return text
    first = ", ".join(evidence.doubtful[:3])
    more = len(evidence.doubtful) - 3
    named = f"{first} and {more:,} more" if more > 0 else first
    return f"{text} Check first: {named} ({evidence.share_doubtful:.0%} of the labelled cells).".strip()
