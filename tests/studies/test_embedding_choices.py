"""Every stream, pooling and layer comes out of one pass as it does alone; the choice is confirmed on other data."""

import numpy as np
import pandas as pd
import pytest
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.model.embeddings import EmbeddingChoice, cell_embeddings, embedding_choice
from scdmc.model.encoder import ScDMCModel
from scdmc.options import POOLINGS, STREAMS
from scdmc.studies.embedding_choices import (
    confirmation,
    embedding_choices,
    embeddings_of_choices,
)
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from scdmc.tokens.medians import GeneMedians
from tests.small_models import save_small_model

CELLS = synthetic_cells(np.array([3, 40, 44, 45, 90]))
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ScDMCModel(ScDMCConfig(vocab_size=VOCAB_SIZE, initializer_range=0.1, **SIZES)).train()


@pytest.fixture(scope="module")
def embeddings(encoder):
    return embeddings_of_choices(encoder, CELLS, show_progress=False)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_last_layer_is_what_embed_gives(encoder, embeddings, stream, pooling):
    alone = cell_embeddings(encoder, CELLS, stream, pooling, show_progress=False)
    np.testing.assert_allclose(embeddings[EmbeddingChoice(2, stream, pooling)], alone, atol=1e-5)
    assert encoder.training  # as it was before


def test_each_layer_is_the_hidden_state_of_that_layer(encoder, embeddings):
    ids = torch.tensor(CELLS.rank_ids[slice(*CELLS.rank_offsets[3:5])].astype(np.int64))[None]
    with torch.no_grad():
        states = encoder.eval()(ids, output_hidden_states=True).hidden_states
    encoder.train()
    for layer in (0, 1, 2):
        mean_of_genes = states[layer][0, 1:-1].mean(dim=0).numpy()
        np.testing.assert_allclose(embeddings[EmbeddingChoice(layer, "rank", "mean")][3], mean_of_genes, atol=1e-5)


def test_all_choices_are_there_but_cls_before_the_first_layer(embeddings):
    assert list(embeddings) == embedding_choices(2)
    assert len(embeddings) == 3 * 3 * 3 - 3
    assert not any(choice.layer == 0 and choice.pooling == "cls" for choice in embeddings)
    assert embedding_choice(ScDMCConfig(num_hidden_layers=2)) in embeddings


def test_the_choice_of_the_first_data_set_is_followed_to_the_second():
    first, other = EmbeddingChoice(1, "rank", "mean"), EmbeddingChoice(2, "both", "cls")
    tables = {
        "one": pd.DataFrame({"overall": [0.9, 0.5]}, index=[first, other]),
        "two": pd.DataFrame({"overall": [0.3, 0.6]}, index=[first, other]),
    }
    assert confirmation(tables, other) == [
        "best on one: layer 1, rank, mean",
        "one: it (layer 1, rank, mean) has 0.900, place 1 of 2",
        "one: the default (layer 2, both, cls) has 0.500, place 2 of 2",
        "two: it (layer 1, rank, mean) has 0.300, place 2 of 2",
        "two: the default (layer 2, both, cls) has 0.600, place 1 of 2",
    ]


@pytest.mark.slow
def test_the_command_prints_the_table_and_keeps_all_scores(tmp_path, adata, load_script, capfd):
    model_path = save_small_model(tmp_path / "model", 64, GeneMedians({}, source="a test"))
    adata[adata.obs["cell_type"].isin(["beta", "ductal"])].copy().write_h5ad(tmp_path / "few.h5ad")
    script = load_script("benchmarks/embedding_choices.py")
    command = ["--model_path", model_path, "--tokenized_data_path", tmp_path / "few.h5ad"]
    assert script.main(list(map(str, [*command, "--output_file", tmp_path / "choices.csv"]))) == 0
    printed = capfd.readouterr().out
    assert "| layer 1, both, cls |" in printed
    assert "best on few: " in printed
    scores = pd.read_csv(tmp_path / "choices.csv")
    assert set(scores["choice"]) == set(map(str, embedding_choices(1)))
    assert scores["overall"].between(0, 1).all()
