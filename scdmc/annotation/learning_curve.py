"""Learning curves: scores of fine-tuning runs that used different shares of the labels, joined in one table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scdmc.annotation.figures import learning_curve_figure
from scdmc.annotation.options import FINE_TUNED
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object
from scdmc.reports.figures import save_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import keep_results, require_whole

# What decides which cells are test cells.
SAME = ("label_key", "ignore_labels", "keep_labels", "split_file", "split_by", "seed", "seeds", "cross_validate",
        "validation_fraction", "test_fraction", "min_cells_per_type", "hold_out_type")  # fmt: skip


def join_scores(result_dirs: Sequence[Path]) -> pd.DataFrame:
    """Scores of all folders below each other.

    Parameters
    ----------
    result_dirs
        Output folders of ``downstream_tasks.py``.

    Returns
    -------
    Columns method, metric, label_fraction, value, sd and runs.

    Raises
    ------
    ScDMCError
        If a folder is no output folder, two folders have other test cells, or scores of the same method with the same
        share of the labels: which one counts is not clear.
    """
    require_same_test_cells(result_dirs)
    scores = pd.concat([read_scores(path).assign(folder=str(path)) for path in result_dirs], ignore_index=True)
    twice = scores[scores.duplicated(["method", "metric", "label_fraction"])]
    if len(twice):
        method, fraction = twice.iloc[0][["method", "label_fraction"]]
        folders = scores.loc[(scores["method"] == method) & (scores["label_fraction"] == fraction), "folder"].unique()
        raise ScDMCError(f"{' and '.join(folders)} both have {method} with the same share of the labels, {fraction:g}")
    return scores.drop(columns="folder")


def read_scores(result_dir: Path) -> pd.DataFrame:
    """Scores of one folder: columns method, metric, label_fraction, value, sd and runs."""
    arguments = read_arguments(result_dir)
    scores = pd.read_csv(result_dir / "metrics.csv").assign(label_fraction=float(arguments["label_fraction"]))
    return scores.reindex(columns=["method", "metric", "label_fraction", "value", "sd", "runs"])


def read_arguments(result_dir: Path) -> dict[str, object]:
    """Arguments of the run whose results a folder holds."""
    require_whole(result_dir, "arguments.json", "metrics.csv")
    arguments = read_json_object(result_dir / "arguments.json", "arguments of downstream_tasks.py")
    if "label_fraction" not in arguments or not (result_dir / "metrics.csv").is_file():
        raise ScDMCError(f"{result_dir} is no output folder of downstream_tasks.py")
    return arguments


def require_same_test_cells(result_dirs: Sequence[Path]) -> None:
    """Raise if the arguments of two folders drew different test cells."""
    first, *others = [read_test_cells(path) for path in result_dirs]
    for path, arguments in zip(result_dirs[1:], others, strict=True):
        differing = [name for name in first if arguments[name] != first[name]]
        if differing:
            name = differing[0]
            raise ScDMCError(
                f"{result_dirs[0]} and {path} have other test cells: {name} is {first[name]} and {arguments[name]}"
            )


def read_test_cells(result_dir: Path) -> dict[str, object]:
    """The arguments of a run that decide which cells are test cells; of the data the file's name."""
    arguments = read_arguments(result_dir)
    # scDMC 0.1 called the data by the published name of the flag.
    data = Path(str(arguments.get("data_path", arguments.get("finetune_data_path")))).name
    # Earlier versions wrote all values as text.
    return {"data_path": data} | {name: str(arguments.get(name)) for name in SAME}


def write_learning_curve(output_dir: Path, scores: pd.DataFrame, metric: str, made: Provenance) -> None:
    """Write the table of all scores, the figure of one metric, and the page.

    Parameters
    ----------
    output_dir
        Where to.
    scores
        From :func:`join_scores`.
    metric
        The score that is drawn.
    made
        From what.
    """
    with atomic_path(output_dir / "learning_curve.csv") as temporary:
        scores.to_csv(temporary, index=False)
    keep_results(output_dir)
    lead = curve_verdict(scores, metric)
    png = save_figure(learning_curve_figure(scores, metric, lead.headline), output_dir / "learning_curve")
    drawn = scores[scores["metric"] == metric].pivot(index="method", columns="label_fraction", values="value")
    drawn.columns = [f"{_percent(share)} of the labels" for share in drawn.columns]
    caption = "The same test cells everywhere; bars: one standard deviation of the runs"
    sections = [
        Section("Curve", figures=[(caption, png, f"{lead.headline}. {caption}")]),
        Section("Scores", tables=[(f"{metric} of each method", drawn.reset_index()), ("Every score", scores)]),
    ]
    write_report(output_dir / "report.html", f"Learning curve: {metric} by share of the labels", sections, lead, made)


def curve_verdict(scores: pd.DataFrame, metric: str) -> Verdict:
    """Whether the fine-tuned model is ahead with the fewest and with the most labels, and what few labels cost it.

    Parameters
    ----------
    scores
        From :func:`join_scores`.
    metric
        The score that is compared; higher is better.
    """
    drawn = scores[scores["metric"] == metric].pivot(index="method", columns="label_fraction", values="value")
    ours = FINE_TUNED if FINE_TUNED in drawn.index else drawn.index[0]
    numbers, ahead = [], []
    shares = list(dict.fromkeys((drawn.columns.min(), drawn.columns.max())))
    for share in shares:
        value, others = drawn.loc[ours, share], drawn[share].drop(ours).dropna()
        beside = f"{others.max():.3f} for {others.idxmax()}" if len(others) else "no other method was measured"
        numbers.append(KeyNumber(f"{metric} with {_percent(share)} of the labels", f"{value:.3f}", beside))
        if len(others) and value > others.max():
            ahead.append(_percent(share))
    if len(drawn) == 1:
        headline, level = f"{ours} has a {metric} of {drawn.loc[ours, shares[-1]]:.3f} with the most labels", "caution"
    elif ahead:
        level = "good" if len(ahead) == len(shares) else "caution"
        headline = f"{ours} is ahead with {' and '.join(ahead)} of the labels"
    else:
        where = " and ".join(_percent(share) for share in shares)
        level, headline = "caution", f"{ours} is not ahead with {where} of the labels"
    if len(shares) > 1:
        lost = drawn.loc[ours, shares[-1]] - drawn.loc[ours, shares[0]]
        beside = f"{_percent(shares[0])} instead of {_percent(shares[-1])}"
        numbers.append(KeyNumber("What few labels cost", f"{lost:.3f}", beside))
    return Verdict(level, headline, (), tuple(numbers))


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
