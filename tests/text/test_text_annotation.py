"""Annotation by text: what must not matter does not, what must matter does."""

from dataclasses import replace

import anndata
import numpy as np
import pytest
import scipy.sparse
import torch

import scdmc
from scdmc.errors import ScDMCError
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_model
from scdmc.reading.options import CountOptions
from scdmc.text.annotation import Query, annotate_cells, marker_scores, smoothed
from scdmc.text.candidates import candidate_vectors, other_terms, read_candidates
from scdmc.text.encoders import open_text_encoder
from scdmc.text.features import Centre, fitted_components
from scdmc.text.model import feature_maker, read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextAnnotationOptions
from scdmc.text.query import query_of_file

TYPES = ["CL:0000169", "CL:0000171", "CL:0002079", "CL:0002064", "delta cell of the pancreas"]
USUAL, ALONE = TextAnnotationOptions(), TextAnnotationOptions(centre="training", smooth="off")


@pytest.fixture(scope="module")
def ontology():
    return CellOntology.load()


@pytest.fixture(scope="module")
def opened(text_world):
    """The model, and the islets as it reads them."""
    model, directory = read_text_model(text_world["model"])
    maker = feature_maker(model, directory, lambda encoder: encoder)
    return model, query_of_file(text_world["islets"], directory, maker, CountOptions())[1]


@pytest.fixture(scope="module")
def annotate(opened, text_world, ontology):
    """A function: annotate the islets, or other cells, by types."""
    model, islets = opened
    encoder = open_text_encoder(text_world["texts"])

    def run(types=TYPES, options=USUAL, query=islets):
        candidates = read_candidates(types, None, ontology)
        vectors = candidate_vectors(candidates, model.texts, lambda: encoder)
        others = other_terms(candidates, vectors, model.texts, ontology)
        return annotate_cells(model, query, candidates, vectors, others, options)

    return run


def part(query, cells):
    return Query(query.features[cells], query.expression[cells], query.genes, query.has_counts[cells])


def test_islets_get_their_types(annotate, text_world):
    types = anndata.read_h5ad(text_world["islets"]).obs["cell_type"].astype(str).to_numpy()
    result = annotate(options=TextAnnotationOptions(max_none=1.0))
    names = {"beta": "type B pancreatic cell", "alpha": "pancreatic A cell"}
    for label, name in names.items():
        assert (result.labels[types == label] == name).mean() > 0.9


def test_the_order_of_cells_and_candidates_does_not_matter(annotate, opened):
    result, islets = annotate(), opened[1]
    order = np.random.default_rng(0).permutation(len(islets.features))
    turned = annotate(query=part(islets, order))
    assert (turned.labels == result.labels[order]).mean() > 0.99
    assert np.allclose(turned.none_of_these, result.none_of_these[order], atol=0.02)
    other = annotate(TYPES[::-1])
    assert np.array_equal(other.labels, result.labels)
    assert np.allclose(other.probabilities[:, ::-1], result.probabilities, atol=1e-6)


def test_another_name_of_the_same_text_changes_no_score(annotate, tmp_path):
    (tmp_path / "a.txt").write_text(
        "beta\tbeta cell that secretes insulin\nductal cell\n# a remark\n  # another\nalpha cell\n"
    )
    (tmp_path / "b.txt").write_text("zeta\tbeta cell that secretes insulin\nductal cell\n\nalpha cell\n")
    one, other = annotate(tmp_path / "a.txt"), annotate(tmp_path / "b.txt")
    assert np.array_equal(one.scores, other.scores)
    assert (other.labels[one.labels == "beta"] == "zeta").all()


def test_another_text_changes_the_labels(annotate):
    one, other = annotate(["CL:0000169", "CL:0002079"]), annotate(["CL:0000171", "CL:0002079"])
    assert (one.best != other.best).mean() > 0.05


def test_by_itself_a_cell_gets_the_same_as_in_a_file(annotate, opened):
    islets, together = opened[1], annotate(options=ALONE)
    for cell in (0, 17):
        alone = annotate(options=ALONE, query=part(islets, np.array([cell])))
        assert alone.labels[0] == together.labels[cell]
        assert np.allclose(alone.probabilities[0], together.probabilities[cell], atol=1e-6)


def test_what_all_cells_of_a_file_share_does_not_change_their_labels(annotate, opened):
    islets = opened[1]
    moved = replace(islets, features=islets.features + np.linspace(-1, 1, islets.features.shape[1], dtype=np.float32))
    assert np.array_equal(annotate(query=moved).labels, annotate().labels)


def test_few_cells_are_annotated_one_by_one_with_a_warning(annotate, opened, caplog):
    few = part(opened[1], np.arange(20))
    result = annotate(query=few)
    assert "20 cells are fewer than 50" in caplog.text
    assert (result.is_centred_by_file, result.is_smoothed, result.is_standardised) == (False, False, False)
    with pytest.raises(ScDMCError, match="--smooth on: 20 cells are too few"):
        annotate(query=few, options=TextAnnotationOptions(smooth="on"))


