"""What matters in pre-training: variants trained with one budget, and judged on cells that none of them saw.

Each variant differs from the first one by one idea. Runs, scores and the table append to one output folder: a run that
is there is not trained again, and a score that is there is not computed again, so judges, seeds, budgets and variants
can be added later, and several processes can work on different variants. Labels are for the judges only.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.annotation.options import FINE_TUNED
from scdmc.cli.arguments import (
    add_batch_key_argument,
    add_data_argument,
    add_label_key_argument,
    add_leave_out_argument,
    add_num_gpus_argument,
    add_seed_argument,
)
from scdmc.cli.inputs import require_input, require_tokenized
from scdmc.cli.parser import argument_parser, positive_int, script, share
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, names_of_files, read_json_object, remove, require_writable_folder, write_json
from scdmc.locks import claim_output
from scdmc.result_folders import is_whole
from scdmc.studies.variants import SCALING, TINY, VARIANTS, WHOLE_STUDY, training_flags

if TYPE_CHECKING:
    import pandas as pd

    from scdmc.studies.ablation import JudgedModel

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
PRETRAIN, FINE_TUNE = ROOT / "pretrain" / "scDMC_pretrain.py", ROOT / "downstream_tasks" / "downstream_tasks.py"
JUDGES = ("mlm", "probe", "integration", "few_labels", "fine_tuning")
SCALING_GROUP = "scaling"
TOOK = ("cells_seen", "minutes", "training_cells", "hidden_size")  # what a run took, in training.json and the tables
EXAMPLES = (
    "{prog} --data_path tokenized --types_data_path islets.h5ad --batches_data_path islets.h5ad --output_dir study",
    "{prog} --data_path tokenized --types_data_path islets.h5ad --variants sized --budget tiny --output_dir study",
)


@dataclass(frozen=True)
class Run:
    """One training of a variant."""

    variant: str
    budget: str
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        """What training and fine-tuning print."""
        return self.folder.with_name(f"{self.folder.name}.log")


Scores = dict[str, dict[str, float]]  # embedding -> metric -> value
# Name of the judge, name of the data, what computes the scores.
Task = tuple[str, str, Callable[["JudgedModel"], Scores]]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the study."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(parser, "--dataset_path", meaning="tokenized parquet to train on")
    parser.add_argument(
        "--dataset_without_medians",
        type=Path,
        help="the same cells, tokenized without gene medians (default: no_medians is left out)",
    )
    add_leave_out_argument(parser)
    parser.add_argument(
        "--types_data_path",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="labelled cells that were never trained on, for probes and fine-tuning: .h5ad or parquet",
    )
    parser.add_argument(
        "--batches_data_path",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="cells of several batches, never trained on, for zero-shot integration",
    )
    add_label_key_argument(parser, "column of obs with the types, for the judges only")
    add_batch_key_argument(parser)
    add_run_arguments(parser)
    parser.add_argument("--judges", nargs="+", default=list(JUDGES[:3]), metavar="NAME", help=", ".join(JUDGES))
    parser.add_argument(
        "--label_fractions",
        type=share,
        nargs="+",
        default=[0.05, 1.0],
        metavar="SHARE",
        help="shares of the labels that fine-tuning and few_labels get",
    )
    parser.add_argument(
        "--most_cells",
        type=positive_int,
        default=2000,
        help="cells of each data set that probe and integration read; fine-tuning and few_labels read all",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="models, scores, table and figures; appended to")
    add_num_gpus_argument(parser)
    arguments = parser.parse_args(argv)
    arguments.variants = [
        name for word in arguments.variants for name in (SCALING if word == SCALING_GROUP else (word,))
    ]
    require_known(arguments)
    return arguments


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Which variants are trained, how long and how often."""
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(WHOLE_STUDY),
        metavar="NAME",
        help=f"which to run; {SCALING_GROUP}: {', '.join(SCALING)} (default: all but these and tissues_*)",
    )
    parser.add_argument(
        "--budget",
        type=budget,
        nargs="+",
        default=["4000"],
        help=f"cells that each run sees, one or several; {TINY}: two steps of a tiny model, to see that all works",
    )
    add_seed_argument(parser, "of the first run of each variant")
    parser.add_argument(
        "--seeds", type=positive_int, default=1, help="runs of each variant, with the seeds from --seed on"
    )


