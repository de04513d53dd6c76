"""The corpus of cells and texts: what is in it, what is held out of it, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.cells.data import read_cells
from scdmc.errors import ScDMCError
from scdmc.text import corpus
from scdmc.text.corpus import CELLS_GLOB, read_corpus, read_facts, require_fitting_corpus
from scdmc.text.encoders import open_text_encoder
from scdmc.text.ontology import CellOntology
from scdmc.tokens.parquet import read_tokenized
from tests.text.small_texts import save_tiny_text_encoder

ALPHA, BETA, ENDOCRINE, DUCTAL = "CL:0000171", "CL:0000169", "CL:0008024", "CL:0002079"


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("tokenizer/text_corpus.py").main


@pytest.fixture(scope="module")
def files(islets_path, tmp_path_factory):
    """Cells of five types in two files; the second has a composite, cells of no type and one without counts."""
    import anndata

    folder = tmp_path_factory.mktemp("cells")
    adata = anndata.read_h5ad(islets_path)
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta", "ductal", "macrophage"])].copy()
    adata.obs["tissue"] = "pancreas"
    adata[::2].copy().write_h5ad(folder / "a.h5ad")
    other = adata[1::2].copy()
    labels = other.obs["cell_type"].astype(str).to_numpy()
    alphas = np.flatnonzero(labels == "alpha")
    labels[alphas[:2]], labels[alphas[2]] = "A/B cells", "doublet"
    other.obs["cell_type"] = labels
    other.obs["study"] = np.where(np.arange(len(labels)) % 2, "x", "y")
    counts = other.X.toarray()
    counts[0] = 0
    other.X = scipy.sparse.csr_matrix(counts)
    other.write_h5ad(folder / "b.h5ad")
    return folder / "a.h5ad", folder / "b.h5ad"


@pytest.fixture(scope="module")
def model_path(files, tmp_path_factory):
    """A random model that knows the genes of the cells only: its files are read in no time, and they are read often."""
    import anndata

    from scdmc.tokens.medians import GeneMedians
    from tests.faults.inputs import small_vocabulary
    from tests.small_models import save_small_model

    vocabulary = small_vocabulary(anndata.read_h5ad(files[0], backed="r"))
    medians = GeneMedians({"ENSG00000254647": 50.0}, source="a test")
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", 128, medians, vocabulary)


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory):
    return save_tiny_text_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def run(main, model_path):
    """A function: make a corpus, and return the exit status."""

    def make(folder, paths, *more, text_encoder="none"):
        command = ["--model", model_path, "--data_path", *paths, "--output_dir", folder]
        flags = ["--min_cells_per_type", "3", "--text_encoder", text_encoder, *more]
        return main([str(word) for word in (*command, *flags)])

    return make


@pytest.fixture(scope="module")
def corpus_path(run, files, encoder_path, tmp_path_factory):
    """Both files; the pancreatic endocrine cells, which are alpha and beta cells, are held out."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    flags = ("--allow_unmapped", "--tissue_key", "tissue", "--hold_out_terms", BETA)
    assert run(folder, files, *flags, text_encoder=encoder_path) == 0
    return folder


def test_cells_have_their_term_data_set_and_part_and_the_tokens_of_the_model(corpus_path, files, model_directory):
    corpus = read_corpus(corpus_path)
    obs = corpus.cells.obs
    assert set(obs["dataset"]) == {"a", "b"}
    assert set(obs["split"]) == {"train", "validation", "test", "unseen"}
    assert obs.loc[obs["label"] == "alpha", "cl_id"].unique().tolist() == [ALPHA]
    assert set(obs["tissue"]) == {"pancreas"}
    assert corpus.cells.settings == model_directory.settings
    of_first = corpus.cells.select((obs["source_file"] == "a.h5ad").to_numpy())
    as_read = read_cells(files[0], model_directory)
    assert of_first.obs["cell_id"].tolist() == as_read.obs["cell_id"].tolist()
    np.testing.assert_array_equal(of_first.rank_ids, as_read.rank_ids)
    np.testing.assert_array_equal(of_first.expression_values, as_read.expression_values)


def test_composites_cells_of_no_type_and_empty_cells_are_left_out_and_listed(corpus_path, files):
    import anndata

    before = anndata.read_h5ad(files[1]).obs
    obs = read_corpus(corpus_path).cells.obs
    left = obs[obs["dataset"] == "b"]
    assert len(left) == len(before) - 2 - 1 - 1  # composites, the doublet, the empty cell
    assert before.index[0] not in set(left["cell_id"])
    labels = pd.read_csv(corpus_path / "labels.csv", keep_default_na=False).set_index(["dataset", "label"])
    assert labels.loc[("b", "A/B cells"), ["cells", "cl_id", "how"]].tolist() == [2, "", "unmapped"]
    assert labels.loc[("b", "A/B cells"), "suggestions"].count("CL:") == 3
    assert labels.loc[("a", "alpha"), ["cl_id", "cl_label", "how"]].tolist() == [ALPHA, "pancreatic A cell", "alias"]
    assert ("b", "doublet") not in labels.index


