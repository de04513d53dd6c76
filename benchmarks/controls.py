"""Does pre-training beat its controls? Linear probes of frozen states with few labels, beside vectors never trained.

The controls of a model are the mean of its gene vectors, weighted by value, without any encoder, and principal
components of the judged cells. Judge the start of a training (scDMC_pretrain.py --max_steps 1 --learning_rate 1e-12) as
well, and its gene vectors and its encoder are the untrained ones. Each call adds a model to the tables of one folder;
states and scores that are there are not computed again, and those of other cells, weights or settings are refused.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_label_key_argument,
    add_max_length_argument,
    add_model_argument,
    add_model_arguments,
    add_seed_argument,
    count_options_for,
    placement,
)
from scdmc.cli.inputs import require_gene_files, require_input, require_model
from scdmc.cli.parser import argument_parser, positive_int, script, share
from scdmc.errors import ScDMCError
from scdmc.files import (
    atomic_path,
    known_sha256,
    names_of_files,
    read_json_object,
    require_writable_folder,
    write_json,
)
from scdmc.locks import claim_output
from scdmc.model.shipped import model_folder

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = (
    "{prog} --model scDMC-small --data_path islets.h5ad --output_dir controls",
    "{prog} --model pretrained --data_path PBMC.h5ad islets.h5ad --label_fractions 0.05 0.1 1 --output_dir controls",
)
PCA = "PCA of 2,000 variable genes"
# Scores of another probe do not stand beside these.
PROBE = "fit of a view, C by the log loss of folds"
# What scores depend on, beside the cells and the weights.
SETTINGS = (
    "label_key", "max_length", "label_fractions", "splits", "seed", "dtype", "layer", "gene_id_column",
    "gene_mapping_file", "token_dictionary_file", "allow_normalized", "recompute_totals",
)  # fmt: skip


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the judge."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, "folder of a pre-trained model")
    add_data_argument(parser, meaning="labelled .h5ad or tokenized parquet; one or several", nargs="+")
    parser.add_argument("--output_dir", type=Path, required=True, help="states, scores and table; appended to")
    add_label_key_argument(parser, "column of obs with the types")
    add_max_length_argument(parser, meaning="most tokens of a stream that are read (default: as the model says)")
    parser.add_argument(
        "--label_fractions",
        type=share,
        nargs="+",
        default=[0.05, 0.1, 1.0],
        metavar="SHARE",
        help="shares of the labels that the probes get",
    )
    parser.add_argument("--splits", type=positive_int, default=3, help="stratified, 80 / 20")
    add_seed_argument(parser, "of the splits and of PCA")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def embeddings_of(path: Path, name: str, arguments: argparse.Namespace) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """What is judged of the cells of a file, and their labels; from the folder of states if they are there."""
    import numpy as np

    from scdmc.studies.few_labels import judged_embeddings

    kept = arguments.output_dir / "states" / model_name(arguments) / f"{name}.npz"
    if not kept.is_file():
        states = frozen(path, arguments)
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, **states)
    with np.load(kept, allow_pickle=False) as content:
        arrays = {key: content[key] for key in content.files}
    labels = arrays.pop("labels")
    controls = {key: arrays.pop(key) for key in ("gene vectors", PCA)}
    return {**judged_embeddings(arrays), **controls}, labels


def frozen(path: Path, arguments: argparse.Namespace) -> dict[str, "np.ndarray"]:
    """States after all layers, the controls, and the labels ('' for none)."""
    import numpy as np

    from scdmc.cells.data import read_cells
    from scdmc.cells.expression import read_expression
    from scdmc.integration.methods import pca_of_variable_genes
    from scdmc.labels import is_missing, labels_of
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.studies.few_labels import frozen_states, mean_gene_vectors

    directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    directory = directory.with_context(arguments.max_length)
    encoder = place_model(load_model(directory.path, ScDMCModel), **placement(arguments))
    options = count_options_for(arguments, path)
    cells = read_cells(path, directory, [arguments.label_key], options)
    labels = labels_of(cells.obs[arguments.label_key])
    vectors = encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    expression, _ = read_expression(path, cells, directory, options)
    return {
        **frozen_states(encoder, cells),
        "gene vectors": mean_gene_vectors(vectors, cells),
        PCA: pca_of_variable_genes(expression, seed=arguments.seed),
        "labels": np.where(is_missing(labels), "", labels).astype(str),
    }


def model_name(arguments: argparse.Namespace) -> str:
    """What the tables call the model."""
    return arguments.model.resolve().name if arguments.model.is_dir() else str(arguments.model)


def judge(path: Path, name: str, arguments: argparse.Namespace) -> None:
    """Write the scores of the model on a file, unless they are there."""
    import pandas as pd

    from scdmc.studies.few_labels import few_label_scores

    target = arguments.output_dir / "scores" / f"{model_name(arguments)}-{name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    require_same_question(path, target.with_suffix(".json"), arguments)
    if target.is_file():
        return
    embeddings, labels = embeddings_of(path, name, arguments)
    how = (arguments.label_fractions, arguments.splits, arguments.seed)
    parts = {
        embedding: few_label_scores(values, labels, *how, has_one_spread=embedding == PCA)
        for embedding, values in embeddings.items()
    }
    scores = pd.concat(parts, names=["embedding", None]).reset_index("embedding")
    scores.insert(0, "data", name)
    scores.insert(0, "model", model_name(arguments))
    with atomic_path(target) as temporary:
        scores.to_csv(temporary, index=False)


def require_same_question(path: Path, kept: Path, arguments: argparse.Namespace) -> None:
    """Write down what is asked, or compare it with what the folder of tables was asked before.

    Raises
    ------
    ScDMCError
        If states or scores of the same name are those of other cells, of another model or of other settings.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    model = [
        file for file in sorted(model_folder(arguments.model).iterdir()) if file.suffix in (".safetensors", ".json")
    ]
    question = {name: str(getattr(arguments, name)) for name in SETTINGS} | {"probe": PROBE}
    question |= {"cells": [known_sha256(file) for file in files], "weights": [known_sha256(file) for file in model]}
    if not kept.is_file():
        write_json(kept, question)
        return
    before = read_json_object(kept, "what the kept scores are of")
    changed = [name for name, value in question.items() if before.get(name) != value]
    if changed:
        raise ScDMCError(
            f"{arguments.output_dir} holds scores of {model_name(arguments)} on {path.name} with other "
            f"{', '.join(changed)}; give another --output_dir"
        )