def test_types_of_as_many_cells_as_neighbours_do_not_run_together(annotate, opened, text_world):
    types = anndata.read_h5ad(text_world["islets"]).obs["cell_type"].astype(str).to_numpy()
    kept = np.flatnonzero(np.arange(len(types)) % 3)  # 200 cells, of alpha and beta 37
    result = annotate(["CL:0000169", "CL:0000171"], query=part(opened[1], kept))
    assert result.is_smoothed
    is_unknown, is_known = result.labels == "Unknown", np.isin(types[kept], ["alpha", "beta"])
    assert is_unknown[is_known].mean() + 0.3 < is_unknown[~is_known].mean()


def test_cells_without_counts_get_no_type_and_change_nothing(annotate, opened):
    islets = opened[1]
    has_counts = islets.has_counts.copy()
    has_counts[3] = False
    result = annotate(query=replace(islets, has_counts=has_counts))
    assert result.labels[3] == "no counts"
    assert np.isnan(result.none_of_these[3])
    without = annotate(query=part(islets, has_counts))
    assert np.array_equal(result.labels[has_counts], without.labels)
    with pytest.raises(ScDMCError, match="no cell has counts"):
        annotate(query=replace(islets, has_counts=np.zeros_like(has_counts)))


def test_scores_of_many_candidates_are_not_standardised(annotate, monkeypatch):
    monkeypatch.setattr("scdmc.text.annotation.MOST_STANDARDISED", len(TYPES) - 1)
    result = annotate()
    assert result.is_smoothed
    assert not result.is_standardised


@pytest.mark.parametrize(
    ("most", "centre", "words"),
    [(50, "file", ""), (50, "training", "each cell is scored without"), (len(TYPES) - 1, "file", "are more than 4")],
)
def test_markers_change_scores_or_a_warning_says_that_they_do_not(annotate, monkeypatch, caplog, most, centre, words):
    monkeypatch.setattr("scdmc.text.annotation.MOST_STANDARDISED", most)
    types = ["beta cell (INS)", *TYPES[1:]]
    without = annotate(types, options=TextAnnotationOptions(centre=centre))
    caplog.clear()
    scores = annotate(types, options=TextAnnotationOptions(centre=centre, marker_weight=5.0)).scores
    assert np.array_equal(scores, without.scores) == bool(words)
    assert words in caplog.text
    assert ("--marker_weight has no effect" in caplog.text) == bool(words)


def test_relatives_of_a_candidate_stand_not_for_none_of_these(annotate, ontology):
    below = annotate(["CL:0000169", "CL:0000084"])
    assert "type B pancreatic cell" not in below.distractors
    assert "pancreatic A cell" in below.distractors
    above = annotate(["pancreatic endocrine cell", "CL:0000084"])  # an ancestor of both
    assert not {"type B pancreatic cell", "pancreatic A cell"} & set(above.distractors)
    everything = annotate(["CL:0000000", "CL:0000084"])
    assert list(everything.distractors) == []
    assert (everything.none_of_these == 0).all()


def test_smoothing_without_neighbours_is_the_identity():
    scores = np.random.default_rng(0).normal(size=(6, 3))
    assert np.allclose(smoothed(scores, scipy.sparse.csr_matrix((6, 6))), scores)
    ring = scipy.sparse.csr_matrix(np.roll(np.eye(6), 1, axis=1))
    assert smoothed(scores, ring).std() < scores.std() / 2