def test_a_term_that_is_held_out_is_in_no_training_part_nor_is_a_text_of_it(corpus_path):
    corpus = read_corpus(corpus_path)
    obs = corpus.cells.obs
    assert (obs.loc[obs["cl_id"] == BETA, "split"] == "unseen").all()
    assert not (obs.loc[obs["cl_id"] != BETA, "split"] == "unseen").any()
    trained = set(corpus.terms_of("train")["cl_id"])
    assert trained == set(obs.loc[corpus.cells_of("train"), "cl_id"]) == set(obs["cl_id"]) - {BETA}
    assert set(corpus.terms_of("unseen")["cl_id"]) == {BETA}
    assert not corpus.terms_of("train")["text"].str.contains("type B pancreatic").any()


def test_a_held_out_term_takes_its_descendants_with_it(run, files, tmp_path):
    assert run(tmp_path / "corpus", files[:1], "--hold_out_terms", ENDOCRINE) == 0
    corpus = read_corpus(tmp_path / "corpus")
    assert set(corpus.cells.obs.loc[corpus.cells_of("unseen"), "cl_id"]) == {ALPHA, BETA}
    assert not {ALPHA, BETA} & set(corpus.terms_of("train")["cl_id"])
    assert corpus.unseen == CellOntology.load().descendants(ENDOCRINE) > {ALPHA, BETA, ENDOCRINE}


def test_each_text_has_its_vector(corpus_path, encoder_path):
    corpus = read_corpus(corpus_path)
    encoder = open_text_encoder(encoder_path)
    assert corpus.terms["row"].tolist() == list(range(len(corpus.terms)))
    np.testing.assert_allclose(corpus.vectors, encoder.encode(corpus.terms["text"].tolist()), atol=1e-3)
    assert set(corpus.terms["kind"]) == {"label", "description", "synonym"}
    assert corpus.facts["text_encoder"]["sha256"] == encoder.sha256


def test_the_corpus_fits_its_own_model_and_no_other(corpus_path, model_directory, encoder_path, tmp_path):
    from dataclasses import replace

    from scdmc.tokens.medians import GeneMedians

    ontology, facts = CellOntology.load(), read_facts(corpus_path)
    encoder = open_text_encoder(encoder_path)
    require_fitting_corpus(facts, corpus_path, model_directory, ontology, encoder)
    others = {
        "vocabulary": (replace(model_directory, vocabulary=_shorter(model_directory.vocabulary)), ontology, encoder),
        "gene medians": (replace(model_directory, medians=GeneMedians({}, "a test")), ontology, encoder),
        "Cell Ontology": (model_directory, CellOntology(ontology, {}, "v0", "0" * 64), encoder),
        "text encoder": (model_directory, ontology, open_text_encoder(save_tiny_text_encoder(tmp_path / "b", seed=1))),
    }
    for what, now in others.items():
        with pytest.raises(ScDMCError, match=f"with another {what} "):
            require_fitting_corpus(facts, corpus_path, *now)


def _shorter(vocabulary):
    from scdmc.genes.vocabulary import Vocabulary

    tokens = list(vocabulary.tokens)[:-1]
    return Vocabulary({token: number for number, token in enumerate(tokens)}, "a test")


def test_labels_that_are_no_term_are_one_line_and_nothing_is_written(run, files, tmp_path, capsys):
    assert run(tmp_path / "corpus", files) == 2
    captured = capsys.readouterr()
    error = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "b.h5ad: obs['cell_type']: 1 of 5 labels are no known name" in error[0]
    assert "'A/B cells' (2 cells; nearest " in error[0]
    assert captured.out == ""
    assert not (tmp_path / "corpus").exists()


def test_the_users_table_and_data_sets_of_a_column(run, files, tmp_path, capsys):
    table = tmp_path / "types.tsv"
    table.write_text("label\tcl_id\nA/B cells\t\ndoublet\tCL:0008024\n", encoding="utf8")
    assert run(tmp_path / "corpus", files[1:], "--cell_type_table", table, "--dataset_key", "study") == 0
    corpus = read_corpus(tmp_path / "corpus")
    assert set(corpus.cells.obs["dataset"]) == {"x", "y"}
    assert ENDOCRINE in set(corpus.cells.obs["cl_id"])  # what the table names is a type
    assert "A/B cells" not in set(corpus.cells.obs["label"])
    assert corpus.vectors is None
    assert "without a term: A/B cells" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["dataset", "label", "file", "tissue"])
