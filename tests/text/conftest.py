"""A text model that is trained once for all tests: 300 islet cells in two data sets, a tiny random text encoder."""

import shutil

import anndata
import pytest

from tests.small_models import save_small_model
from tests.text.small_texts import save_tiny_text_encoder


@pytest.fixture(scope="session")
def text_world(tmp_path_factory, islets_path, load_script):
    """Folders and files: the text encoder, the model of cells, the corpus, the text model, the islets."""
    folder = tmp_path_factory.mktemp("text_world")
    islets = anndata.read_h5ad(islets_path)
    for part in range(2):
        islets[part::2].write_h5ad(folder / f"islets_{part}.h5ad")
    world = {
        "texts": save_tiny_text_encoder(folder / "tiny"),
        "cells": save_small_model(folder / "small"),
        "corpus": folder / "corpus",
        "model": folder / "model",
        "islets": islets_path,
    }
    words = ["--model", world["cells"], "--output_dir", world["corpus"], "--text_encoder", world["texts"]]
    words += ["--data_path", folder / "islets_0.h5ad", folder / "islets_1.h5ad", "--min_cells_per_type", "5"]
    assert load_script("tokenizer/text_corpus.py").main([str(word) for word in words]) == 0
    words = ["--model", world["cells"], "--corpus_dir", world["corpus"], "--output_dir", world["model"]]
    words += ["--features", "both", "--n_components", "20", "--max_steps", "60", "--learning_rate", "0.02"]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in words]) == 0
    return world


@pytest.fixture(scope="session")
def qformer_model(text_world, tmp_path_factory, load_script):
    """A text model of a Q-Former, whose encoder of cells is gone from where it was."""
    folder = tmp_path_factory.mktemp("qformer")
    shutil.copytree(text_world["cells"], folder / "cells")
    words = ["--model", folder / "cells", "--corpus_dir", text_world["corpus"], "--output_dir", folder / "model"]
    words += ["--projector", "qformer", "--max_steps", "40", "--max_tokens", "32", "--batch_size", "24"]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in words]) == 0
    shutil.rmtree(folder / "cells")
    return folder / "model"
