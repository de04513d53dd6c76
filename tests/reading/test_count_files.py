"""Every kind of input: the same cells give the same tokens, as anndata and scanpy read them; damage is said."""

import gzip
import itertools
import resource
import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.io
import scipy.sparse
import zarr

from scdmc.genes.ids import load_symbols
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading import matrix_readers, transposition
from scdmc.reading.count_files import files_of_input
from scdmc.reading.counts import open_counts
from scdmc.reading.inputs import input_files
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts
from tests.reading.reading import message_of, read_all

N_CELLS = 60


@pytest.fixture(scope="module")
def cells(islets_path):
    """Some real cells; every gene has an id, and nothing of obs decides about tokens."""
    adata = anndata.read_h5ad(islets_path)[:N_CELLS]
    symbols = load_symbols()
    adata = adata[:, [name in symbols for name in adata.var_names]].copy()
    var = pd.DataFrame({"gene_symbol": adata.var_names}, index=adata.var_names, dtype=object)
    var["ensembl_id"] = [symbols[name] for name in adata.var_names]
    return anndata.AnnData(scipy.sparse.csr_matrix(adata.X), obs=adata.obs[["cell_type"]], var=var)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_vocabulary(), load_gene_medians(None))


def write_h5ad(adata, path, matrix=scipy.sparse.csr_matrix, **options):
    adata = adata.copy()
    adata.X = matrix(adata.X)
    adata.write_h5ad(path, **options)
    return path


def write_zarr(adata, path, version=3, matrix=scipy.sparse.csr_matrix, **options):
    adata = adata.copy()
    adata.X = matrix(adata.X)
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_zarr(path, **options)
    finally:
        anndata.settings.zarr_write_format = before
    return path