def budget(text: str) -> str:
    """Argparse type: a number of cells as text, or ``tiny``."""
    return text if text == TINY else str(positive_int(text))


def require_known(arguments: argparse.Namespace) -> None:
    """Refuse what would only fail after hours of training: unknown names, absent files, judges without data."""
    for flag, known in (("variants", VARIANTS), ("judges", JUDGES)):
        unknown = [name for name in getattr(arguments, flag) if name not in known]
        if unknown:
            raise ScDMCError(f"--{flag} {' '.join(unknown)}: there are {', '.join(known)}")
    for flag in ("types_data_path", "batches_data_path"):
        paths = getattr(arguments, flag)
        names_of_files(paths, f"--{flag}")
        for path in paths:
            require_input(path, f"--{flag}")
    if "fine_tuning" in arguments.judges and not arguments.types_data_path:
        raise ScDMCError("--judges fine_tuning needs labelled cells: --types_data_path")


# ---- training


def planned_runs(arguments: argparse.Namespace) -> list[Run]:
    """All variants with the first seed, then with the next."""
    variants = list(dict.fromkeys(arguments.variants))
    if arguments.dataset_without_medians is None and not all(VARIANTS[name].has_medians for name in variants):
        logger.info("no_medians is left out: it needs --dataset_without_medians")
        variants = [name for name in variants if VARIANTS[name].has_medians]
    models = arguments.output_dir / "models"
    return [
        Run(name, length, number, models / f"{name}-{length}-{number}")
        for number in range(arguments.seed, arguments.seed + arguments.seeds)
        for length in dict.fromkeys(arguments.budget)
        for name in variants
        if VARIANTS[name].is_trained or length == arguments.budget[0]  # one start for all budgets
    ]


