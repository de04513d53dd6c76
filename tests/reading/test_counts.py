"""Finding raw counts in a file, reading them in blocks, refusing what is no count."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.reading import matrix_readers
from scdmc.reading.counts import counts_of_adata, open_counts
from tests.reading.reading import message_of, read_all

N_CELLS, N_GENES = 12, 7


@pytest.fixture
def raw():
    """Counts with an empty cell at the start and one in the middle."""
    counts = np.random.default_rng(0).poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)
    counts[[0, 5]] = 0
    return counts


@pytest.fixture
def write_h5ad(tmp_path):
    """A function that writes matrices into an .h5ad."""

    def write(x=None, layers=None, raw=None, name="cells.h5ad"):
        path = tmp_path / name
        adata_of(x, layers, raw).write_h5ad(path)
        return path

    return write


def adata_of(x, layers=None, raw=None):
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(N_CELLS)])
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(N_GENES)])
    adata = anndata.AnnData(X=x, obs=obs, var=var, layers=layers or {})
    if raw is not None:
        raw_var = pd.DataFrame({"of_raw": 1}, index=[f"raw_gene_{i}" for i in range(raw.shape[1])])
        adata.raw = anndata.AnnData(X=raw, obs=obs, var=raw_var)
    return adata


def normalised(raw):
    return np.log1p(raw / 3).astype(np.float32)


def test_raw_counts_are_looked_for_in_x_then_in_layers_counts_then_in_raw(write_h5ad, raw):
    bad = normalised(raw)
    other = np.hstack([raw, raw[:, :1]]) + 2
    cases = [
        ({"x": raw, "layers": {"counts": raw + 1}, "raw": other}, "X", raw),
        ({"x": bad, "layers": {"counts": raw + 1}, "raw": other}, "layers/counts", raw + 1),
        ({"x": bad, "layers": {"counts": bad}, "raw": other}, "raw/X", other),
        ({"x": bad, "raw": other}, "raw/X", other),
        ({"layers": {"counts": raw + 1}}, "layers/counts", raw + 1),
    ]
    for matrices, place, expected in cases:
        path = write_h5ad(**matrices)
        with open_counts(path) as counts:
            assert counts.layer == place
            assert not counts.is_normalized
            assert counts.n_cells == N_CELLS
            assert len(counts.var) == expected.shape[1]
            assert ("of_raw" in counts.var) == (place == "raw/X")
        np.testing.assert_array_equal(read_all(path), expected)


def test_other_layers_are_only_taken_by_name(write_h5ad, raw):
    path = write_h5ad(normalised(raw), {"spliced": raw})
    assert "--layer (there are ['spliced'])" in message_of(path)
    np.testing.assert_array_equal(read_all(path, layer="spliced"), raw)
    path = write_h5ad(None, {"spliced": raw})
    assert "['spliced']" in message_of(path)
    np.testing.assert_array_equal(read_all(path, layer="spliced"), raw)


def test_a_named_layer_is_taken_although_x_holds_counts_too(write_h5ad, raw):
    path = write_h5ad(raw, {"counts": raw + 1}, raw + 2)
    for layer, expected in (("X", raw), ("counts", raw + 1), ("raw", raw + 2)):
        np.testing.assert_array_equal(read_all(path, layer=layer), expected)


def test_a_named_layer_is_never_replaced_by_another(write_h5ad, raw):
    path = write_h5ad(raw, {"scaled": normalised(raw)})
    message = message_of(path, layer="scaled")
    assert "layers/scaled holds" in message
    assert "['X']" in message


def test_a_missing_layer_lists_those_there_are(write_h5ad, raw):
    message = message_of(write_h5ad(raw, {"counts": raw}, raw), layer="umi")
    assert "no layer 'umi'; there are ['X', 'counts', 'raw']" in message


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")]
)
@pytest.mark.parametrize("matrix", [np.array, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_what_is_no_count_is_refused_with_the_value_and_where_counts_may_lie(write_h5ad, raw, value, shown, matrix):
    raw[3, 2] = value
    message = message_of(write_h5ad(matrix(raw)))
    assert message.startswith("cells.h5ad: no raw counts")
    assert f"X holds {shown};" in message
    assert "layers or raw of the original file" in message
    assert "--allow_normalized" in message


def test_a_few_of_the_wrong_values_are_shown(write_h5ad, raw):
    raw[1] = [0.25, 1, 0.75, 2, 0.125, 0.5, 0]
    assert "X holds 0.25, 0.75, 0.125;" in message_of(write_h5ad(raw))


def test_a_bad_value_deep_in_the_file_is_found_and_named(tmp_path):
    counts = scipy.sparse.random(1000, 50, density=0.1, format="lil", random_state=0)
    counts = counts.astype(bool).astype(np.float32).tolil()
    counts[850, 31] = 1.5
    adata = anndata.AnnData(X=counts.tocsr())
    adata.obs_names = [f"cell_{i}" for i in range(1000)]
    adata.var_names = [f"gene_{i}" for i in range(50)]
    adata.write_h5ad(tmp_path / "deep.h5ad")
    for block_size in (7, 4096):
        message = message_of(tmp_path / "deep.h5ad", block_size=block_size)
        assert "deep.h5ad: X holds 1.5 for cell 'cell_850', gene 'gene_31'" in message
    assert read_all(tmp_path / "deep.h5ad", stop=850).shape == (850, 50)
    allowed = read_all(tmp_path / "deep.h5ad", stop=850, allow_normalized=True)
    assert allowed.shape == (850, 50)


def test_allow_normalized_takes_x_and_says_so(write_h5ad, raw):
    path = write_h5ad(normalised(raw), {"spliced": raw})
    with open_counts(path, allow_normalized=True) as counts:
        assert counts.layer == "X"
        assert counts.is_normalized
    np.testing.assert_array_equal(read_all(path, allow_normalized=True), normalised(raw))


def test_allow_normalized_prefers_raw_counts_where_there_are_some(write_h5ad, raw):
    path = write_h5ad(normalised(raw), {"counts": raw})
    with open_counts(path, allow_normalized=True) as counts:
        assert counts.layer == "layers/counts"
        assert not counts.is_normalized


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_negative_and_non_finite_values_are_refused_even_if_normalised_ones_are_allowed(write_h5ad, raw, value):
    values = normalised(raw)
    values[6, 0] = value  # the first entry after an empty cell
    message = message_of(write_h5ad(values), allow_normalized=True)
    assert f"{value} for cell 'cell_6', gene 'gene_0'" in message


def test_allow_normalized_does_not_take_a_layer_that_nobody_named(write_h5ad, raw):
    assert "['spliced']" in message_of(write_h5ad(None, {"spliced": normalised(raw)}), allow_normalized=True)


@pytest.mark.parametrize("block_size", [1, 5, 12, 100])
def test_however_a_matrix_lies_on_the_disk_its_rows_are_the_same(write_h5ad, raw, block_size):
    matrices = [raw, scipy.sparse.csr_matrix(raw), scipy.sparse.csc_matrix(raw), raw.astype(np.int64)]
    matrices.append(scipy.sparse.csr_matrix(raw.astype(np.uint16)))
    for matrix in matrices:
        for place in ({"x": matrix}, {"layers": {"counts": matrix}}, {"x": normalised(raw), "raw": matrix}):
            path = write_h5ad(**place)
            np.testing.assert_array_equal(read_all(path, block_size), raw)
            np.testing.assert_array_equal(read_all(path, block_size, start=3, stop=9), raw[3:9])


def test_blocks_say_where_they_start(write_h5ad, raw):
    with open_counts(write_h5ad(scipy.sparse.csr_matrix(raw))) as counts:
        assert [(first, block.shape) for first, block in counts.blocks(2, 12, 4)] == [
            (2, (4, N_GENES)),
            (6, (4, N_GENES)),
            (10, (2, N_GENES)),
        ]


def test_counts_in_memory_follow_the_rules_of_files(raw):
    def rows(adata, **options):
        counts = counts_of_adata(adata, **options)
        return counts.layer, np.concatenate([block.toarray() for _, block in counts.blocks(block_size=5)])

    for matrix in (raw, scipy.sparse.csr_matrix(raw), scipy.sparse.csc_matrix(raw)):
        layer, found = rows(adata_of(normalised(raw), {"counts": matrix}))
        assert layer == "layers/counts"
        np.testing.assert_array_equal(found, raw)
    layer, found = rows(adata_of(normalised(raw), raw=raw + 2))
    assert layer == "raw/X"
    np.testing.assert_array_equal(found, raw + 2)
    with pytest.raises(ScDMCError, match=r"adata: no raw counts.*\['spliced'\]"):
        counts_of_adata(adata_of(normalised(raw), {"spliced": raw}))
    for allow_normalized in (False, True):
        with pytest.raises(ScDMCError, match=r"\['spliced'\]"):
            counts_of_adata(adata_of(None, {"spliced": raw}), allow_normalized=allow_normalized)


def test_part_of_an_adata_gives_its_own_rows(raw):
    counts = counts_of_adata(adata_of(scipy.sparse.csr_matrix(raw))[[4, 2, 9]])
    ((_, block),) = counts.blocks()
    np.testing.assert_array_equal(block.toarray(), raw[[4, 2, 9]])


def test_a_text_file_that_calls_itself_h5ad_is_no_h5ad(tmp_path):
    path = tmp_path / "text.h5ad"
    path.write_text("gene,cell\n")
    assert "text.h5ad is not a readable .h5ad file" in message_of(path)


def test_an_hdf5_file_without_cells_is_no_h5ad(tmp_path):
    path = tmp_path / "other.h5ad"
    with h5py.File(path, "w") as file:
        file["matrix"] = np.eye(3)
    message = message_of(path)
    assert "HDF5 file but no .h5ad" in message
    assert "obs, var" in message


def test_half_a_file_is_no_h5ad(write_h5ad, raw):
    path = write_h5ad(raw)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a readable .h5ad file" in message_of(path)


def test_an_h5ad_without_any_matrix_is_an_error(write_h5ad):
    assert "it lacks X" in message_of(write_h5ad())


def test_an_absent_file_is_an_error(tmp_path):
    assert "no such file" in message_of(tmp_path / "absent.h5ad")


def test_a_matrix_of_another_shape_than_obs_and_var_is_an_error(write_h5ad, raw):
    path = write_h5ad(raw)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = raw[:-1]
    assert "shape (11, 7), but there are 12 cells in obs and 7 genes in var" in message_of(path)


def test_a_file_without_cells_has_no_blocks(tmp_path):
    anndata.AnnData(X=scipy.sparse.csr_matrix((0, 3), dtype=np.float32)).write_h5ad(tmp_path / "none.h5ad")
    with open_counts(tmp_path / "none.h5ad") as counts:
        assert list(counts.blocks()) == []


def test_a_place_of_nothing_but_zeros_is_passed_over_where_another_holds_counts(write_h5ad, raw):
    for zeros in (np.zeros_like(raw), scipy.sparse.csr_matrix(raw.shape, dtype=np.float32)):
        for places, expected in (({"layers": {"counts": raw}}, "layers/counts"), ({"raw": raw}, "raw/X")):
            with open_counts(write_h5ad(zeros, **places)) as counts:
                assert counts.layer == expected
    assert counts_of_adata(adata_of(zeros, {"counts": raw})).layer == "layers/counts"
    with open_counts(write_h5ad(zeros, {"counts": normalised(raw)}), allow_normalized=True) as counts:
        assert (counts.layer, counts.is_normalized) == ("layers/counts", True)
    message = message_of(write_h5ad(zeros, {"counts": normalised(raw)}))
    assert "layers/counts holds" in message


def test_where_all_places_hold_zeros_the_first_is_taken(write_h5ad, raw):
    zeros = np.zeros_like(raw)
    with open_counts(write_h5ad(zeros, {"counts": zeros})) as counts:
        assert (counts.layer, counts.is_normalized) == ("X", False)
    with open_counts(write_h5ad(zeros, {"counts": raw}), layer="X") as counts:
        assert counts.layer == "X"


def test_a_bad_value_found_late_says_where_raw_counts_may_lie(write_h5ad, raw, monkeypatch):
    monkeypatch.setattr(matrix_readers, "CELLS_IN_SAMPLE", 1)
    raw[-1, 2] = 1.5
    assert "--layer (there are ['spliced'])" in message_of(write_h5ad(raw, {"spliced": raw}))
    assert "layers or raw of the original file" in message_of(write_h5ad(raw))


def test_only_the_matrix_of_the_counts_is_read_and_turned_only_once(write_h5ad, raw, caplog):
    caplog.set_level("INFO")
    csc = scipy.sparse.csc_matrix
    path = write_h5ad(csc(normalised(raw)), {"counts": csc(raw), "spliced": csc(raw)}, csc(raw))
    with open_counts(path) as counts:
        assert caplog.text == ""
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate([b.toarray() for _, b in counts.blocks(block_size=5)]), raw)
    assert caplog.text.count("temporary file") == caplog.text.count("cells.h5ad: layers/counts lies gene by gene") == 1


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
@pytest.mark.parametrize("wrong", [-1, 50])
def test_a_matrix_in_memory_with_impossible_indices_is_an_error(raw, kind, wrong):
    adata = adata_of(kind(raw))
    adata.X.indices[3] = wrong
    with pytest.raises(ScDMCError, match=rf"adata: X cannot be read \(it holds a value for (gene|cell) {wrong} of"):
        counts_of_adata(adata)
