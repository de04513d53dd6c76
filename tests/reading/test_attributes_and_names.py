"""Small things in which files differ: attributes of fixed length, null matrices, filters, names of cells in a loom."""

import anndata
import h5py
import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.reading.matrix_readers import reading
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenizer import Tokenizer
from tests.reading.test_count_files import write_loom
from tests.reading.test_features_and_totals import as_h5ad, data, expected_values, require_values, values_of


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_vocabulary(), load_gene_medians(None))


def change(path, function):
    with h5py.File(path, "r+") as file:
        function(file)
    return path


FIXED = {
    "bytes": lambda value: np.bytes_(value),
    "fixed length": lambda value: np.array(value, dtype=f"S{len(value) + 3}"),
    "one in an array": lambda value: np.array([value], dtype="S"),
}


@pytest.mark.parametrize("kind", FIXED)
def test_text_attributes_may_be_of_fixed_length(kind, tokenizer, tmp_path):
    def fixed(file):
        file["X"].attrs["encoding-type"] = FIXED[kind]("csr_matrix")
        file["X"].attrs["encoding-version"] = FIXED[kind]("0.1.0")

    with open_counts(change(as_h5ad(data(), tmp_path / "a.h5ad"), fixed)) as counts:
        require_values(values_of(counts, tokenizer), expected_values())


def null_x(file):
    file.move("X", "layers/counts")
    file["X"] = h5py.Empty("f")
    file["X"].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})


def table_among_layers(file):
    file.create_group("layers/table").attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"})


@pytest.mark.parametrize("function", [null_x, table_among_layers])
def test_what_is_no_matrix_is_passed_over(function, tokenizer, tmp_path):
    with open_counts(change(as_h5ad(data(), tmp_path / "a.h5ad"), function)) as counts:
        require_values(values_of(counts, tokenizer), expected_values())


def test_a_filter_that_is_not_there_is_no_damage(tmp_path):
    path = tmp_path / "a.h5ad"

    def unknown_filter(file):
        values = file["X/data"][:]
        del file["X/data"]
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((len(values),))
        kind.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, which plain h5py lacks
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file["X"].id, b"data", h5py.h5t.py_create(values.dtype), space, kind)
        # Chunks as a writer with the plug-in leaves them: the filter was used (mask 0).
        dataset.write_direct_chunk((0,), values.tobytes(), 0)

    change(as_h5ad(data(), path), unknown_filter)
    with pytest.raises(ScDMCError) as error, open_counts(path) as counts:
        list(counts.blocks())
    assert "hdf5plugin" in str(error.value)
    assert "damaged" not in str(error.value)


def test_other_faults_of_reading_are_still_called_damage():
    with pytest.raises(ScDMCError, match="damaged or incomplete"), reading("a.h5ad"):
        raise OSError("file signature not found")


@pytest.mark.parametrize("column", ["obs_names", "Barcode", "cell_names", "CellName", "index", "my_own_ids"])
def test_cells_of_a_loom_keep_their_names(column, tmp_path):
    path = write_loom(data(), tmp_path / "a.loom")
    change(path, lambda file: file.move("col_attrs/CellID", f"col_attrs/{column}"))
    with open_counts(path) as counts:
        assert counts.obs.index.tolist() == data().obs_names.tolist()


def test_cells_of_a_loom_without_names_are_numbered_with_a_warning(tmp_path, caplog):
    path = change(write_loom(data(), tmp_path / "a.loom"), lambda file: file.pop("col_attrs/CellID"))
    with open_counts(path) as counts:
        assert counts.obs.index[:2].tolist() == ["cell_0", "cell_1"]
    assert "no attribute names its cells" in caplog.text


def test_three_hundred_layers_stay_a_line(tmp_path):
    adata = data()
    for number in range(300):
        adata.layers[f"layer{number}"] = adata.X * 0.5
    with pytest.raises(ScDMCError, match="more") as error, open_counts(as_h5ad(adata, tmp_path / "a.h5ad"), "none"):
        pass
    assert len(str(error.value)) < 600
    assert anndata.read_h5ad(tmp_path / "a.h5ad").n_obs == 7
