"""Every script that reads cells, on odd files: it ends well with results that can be true, or with one line of error.

:func:`try_script` runs in a child of the fork server, and says what is wrong with what it found.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.genes.ids import load_symbols
from scdmc.genes.vocabulary import load_vocabulary
from tests.faults.inputs import TYPES
from tests.faults.jobs import CONTEXT, SIZES, words_of
from tests.faults.odd_cells import OddCells, write_odd_cells
from tests.task_scripts import load_main

FEW = {"num_gpus": 0, "min_cells_per_type": 3}
PARTS = {"train", "validation", "test", "left_out"}


def try_script(name: str, seed: int, inputs: str, folder: str) -> dict:
    """Run a script on the file of a seed.

    Returns
    -------
    ``status``, ``traits`` of the file, and ``wrong``: what cannot be true of the results.
    """
    warnings.simplefilter("ignore")
    inputs, folder = Path(inputs), Path(folder)
    (folder / "counts").mkdir(parents=True)
    path = folder / "counts" / "cells.h5ad"
    odd = write_odd_cells(seed, path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    script, flags, check = RUNS[name]
    status = 0
    if name == "pre-train":
        status = run("tokenizer/tokenizer_combine.py", {
            "data_path": folder / "counts", "output_dir": folder / "tokens", "output_prefix": "cells",
            "max_length": CONTEXT, "token_dictionary_file": inputs / "vocabulary.json"})  # fmt: skip
    status = status or run(script, flags(inputs, path, folder / "out"))
    wrong = []
    if status == 0:
        try:
            check(odd, folder / "out", inputs)
        except AssertionError as failure:
            wrong.append(f"{name}: {failure}")
    elif (folder / "out").exists():
        wrong.append(f"{name}: refused, and yet there is {sorted(map(str, (folder / 'out').rglob('*')))[:5]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != before:
        wrong.append("the input was changed")
    return {"status": status, "traits": odd.traits, "shape": list(odd.adata.shape), "wrong": wrong}


def run(script: str, flags: dict) -> int:
    """Status of a script."""
    try:
        return load_main(script)(words_of(flags))
    except SystemExit as stop:
        return stop.code


# ---- what must be true, computed from the AnnData itself


def require(is_true: bool, what: str) -> None:
    """Say what is not true."""
    if not is_true:
        raise AssertionError(what)


def check_tokens(odd: OddCells, out: Path, inputs: Path) -> None:
    """Cells in their order; streams begin, end and ascend as they should, and rank the genes by value."""
    from scdmc.tokens.parquet import read_tokenized

    cells = read_tokenized(out)
    require(not odd.has_bad_counts, "counts that are none were tokenized")
    ids = cells.obs["cell_id"].tolist()
    names = list(odd.adata.obs_names)
    require(len(ids) <= len(names), f"{len(ids)} cells of {len(names)}")
    if "filter_pass" not in odd.adata.obs:
        require(ids == names, "cells are in another order")
    for cell in range(len(ids)):
        rank, expression = (
            ids_of[slice(*offsets[cell : cell + 2])]
            for ids_of, offsets in (
                (cells.rank_ids, cells.rank_offsets),
                (cells.expression_ids, cells.expression_offsets),
            )
        )
        require(rank[0] == expression[0] == 2 and rank[-1] == expression[-1] == 3, "no <cls> or no <eos>")
        require(len(rank) <= CONTEXT and sorted(rank[1:-1]) == list(expression[1:-1]), "streams of other genes")
    if is_plain(odd):
        check_ranks(odd, cells, inputs)


def is_plain(odd: OddCells) -> bool:
    """True for files whose streams a few lines can compute: symbols, counts in X, no totals of their own."""
    traits = set(odd.traits)
    return {"genes: symbols", "counts in X"} <= traits and not traits & {"n_counts", "filter_pass", "feature types"}


def dense_counts(odd: OddCells) -> np.ndarray:
    """X as an array."""
    return odd.adata.X.toarray() if scipy.sparse.issparse(odd.adata.X) else np.asarray(odd.adata.X)


def check_ranks(odd: OddCells, cells: object, inputs: Path) -> None:
    """The first genes of each cell, from the counts of the file alone (without medians)."""
    token_of = load_vocabulary(inputs / "vocabulary.json").token_ids
    symbols = load_symbols()
    counts = dense_counts(odd)
    tokens = [token_of.get(symbols.get(name.upper(), name)) for name in odd.adata.var_names]
    for cell, row in enumerate(counts):
        value = {token: count for token, count in zip(tokens, row, strict=True) if token is not None and count > 0}
        best = sorted(value, key=lambda token: (-value[token], token))[: CONTEXT - 2]
        found = [token for token in cells.rank_ids[slice(*cells.rank_offsets[cell : cell + 2])][1:-1] if token in value]
        require(found == best[: len(found)], f"cell {cell}: ranks {found[:5]}, should be {best[:5]}")
        require(bool(found) or not best, f"cell {cell} is empty, should be {best[:5]}")


def check_file(odd: OddCells, out: Path, inputs: Path) -> None:
    """Embeddings of all cells, finite, in their order; everything else as it was."""
    adata = anndata.read_h5ad(out / "cells.h5ad")
    require(list(adata.obs_names) == list(odd.adata.obs_names), "cells are in another order")
    require(not odd.has_bad_counts, "counts that are none were embedded")
    embeddings = adata.obsm["X_scDMC"]
    require(embeddings.shape == (odd.adata.n_obs, 2 * SIZES["hidden_size"]), f"embeddings are {embeddings.shape}")
    filtered = odd.adata.obs["filter_pass"].to_numpy() == 1 if "filter_pass" in odd.adata.obs else slice(None)
    require(bool(np.isfinite(embeddings[filtered]).all()), "embeddings are not finite")
    for name in odd.adata.obs.columns:
        require(
            name in adata.obs and list(map(str, adata.obs[name])) == list(map(str, odd.adata.obs[name])),
            f"obs[{name!r}] changed",
        )


def check_labels(odd: OddCells, out: Path, inputs: Path) -> None:
    """A label of the classifier for each cell, in the order of the file."""
    known = set(json.loads((inputs / "classifier" / "config.json").read_text())["id2label"].values()) | {"Unknown"}
    table = pd.read_csv(out / "labels.csv", dtype=str, keep_default_na=False)
    require(len(table) == odd.adata.n_obs, f"{len(table)} cells of {odd.adata.n_obs}")
    passes = odd.adata.obs["filter_pass"].to_numpy() == 1 if "filter_pass" in odd.adata.obs else slice(None)
    found = set(table["scDMC_cell_type"][passes])
    require(found <= known, f"labels {sorted(found - known)}")


def check_views(odd: OddCells, out: Path, _: Path) -> None:
    """Of odd new cells: a label of the reference for each, in their order, beside all that the file had."""
    adata = anndata.read_h5ad(out / "annotated.h5ad")
    require(list(adata.obs_names) == list(odd.adata.obs_names), "cells are in another order")
    require(not odd.has_bad_counts, "counts that are none were labelled")
    lost = [name for name in odd.adata.obs if name not in adata.obs]
    require(not lost, f"columns {lost} are lost")
    require_labels(adata.obs, {*TYPES, "Unknown"}, odd)


def check_labels_of_odd_reference(odd: OddCells, out: Path, _: Path) -> None:
    """By an odd reference: each new cell has one of its labels."""
    labels = odd.adata.obs["cell_type"].dropna().astype(str).str.strip()
    require(not odd.has_bad_counts, "counts that are none were learned")
    table = pd.read_csv(out / "labels.csv", keep_default_na=False, dtype={"scDMC_cell_type": str})
    table["scDMC_probability"] = pd.to_numeric(table["scDMC_probability"])
    found = table["scDMC_cell_type"].str.removeprefix("'").str.strip()
    require_labels(table.assign(scDMC_cell_type=found), {*labels, *(each.removeprefix("'") for each in labels)})


def require_labels(obs: pd.DataFrame, known: set[str], odd: OddCells | None = None) -> None:
    """Labels of these types, with a probability where there are counts."""
    if odd is not None and "filter_pass" in odd.adata.obs:
        obs = obs[odd.adata.obs["filter_pass"].to_numpy() == 1]
    found = set(obs["scDMC_cell_type"].astype(str)) - {"Unknown"}
    require(found <= known, f"labels {sorted(found - known)}")
    sure = obs.loc[obs["scDMC_cell_type"].astype(str) != "Unknown", "scDMC_probability"]
    require(bool(sure.between(0, 1 + 1e-6).all()), "probabilities beyond 0 to 1")


def check_split(odd: OddCells, out: Path, _: Path) -> None:
    """Each labelled cell of a type that is common enough once, with its own label."""
    table = pd.read_csv(out / "split.csv", dtype=str, keep_default_na=False)
    require(set(table["split"]) <= PARTS, f"parts {sorted(set(table['split']))}")
    require(set(table["cell_id"]) <= set(map(str, odd.adata.obs_names)), "cells that are not in the file")
    require(len(table) <= odd.adata.n_obs, "more cells than there are")
    of_type = table.loc[table["split"] != "left_out", "label"].value_counts()
    require(bool((of_type >= 3).all()), "rare types take part")


def check_corpus(odd: OddCells, out: Path, _: Path) -> None:
    """Cells with counts and a term, once each, in a part of the split."""
    from scdmc.text.corpus import read_corpus

    obs = read_corpus(out).cells.obs
    require(set(obs["split"]) <= PARTS, f"parts {sorted(set(obs['split']))}")
    require(set(obs["cell_id"]) <= set(map(str, odd.adata.obs_names)), "cells that are not in the file")
    require(len(obs) <= odd.adata.n_obs, "more cells than there are")
    require(bool(obs["cl_id"].str.fullmatch(r"CL:\d{7}").all()), "cells without a term")


def check_tables(odd: OddCells, out: Path, _: Path) -> None:
    """Scores lie within their bounds; tables of cells hold no cell that is not there."""
    names, n_cells = set(map(str, odd.adata.obs_names)), odd.adata.n_obs
    for path in out.rglob("*.csv"):
        table = pd.read_csv(path, dtype={"cell_id": str}, keep_default_na=False, na_values=[""])
        if "cell_id" in table and not table["cell_id"].isna().any():
            require(
                set(table["cell_id"].str.removeprefix("'")) <= names, f"{path.name}: cells that are not in the file"
            )
            require(len(table) <= n_cells, f"{path.name}: {len(table)} rows of {n_cells} cells")
        if path.name == "metrics.csv" and "value" in table:
            values = table.loc[table["metric"].isin(["accuracy", "macro_f1", "balanced_accuracy"]), "value"]
            require(bool(values.between(0, 1).all()), f"{path.name}: scores beyond 0 to 1")
    require(any(out.rglob("*.csv")), "no table at all")


def check_medians(odd: OddCells, out: Path, _: Path) -> None:
    """Medians are positive numbers; of a plain file, those that a few lines compute."""
    medians = json.loads((out / "medians.json").read_text())
    require(all(np.isfinite(value) and value > 0 for value in medians.values()), "medians that are no numbers above 0")
    require(not odd.has_bad_counts, "medians of counts that are none")
    if not is_plain(odd):
        return
    symbols = load_symbols()
    counts = dense_counts(odd)
    counts = counts[counts.sum(axis=1) > 0].astype(np.float64)
    for column, name in enumerate(odd.adata.var_names):
        gene = symbols.get(name.upper(), name)
        values = (counts[:, column] / counts.sum(axis=1) * 10_000)[counts[:, column] > 0]
        if gene in medians and len(values):
            require(
                bool(np.isclose(medians[gene], np.median(values), rtol=1e-4)),
                f"{gene}: {medians[gene]} is not {np.median(values)}",
            )


def check_model(odd: OddCells, out: Path, _: Path) -> None:
    """A model folder that opens, with finite weights."""
    from scdmc.model.storage import load

    model = load(out)
    require(all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()), "weights are not finite")
    require(not odd.has_bad_counts, "trained on counts that are none")


def on_cells(model: str = "model", output: str | None = None, **more: object) -> Callable:
    """Flags of a script with a model."""
    return lambda inputs, path, out: {
        "model": inputs / model, "data_path": path, "num_gpus": 0,
        **({"output_dir": out} if output is None else {"output_file": out / output}),
        **{name: inputs / value[1:] if isinstance(value, str) and value.startswith("@") else value
           for name, value in more.items()},
    }  # fmt: skip


TYPED = {"min_cells_per_type": 3}
RUNS = {
    "tokenize": (
        "tokenizer/tokenizer_combine.py",
        lambda inputs, path, out: {"data_path": path.parent, "output_dir": out, "output_prefix": "cells",
                                   "max_length": CONTEXT, "cells_per_shard": 20,
                                   "token_dictionary_file": inputs / "vocabulary.json"},
        check_tokens,
    ),
    "medians": (
        "tokenizer/gene_medians.py",
        lambda inputs, path, out: {"data_path": path.parent, "output_file": out / "medians.json",
                                   "token_dictionary_file": inputs / "vocabulary.json"},
        check_medians,
    ),
    "split": (
        "prepare/split_cells.py",
        lambda inputs, path, out: {"data_path": path, "output_file": out / "split.csv", **TYPED}, check_split,
    ),
    "corpus": (
        "tokenizer/text_corpus.py",
        lambda inputs, path, out: {"model": inputs / "model", "data_path": path, "output_dir": out,
                                   "text_encoder": "none", "allow_unmapped": True, **TYPED},
        check_corpus,
    ),
    "embed": ("downstream_tasks/embed.py", on_cells(output="cells.h5ad"), check_file),
    "annotate": ("downstream_tasks/annotate.py", on_cells("classifier", "labels.csv"), check_labels),
    "annotate with votes": (
        "downstream_tasks/annotate.py", on_cells("classifier", "labels.csv", majority_vote=True), check_labels,
    ),
    "annotate by a reference": (
        "downstream_tasks/annotate.py",
        on_cells("model", "labels.csv", reference="@counts/cells.h5ad", method="neighbours"), check_labels,
    ),
    "annotate by views": (
        "downstream_tasks/annotate.py", on_cells("model", reference="@counts/cells.h5ad"), check_views,
    ),
    "annotate by an odd reference": (
        "downstream_tasks/annotate.py",
        lambda inputs, path, out: on_cells("model", reference=path)(inputs, inputs / "counts" / "cells.h5ad", out),
        check_labels_of_odd_reference,
    ),
    "fine-tune": (
        "downstream_tasks/downstream_tasks.py",
        on_cells(train="classifier", epochs=1, baselines="none", **TYPED), check_tables,
    ),
    "cluster": ("downstream_tasks/cluster.py", on_cells(n_neighbors=5), check_tables),
    "cluster with labels": (
        "downstream_tasks/cluster.py", on_cells(label_key="cell_type", baselines="none"), check_tables,
    ),
    "integrate": (
        "downstream_tasks/integration.py",
        on_cells(methods=["scdmc", "pca"], seeds=1, protocols=["published"]), check_tables,
    ),
    "modules": (
        "downstream_tasks/gene_modules.py", on_cells(min_cells_per_gene=3, resolutions=[1.0], **TYPED), check_tables,
    ),
    "networks": (
        "downstream_tasks/gene_regulatory_network.py",
        on_cells(regulons="@regulons.csv", min_cells_per_gene=3, n_targets=20, n_factors=4, perturbed_factors=1,
                 perturbed_cells=1, **TYPED),
        check_tables,
    ),
    "perturb": (
        "downstream_tasks/perturb.py", on_cells(genes=["INS", "GCG"], null_draws=5, max_cells_per_type=2, **TYPED),
        check_tables,
    ),
    "attention": (
        "downstream_tasks/attention_analysis.py",
        on_cells(min_cells_per_gene=3, attribution_cells=1, map_cells=1, map_genes=5, **TYPED), check_tables,
    ),
    "pre-train": (
        "pretrain/scDMC_pretrain.py",
        lambda inputs, path, out: {"data_path": path.parent.parent / "tokens", "output_dir": out, "max_steps": 1,
                                   "batch_size": 4, "max_held_out_cells": 4, "num_gpus": 0, **SIZES},
        check_model,
    ),
}  # fmt: skip
