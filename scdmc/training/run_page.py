"""The page of a pre-training run: how far it is, what it has learned beside guessing, and its losses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.training.guessing import best_guess
from scdmc.training.run_state import RUNNING, STOPPED, curves_title, split_history

STREAMS = {"rank": "Masked genes, rank stream", "expression": "Masked genes, expression stream"}
SECONDS_TO_RELOAD = 30
UNFINISHED = {
    RUNNING: "The run goes on; this page loads itself anew.",
    STOPPED: "The run was stopped before its end; it goes on with --resume.",
}


def write_run_page(
    folder: Path,
    history: Sequence[Mapping[str, float]],
    guesses: Mapping[str, float],
    progress: tuple[int | None, str],
    made: Provenance,
) -> None:
    """Write ``report.html`` beside ``loss_curves.png``; while the run goes on the page loads itself anew.

    Parameters
    ----------
    folder
        Of the run.
    history
        Its rows so far.
    guesses
        What guessing reaches (``guessing.json``); empty where that is not known yet.
    progress
        Steps of the whole run, None where the clock ends it; and its state: running, stopped or ended.
    made
        From what.
    """
    total, state = progress
    lead = run_verdict(history, guesses, progress)
    table = pd.DataFrame([row for row in history if "eval_loss" in row])
    table = table.dropna(axis=1, how="all").rename(columns=lambda name: name.removeprefix("eval_").replace("_", " "))
    lines = "thin: batches of training cells; thick: held-out cells" + ("; dashed: guessing" if guesses else "")
    caption = f"{curves_title(history)} ({lines})"
    sections = [
        Section("Losses", figures=[(caption, folder / "loss_curves.png")]),
        Section("Held-out cells", tables=[("Every evaluation; losses in nats", table)]),
    ]
    of = "" if total is None else f" of {total:,}"
    title = f"Pre-training, started from {made.model}: step {int(history[-1]['step']):,}{of}"
    write_report(folder / "report.html", title, sections, lead, made, SECONDS_TO_RELOAD if state == RUNNING else None)


def run_verdict(
    history: Sequence[Mapping[str, float]], guesses: Mapping[str, float], progress: tuple[int | None, str]
) -> Verdict:
    """What the losses of held-out cells say, beside guessing where that is known, else beside the first evaluation.

    Parameters
    ----------
    history, guesses, progress
        See :func:`write_run_page`.
    """
    first = next(row for row in history if "eval_loss" in row)
    last, evaluation = split_history(history)
    numbers, is_below = [], []
    for stream, name in STREAMS.items():
        loss = evaluation.get(f"mlm_{stream}_loss")
        if loss is None:
            continue
        beside = f"{first[f'eval_mlm_{stream}_loss']:.3f} at step {int(first['step'])}"
        if guesses:
            guess = best_guess(guesses, stream)
            is_below.append(loss < guess)
            beside = f"{guess:.3f} by guessing; {beside}"
        numbers.append(KeyNumber(name, f"{loss:.3f} nats", beside))
    numbers.append(_third(history, last, progress))
    if progress[1] in UNFINISHED or not is_below:
        headline = f"The held-out loss went from {first['eval_loss']:.3f} to {evaluation['loss']:.3f}"
        reason = UNFINISHED.get(progress[1], "What guessing reaches was not measured.")
        return Verdict("caution", headline, (reason,), tuple(numbers))
    if all(is_below):
        headline = "The model names masked genes better than their frequency and position do"
        return Verdict("good", headline, ("So it uses which genes are in a cell together.",), tuple(numbers))
    headline = "The model does not yet name masked genes better than their frequency and position do"
    return Verdict("bad", headline, ("Train longer, or on more cells.",), tuple(numbers))


def _third(
    history: Sequence[Mapping[str, float]], last: Mapping[str, float], progress: tuple[int | None, str]
) -> KeyNumber:
    """The probe, where there is one, else how far the run is."""
    probed = [row["probe_macro_f1"] for row in history if "probe_macro_f1" in row]
    if probed:
        return KeyNumber("Macro-F1 of a probe", f"{probed[-1]:.3f}", f"{probed[0]:.3f} when first probed")
    total, _ = progress
    of = "the clock ends the run" if total is None else f"of {total:,}"
    epoch = f"; {last['epoch']:.2f} epochs" if "epoch" in last else ""
    return KeyNumber("Steps", f"{int(history[-1]['step']):,}", f"{of}{epoch}")