def run_script(command: list[str], log: Path) -> None:
    """Run a script of this repository, its output appended to a log.

    Raises
    ------
    ScDMCError
        If it fails; the message has the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        status = subprocess.run([sys.executable, *command], stdout=output, stderr=output, check=False).returncode
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines[-5:] if line.startswith("error: ")] or lines[-5:]
        raise ScDMCError(f"{Path(command[0]).name} ended with status {status} ({log}):\n" + "\n".join(errors))


def device_flags(arguments: argparse.Namespace) -> list[str]:
    """``--num_gpus``, where it was given."""
    return [] if arguments.num_gpus is None else ["--num_gpus", str(arguments.num_gpus)]


def train(run: Run, arguments: argparse.Namespace) -> None:
    """Train a run, or go on with it where it was interrupted; one that is there stays.

    Raises
    ------
    ScDMCError
        If training fails, or the run that is there was trained on other data or with other flags.
    """
    dataset = arguments.data_path if VARIANTS[run.variant].has_medians else arguments.dataset_without_medians
    from scdmc.model.names import WEIGHTS_FILE
    from scdmc.training.checkpoint_files import checkpoints

    flags = training_flags(run.variant, run.budget, run.seed)
    if arguments.leave_out:
        flags += ["--leave_out", *arguments.leave_out]
    if not ((run.folder / WEIGHTS_FILE).is_file() and is_whole(run.folder)):
        start = ["--resume"] if checkpoints(run.folder) else ["--overwrite"]
        place = ["--data_path", str(dataset), "--output_dir", str(run.folder)]
        logger.info("training %s; its log is %s", run.folder.name, run.log)
        run_script([str(PRETRAIN), *place, *flags, *start, *device_flags(arguments)], run.log)
    facts = {"dataset": Path(dataset).name, "flags": flags}
    record_training(run, facts)
    recorded = read_json_object(run.folder / "training.json", "how the run was trained")
    if any(recorded[name] != fact for name, fact in facts.items()):
        raise ScDMCError(
            f"{run.folder} was trained on {recorded['dataset']} with {' '.join(recorded['flags'])}, not on "
            f"{facts['dataset']} with {' '.join(flags)}; choose another --output_dir, or delete it"
        )


def record_training(run: Run, facts: dict[str, object]) -> None:
    """Keep what a finished run took in ``training.json``, and delete its checkpoints, which are larger than the model.

    Nothing happens if that has been done.
    """
    if (run.folder / "training.json").is_file():
        return
    from scdmc.training.checkpoint_files import STATE_FILE, checkpoints

    state = json.loads((checkpoints(run.folder)[-1] / STATE_FILE).read_text())
    took = {
        "cells_seen": state["step"] * state["run"]["batch_size"],
        "minutes": state["trained_seconds"] / 60,
        "training_cells": state["run"]["n_training_cells"],
        "hidden_size": state["run"]["hidden_size"],
    }
    write_json(run.folder / "training.json", facts | took)
    remove(run.folder / "checkpoints")


# ---- judging


def fine_tuning_flags(run: Run, path: Path, fraction: float, arguments: argparse.Namespace) -> list[str]:
    """Flags of ``downstream_tasks.py``, but for the output."""
    values = {
        "model": run.folder,
        "data_path": path,
        "seed": run.seed,
        "label_key": arguments.label_key,
        "label_fraction": fraction,
        "baselines": "none",
        "stream": VARIANTS[run.variant].stream,
    }
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return [*flags, *(["--epochs", "1"] if run.budget == TINY else []), *device_flags(arguments)]


def fine_tuning_judge(model: "JudgedModel", flags: list[str], log: Path) -> Scores:
    """Macro-F1 of the fine-tuned model on the test cells, by the script that users call; its classifier is not kept."""
    import pandas as pd

    folder = model.directory.path
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as output_dir:
        run_script([str(FINE_TUNE), *flags, "--output_dir", output_dir], log)
        metrics = pd.read_csv(Path(output_dir) / "metrics.csv").set_index(["method", "metric"])["value"]
    return {"fine-tuned": {"macro_f1": metrics[FINE_TUNED, "macro_f1"]}}


def tasks(run: Run, arguments: argparse.Namespace) -> Iterator[Task]:
    """Every judge on every data set that it reads."""
    from scdmc.studies.ablation import (
        HELD_OUT,
        few_labels_judge,
        integration_judge,
        masked_gene_judge,
        probe_judge,
    )

    label_key, batch_key, judges = arguments.label_key, arguments.batch_key, arguments.judges
    if "mlm" in judges:
        yield "mlm", HELD_OUT, masked_gene_judge
    for path in arguments.types_data_path if "probe" in judges else ():
        options = {"path": path, "label_key": label_key, "most_cells": arguments.most_cells}
        yield "probe", path.stem, partial(probe_judge, **options)
    for path in arguments.types_data_path if "few_labels" in judges else ():
        options = {"path": path, "label_key": label_key, "fractions": arguments.label_fractions}
        yield "few_labels", path.stem, partial(few_labels_judge, **options)
    for path in arguments.batches_data_path if "integration" in judges else ():
        options = {"path": path, "label_key": label_key, "batch_key": batch_key, "most_cells": arguments.most_cells}
        yield "integration", path.stem, partial(integration_judge, **options)
    for path in arguments.types_data_path if "fine_tuning" in judges else ():
        for fraction in arguments.label_fractions:
            judge = partial(fine_tuning_judge, flags=fine_tuning_flags(run, path, fraction, arguments), log=run.log)
            yield "fine_tuning", f"{path.stem}, {100 * fraction:g}% of labels", judge


def judge_run(run: Run, arguments: argparse.Namespace) -> bool:
    """Add the scores that ``scores.csv`` of a run lacks, each judge's as soon as they are there; True if any was."""
    import pandas as pd

    from scdmc.studies.ablation import open_judged, score_rows

    path = run.folder / "scores.csv"
    scores = pd.read_csv(path, dtype={"budget": str}) if path.is_file() else pd.DataFrame(columns=["judge", "data"])
    known = set(zip(scores["judge"], scores["data"], strict=True))
    missing = [task for task in tasks(run, arguments) if task[:2] not in known]
    if not missing:
        return False
    took = read_json_object(run.folder / "training.json", "how the run was trained")
    facts = {
        "variant": run.variant,
        "budget": run.budget,
        "seed": run.seed,
        **{name: took.get(name) for name in TOOK},  # a run of an earlier version does not say all
    }
    model = open_judged(run.folder, VARIANTS[run.variant].stream, arguments.num_gpus)
    rows = scores.to_dict("records")
    for judge, data, compute in missing:
        logger.info("judging %s: %s, %s", run.folder.name, judge, data)
        rows += [facts | row for row in score_rows(judge, data, compute(model))]
        with atomic_path(path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
    return True


# ---- the table


def read_study(output_dir: Path) -> "pd.DataFrame":
    """The scores of all runs in the folder, below each other."""
    import pandas as pd

    files = sorted((output_dir / "models").glob("*/scores.csv"))
    if not files:
        raise ScDMCError(f"{output_dir} holds no score yet")
    return pd.concat([pd.read_csv(path, dtype={"budget": str}) for path in files], ignore_index=True)


def write_study(output_dir: Path) -> str:
    """Rebuild the table from the scores of all runs; returns it for people."""
    from scdmc.studies.ablation import study_markdown

    study = read_study(output_dir)
    table = study_markdown(study)
    with atomic_path(output_dir / "study.csv") as temporary:
        study.to_csv(temporary, index=False)
    with atomic_path(output_dir / "study.md") as temporary:
        temporary.write_text(table, encoding="utf8")
    return table


def draw_study(output_dir: Path) -> None:
    """Draw the scores of all runs, and how they grow with training."""
    from scdmc.reports.figures import save_figure
    from scdmc.studies.ablation import headline_scores
    from scdmc.studies.figures import dot_plot_figure, scaling_figure

    rows = headline_scores(read_study(output_dir))
    is_trained = ~rows["variant"].isin([name for name, variant in VARIANTS.items() if not variant.is_trained])
    figure = dot_plot_figure(rows, "Variants of pre-training, judged on cells that were not trained on")
    save_figure(figure, output_dir / "study")
    if is_trained.any():
        title = "Scores on cells that were not trained on, by length of training"
        save_figure(scaling_figure(rows[is_trained], title), output_dir / "scaling")
    write_scaling(output_dir, rows[is_trained & rows["variant"].isin(SCALING)])


def write_scaling(output_dir: Path, rows: "pd.DataFrame") -> None:
    """Fit what longer training, more cells and larger models give, if there are runs enough to tell."""
    import numpy as np

    from scdmc.reports.figures import save_figure
    from scdmc.reports.tables import markdown, write_csv
    from scdmc.studies.scaling import extrapolation_figure, rows_to_fit, scaling_table

    rows = rows_to_fit(rows[rows["budget"] != TINY])  # a tiny run learns nothing, and has another size
    if rows.empty:
        return
    table = scaling_table(rows)
    write_csv(output_dir / "scaling.csv", table.reset_index())
    with atomic_path(output_dir / "scaling.md") as temporary:
        temporary.write_text(markdown(table, np.zeros(table.shape, dtype=bool), "score"), encoding="utf8")
    title = (
        "What longer training gives. Line and band: the fit for all cells and hidden size 64, and where one more run "
        "would lie;\nright of the dotted line the training cells grow with the cells seen"
    )
    save_figure(extrapolation_figure(rows, title), output_dir / "scaling_fit")
    print(f"wrote {output_dir / 'scaling.csv'}, scaling.md, and the figure scaling_fit")


@script
def main(argv: list[str] | None = None) -> int:
    """Train and judge each variant, then print the table of all that are there."""
    arguments = parse_arguments(argv)
    output_dir = arguments.output_dir
    require_writable_folder(output_dir)
    claim_output(output_dir)
    require_tokenized(arguments.data_path, "--data_path")
    if arguments.dataset_without_medians is not None:
        require_tokenized(arguments.dataset_without_medians, "--dataset_without_medians")
    runs = planned_runs(arguments)
    failed = []
    for number, run in enumerate(runs, 1):
        logger.info("run %d of %d: %s", number, len(runs), run.folder.name)
        try:
            train(run, arguments)
        except ScDMCError as error:  # a variant that diverges is a result, too; the others go on
            logger.warning("warning: %s failed: %s", run.folder.name, error)
            failed.append(run.folder.name)
            continue
        if judge_run(run, arguments):
            write_study(output_dir)
    if len(failed) < len(runs):
        print(write_study(output_dir))
        draw_study(output_dir)
        print(f"wrote {output_dir / 'study.csv'}, study.md, and the figures study and scaling")
    if failed:
        raise ScDMCError(f"{len(failed)} of {len(runs)} runs failed, see above: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
