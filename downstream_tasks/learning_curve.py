"""Learning curves: scores of fine-tuning runs that used different shares of the labels, as one table and one figure."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_file
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_folder
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --result_dirs all_labels tenth_of_labels --output_dir learning_curve",
    "{prog} --result_dirs all_labels tenth_of_labels --output_dir learning_curve --metric accuracy --overwrite",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the learning curves."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--result_dirs",
        type=Path,
        nargs="+",
        required=True,
        metavar="RESULT_DIR",
        help="output folders of downstream_tasks.py, run with the same seeds and different --label_fraction",
    )
    add_output_dir_argument(parser, meaning="folder for the table, the figure and report.html")
    parser.add_argument("--metric", default="macro_f1", help="score that is drawn; the table has all")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Join, draw, save."""
    began, arguments = time.time(), parse_arguments(argv)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    for folder in arguments.result_dirs:
        require_results(folder)

    from scdmc.annotation.learning_curve import join_scores, write_learning_curve
    from scdmc.reports.provenance import Provenance

    made = Provenance(tuple(folder / "metrics.csv" for folder in arguments.result_dirs), began=began)
    scores = join_scores(arguments.result_dirs)
    if arguments.metric not in set(scores["metric"]):
        raise ScDMCError(f"--metric {arguments.metric}: there are {', '.join(scores['metric'].unique())}")
    with result_folder(arguments.output_dir) as folder:
        write_learning_curve(folder, scores, arguments.metric, made)
    shown = scores[scores["metric"] == arguments.metric]
    print(shown.pivot(index="method", columns="label_fraction", values="value").round(3).to_string())
    print(f"wrote {arguments.output_dir / 'learning_curve.csv'}")
    return 0


def require_results(folder: Path) -> None:
    """Refuse what is no output folder of fine-tuning."""
    for name in ("arguments.json", "metrics.csv"):
        if not (folder / name).is_file():
            raise ScDMCError(f"--result_dirs {folder} is no output folder of downstream_tasks.py: it has no {name}")
        require_file(folder / name, "--result_dirs")


if __name__ == "__main__":
    raise SystemExit(main())
