"""Learning curves: scores of fine-tuning runs that used different shares of the labels, as one table and one figure."""

import argparse
from pathlib import Path

import pandas as pd

from scdmc.annotation.figures import learning_curve_figure
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, require_new_folder
from scdmc.reports.figures import save_figure

METRIC = "macro_f1"
# What decides which cells are test cells.
SAME = ("label_key", "split_file", "split_by", "seed", "seeds", "cross_validate", "validation_fraction",
        "test_fraction", "min_cells_per_type", "hold_out_type")  # fmt: skip


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the learning curves."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--result_dirs",
        type=Path,
        nargs="+",
        required=True,
        help="output folders of downstream_tasks.py, run with the same seeds and different --label_fraction",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the table and the figure")
    parser.add_argument("--metric", default=METRIC, help="score that is drawn; the table has all")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    return parser.parse_args(argv)


def read_arguments(result_dir: Path) -> dict[str, object]:
    """Arguments of the run whose results a folder holds."""
    arguments = read_json_object(result_dir / "arguments.json", "arguments of downstream_tasks.py")
    if "label_fraction" not in arguments or not (result_dir / "metrics.csv").is_file():
        raise ScDMCError(f"{result_dir} is no output folder of downstream_tasks.py")
    return arguments


def read_scores(result_dir: Path) -> pd.DataFrame:
    """Scores of one folder: columns method, metric, label_fraction, value, sd and runs."""
    arguments = read_arguments(result_dir)
    scores = pd.read_csv(result_dir / "metrics.csv").assign(label_fraction=float(arguments["label_fraction"]))
    return scores.reindex(columns=["method", "metric", "label_fraction", "value", "sd", "runs"])


def require_same_test_cells(result_dirs: list[Path]) -> None:
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
    data = Path(str(arguments.get("finetune_data_path"))).name
    return {"finetune_data_path": data} | {name: arguments.get(name) for name in SAME}


def join_scores(result_dirs: list[Path]) -> pd.DataFrame:
    """Scores of all folders below each other.

    Raises
    ------
    ScDMCError
        If two folders have other test cells, or scores of the same method with the same share of the labels: which one
        counts is not clear.
    """
    require_same_test_cells(result_dirs)
    scores = pd.concat([read_scores(path).assign(folder=str(path)) for path in result_dirs], ignore_index=True)
    twice = scores[scores.duplicated(["method", "metric", "label_fraction"])]
    if len(twice):
        method, fraction = twice.iloc[0][["method", "label_fraction"]]
        folders = scores.loc[(scores["method"] == method) & (scores["label_fraction"] == fraction), "folder"].unique()
        raise ScDMCError(f"{' and '.join(folders)} both have {method} with the same share of the labels, {fraction:g}")
    return scores.drop(columns="folder")


@script
def main(argv: list[str] | None = None) -> int:
    """Join, draw, save."""
    arguments = parse_arguments(argv)
    scores = join_scores(arguments.result_dirs)
    if arguments.metric not in set(scores["metric"]):
        raise ScDMCError(f"--metric {arguments.metric}: there are {', '.join(scores['metric'].unique())}")
    require_new_folder(arguments.output_dir, arguments.overwrite)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    with atomic_path(arguments.output_dir / "learning_curve.csv") as temporary:
        scores.to_csv(temporary, index=False)
    figure = learning_curve_figure(scores, arguments.metric, "Scores on the same test cells by labels used in training")
    save_figure(figure, arguments.output_dir / "learning_curve")
    shown = scores[scores["metric"] == arguments.metric]
    print(shown.pivot(index="method", columns="label_fraction", values="value").round(3).to_string())
    print(f"wrote {arguments.output_dir / 'learning_curve.csv'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
