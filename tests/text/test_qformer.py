"""A Q-Former between cells and texts: what must not change a cell's vector does not, and a broken run goes on."""

import shutil
from dataclasses import asdict, replace

import anndata
import numpy as np
import pytest
import scipy.sparse
import torch

import scdmc
from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_model
from scdmc.reading.options import CountOptions
from scdmc.text.annotation import annotate_cells
from scdmc.text.candidates import candidate_vectors, other_terms, read_candidates
from scdmc.text.captions.adding import is_same_encoder
from scdmc.text.corpus import read_corpus
from scdmc.text.model import feature_maker, read_text_model, save_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextAnnotationOptions, TextTrainingOptions
from scdmc.text.projectors import qformer_training
from scdmc.text.projectors.batches import Batches, validation_score
from scdmc.text.projectors.bert import start_from_bert
from scdmc.text.projectors.qformer import QFormer, QFormerShape
from scdmc.text.projectors.qformer_training import Checkpointing, identity_of, qformer_shape, train_qformer
from scdmc.text.projectors.states import GeneStates
from scdmc.text.query import query_of_file
from scdmc.text.training import train
from scdmc.text.training_data import data_sets_to_train_on, training_data, training_texts

SHAPE = QFormerShape(16, 2, 4, 32, 3, encoder_size=8, text_size=5, max_tokens=30)
FEW = TextTrainingOptions(projector="qformer", max_steps=6, batch_size=6, max_tokens=32)
TYPES = ["CL:0000169", "CL:0000171", "CL:0002079", "CL:0002064"]


def words_of(text_world, folder, **flags):
    """The command line of a training on the corpus of the islets."""
    given = {"model": text_world["cells"], "corpus_dir": text_world["corpus"], "output_dir": folder} | flags
    given = {"projector": "qformer", "max_steps": 40, "max_tokens": 32} | given
    return [str(word) for name, value in given.items() for word in ([f"--{name}"] if value is True else
                                                                    [f"--{name}", value])]  # fmt: skip


@pytest.fixture(scope="module")
def opened(qformer_model, text_world):
    """The model, what makes its features, and the islets as it reads them."""
    model, directory = read_text_model(qformer_model)
    maker = feature_maker(model, directory, lambda encoder: encoder)
    return model, maker, query_of_file(text_world["islets"], directory, maker, CountOptions())[1]


@pytest.fixture(scope="module")
def few(text_world):
    """Data sets of the corpus with the states of their genes, and the texts."""
    directory = open_model_directory(text_world["cells"])
    corpus = read_corpus(text_world["corpus"])
    names = data_sets_to_train_on(corpus)
    space = training_texts(corpus, names, lambda: None)
    data = training_data(corpus, names, load_model(directory.path, ScDMCModel), directory, space, FEW)
    return data.sets, space


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_neither_padding_nor_the_other_cells_of_a_batch_change_a_cell(attention):
    torch.manual_seed(0)
    reader = QFormer(SHAPE, attention).eval()
    lengths = torch.tensor([2, 9, 5])
    states = torch.randn(3, 9, 8)
    padded = torch.cat([states, torch.full((3, 4, 8), 30.0)], dim=1)
    with torch.no_grad():
        together = reader(padded, lengths)
        for cell, length in enumerate(lengths.tolist()):
            alone = reader(states[cell : cell + 1, :length], lengths[cell : cell + 1])
            assert torch.allclose(alone[0], together[cell], atol=1e-5)


def test_states_in_memory_are_those_that_are_computed(few, text_world):
    kept = few[0][0].states
    assert kept.is_kept
    fresh = GeneStates(load_model(text_world["cells"], ScDMCModel), kept.cells)
    rows = np.array([3, 0, 7])
    (from_memory, lengths), (computed, same) = kept.padded(rows), fresh.padded(rows)
    assert torch.equal(lengths, same)
    assert torch.allclose(from_memory, computed, atol=5e-3)
    assert torch.equal(kept.part(rows).padded(np.array([2]))[0][0, : lengths[2]], from_memory[2, : lengths[2]])


def test_the_order_of_genes_in_a_file_does_not_change_a_cell(opened, text_world, tmp_path):
    _, maker, query = opened
    islets = anndata.read_h5ad(text_world["islets"])[:20]
    islets[:, np.random.default_rng(0).permutation(islets.n_vars)].write_h5ad(tmp_path / "turned.h5ad")
    turned = query_of_file(tmp_path / "turned.h5ad", maker.model_directory, maker, CountOptions())[1]
    assert np.allclose(turned.features, query.features[:20], atol=1e-5)


