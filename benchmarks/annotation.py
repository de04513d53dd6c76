"""How right the labels are that a reference gives: within data sets, across batches and files, beside controls."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_batch_key_argument,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_file_argument,
    add_seed_argument,
    placement,
)
from scdmc.cli.inputs import require_input, require_model
from scdmc.cli.parser import argument_parser, positive_int, script, share
from scdmc.errors import ScDMCError

if TYPE_CHECKING:
    import pandas as pd

    from scdmc.studies.annotation_views import Describer
    from scdmc.views.fine_tuned import FineTuner

EXAMPLES = (
    "{prog} --model scDMC-small --within blood.h5ad islets.h5ad --label_fractions 0.05 0.1 1 --output_file rows.csv",
    "{prog} --model scDMC-small --batches lines.h5ad --pairs sorted.h5ad kang.h5ad --output_file rows.csv",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    files = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    parser.add_argument("--within", **files, help="labelled files that are split into labelled and new cells")
    parser.add_argument("--batches", **files, help="labelled files of which each batch is new once")
    parser.add_argument(
        "--pairs", **files, help="two files, each of which labels the other; blood types are made coarse"
    )
    parser.add_argument("--label_fractions", type=share, nargs="+", default=[1.0], help="shares of the labels, within")
    meaning = "add the fine-tuned view: a fine-tuning for each fold of the labelled cells and one more, in each run"
    parser.add_argument("--finetuned", action="store_true", help=meaning)
    add_seed_argument(parser, "of the first run")
    parser.add_argument("--seeds", type=positive_int, default=3, help="runs with seeds from --seed on")
    add_output_file_argument(
        parser,
        "rows as CSV; a run that is there is not repeated",
        (".csv",),
        overwrite="forget the rows that are there",
    )
    add_label_key_argument(parser)
    add_batch_key_argument(parser)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    if len(arguments.pairs) not in (0, 2):
        raise ScDMCError(f"--pairs takes two files, not {len(arguments.pairs)}")
    if not (arguments.within or arguments.batches or arguments.pairs):
        raise ScDMCError("nothing to measure: name files with --within, --batches or --pairs")
    return arguments


def runs(
    arguments: argparse.Namespace, describer: "Describer", rows: "pd.DataFrame", fine_tuner: "FineTuner | None"
) -> Iterator["pd.DataFrame"]:
    """The rows of each run that is not there yet."""
    from functools import partial

    import numpy as np

    from scdmc.labels import labels_of
    from scdmc.studies import annotation_views
    from scdmc.studies.annotation_views import read_labelled, within_rows

    is_done = partial(annotation_views.is_done, with_fine_tuned=arguments.finetuned)
    across_rows = partial(annotation_views.across_rows, fine_tuner=fine_tuner)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    for path in arguments.within:
        file = read_labelled(path, describer.tokenizer, arguments.label_key)
        name, (features,) = file.counts.name, describer.features(file.counts)
        for seed in seeds:
            for fraction in arguments.label_fractions:
                if not is_done(rows, "within", name, name, fraction, seed):
                    yield within_rows(file, features, fraction, seed, fine_tuner)
    for path in arguments.batches:
        file = read_labelled(path, describer.tokenizer, arguments.label_key)
        batch, name = labels_of(file.counts.obs[arguments.batch_key]), file.counts.name
        for left_out in np.unique(batch.astype(str)):
            parts = [file.select(np.flatnonzero(chosen)) for chosen in (batch != left_out, batch == left_out)]
            names = (f"{name} without a batch", f"{name} {left_out}")
            if not is_done(rows, "across", *names, 1.0, arguments.seed):
                yield across_of(describer, names, parts, arguments.seed, across_rows)
    files = [read_labelled(path, describer.tokenizer, arguments.label_key, is_coarse=True) for path in arguments.pairs]
    for pair in (files, files[::-1]) if files else ():
        names = tuple(file.counts.name for file in pair)
        if not is_done(rows, "across", *names, 1.0, arguments.seed):
            yield across_of(describer, names, pair, arguments.seed, across_rows)


def across_of(
    describer: "Describer", names: tuple, parts: list, seed: int, across_rows: Callable[..., "pd.DataFrame"]
) -> "pd.DataFrame":
    """The rows of one reference and its new cells."""
    reference, new = describer.features(*(part.counts for part in parts))
    return across_rows(names, reference, parts[0].labels, new, parts[1].labels, seed)


@script
def main(argv: list[str] | None = None) -> int:
    """Measure what is not there yet, row by row, and print the table."""
    arguments = parse_arguments(argv)
    require_model(arguments.model)
    for flag in ("within", "batches", "pairs"):
        for path in getattr(arguments, flag):
            require_input(path, f"--{flag}")

    import numpy as np

    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.reports.tables import markdown, score_texts
    from scdmc.studies.annotation_views import RUN_COLUMNS, Describer, add_rows, read_rows, summary
    from scdmc.views.fine_tuned import FineTuner
    from scdmc.views.options import VIEW_CHOICES, VIEWS

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    if arguments.overwrite:
        arguments.output_file.unlink(missing_ok=True)
    rows = read_rows(arguments.output_file)
    views = VIEW_CHOICES if arguments.finetuned else VIEWS
    describer = Describer.of(model_directory, encoder, arguments.seed, views)
    fine_tuner = FineTuner(model_directory, encoder, arguments.seed) if arguments.finetuned else None
    for more in runs(arguments, describer, rows, fine_tuner):
        rows = add_rows(arguments.output_file, rows, more)
        print(more.drop(columns=RUN_COLUMNS).round(3).to_string(index=False), flush=True)
    texts = score_texts(*summary(rows))
    print(markdown(texts, np.zeros(texts.shape, dtype=bool)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