def consolidate(path):
    """Make the metadata at the root of a zarr store those of its arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def dense(matrix):
    return matrix.toarray()


def write_loom(adata, path, layers=(), **options):
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        counts = adata.X.toarray().T
        file.create_dataset("matrix", data=counts, **options)
        for name in layers:
            file.create_dataset(f"layers/{name}", data=counts)
        file["row_attrs/Gene"] = adata.var["gene_symbol"].to_numpy(dtype=object).astype(text)
        file["row_attrs/Accession"] = adata.var["ensembl_id"].to_numpy(dtype="S15")
        file["col_attrs/CellID"] = adata.obs_names.to_numpy(dtype=object).astype(text)
        file["col_attrs/ClusterID"] = np.arange(adata.n_obs)
    return path


def write_10x(adata, path, version=3, types=None, genome="GRCh38"):
    """As Cell Ranger does: features x cells by columns."""
    by_cell = scipy.sparse.csr_matrix(adata.X)
    ids, names = (adata.var[column].to_numpy(dtype="S") for column in ("ensembl_id", "gene_symbol"))
    with h5py.File(path, "a") as file:
        group = file.create_group("matrix" if version == 3 else genome)
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        group["data"] = by_cell.data.astype(np.int32)
        group["indices"] = by_cell.indices.astype(np.int64)
        group["indptr"] = by_cell.indptr.astype(np.int64)
        group["shape"] = np.array([adata.n_vars, adata.n_obs], dtype=np.int32)
        if version == 2:
            group["genes"], group["gene_names"] = ids, names
        else:
            types = np.full(adata.n_vars, "Gene Expression") if types is None else types
            group["features/id"], group["features/name"] = ids, names
            group["features/feature_type"] = types.astype("S")
            group["features/genome"] = np.full(adata.n_vars, genome.encode())
    return path


def write_mtx(adata, folder, version=3, types=None, by="cell", packed=True):
    folder.mkdir()
    entries = scipy.sparse.coo_matrix(adata.X)
    order = np.lexsort((entries.col, entries.row) if by == "cell" else (entries.row, entries.col))
    lines = zip(entries.col[order] + 1, entries.row[order] + 1, entries.data[order].astype(int), strict=True)
    header = f"%%MatrixMarket matrix coordinate integer general\n% made by a test\n{adata.n_vars} {adata.n_obs} "
    matrix = header + f"{entries.nnz}\n" + "".join(f"{gene} {cell} {count}\n" for gene, cell, count in lines)
    types = np.full(adata.n_vars, "Gene Expression") if types is None else types
    columns = [adata.var["ensembl_id"], adata.var["gene_symbol"], *([types] if version == 3 else [])]
    features = "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))
    barcodes = "".join(f"{name}\n" for name in adata.obs_names)
    names = {
        "matrix.mtx": matrix,
        "barcodes.tsv": barcodes,
        ("features.tsv" if version == 3 else "genes.tsv"): features,
    }
    for name, content in names.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (folder / name).write_text(content)
    return folder


def tokens_of(path, tokenizer):
    with open_counts(path) as counts:
        return tokenize_counts(counts, tokenizer)


def require_same_tokens(found, expected):
    for name in ("rank_ids", "expression_ids", "expression_values", "rank_offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.obs["cell_id"].tolist() == expected.obs["cell_id"].tolist()


KINDS = {
    "gzip.h5ad": lambda adata, path: write_h5ad(adata, path, compression="gzip"),
    "lzf.h5ad": lambda adata, path: write_h5ad(adata, path, compression="lzf"),
    "columns.h5ad": lambda adata, path: write_h5ad(adata, path, scipy.sparse.csc_matrix, compression="gzip"),
    "dense.h5ad": lambda adata, path: write_h5ad(adata, path, dense, compression="gzip"),
    "v2.zarr": lambda adata, path: write_zarr(adata, path, 2),
    "v3.zarr": lambda adata, path: write_zarr(adata, path, 3),
    "columns.zarr": lambda adata, path: write_zarr(adata, path, matrix=scipy.sparse.csc_matrix),
    "dense.zarr": lambda adata, path: write_zarr(adata, path, matrix=dense),
    "dense2.zarr": lambda adata, path: write_zarr(adata, path, 2, dense, chunks=(13, 1000)),
    "plain.loom": write_loom,
    "packed.loom": lambda adata, path: write_loom(adata, path, chunks=(64, 32), compression="gzip"),
    "v3.h5": write_10x,
    "v2.h5": lambda adata, path: write_10x(adata, path, 2),
    "mtx3": write_mtx,
    "mtx2": lambda adata, path: write_mtx(adata, path, 2, packed=False),
    "mtx_by_gene": lambda adata, path: write_mtx(adata, path, by="gene"),
}


@pytest.fixture(scope="module")
def expected(cells, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "cells.h5ad"
    return tokens_of(write_h5ad(cells, path), tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_cells_give_the_same_tokens_from_every_kind_of_input(kind, cells, tokenizer, expected, tmp_path):
    found = tokens_of(KINDS[kind](cells, tmp_path / kind), tokenizer)
    require_same_tokens(found, expected)
    assert found.obs["source_file"].unique().tolist() == [kind]


def test_what_we_write_in_these_tests_is_what_scanpy_and_anndata_read(cells, tmp_path):
    read = {
        "v3.h5": scanpy.read_10x_h5,
        "v2.h5": scanpy.read_10x_h5,
        "mtx3": lambda path: scanpy.read_10x_mtx(path, var_names="gene_ids"),
        "mtx2": lambda path: scanpy.read_10x_mtx(path, var_names="gene_ids"),
        "v2.zarr": anndata.read_zarr,
        "v3.zarr": anndata.read_zarr,
        "columns.zarr": anndata.read_zarr,
    }
    for kind, reader in read.items():
        path = KINDS[kind](cells, tmp_path / kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = reader(path)
        np.testing.assert_array_equal(read_all(path), theirs.X.toarray())
        with open_counts(path) as counts:
            assert counts.obs.index.tolist() == theirs.obs_names.tolist()
            ids = theirs.var.get("gene_ids", theirs.var.get("ensembl_id", theirs.var_names.to_series()))
            assert counts.var.iloc[:, [list(counts.var).index(c) for c in ("gene_ids", "ensembl_id") if c in counts.var]
                                   ].to_numpy().ravel().tolist() == list(ids)  # fmt: skip


def test_layers_and_annotation_of_a_loom_are_read(cells, tmp_path):
    path = write_loom(cells, tmp_path / "a.loom", ["spliced"])
    np.testing.assert_array_equal(read_all(path, layer="spliced"), cells.X.toarray())
    with open_counts(path) as counts:
        assert counts.obs["ClusterID"].tolist() == list(range(N_CELLS))
        assert counts.var.index[0] == cells.var["gene_symbol"].iloc[0]
    assert "there are ['X', 'spliced']" in message_of(path, layer="none")


@pytest.mark.parametrize("write", [write_10x, write_mtx])
def test_features_that_are_no_genes_are_left_out_and_counted(write, cells, tmp_path, caplog):
    caplog.set_level("INFO")
    types = np.full(cells.n_vars, "Gene Expression", dtype=object)
    types[[2, 5]] = "Antibody Capture"
    path = write(cells, tmp_path / "cells.h5", types=types.astype(str))
    np.testing.assert_array_equal(read_all(path), cells.X.toarray()[:, types == "Gene Expression"])
    assert "cells.h5: 2 features" in caplog.text


def test_of_several_genomes_the_human_one_is_taken_or_none(cells, tmp_path, caplog):
    path = write_10x(cells, tmp_path / "two.h5", 2, genome="mm10")
    write_10x(cells[:20], path, 2, genome="hg19")
    np.testing.assert_array_equal(read_all(path), cells.X[:20].toarray())
    assert "only hg19 is taken" in caplog.text
    write_10x(cells, path, 2, genome="GRCh38")
    assert "genomes ['GRCh38', 'hg19', 'mm10']" in message_of(path)


def test_a_folder_lists_all_kinds_and_is_itself_one_where_it_holds_a_matrix(cells, tmp_path):
    kinds = ["plain.loom", "gzip.h5ad", "mtx3", "v2.zarr", "v3.h5"]
    for kind in kinds:
        KINDS[kind](cells[:3], tmp_path / kind)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.h5ad").write_text("")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in input_files(tmp_path)] == sorted(kinds)
    for kind in ("mtx3", "v2.zarr"):
        assert input_files(tmp_path / kind) == [tmp_path / kind]
    assert [path.name for path in files_of_input(tmp_path / "mtx3")] == [
        "barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz",
    ]  # fmt: skip
    assert files_of_input(tmp_path / "v3.h5") == [tmp_path / "v3.h5"]
    assert len(files_of_input(tmp_path / "v2.zarr")) > 5


def test_an_input_is_known_by_the_name_that_the_user_gave_it(cells, tmp_path, monkeypatch):
    folder = write_mtx(cells[:3], tmp_path / "donor")
    (tmp_path / "alias").symlink_to(folder)
    monkeypatch.chdir(folder)
    for path, name in (
        (folder, "donor"),
        (tmp_path / "alias", "alias"),
        (Path(), "donor"),
        (Path("../alias"), "alias"),
    ):
        assert [found.name for found in input_files(path)] == [name]
        with open_counts(path) as counts:
            assert counts.name == name


@pytest.fixture
def small_pieces(monkeypatch):
    """Everything that is read at a time is small, so that all seams are crossed."""
    monkeypatch.setattr(transposition, "ENTRIES_IN_MEMORY", 1000)
    monkeypatch.setattr(matrix_readers, "DENSE_VALUES_IN_MEMORY", 30_000)
    monkeypatch.setattr(matrix_readers, "DENSE_BYTES_IN_MEMORY", 300_000)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ["columns.h5ad", "columns.zarr", "mtx3", "mtx_by_gene", "packed.loom", "dense.h5ad"])
def test_blocks_do_not_depend_on_how_much_is_read_at_a_time(kind, cells, tmp_path):
    path = KINDS[kind](cells, tmp_path / kind)
    with open_counts(path) as counts:
        for start, stop, block_size in ((0, N_CELLS, 1), (11, 47, 9), (0, N_CELLS, 100), (3, 5, 1)):
            rows = scipy.sparse.vstack([block for _, block in counts.blocks(start, stop, block_size)])
            np.testing.assert_array_equal(rows.toarray(), cells.X[start:stop].toarray())


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("chunks", [(N_CELLS, 50), (17, 300), (1, 2000), None])
def test_dense_matrices_of_any_chunks_are_read(chunks, cells, tmp_path, caplog):
    caplog.set_level("INFO")
    path = write_h5ad(cells, tmp_path / "a.h5ad", dense)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", data=cells.X.toarray(), chunks=chunks)
    np.testing.assert_array_equal(read_all(path), cells.X.toarray())
    assert ("temporary file" in caplog.text) == (chunks is not None and chunks[0] == N_CELLS)


@pytest.mark.parametrize("chunk", [7, 100_000])
def test_one_chunk_for_all_values_is_decompressed_once(chunk, cells, tmp_path):
    path = write_h5ad(cells, tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            values = file["X"][name][:]
            del file["X"][name]
            file["X"].create_dataset(name, data=values, chunks=(min(chunk, len(values)),), compression="gzip")
    np.testing.assert_array_equal(read_all(path), cells.X.toarray())


def test_a_matrix_by_genes_says_that_it_is_turned_and_leaves_nothing_behind(cells, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(transposition.tempfile, "tempdir", str(folder))
    path = KINDS["columns.h5ad"](cells, tmp_path / "a.h5ad")
    with open_counts(path) as counts:
        assert "temporary file" not in caplog.text
        next(counts.blocks())
        assert "a.h5ad: X lies gene by gene" in caplog.text
        assert str(folder) in caplog.text
    assert list(folder.iterdir()) == []


def test_the_real_shape_of_the_matrix_must_fit_its_annotation(cells, tmp_path):
    path = write_10x(cells, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([b"one"])
    assert "1 barcodes" in message_of(path)
    folder = write_mtx(cells, tmp_path / "mtx")
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert "2 barcodes" in message_of(folder)
    path = write_loom(cells, tmp_path / "a.loom")
    with h5py.File(path, "r+") as file:
        del file["col_attrs/CellID"]
        file["col_attrs/CellID"] = np.arange(5)
    assert "5 values for 60 cells" in message_of(path)


def overwrite(path, where, length=1):
    content = bytearray(path.read_bytes())
    content[where : where + length] = bytes(255 - byte for byte in content[where : where + length])
    path.write_bytes(content)


def test_a_compressed_chunk_that_is_damaged_is_an_error_that_names_the_file(cells, tmp_path):
    for matrix in (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, dense):
        path = write_h5ad(cells, tmp_path / "a.h5ad", matrix, compression="gzip")
        with h5py.File(path) as file:
            element = file["X"] if matrix is dense else file["X/data"]
            chunk = element.id.get_chunk_info(0)
        overwrite(path, chunk.byte_offset + chunk.size // 2, 40)
        assert "a.h5ad: X cannot be read" in message_of(path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_of_a_zarr_store_that_is_damaged_or_missing_is_an_error(version, cells, tmp_path):
    for name in ("data", "indices", "indptr"):
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-20])):
            shutil.rmtree(tmp_path / "a.zarr", ignore_errors=True)
            path = write_zarr(cells, tmp_path / "a.zarr", version)
            damage(path / "X" / name / ("c/0" if version == 3 else "0"))
            assert "a.zarr: X cannot be read" in message_of(path)


def test_a_zarr_store_of_one_gene_needs_no_chunk_of_indices(tmp_path):
    counts = np.array([[1.0], [2.0], [0.0]], dtype=np.float32)
    path = write_zarr(anndata.AnnData(scipy.sparse.csr_matrix(counts)), tmp_path / "one.zarr")
    np.testing.assert_array_equal(read_all(path), counts)


def test_a_sharded_zarr_store_is_read_unless_a_shard_is_missing(cells, tmp_path):
    path = write_zarr(cells, tmp_path / "a.zarr", 3)
    group = zarr.open_group(path / "X", mode="a")
    n_values = cells.X.nnz
    # Neither the last chunk nor the last shard is full.
    chunk = n_values // 10
    for name in ("data", "indices"):
        values = group[name][:]
        group.create_array(name, data=values, chunks=(chunk,), shards=(4 * chunk,), overwrite=True)
    consolidate(path)
    np.testing.assert_array_equal(read_all(path), cells.X.toarray())
    (path / "X" / "data" / "c" / "2").unlink()
    assert "chunks of" in message_of(path)


def test_chunks_of_indices_may_be_absent_where_all_are_0_but_only_there(tmp_path):
    counts = np.zeros((12, 3), dtype=np.float32)
    counts[:, 0], counts[8:, 1] = 1, 2
    path = write_zarr(anndata.AnnData(scipy.sparse.csr_matrix(counts)), tmp_path / "a.zarr", 3)
    group = zarr.open_group(path / "X", mode="a")
    indices = group["indices"][:]
    group.create_array("indices", shape=indices.shape, dtype=indices.dtype, chunks=(4,), overwrite=True)
    group["indices"][:] = indices
    consolidate(path)
    assert not (path / "X" / "indices" / "c" / "0").exists()
    np.testing.assert_array_equal(read_all(path), counts)
    (path / "X" / "indices" / "c" / "2").unlink()
    assert "3 of the 4 chunks" in message_of(path)


def test_a_store_without_a_matrix_or_that_is_no_store_is_an_error(cells, tmp_path):
    path = write_zarr(cells, tmp_path / "a.zarr")
    shutil.rmtree(path / "X")
    assert "a.zarr: there is no matrix of counts: it lacks X" in message_of(path)
    shutil.rmtree(path / "obs")
    assert "is a zarr store but no AnnData: it lacks obs" in message_of(path)
    (path / "zarr.json").write_text("{")
    assert "not a readable .zarr store" in message_of(path)
    zarr.save_array(tmp_path / "array.zarr", np.eye(3))
    assert "not a readable .zarr store" in message_of(tmp_path / "array.zarr")
    (tmp_path / "none.zarr").mkdir()
    assert "neither a .zarr store nor a 10x folder" in message_of(tmp_path / "none.zarr")


def change(path, name, function):
    """Replace a dataset by a function of it."""
    with h5py.File(path, "r+") as file:
        values = function(file[name][:])
        del file[name]
        file[name] = values


def with_first(value):
    def changed(values):
        values[0] = value
        return values

    return changed


@pytest.mark.parametrize("kind", ["gzip.h5ad", "columns.h5ad", "v3.h5"])
@pytest.mark.parametrize(
    ("name", "function", "part"),
    [
        ("indices", with_first(-1), "of"),
        ("indices", with_first(10**6), "value for"),
        ("indices", lambda values: values[:-1], "indptr ends at"),
        ("data", lambda values: values[:-1], "indptr ends at"),
        ("indptr", lambda values: values[:-1], "rows or columns"),
        ("indptr", lambda values: values[::-1], "does not ascend"),
        ("indptr", with_first(3), "does not ascend"),
    ],
)
def test_parts_of_a_sparse_matrix_that_contradict_each_other_are_an_error(kind, name, function, part, cells, tmp_path):
    path = KINDS[kind](cells, tmp_path / kind)
    change(path, f"{'matrix' if kind == 'v3.h5' else 'X'}/{name}", function)
    message = message_of(path)
    assert part in message
    assert "damaged or incomplete" in message


def test_a_part_of_a_sparse_matrix_that_is_missing_is_an_error(cells, tmp_path):
    path = write_h5ad(cells, tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X/indices"]
    assert "it lacks indices" in message_of(path)


def test_genes_of_a_cell_in_any_order_and_twice_are_added(cells, tokenizer, tmp_path):
    # Bytes are too narrow for the sum.
    clipped = cells.copy()
    clipped.X.data = np.minimum(cells.X.data, 200)
    path = write_h5ad(clipped, tmp_path / "a.h5ad", lambda x: x.astype(np.uint8))
    with h5py.File(path, "r+") as file:
        offsets = file["X/indptr"][:]
        data, indices = file["X/data"][:], file["X/indices"][:]
        # The first count of every cell in two parts, the second one at the end.
        parts = [
            (
                np.concatenate([indices[a:b][::-1], indices[a : a + 1]]),
                np.concatenate([data[a:b][::-1], data[a : a + 1]]),
            )
            for a, b in itertools.pairwise(offsets)
        ]
        for name, values in (
            ("indices", np.concatenate([part[0] for part in parts])),
            ("data", np.concatenate([part[1] for part in parts])),
            ("indptr", offsets + np.arange(len(offsets))),
        ):
            del file["X"][name]
            file["X"][name] = values
    twice = clipped.copy()
    first = cells.X.indptr[:-1]
    twice.X.data[first] *= 2
    wanted = tokens_of(write_h5ad(twice, tmp_path / "b.h5ad"), tokenizer)
    require_same_tokens(tokens_of(path, tokenizer), wanted)


LARGE = 2**24


@pytest.mark.parametrize(
    ("dtype", "limit"), [(np.float32, LARGE), (np.float64, 2**53), (np.int64, 2**53), (np.uint64, 2**53)]
)
def test_counts_that_the_stored_type_may_have_rounded_are_refused(dtype, limit, tmp_path):
    for matrix in (np.array, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix):
        for value, is_fine in ((limit, True), (limit * 2, False)):
            counts = np.array([[1, 2], [3, value]], dtype=dtype)
            path = tmp_path / "a.h5ad"
            anndata.AnnData(matrix(counts)).write_h5ad(path)
            if is_fine:
                np.testing.assert_array_equal(read_all(path), counts)
            else:
                message = message_of(path)
                assert f"only up to {limit:,}" in message
                assert "gene '1'" in message
                assert "store the counts as integers or as float64" in message


def test_float16_and_foreign_byte_order_are_read(cells, tmp_path):
    cells = cells[:, cells.X.max(axis=0).toarray().ravel() <= 2048].copy()
    for dtype in (">f4", ">i4", np.float16):
        path = write_h5ad(cells, tmp_path / "a.h5ad", dense)
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = cells.X.toarray().astype(dtype)
        np.testing.assert_array_equal(read_all(path), cells.X.toarray())


def test_a_matrix_of_text_is_no_matrix_of_counts(cells, tmp_path):
    path = write_h5ad(cells, tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.full(cells.shape, b"1")
    assert "which are no counts" in message_of(path)


def test_a_kind_that_the_name_promises_but_the_file_is_not(cells, tmp_path):
    for name, part in (("a.loom", "no .loom: it lacks matrix, row_attrs, col_attrs"), ("a.h5", "no 10x .h5")):
        with h5py.File(tmp_path / name, "w") as file:
            file["other"] = np.eye(3)
        assert part in message_of(tmp_path / name)
        (tmp_path / name).write_text("no HDF5")
        assert f"not a readable {tmp_path.joinpath(name).suffix} file" in message_of(tmp_path / name)
    # AnnData under the name of 10x.
    np.testing.assert_array_equal(read_all(write_h5ad(cells, tmp_path / "b.h5")), cells.X.toarray())


@pytest.mark.parametrize(
    ("line", "changed", "part"),
    [
        (0, "%%MatrixMarket matrix array integer general", "starts with"),
        (0, "%%MatrixMarket matrix coordinate integer symmetric", "starts with"),
        (0, "gene,cell,count", "starts with"),
        (2, "60 x 3", "should be rows, columns, entries"),
        (2, "3 4 5", "has 3 features x 4 cells"),
        (3, "1 61 5", "a value for cell 61 of 60"),
        (3, "9999 1 5", "a value for feature 9,999 of"),
        (3, "0 1 5", "a value for feature 0 of"),
        (3, "1 1 x", "cannot be read"),
        (3, "1 1 5 7", "more than gene, cell and value"),
        (3, "1 1.5 7", "cannot be read"),
        (3, "1 1 0.5", "which is no count"),
        (3, "1 1 -2", "which is no count"),
        (3, "1 1", "a line holds less than gene, cell and value"),
        (3, None, "the header promises"),
        (3, "1 1 2\n1 1 3", "the header promises"),
    ],
)
def test_a_wrong_line_in_a_matrix_of_text_is_an_error(line, changed, part, cells, tmp_path, monkeypatch):
    monkeypatch.setattr("scdmc.reading.mtx.VALUES_IN_SAMPLE", 1)
    folder = write_mtx(cells, tmp_path / "mtx", packed=False)
    lines = (folder / "matrix.mtx").read_text().splitlines()
    lines[line : line + 1] = [] if changed is None else [changed]
    # The first entry must not be the one that is looked at beforehand.
    (folder / "matrix.mtx").write_text("\n".join(lines) + "\n")
    assert part in message_of(folder).replace("no raw counts (integers of at least 0): X holds", "which is no count")


def test_a_folder_that_lacks_a_file_or_holds_half_of_one_is_an_error(cells, tmp_path):
    folder = write_mtx(cells, tmp_path / "mtx")
    packed = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(packed[: len(packed) // 2])
    assert "damaged or incomplete" in message_of(folder)
    (folder / "features.tsv.gz").unlink()
    assert "there is no features.tsv.gz" in message_of(folder)
    folder = write_mtx(cells, tmp_path / "empty", packed=False)
    (folder / "barcodes.tsv").write_text("")
    assert "barcodes.tsv cannot be read" in message_of(folder)


@pytest.mark.parametrize("kind", ["columns.h5ad", "mtx3", "mtx_by_gene"])
def test_a_full_disk_is_an_error_that_names_the_temporary_folder(kind, cells, tmp_path):
    path = KINDS[kind](cells, tmp_path / kind)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        message = message_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no room for a temporary file in" in message
    assert "TMPDIR" in message


def test_too_little_space_is_said_before_anything_is_written(cells, tmp_path, monkeypatch):
    path = KINDS["columns.h5ad"](cells, tmp_path / "a.h5ad")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transposition.shutil, "disk_usage", lambda folder: usage._replace(free=10))
    assert "0.0 GiB are free" in message_of(path)
