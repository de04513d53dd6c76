"""Cells of texts: counts that add up, one seed the same cells, only the text decides, strangers are flagged."""

import json
import shutil
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import torch

import scdmc
from scdmc.cells.data import read_cells
from scdmc.errors import ScDMCError
from scdmc.model.folder import open_model_directory
from scdmc.text.corpus import read_corpus
from scdmc.text.evaluation import generation
from scdmc.text.evaluation.cells import with_parts
from scdmc.text.model import TextSpace, read_text_model, unit
from scdmc.text.pseudo_cells import evaluation, scores
from scdmc.text.pseudo_cells.counts import read_corpus_counts
from scdmc.text.pseudo_cells.evaluation import OTHER_TEXT, OURS, TRAINED, generation_tasks, verdict_in_words
from scdmc.text.pseudo_cells.generator import CellText, drawn_counts, rng_of_text, text_of_term
from scdmc.text.pseudo_cells.network import nb_log_likelihood
from scdmc.text.pseudo_cells.novelty import place_of_text
from scdmc.text.pseudo_cells.options import GeneratorOptions
from scdmc.text.pseudo_cells.panel import chosen_genes
from scdmc.text.pseudo_cells.storage import read_generator, save_generator
from scdmc.text.pseudo_cells.training import train_generator
from scdmc.text.pseudo_cells.training_data import GeneratorData, generator_data

N_GENES, N_TERMS = 50, 4
SMALL = GeneratorOptions(
    panel_genes=N_GENES, latent_size=4, width=32, max_steps=100, flow_steps=120, warm_up=20, batch_size=64,
    flow_batch_size=64, dispersion_steps=30,
    learning_rate=5e-3,
)  # fmt: skip


def made_up_space():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((N_TERMS, 1, 12)) + 0.2 * rng.standard_normal((N_TERMS, 2, 12)))
    ids = [f"CL:000000{number}" for number in range(N_TERMS)]
    terms = pd.DataFrame({"cl_id": ids, "label": ids, "description": ids})
    return TextSpace(terms, vectors, "made up", "0" * 64)