def test_groups_of_the_split_may_stand_in_a_column_called_as_one_of_the_corpus(run, files, tmp_path, column):
    import anndata

    adata = anndata.read_h5ad(files[0])
    adata.obs["tissue"] = "pancreas"
    groups = np.array(["u", "v", "w", "x"])[np.arange(adata.n_obs) % 4]
    adata.obs[column] = groups
    adata.write_h5ad(tmp_path / "a.h5ad")
    keys = () if column == "tissue" else ("--tissue_key", "tissue")
    assert run(tmp_path / "corpus", [tmp_path / "a.h5ad"], "--split_by", column, *keys) == 0
    obs = read_corpus(tmp_path / "corpus").cells.obs
    assert set(obs["dataset"]) == {"a"}
    assert set(obs["label"]) == {"alpha", "beta", "ductal", "macrophage"}
    part_of = obs.assign(group=obs["cell_id"].astype(str).map(dict(zip(adata.obs_names, groups, strict=True))))
    part_of = part_of[part_of["split"] != "left_out"].groupby("group")["split"].nunique()
    assert part_of.tolist() == [1, 1, 1, 1]


def test_parts_of_a_split_file_are_taken_and_tokenized_cells_give_the_same_corpus(
    run, files, load_script, model_path, tmp_path
):
    split, tokens = tmp_path / "split.csv", tmp_path / "tokens"
    words = ["--data_path", str(files[0]), "--output_file", str(split), "--seed", "7", "--min_cells_per_type", "3"]
    assert load_script("prepare/split_cells.py").main(words) == 0
    counts = tmp_path / "counts"
    counts.mkdir()
    (counts / "a.h5ad").write_bytes(files[0].read_bytes())
    words = ["--data_path", counts, "--output_dir", tokens, "--output_prefix", "a", "--obs_columns", "cell_type"]
    words += ["--gene_median_file", model_path / "gene_medians.json", "--max_length", "128"]
    words += ["--token_dictionary_file", model_path / "token_ids.json"]
    assert load_script("tokenizer/tokenizer_combine.py").main([str(word) for word in words]) == 0
    flags = ["--model", model_path, "--text_encoder", "none", "--split_file", split]
    made = []
    for name, path in (("of_counts", files[0]), ("of_tokens", tokens / "a.parquet")):
        words = [*flags, "--data_path", path, "--output_dir", tmp_path / name]
        assert load_script("tokenizer/text_corpus.py").main([str(word) for word in words]) == 0
        made.append(read_corpus(tmp_path / name).cells)
    wanted = pd.read_csv(split).set_index("cell_id")["split"]
    for cells in made:
        assert cells.obs.set_index("cell_id")["split"].astype(str).to_dict() == wanted.to_dict()
    np.testing.assert_array_equal(made[0].rank_ids, made[1].rank_ids)
    np.testing.assert_array_equal(made[0].expression_values, made[1].expression_values)


def test_the_same_cells_give_the_same_bytes_and_a_changed_file_is_refused(run, files, tmp_path):
    for name in ("first", "second"):
        assert run(tmp_path / name, files[:1]) == 0
    names = {path.name for path in (tmp_path / "first").iterdir()} - {"manifest.json"}
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    (shard,) = (tmp_path / "first").glob(CELLS_GLOB)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ScDMCError, match="bytes, not the"):
        read_corpus(tmp_path / "first")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label_key", "type"], "no column 'type'"),
        (["--hold_out_terms", "beta"], "--hold_out_terms: 'beta' is no id"),
        (["--hold_out_terms", "CL:0000000"], "0 terms have training cells"),
        (["--min_cells_per_type", "1000"], "fewer than two types have at least 1000 cells"),
        (["--split_file", "s.csv", "--seed", "1", "--test_fraction", "0.3"], "--test_fraction has no effect"),
        (["--text_encoder", "no/such"], "no such folder of a text encoder"),
    ],
)
def test_other_input_is_refused_in_one_line(run, files, tmp_path, capsys, words, said):
    assert run(tmp_path / "corpus", files[:1], *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "corpus").exists()


def test_a_corpus_that_another_run_replaces_while_it_is_read_is_refused(corpus_path, tmp_path, monkeypatch):
    copy = shutil.copytree(corpus_path, tmp_path / "corpus")

    def read_while_replaced(files):
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"command": ["another"]}))
        return read_tokenized(files)

    monkeypatch.setattr(corpus, "read_tokenized", read_while_replaced)
    with pytest.raises(ScDMCError, match="was replaced while it was read"):
        read_corpus(copy)
