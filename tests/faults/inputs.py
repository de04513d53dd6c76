"""The small inputs of all jobs: 44 real cells, models of one layer, and what is made of them once."""

import json
from pathlib import Path

import anndata
import numpy as np

from scdmc.genes.ids import load_symbols
from scdmc.genes.vocabulary import SPECIAL_TOKENS, Vocabulary, load_vocabulary
from scdmc.tokens.medians import GeneMedians
from tests.conftest import ROOT
from tests.faults.jobs import CONTEXT, SIZES, words_of
from tests.small_models import save_small_model
from tests.task_scripts import load_main
from tests.text.small_texts import save_tiny_text_encoder

TYPES = ("alpha", "beta", "ductal", "acinar")


def small_cells(n_genes: int = 120) -> anndata.AnnData:
    """Eleven cells of each of four types, of two batches, with the commonest genes."""
    adata = anndata.read_h5ad(ROOT / "tests" / "data" / "islets_300.h5ad")
    types = adata.obs["cell_type"].astype(str)
    rows = np.sort(np.concatenate([np.flatnonzero(types == name)[:11] for name in TYPES]))
    common = np.sort(np.argsort(-np.asarray((adata.X != 0).sum(axis=0)).ravel(), kind="stable")[:n_genes])
    cells = adata[rows, common].copy()
    cells.obs = cells.obs[["cell_type"]].assign(batch=[f"batch{row % 2}" for row in range(len(rows))])
    cells.uns.clear()
    return cells


def small_vocabulary(cells: anndata.AnnData) -> Vocabulary:
    """The genes of the cells that scDMC knows, in the order of its own vocabulary; they are read in no time."""
    known, symbols = load_vocabulary().token_ids, load_symbols()
    genes = sorted({symbols.get(name.upper()) for name in cells.var_names} & set(known), key=known.get)
    return Vocabulary({token: number for number, token in enumerate((*SPECIAL_TOKENS, *genes))}, "a test")


def make_inputs(folder: str) -> str:
    """Write cells, tokens, split, a model, and a classifier in a folder; the same bytes each time."""
    folder = Path(folder)
    counts = folder / "counts"
    counts.mkdir(parents=True)
    cells = small_cells()
    cells.write_h5ad(counts / "cells.h5ad")
    cells[::4].copy().write_h5ad(folder / "few.h5ad")  # too few for a map, which takes most of the time
    renamed = dict(zip(TYPES, (*TYPES[1:], TYPES[0]), strict=True))  # a classifier of it has all labels permuted
    cells.obs["cell_type"] = [renamed[name] for name in cells.obs["cell_type"]]
    cells.write_h5ad(folder / "renamed.h5ad")
    vocabulary = small_vocabulary(cells)
    vocabulary.save(folder / "vocabulary.json")
    medians = GeneMedians({gene: 1.0 + number % 7 for number, gene in enumerate(vocabulary.tokens[4:])}, "a test")
    medians.save(folder / "medians.json")
    save_small_model(folder / "model", CONTEXT, medians, vocabulary, **SIZES)
    run_once("tokenizer/tokenizer_combine.py", data_path=counts, output_dir=folder / "tokenized", output_prefix="cells",
             gene_median_file=folder / "medians.json", token_dictionary_file=folder / "vocabulary.json",
             max_length=CONTEXT, obs_columns=["cell_type", "batch"])  # fmt: skip
    run_once("prepare/split_cells.py", data_path=counts / "cells.h5ad", output_file=folder / "split.csv",
             min_cells_per_type=3)  # fmt: skip
    run_once("downstream_tasks/downstream_tasks.py", model=folder / "model", data_path=counts / "cells.h5ad",
             output_dir=folder / "classifier", baselines="none", train="classifier", epochs=2, min_cells_per_type=3,
             num_gpus=0)  # fmt: skip
    run_once("tokenizer/text_corpus.py", model=folder / "model", data_path=counts / "cells.h5ad",
             output_dir=folder / "corpus", text_encoder=save_tiny_text_encoder(folder / "texts"),
             min_cells_per_type=3)  # fmt: skip
    factors, targets = cells.var_names[:10], cells.var_names[10:40]
    pairs = [f"{factor},{target}\n" for factor in factors for target in targets]
    (folder / "regulons.csv").write_text("tf,target\n" + "".join(pairs))
    return "made"


def run_once(script: str, **flags: object) -> None:
    """Run a script that has to end well."""
    status = load_main(script)(words_of(flags))
    assert status == 0, f"{script} {json.dumps(flags, default=str)}: status {status}"