def test_markers_count_with_their_signs():
    expression = scipy.sparse.csr_matrix([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    genes = np.array(["ENSG1", "ENSG2", "ENSG3"])
    scores = marker_scores(expression, genes, [{"ENSG1": 1, "ENSG2": -1}, {"ENSG9": 1}, {}])
    assert np.allclose(scores, [[1, 0, 0], [-1, 0, 0]])


def test_components_see_what_varies_within_data_sets_only():
    draw = np.random.default_rng(0)
    parts = []
    for shift in (0.0, 50.0):
        values = draw.normal(size=(200, 3)) * [3, 1, 0.1] + [0, 0, shift]
        parts.append((scipy.sparse.csr_matrix(values), np.array(["A", "B", "C"])))
    components = fitted_components(parts, 1, "test")
    assert components.vectors[:, 0].argmax() == 0
    swapped = components.of(parts[0][0][:, [1, 0, 2]], np.array(["B", "A", "C"]))
    assert np.allclose(swapped, components.of(*parts[0]))
    with pytest.raises(ScDMCError, match="2001 components are more than the 2,000 genes"):
        fitted_components(parts, 2001, "test")
    centre = Centre.of(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert np.allclose(centre.applied(np.array([[3.0, 5.0]])), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("types", "under", "words"),
    [
        ("B cell", None, "1 candidate, and at least 2.*'B cell' is no file, and was read as texts"),
        (["B cell"], None, "second every cell gets the first$"),
        ("B cell; unknown", None, "'unknown' is what cells without a type are called"),
        (["No counts", "B cell"], None, "'No counts' is what cells without a type are called"),
        ("B cell; b cell", None, "the same name: b cell"),
        ("B cell; ", None, "a candidate is empty"),
        ("CL:9999999; B cell", None, "has no term CL:9999999"),
        ("absent.txt", None, "absent.txt: no such file"),
        (None, "CL:0000", "is no id of the Cell Ontology"),
        (None, None, "either with --types or with --under"),
        ("a; b", "CL:0000988", "either with --types or with --under"),
    ],
)
def test_candidates_that_mean_nothing_are_refused(ontology, types, under, words):
    with pytest.raises(ScDMCError, match=words):
        read_candidates(types, under, ontology)


def test_candidates_of_the_ontology(ontology):
    found = read_candidates(None, "CL:0000576", ontology)
    assert {each.cl_id for each in found} == ontology.descendants("CL:0000576")
    text, term = read_candidates("NK cells; cl:0000236", None, ontology)
    assert (text.label, text.texts, text.cl_id) == ("NK cells", ("NK cells",), "CL:0000623")
    assert term.label == "B cell"
    assert term.texts[0] == "B cell"
    assert len(term.texts) == 2


def test_names_of_candidates_are_looked_up_together(ontology):
    alone, beside = (read_candidates(types, None, ontology) for types in ("ductal; B cell", "ductal; alpha"))
    assert (alone[0].cl_id, beside[0].cl_id) == (None, "CL:0002079")


def test_texts_of_training_need_no_text_encoder_and_another_one_is_refused(opened, ontology, tmp_path):
    from tests.text.small_texts import save_tiny_text_encoder

    def none():
        raise AssertionError("the text encoder was opened")

    space = opened[0].texts
    known = read_candidates(["CL:0000169", "CL:0000171"], None, ontology)
    assert candidate_vectors(known, space, none).shape == (2, 32)
    other = save_tiny_text_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ScDMCError, match="trained with the text encoder tiny"):
        candidate_vectors(read_candidates("a; b", None, ontology), space, lambda: open_text_encoder(other))


def test_the_encoder_of_cells_is_not_changed_and_the_folder_needs_no_other(text_world, opened):
    from scdmc.model.encoder import ScDMCModel

    before = load_model(text_world["cells"], ScDMCModel).state_dict()
    after = load_model(open_model_directory(text_world["model"] / "encoder").path, ScDMCModel).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_in_a_notebook_it_is_the_same_as_by_the_script(text_world, load_script, tmp_path):
    adata = anndata.read_h5ad(text_world["islets"])
    out = scdmc.annotate_by_text(adata, text_world["model"], TYPES, text_encoder=text_world["texts"])
    assert out is adata
    script = load_script("downstream_tasks/annotate_text.py")
    words = ["--model", text_world["model"], "--data_path", text_world["islets"], "--types", "; ".join(TYPES)]
    words += ["--text_encoder", text_world["texts"], "--output_dir", tmp_path / "out", "--umap", "no"]
    assert script.main([str(word) for word in words]) == 0
    written = anndata.read_h5ad(tmp_path / "out" / "annotated.h5ad")
    for name in ("scDMC_text_type", "scDMC_text_cl_id", "scDMC_second_type"):
        assert (written.obs[name].astype(str) == adata.obs[name].astype(str)).all()
    assert np.allclose(written.obsm["X_scDMC_text"], adata.obsm["X_scDMC_text"], atol=1e-5)
    facts = written.uns["scDMC_text"]
    assert list(facts["cl_ids"][:2]) == TYPES[:2]
    assert facts["smoothed"] == "true"
    assert (tmp_path / "out" / "report.html").read_text().count("type B pancreatic cell") >= 1
    assert len((tmp_path / "out" / "labels.csv").read_text().splitlines()) == adata.n_obs + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda world, folder: ["--model", world["cells"]], "is no text model"),
        (lambda world, folder: ["--text_encoder", folder], "holds no"),
        (lambda world, folder: ["--types", "only one"], "1 candidate"),
        (lambda world, folder: ["--smooth", "maybe"], "invalid choice maybe"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(text_world, load_script, tmp_path, capsys, change, words):
    (tmp_path / "config.json").write_text("{}")
    given = {"--model": text_world["model"], "--data_path": text_world["islets"], "--types": "a cell; b cell"}
    given |= {"--text_encoder": text_world["texts"], "--output_file": tmp_path / "out.csv"}
    changed = change(text_world, tmp_path)
    given |= dict(zip(changed[::2], changed[1::2], strict=True))
    line = [str(word) for pair in given.items() for word in pair]
    try:
        status = load_script("downstream_tasks/annotate_text.py").main(line)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert error[-1].startswith("error: ")
    assert words in error[-1]
    assert not (tmp_path / "out.csv").exists()