def write_table(output_dir: Path) -> str:
    """Rebuild the tables of all models that were judged: macro-F1, mean ± standard deviation over the splits."""
    import pandas as pd

    from scdmc.reports.tables import best_of_columns, markdown, score_texts, write_csv

    scores = pd.concat([pd.read_csv(path) for path in sorted((output_dir / "scores").glob("*.csv"))])
    is_pca = scores["embedding"] == PCA
    scores["method"] = scores["model"] + ": " + scores["embedding"]
    scores.loc[is_pca, "method"] = PCA
    scores["column"] = scores["data"] + ", " + (100 * scores["fraction"]).map("{:g}%".format)
    scores = scores.drop_duplicates(["method", "column", "split"])  # principal components are those of every model
    grouped = scores.groupby(["method", "column"], sort=False)["macro_f1"]
    means, deviations = grouped.mean().unstack(), grouped.std().unstack()
    table = markdown(score_texts(means, deviations), best_of_columns(means))
    write_csv(output_dir / "scores.csv", scores)
    with atomic_path(output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf8")
    return table


@script
def main(argv: list[str] | None = None) -> int:
    """Freeze, probe, print the table of all models of the folder."""
    arguments = parse_arguments(argv)
    names = names_of_files(arguments.data_path, "--data_path")
    require_model(arguments.model)
    for path in arguments.data_path:
        require_input(path, "--data_path")
    require_gene_files(arguments)
    require_writable_folder(arguments.output_dir)
    claim_output(arguments.output_dir)
    for name, path in zip(names, arguments.data_path, strict=True):
        judge(path, name, arguments)
    print(write_table(arguments.output_dir))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