@pytest.fixture(scope="module")
def data():
    """600 cells of four types in two data sets; a third of them have genes in the panel only."""
    rng = np.random.default_rng(1)
    terms, data_sets = rng.integers(N_TERMS, size=600), rng.integers(2, size=600)
    rates = np.exp(rng.normal(0, 1.0, (N_TERMS, N_GENES)))[terms] * rng.gamma(5, 0.2, (600, N_GENES))
    size = rng.integers(300, 900, 600) * np.where(data_sets == 1, 3, 1)
    counts = rng.poisson(rates / rates.sum(axis=1, keepdims=True) * size[:, None])
    totals = counts.sum(axis=1) + rng.integers(1, 400, 600)
    genes = np.array([f"ENSG{number:011d}" for number in range(N_GENES)])
    names = ("one", "two")
    return GeneratorData(
        scipy.sparse.csr_matrix(counts.astype(np.float32)), totals.astype(float), terms, data_sets,
        np.ones(600, dtype=bool), genes, names, made_up_space(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def generator(data):
    return train_generator(data, SMALL)[0]


def test_the_likelihood_is_that_of_scipy():
    rng = np.random.default_rng(0)
    counts, mean, theta = rng.poisson(2, (5, 7)), rng.gamma(2, 1, (5, 7)), rng.gamma(2, 1, (5, 7))
    expected = scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    tensors = [torch.from_numpy(values.astype(float)) for values in (counts, mean, theta)]
    found = nb_log_likelihood(tensors[0], tensors[1].log(), tensors[2])
    assert np.allclose(found.numpy(), expected.sum(axis=1))


def test_the_number_of_threads_changes_no_weight_and_no_cell(data):
    before, found = torch.get_num_threads(), []
    options = GeneratorOptions(max_steps=2, dispersion_steps=1, flow_steps=2)
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            generator, _ = train_generator(data, options)
            assert torch.get_num_threads() == n_threads
            weights = [weight.numpy().tobytes() for weight in generator.decoder.state_dict().values()]
            found.append(
                [*weights, generator.made(text_of_term(data.space, 0), 300, data.space, 0).counts.data.tobytes()]
            )
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_counts_are_whole_numbers_and_add_up_to_the_library_size(generator, data):
    text = text_of_term(data.space, 0)
    made = generator.made(text, 2_000, data.space, seed=3, library_size=700)
    assert made.counts.dtype == np.int32
    assert made.counts.data.min() > 0
    assert made.other.min() >= 0
    assert made.totals.mean() == pytest.approx(700, rel=0.02)
    assert np.array_equal(made.totals, np.asarray(made.counts.sum(axis=1)).ravel() + made.other)
    shares, dispersion = np.ones((4, 1)), np.full((4, 1), 0.1)
    assert drawn_counts(shares, np.full(4, 1e12), dispersion, np.random.default_rng(0)).data.min() > 0
    drawn = generator.made(text, 2_000, data.space, seed=3)
    real = data.totals[data.terms == 0]
    assert np.median(drawn.totals) == pytest.approx(np.median(real), rel=0.15)


def test_one_seed_gives_the_same_cells_whatever_else_is_made(generator, data):
    first, second = (text_of_term(data.space, row) for row in range(2))
    made = generator.made(first, 40, data.space, seed=3)
    generator.made(second, 10, data.space, seed=3)
    again = generator.made(first, 40, data.space, seed=3)
    assert (made.counts != again.counts).nnz == 0
    assert np.array_equal(made.other, again.other)
    assert (made.counts != generator.made(first, 40, data.space, seed=4).counts).nnz > 0
    assert (made.counts != generator.made(second, 40, data.space, seed=3).counts).nnz > 0
    assert rng_of_text(["a", "b"], 0).random() != rng_of_text(["a, b"], 0).random()
    # What another machine computes of the same words differs in the last digits: the cells are then nearly the same.
    near = generator.made(CellText(first.words, first.vector * (1 + 1e-6)), 40, data.space, seed=3)
    assert abs(near.counts - made.counts).sum() < 0.01 * made.counts.sum()


def test_cells_of_a_training_text_are_nearest_to_its_type(generator, data):
    relative = data.counts.toarray() / data.counts.sum(axis=1)
    means = np.array([np.asarray(relative[data.terms == term]).mean(axis=0) for term in range(N_TERMS)])
    for term in range(N_TERMS):
        made = generator.made(text_of_term(data.space, term), 100, data.space, seed=0).counts.toarray()
        own = made / made.sum(axis=1, keepdims=True)
        nearest = ((own[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == term).mean() > 0.9


def test_a_data_set_that_is_named_gives_cells_of_its_depth(generator, data):
    text = text_of_term(data.space, 1)
    made = [generator.made(text, 300, data.space, 0, data_set=number) for number in range(2)]
    assert [set(each.data_sets) for each in made] == [{0}, {1}]
    assert np.median(made[1].totals) > 1.5 * np.median(made[0].totals)
    assert set(generator.made(text, 100, data.space, 0).data_sets) == {0, 1}


def test_a_generator_is_read_as_it_was_written(generator, data, tmp_path):
    save_generator(tmp_path, generator, pd.DataFrame({"part": ["flow"], "step": [1], "loss": [0.5]}), {"corpus": "c"})
    again, facts = read_generator(tmp_path, data.space)
    assert facts == {"corpus": "c"}
    one, other = (each.made(text_of_term(data.space, 2), 50, data.space, 1) for each in (generator, again))
    assert (one.counts != other.counts).nnz == 0
    assert np.array_equal(one.totals, other.totals)
    other_space = replace(data.space, terms=data.space.terms.iloc[:2], vectors=data.space.vectors[:2])
    with pytest.raises(ScDMCError, match=r"generator.safetensors is damaged: terms.cells has the shape"):
        read_generator(tmp_path, other_space)
    (tmp_path / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ScDMCError, match=r"generator.safetensors is damaged"):
        read_generator(tmp_path, data.space)


def test_a_text_far_from_all_others_is_novel_and_a_training_text_is_not():
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.standard_normal((2, 12)), 2, axis=0)  # each term has a near relative
    vectors = unit(pairs[:, None] + 0.1 * rng.standard_normal((N_TERMS, 2, 12)))
    space = replace(made_up_space(), vectors=vectors)
    for term in range(N_TERMS):
        place = place_of_text(vectors[term, 0], space)
        assert place.nearest[0] == term
        assert place.similarity == pytest.approx(1, abs=1e-5)
        assert not place.is_novel
        assert sorted(place.ordered) == list(range(N_TERMS))
        assert len(place.nearest) == len(place.similarities) == 3
    assert not place_of_text(unit(pairs[0]), space).is_novel
    assert all(place_of_text(unit(stranger), space).is_novel for stranger in rng.standard_normal((5, 12)))


def test_the_panel_holds_genes_that_vary_between_cells(caplog):
    rng = np.random.default_rng(0)
    rates = np.tile(np.linspace(0.5, 4, 200), (300, 1))
    varying = np.arange(5, 200, 20)
    rates[:150, varying] *= 1.9
    rates[150:, varying] *= 0.1
    rates[:, 190:] = 0
    counts = [scipy.sparse.csr_matrix(rng.poisson(rates).astype(float))]
    totals = [np.full(300, 500.0)]
    assert set(chosen_genes(counts, totals, 10)) >= set(varying[:-1])
    assert chosen_genes(counts, totals, 0).tolist() == list(range(190))
    assert not caplog.messages
    assert chosen_genes(counts, totals, 191).tolist() == list(range(190))
    assert "--panel_genes 191: only 190 genes" in caplog.text
    with pytest.raises(ScDMCError, match="no gene that all files have"):
        chosen_genes([scipy.sparse.csr_matrix((300, 200))], totals, 10)


# ---- from a corpus to files


@pytest.fixture(scope="module")
def world(text_world, tmp_path_factory, load_script):
    """A text model of islets with a generator, and the words that trained it."""
    folder = tmp_path_factory.mktemp("pseudo_cells")
    shutil.copytree(text_world["model"], folder / "model")
    files = [text_world["corpus"].parent / f"islets_{part}.h5ad" for part in range(2)]
    words = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--output_dir", folder / "model"]
    words = [*words, "--stage", "3", "--panel_genes", "200", "--generator_steps", "20", "--counts_path"]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in (*words, *files)]) == 0
    return {**text_world, "generator": folder / "model", "words": words, "files": files}


def corpus_counts(world):
    corpus = read_corpus(world["corpus"])
    return corpus, read_corpus_counts(corpus, world["files"], open_model_directory(world["cells"]))


def generate(load_script, world, *words):
    line = ["--model", world["generator"], "--text_encoder", world["texts"], *words]
    return load_script("downstream_tasks/generate_cells.py").main([str(word) for word in line])


def test_test_cells_and_terms_that_are_held_out_take_no_part(world):
    corpus, counts = corpus_counts(world)
    space = read_text_model(world["generator"])[0].texts
    data = generator_data(corpus, counts, space, 200)
    part = corpus.cells.obs["split"].astype(str).to_numpy()[counts.rows]
    changed = counts.counts.copy()
    changed.data[np.repeat(part == "test", np.diff(changed.indptr))] += 7
    again = generator_data(corpus, replace(counts, counts=changed), space, 200)
    assert (part == "test").sum() > 20
    assert np.array_equal(data.genes, again.genes)
    assert (data.counts != again.counts).nnz == 0
    few = replace(space, terms=space.terms.iloc[:8], vectors=space.vectors[:8])
    assert set(generator_data(corpus, counts, few, 200).terms) == set(range(8))


def test_the_counts_of_the_corpus_are_those_of_the_files(world, tmp_path):
    corpus, counts = corpus_counts(world)
    adata = anndata.read_h5ad(world["files"][0])
    first = corpus.cells.obs["cell_id"].iloc[counts.rows[0]]
    assert counts.totals[0] == pytest.approx(adata.obs.loc[first, "n_counts"])
    adata.X[adata.obs_names.get_loc(first)] *= 2
    (tmp_path / "changed").mkdir()
    adata.obs["n_counts"] *= 1.0
    adata.obs.loc[first, "n_counts"] *= 2.5
    adata.write_h5ad(tmp_path / "changed" / world["files"][0].name)
    directory = open_model_directory(world["cells"])
    with pytest.raises(ScDMCError, match=r"1 of .* cells have other counts than when .* was made"):
        read_corpus_counts(corpus, [tmp_path / "changed" / world["files"][0].name, world["files"][1]], directory)
    with pytest.raises(ScDMCError, match=r"counts are not given: islets_1.h5ad; name them with --counts_path"):
        read_corpus_counts(corpus, world["files"][:1], directory)
    adata[adata.obs_names != first].write_h5ad(tmp_path / "changed" / world["files"][0].name)
    with pytest.raises(ScDMCError, match="lacks 1 of"):
        read_corpus_counts(corpus, [tmp_path / "changed" / world["files"][0].name, world["files"][1]], directory)


def test_cells_are_written_with_all_that_says_what_they_are(world, load_script, tmp_path, capsys):
    words = ["--text", "beta", "CL:0000171", "--n_cells", "12", "--library_size", "4000"]
    assert generate(load_script, world, *words, "--output_dir", tmp_path / "out") == 0
    assert "beta: 12 cells; nearest training term" in capsys.readouterr().out
    adata = anndata.read_h5ad(tmp_path / "out" / "generated.h5ad")
    assert scipy.sparse.issparse(adata.X)
    assert np.issubdtype(adata.X.dtype, np.integer)
    assert adata.shape == (24, 200)
    assert adata.var_names.str.startswith("ENSG").all()
    assert set(adata.obs["text"]) == {"beta", "pancreatic A cell"}
    assert set(adata.obs.loc[adata.obs["text"] == "pancreatic A cell", "cl_id"]) == {"CL:0000171"}
    assert adata.obs["n_counts"].mean() == pytest.approx(4000, rel=0.2)
    assert (np.asarray(adata.X.sum(axis=1)).ravel() + adata.obs["other_counts"] == adata.obs["n_counts"]).all()
    facts = adata.uns["scDMC_generated"]
    assert (facts["seed"], facts["library_size"]) == ("42", "4000")
    assert "no measurement" in facts["warning"]
    assert adata.uns["scdmc"]["model"] == "model"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf8")
    assert "They are no measurement." in page
    assert "pancreatic A cell" in page
    cells = read_cells(tmp_path / "out" / "generated.h5ad", open_model_directory(world["cells"]))
    assert len(cells) == 24


def test_one_command_gives_the_same_bytes_and_python_the_same_cells(world, load_script, tmp_path, monkeypatch):
    words = ["--text", "beta", "--n_cells", "8", "--seed", "5", "--overwrite", "--output_file", tmp_path / "cells.h5ad"]
    written = []
    for _ in range(2):
        assert generate(load_script, world, *words) == 0
        written.append((tmp_path / "cells.h5ad").read_bytes())
    assert written[0] == written[1]
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    again = scdmc.generate_cells(world["generator"], "beta", 8, seed=5, text_encoder=world["texts"])
    assert (adata.X != again.X).nnz == 0
    assert list(again.obs["n_counts"]) == list(adata.obs["n_counts"])
    others = ["beta", "a cell that secretes insulin, of which the text is long", "mast", "zzz"]
    beside = scdmc.generate_cells(world["generator"], others, 8, seed=5, text_encoder=world["texts"])
    assert (adata.X != beside[beside.obs["text"] == "beta"].X).nnz == 0
    with pytest.raises(ScDMCError, match="n is 0"):
        scdmc.generate_cells(world["generator"], "beta", 0)


def test_what_cannot_be_made_is_one_line(world, load_script, tmp_path, capsys):
    text_file = tmp_path / "texts.txt"
    text_file.write_text("beta\nBeta\n")
    out = ["--n_cells", "3", "--output_file", tmp_path / "cells.h5ad"]
    cases = [
        (["--text", "beta", *out, "--dataset", "absent"], "--dataset absent: the generator was trained on islets_0"),
        (["--text_file", text_file, *out], "two texts are the same"),
        (["--text", "CL:9999999", *out], "has no term CL:9999999"),
        (["--text", "beta", "--text_file", text_file, *out], "not with both"),
        (["--text", "beta", *out, "--guidance", "11"], "--guidance 11: it should be above 0 and at most 10"),
        (["--text", "beta", *out, "--library_size", "10000001"], "a cell has 1 to 10,000,000 counts"),
        (["--text", "beta", "--n_cells", "3"], "name one place for the results"),
        (["--text", "beta", *out, "--model", world["model"]], "makes no cells, as it has no generator.json"),
    ]
    for words, message in cases:
        assert generate(load_script, world, *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.strip().count("\n") == 0
    assert not (tmp_path / "cells.h5ad").exists()


def test_a_stranger_is_a_warning_or_refused(world, load_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scdmc.text.pseudo_cells.novelty.PERCENTILE", 100.0)
    words = ["--text", "zzz 9", "--n_cells", "3", "--output_file", tmp_path / "cells.h5ad"]
    assert generate(load_script, world, *words, "--refuse_novel") == 2
    assert "would be a guess; train on data with such cells" in capsys.readouterr().err
    assert not (tmp_path / "cells.h5ad").exists()
    assert generate(load_script, world, *words) == 0
    assert "its cells are a guess" in capsys.readouterr().err
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert adata.obs["novelty"].all()
    assert list(adata.uns["scDMC_generated"]["novel_texts"]) == ["zzz 9"]


def test_stage_3_adds_to_a_model_and_leaves_the_rest(world, load_script, capsys):
    main = load_script("pretrain/text_pretrain.py").main
    model, _ = read_text_model(world["generator"])
    assert np.array_equal(model.projection, read_text_model(world["model"])[0].projection)
    assert (world["generator"] / "README.md").read_text().count("## Cells of texts") == 1
    facts = json.loads((world["generator"] / "generator.json").read_text())["facts"]
    assert facts["training"]["panel_genes"] == 200
    before = (world["generator"] / "generator.safetensors").read_bytes()
    words = [str(word) for word in (*world["words"], *world["files"])]
    assert main(words) == 2
    assert "has a generator already; --overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert (world["generator"] / "generator.safetensors").read_bytes() == before
    assert (world["generator"] / "README.md").read_text().count("## Cells of texts") == 1
    for more, message in [
        (words[: words.index("--counts_path")], "--stage 3 needs --counts_path"),
        ([word if word != "3" else "1" for word in words], "has no effect without --stage 3"),
        (
            [*words, "--output_dir", str(world["corpus"])],
            "holds no text model to add to; begin with --stage 1",
        ),
    ]:
        assert main(more) == 2
        assert message in capsys.readouterr().err


def test_scores_stand_beside_controls_and_the_reference_holds_no_training_cell(world, monkeypatch):
    monkeypatch.setattr(scores, "N_TREES", 3)
    monkeypatch.setattr(evaluation, "FEWEST_CELLS", 2)
    spaces = []

    class Kept(scores.Space):
        def __init__(self, expression, types, seed=0):
            super().__init__(expression, types, seed)
            spaces.append(expression)

    monkeypatch.setattr(scores, "Space", Kept)
    corpus, counts = corpus_counts(world)
    part = corpus.cells.obs["split"].astype(str).replace({"test": "train", "train": "test"}).to_numpy()
    with pytest.raises(ScDMCError, match=r"another split than that of .* and may have seen its test cells"):
        generation_tasks(with_parts(corpus, part), world["generator"], world["files"])
    tasks = generation_tasks(corpus, world["generator"], world["files"])
    obs = corpus.cells.obs.iloc[counts.rows]
    genes = read_generator(world["generator"], read_text_model(world["generator"])[0].texts)[0].genes
    own = ((obs["dataset"] == "islets_0") & (obs["split"] == "validation")).to_numpy()
    assert spaces[0].shape[0] <= own.sum()
    validation = {row.tobytes() for row in counts.select(own).expression(genes).toarray()}
    assert all(row.tobytes() in validation for row in spaces[0].astype(np.float32))
    chosen = {task.method: task for task in tasks if (task.mode, task.data_set) == (TRAINED, "islets_0")}
    assert {"copies of training cells", "mean of the type", "no flow", "label alone"} < set(chosen)
    found = {name: chosen[name].score(0) for name in (OURS, OTHER_TEXT, "copies of training cells")}
    assert found[OURS]["MMD"] != found[OTHER_TEXT]["MMD"]
    assert all(np.isfinite(own["AUC"]) for own in found.values())
    assert found["copies of training cells"]["distance to training cell"] == pytest.approx(0, abs=1e-3)
    assert found[OURS]["distance to training cell"] > 0.1
    rows = [(TRAINED, "islets_0", name, metric, value) for name, own in found.items() for metric, value in own.items()]
    table = pd.DataFrame(rows, columns=["mode", "data_set", "method", "metric", "mean"])
    assert "AUC" in verdict_in_words(table, "islets_0")


def test_a_held_out_term_stands_beside_copies_of_its_nearest_trained_type(world, load_script, monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "N_TREES", 3)
    alpha, beta = "CL:0000171", "CL:0000169"
    words = ["--model", world["cells"], "--output_dir", tmp_path / "corpus", "--text_encoder", world["texts"]]
    words += ["--data_path", world["files"][0], "--min_cells_per_type", "5", "--hold_out_terms", alpha]
    assert load_script("tokenizer/text_corpus.py").main([str(word) for word in words]) == 0
    words = ["--model", world["cells"], "--corpus_dir", tmp_path / "corpus", "--output_dir", tmp_path / "model"]
    words += ["--features", "pca", "--n_components", "10", "--projector", "ridge", "--stage", "1", "3"]
    words += ["--panel_genes", "200", "--generator_steps", "20", "--counts_path", world["files"][0]]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in words]) == 0
    space = read_text_model(tmp_path / "model")[0].texts
    assert beta in set(space.terms["cl_id"])
    assert alpha not in set(space.terms["cl_id"])
    references = []

    class Kept(scores.Space):
        def __init__(self, expression, types, seed=0):
            super().__init__(expression, types, seed)
            references.append(list(types))

    monkeypatch.setattr(scores, "Space", Kept)
    corpus = read_corpus(tmp_path / "corpus")
    tasks = generation_tasks(corpus, tmp_path / "model", world["files"][:1])
    chosen = {task.method: task for task in tasks if task.mode == "held-out term: pancreatic A cell"}
    assert list(chosen) == [evaluation.REAL, evaluation.NEAREST, OURS]
    found = {name: task.score(0) for name, task in chosen.items()}
    assert all(np.isfinite(list(own.values())).all() for own in found.values())
    assert found[evaluation.NEAREST]["distance to training cell"] == pytest.approx(0, abs=1e-3)
    assert found[OURS]["flagged as novel"] in (0, 1)
    # Real cells of the term are reference as often as of others, and none of them is scored against itself.
    own, parts = (corpus.cells.obs["cl_id"] == alpha).sum(), corpus.cells.obs["split"].value_counts()
    share = 1 - parts["train"] / parts[["train", "validation", "test"]].sum()
    assert references[-1].count(alpha) == pytest.approx(share * own, abs=1)
    assert found[OURS]["MMD"] != found[evaluation.NEAREST]["MMD"]


def test_the_command_keeps_scores_and_says_what_they_mean(world, load_script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scores, "N_TREES", 3)
    monkeypatch.setattr(evaluation, "FEWEST_CELLS", 2)
    few = {OURS, evaluation.REAL, "copies of training cells"}
    all_tasks = generation.generation_tasks
    monkeypatch.setattr(
        generation, "generation_tasks", lambda *words: [task for task in all_tasks(*words) if task.method in few]
    )
    script = load_script("downstream_tasks/text_eval.py").main
    words = ["--tasks", "generation", "--corpus_dir", world["corpus"], "--model", world["cells"], "--seeds", "1"]
    words = [str(word) for word in (*words, "--output_dir", tmp_path / "scores")]
    assert script(words) == 2
    assert "--tasks generation needs --text_model and --counts_path" in capsys.readouterr().err
    words += ["--text_model", str(world["generator"]), "--counts_path", *map(str, world["files"])]
    assert script(words) == 0
    assert "AUC" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "scores" / "metrics.csv")
    assert set(table["method"]) == few
    assert table["mean"].notna().all()
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "a forest tells them from real cells" in page
    # What the verdict is about stands first in a table.
    assert page.index(">AUC<") < page.index(">gene correlation r<") < page.index(">kNN 3<")
    rows = (tmp_path / "scores" / "rows" / "rows.csv").read_bytes()
    monkeypatch.setattr(scores, "two_sample_auc", lambda *_: 0.0)  # nothing is computed again
    assert script(words) == 0
    assert (tmp_path / "scores" / "rows" / "rows.csv").read_bytes() == rows