def test_a_folder_that_is_written_and_read_again_has_the_same_bits(opened, qformer_model, tmp_path):
    model, maker, query = opened
    calibration = {"temperature": model.temperature, "none_margin": model.none_margin}
    save_text_model(tmp_path / "again", model, maker, calibration, "a card", "a card")
    again, _ = read_text_model(tmp_path / "again")
    ours, theirs = model.reader.state_dict(), again.reader.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    cells = again.projected(again.centre_of(query.features).applied(query.features))
    assert np.array_equal(cells, model.projected(model.centre_of(query.features).applied(query.features)))
    assert (qformer_model / "history.csv").read_text().startswith("step,loss,validation_macro_f1,cells_per_second\n40,")
    card = (qformer_model / "README.md").read_text()
    assert "the first 32 tokens of a cell; the encoder was not trained" in card


def test_training_leaves_the_encoder_of_cells_as_it_was(qformer_model, text_world):
    before = load_model(text_world["cells"], ScDMCModel).state_dict()
    after = load_model(qformer_model / "encoder", ScDMCModel).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not (qformer_model / "checkpoints").exists()


def test_the_encoder_is_kept_whole_where_it_computes_in_bfloat16(opened, text_world, tmp_path):
    model, maker, _ = opened
    whole = load_model(text_world["cells"], ScDMCModel)
    rounded = replace(maker, encoder=load_model(text_world["cells"], ScDMCModel).to(torch.bfloat16))
    calibration = {"temperature": model.temperature, "none_margin": model.none_margin}
    save_text_model(tmp_path / "saved", model, rounded, calibration, "a card", "a card")
    kept = load_model(tmp_path / "saved" / "encoder", ScDMCModel)
    assert all(torch.equal(tensor, kept.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert is_same_encoder(rounded.encoder, kept)  # so that stage 2 knows it again
    with torch.no_grad():
        next(kept.parameters()).add_(1)
    assert not is_same_encoder(rounded.encoder, kept)


def test_a_cell_without_counts_gets_no_type_and_islets_get_theirs(qformer_model, text_world):
    adata = anndata.read_h5ad(text_world["islets"])
    values = adata.X.tolil()
    values[3] = 0
    adata.X = scipy.sparse.csr_matrix(values)
    scdmc.annotate_by_text(adata, qformer_model, TYPES, max_none=1.0, text_encoder=text_world["texts"])
    assert adata.obs["scDMC_text_type"].iloc[3] == "no counts"
    types = adata.obs["cell_type"].astype(str).to_numpy()
    for label, name in {"beta": "type B pancreatic cell", "alpha": "pancreatic A cell"}.items():
        assert (adata.obs["scDMC_text_type"][types == label] == name).mean() > 0.5
    assert adata.uns["scDMC_text"]["projector"] == "qformer"


def test_what_all_cells_of_a_file_share_changes_no_label(opened):
    model, _, query = opened
    ontology = CellOntology.load()
    candidates = read_candidates(TYPES, None, ontology)
    vectors = candidate_vectors(candidates, model.texts, None)
    others = other_terms(candidates, vectors, model.texts, ontology)
    moved = replace(query, features=query.features + np.linspace(-1, 1, query.features.shape[1], dtype=np.float32))
    one, other = (
        annotate_cells(model, each, candidates, vectors, others, TextAnnotationOptions()) for each in (query, moved)
    )
    assert np.array_equal(one.labels, other.labels)
    assert np.allclose(one.cells, other.cells, atol=1e-4)


def test_each_batch_is_of_training_cells_of_one_data_set(few):
    sets, space = few
    batches = Batches(sets, space, 8, np.random.default_rng(0))
    numbers = set()
    for _ in range(30):
        number, rows, texts, terms = batches.next()
        numbers.add(number)
        assert sets[number].is_training[rows].all()
        assert np.array_equal(sets[number].terms[rows], terms)
        assert texts.shape == (8, space.vectors.shape[-1])
    assert numbers == {0, 1}


def test_each_type_counts_the_same_for_the_centre_of_a_data_set(few):
    sets, space = few
    trained = train(sets, space, FEW)
    read = [trained.read(each)[0] for each in sets]
    for each in read:
        types = [each.features[each.is_training & (each.terms == term)].mean(axis=0) for term in each.own_terms]
        of_types, of_cells = np.mean(types, axis=0), each.features[each.is_training].mean(axis=0)
        assert np.abs(of_types).max() < 0.01 * np.abs(of_cells).max()  # where the commonest type would lie
    # The checks of a training look at the same cells in the same way.
    score = validation_score(trained.projection, read, space)
    assert trained.history["validation_macro_f1"].iloc[-1] == pytest.approx(score)


def test_a_broken_run_goes_on_as_if_it_had_not_been_broken(few, tmp_path, monkeypatch):
    monkeypatch.setattr(qformer_training, "STEPS_BETWEEN_CHECKS", 2)
    sets, space = few
    whole, history = train_qformer(sets, space, FEW)
    contrast, calls = qformer_training.contrast, []

    def breaking(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return contrast(*arguments)

    def run(resume, **changes):
        identity = asdict(FEW) | changes
        return train_qformer(sets, space, FEW, checkpointing=Checkpointing(tmp_path, resume, identity))

    with monkeypatch.context() as patch:
        patch.setattr(qformer_training, "contrast", breaking)
        with pytest.raises(KeyboardInterrupt):
            run(None)
    with pytest.raises(ScDMCError, match=r"of a run with another learning_rate \(0.002, and now 0.1\)"):
        run("last", learning_rate=0.1)
    resumed, again = run("last")
    assert all(torch.equal(each, resumed.state_dict()[name]) for name, each in whole.state_dict().items())
    shown = ["step", "loss", "validation_macro_f1"]
    assert history[shown].equals(again[shown])
    assert (history["cells_per_second"] > 0).all()


def test_a_run_knows_its_corpus_without_a_manifest_and_its_text_encoder(few, text_world, tmp_path):
    def identity(corpus, space=few[1]):
        return identity_of(FEW, corpus, text_world["cells"], space)

    copy = shutil.copytree(text_world["corpus"], tmp_path / "corpus")
    assert identity(copy) == identity(text_world["corpus"])
    (copy / "manifest.json").unlink()
    assert identity(copy) == identity(text_world["corpus"])
    (copy / "terms.parquet").write_bytes(b"others")
    assert identity(copy)["corpus"] != identity(text_world["corpus"])["corpus"]
    others = identity(text_world["corpus"], replace(few[1], encoder_sha256="1" * 64))
    assert others != identity(text_world["corpus"])


def test_a_training_ends_where_validation_cells_gain_nothing(few, monkeypatch):
    monkeypatch.setattr(qformer_training, "STEPS_BETWEEN_CHECKS", 1)
    history = train_qformer(*few, replace(FEW, learning_rate=1e-12, patience=2))[1]
    assert history["step"].tolist() == [1, 2, 3]


def test_a_training_may_start_from_a_bert(few, text_world, tmp_path):
    sets, space = few
    options = replace(FEW, qformer_from=str(text_world["texts"]))
    shape = qformer_shape(options, 16, 5)
    assert (shape.hidden_size, shape.n_layers, shape.n_queries) == (32, 2, 16)
    reader = QFormer(shape)
    start_from_bert(reader, text_world["texts"])
    from transformers import BertModel

    bert = BertModel.from_pretrained(text_world["texts"], add_pooling_layer=False).state_dict()
    ours = reader.layers.state_dict()
    assert torch.equal(
        ours["encoder.layer.1.attention.attention.key.weight"], bert["encoder.layer.1.attention.self.key.weight"]
    )
    assert torch.equal(ours["encoder.layer.0.output_query.dense.bias"], bert["encoder.layer.0.output.dense.bias"])
    with pytest.raises(ScDMCError, match="is no BERT"):
        qformer_shape(replace(FEW, qformer_from=str(text_world["cells"])), 16, 5)
    assert train_qformer(sets, space, replace(options, max_steps=1))[0].shape.hidden_size == 32


def test_a_rehearsal_says_what_a_training_takes_and_writes_nothing(text_world, tmp_path, load_script, capsys):
    words = [*words_of(text_world, tmp_path / "model", dry_run=True), "--stage", "1", "2"]
    assert load_script("pretrain/text_pretrain.py").main(words) == 0
    shown = capsys.readouterr().out
    for name in ("training cells", "weights of the Q-Former", "states of genes", "steps", "stage 2"):
        assert name in shown
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"features": "pca"}, "--features has no effect with --projector qformer"),
        ({"ridge_penalty": 3}, "--ridge_penalty has no effect with --projector qformer"),
        ({"projector": "linear", "size": "cpu"}, "--size has no effect with --projector linear"),
        ({"projector": "ridge", "max_tokens": 32, "resume": True}, "--max_steps has no effect with --projector ridge"),
        ({"resume": True}, "holds no complete checkpoint"),
        ({"qformer_from": "absent"}, "--qformer_from absent"),
        ({"max_tokens": 2}, "--max_tokens"),
    ],
)
def test_flags_that_mean_nothing_are_refused(text_world, tmp_path, load_script, capsys, flags, words):
    line = words_of(text_world, tmp_path / "model", **flags)
    try:
        status = load_script("pretrain/text_pretrain.py").main(line)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
