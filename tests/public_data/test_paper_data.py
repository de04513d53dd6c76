"""Each source of the paper's data, in its own format, becomes one form; what is damaged is one line."""

import dataclasses
import gzip
import json
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import ensembl_id
from scdmc.public_data.paper.form import COLUMNS
from scdmc.public_data.paper.gene_tables import counts_of_units
from scdmc.public_data.paper.options import SOURCES
from scdmc.public_data.paper.reading import source_files
from scdmc.public_data.paper.ten_x import read_metadata
from tests.public_data.loopback import serving
from tests.public_data.paper_sources import (
    WRITERS,
    write_bmmc,
    write_immune,
    write_ms,
    write_myeloid,
    write_pbmc10k,
    write_tar,
    write_zheng68k,
)

# Of the source that each test changes: the label file of one, the matrix of the other.
LABELS = "68k_pbmc_barcodes_annotation.tsv"


@pytest.fixture
def paper_data(load_script, tmp_path):
    """A function that runs the script on a folder of sources."""
    main = load_script("prepare/paper_data.py").main

    def run(dataset, *words):
        return main(["--dataset", dataset, "--output_dir", str(tmp_path / "out"), *map(str, words)])

    return run


@pytest.fixture
def source(tmp_path):
    """A folder for original files."""
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


@pytest.fixture
def read(paper_data, source, tmp_path):
    """A function that makes a data set of what lies in the folder, and reads it."""

    def run(dataset, *words):
        assert paper_data(dataset, "--source_directory", source, "--overwrite", *words) == 0
        return anndata.read_h5ad(tmp_path / "out" / f"{dataset}.h5ad")

    return run


@pytest.fixture
def refused(paper_data, source, tmp_path, capsys):
    """A function: what is said of a folder from which nothing can be made, and that nothing is written."""

    def run(dataset, *words):
        assert paper_data(dataset, "--source_directory", source, *words) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(said) == 1
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        return said[0]

    return run


def counts_of(adata):
    return np.asarray(adata.X.todense())


@pytest.mark.parametrize("dataset", WRITERS)
def test_every_set_has_one_form(read, source, dataset):
    WRITERS[dataset](source)
    adata = read(dataset)
    assert [*COLUMNS, "split"] == [name for name in adata.obs if name != "is_query"]
    assert (counts_of(adata) == np.rint(counts_of(adata))).all()
    assert all(ensembl_id(name) == name for name in adata.var_names)
    assert set(adata.obs["split"]) >= {"train", "validation", "test"}
    about = adata.uns["source"]
    assert about["dataset"] == dataset
    assert about["page"].startswith("https://")
    assert len(about["files"]) == len(about["sha256"]) == len(about["urls"]) == len(about["dates"]) > 0
    assert all(len(each) == 64 for each in about["sha256"])
    again = read(dataset)
    assert (again.obs["split"] == adata.obs["split"]).all()  # by the seed
    assert about["split"] == ("query" if dataset in ("ms", "myeloid") else "drawn")


def test_zheng68k_has_the_labels_of_its_barcodes(read, source):
    counts = write_zheng68k(source)
    adata = read("zheng68k")
    assert (counts_of(adata) == counts).all()
    assert adata.obs["cell_type"].tolist()[::18] == ["CD14 monocyte", "B cell", "NK cell"]
    assert adata.var["gene_symbol"].iloc[0] == "TSPAN6"


@pytest.mark.parametrize("is_old", [False, True])
def test_pbmc10k_has_the_cells_and_genes_of_scvi_tools(read, source, is_old):
    counts = write_pbmc10k(source, is_old=is_old)
    adata = read("pbmc10k")
    assert (counts_of(adata) == counts).all()  # a barcode of both runs is looked up in the right one
    assert set(adata.obs["batch"]) == {"pbmc8k", "pbmc4k"}
    assert adata.obs["cell_type"].isna().sum() == 18  # "Other" is no type
    assert "Other" not in set(adata.obs["cell_type"])
    assert (adata.obs["split"] == "left_out").sum() == 18


@pytest.mark.parametrize("modality", ["cite", "multiome"])
def test_bmmc_has_genes_alone_and_donors_by_either_column(read, source, modality):
    counts = write_bmmc(source, modality=modality)
    adata = read("bmmc")
    assert (counts_of(adata) == counts).all()
    assert adata.obs["batch"].nunique() == 3
    assert sorted(set(adata.obs["donor"])) == ["10000", "10001", "10002"]
    write_bmmc(source, modality=modality, DonorID=None)
    assert sorted(set(read("bmmc").obs["donor"])) == ["d1", "d2"]


def test_batches_of_immune_without_counts_are_left_out_or_kept_and_named(read, refused, source):
    counts = write_immune(source)
    adata = read("immune")
    assert (counts_of(adata) == counts).all()
    assert any("left out: Villani" in note for note in adata.uns["source"]["notes"])
    kept = read("immune", "--allow_normalized")
    assert kept.n_obs == 54
    assert kept.uns["source"]["values"] == "normalised, as in the source"
    write_immune(source, odd=())
    assert read("immune").n_obs == 54


def test_immune_is_read_as_anndata_wrote_it_years_ago(read, source):
    counts = write_immune(source, is_old=True)
    adata = read("immune")
    assert (counts_of(adata) == counts).all()
    assert set(adata.obs["batch"]) == {"10X", "Oetjen_A"}


def test_immune_without_any_counts_is_refused(refused, source):
    write_immune(source, odd=("10X", "Oetjen_A", "Villani"))
    assert "--allow_normalized" in refused("immune")


def test_ms_is_learned_on_controls_and_tested_on_patients(read, source):
    counts, is_patient, types = write_ms(source)
    adata = read("ms")
    assert (counts_of(adata) == counts).all()
    split = adata.obs["split"].to_numpy()
    assert set(split[~is_patient]) == {"train", "validation"}
    assert set(split[is_patient & (types != "T cell")]) == {"test"}
    assert set(split[types == "T cell"]) == {"left_out"}  # a type of patients only
    assert (adata.obs["is_query"] == is_patient).all()


def test_estimated_counts_of_ms_are_rounded_and_normalised_values_refused(read, source):
    counts, *_ = write_ms(source, fractions=0.1, more_of_design=3)
    adata = read("ms")
    assert (counts_of(adata) == counts).all()
    assert "rounded" in adata.uns["source"]["values"]
    assert any("3 cells of the design are not in the matrix" in note for note in adata.uns["source"]["notes"])


def test_normalised_values_of_ms_are_refused_unless_allowed(refused, read, source):
    write_ms(source, fractions=0.9)
    assert "--allow_normalized" in refused("ms")
    assert read("ms", "--allow_normalized").uns["source"]["values"] == "normalised, as in the source"


@pytest.mark.parametrize("form", ["log", "linear", "counts"])
def test_counts_of_myeloid_are_recovered_exactly(read, source, form):
    every = write_myeloid(source, form=form)
    adata = read("myeloid")
    disease = adata.obs["disease"].to_numpy()
    for cancer, counts in zip(("UCEC", "PAAD", "MYE"), every, strict=True):
        assert (counts_of(adata)[disease == cancer] == counts[:, : adata.n_vars]).all()
    assert adata.n_vars == 58  # those of all three
    assert set(adata.obs["split"][disease == "MYE"]) == {"test"}
    assert set(adata.obs["cell_type"]) == {"CD14_monocyte", "B_cell", "NK_cell"}  # without the number of the cluster
    assert ("recovered" in adata.uns["source"]["values"]) == (form != "counts")


def test_values_of_myeloid_without_a_unit_are_refused_unless_allowed(refused, read, source):
    write_myeloid(source, form="scaled by gene")
    assert "prove no unit" in refused("myeloid")
    assert read("myeloid", "--allow_normalized").uns["source"]["values"] == "normalised, as in the source"


def test_a_unit_is_proven_by_whole_multiples_alone():
    whole = np.arange(1, 21) * 0.37
    near, far, flat = whole.copy(), whole.copy(), np.full(20, 0.37)
    near[7] += 0.37 * 5e-4
    far[7] += 0.37 * 2e-2
    few = np.append(whole[:5], np.zeros(15))
    cells = scipy.sparse.csr_matrix(np.stack([whole, near, far, flat, few, np.zeros(20)]))
    counts, is_proven = counts_of_units(cells)
    assert is_proven.tolist() == [True, True, False, False, False, True]
    assert counts[0].toarray().ravel().tolist() == list(range(1, 21))


def test_a_table_of_genes_by_cells_is_turned(read, source):
    every = write_myeloid(source)
    for path in source.glob("*expression.csv.gz"):
        pd.read_csv(path, index_col=0).T.to_csv(path)
    adata = read("myeloid")
    assert (counts_of(adata)[adata.obs["disease"] == "UCEC"] == every[0][:, :58]).all()


# ---- what is damaged, or of another form


@pytest.mark.parametrize("dataset", WRITERS)
def test_missing_files_are_one_line_with_the_place_to_get_them(refused, dataset):
    said = refused(dataset)
    assert "lacks" in said
    assert SOURCES[dataset].page in said
    assert "--download" in said


@pytest.mark.parametrize("dataset", WRITERS)
def test_files_that_are_cut_in_the_middle_are_one_line(refused, source, dataset):
    WRITERS[dataset](source)
    for path in source.iterdir():
        if path.suffix in (".gz", ".zip", ".h5ad", ".pickle"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(dataset)


@pytest.mark.parametrize(
    ("write", "dataset", "changes"),
    [
        (write_zheng68k, "zheng68k", {"barcodes": "cell"}),
        (write_zheng68k, "zheng68k", {"celltype": "label"}),
        (write_ms, "ms", {"Assay": "Run"}),
        (write_ms, "ms", {"Factor Value[disease]": "state"}),
        (write_myeloid, "myeloid", {"MajorCluster": "cluster"}),
        (write_bmmc, "bmmc", {"cell_type": None}),
        (write_bmmc, "bmmc", {"batch": None}),
    ],
)
def test_a_file_with_other_columns_is_one_line(refused, source, write, dataset, changes):
    write(source, **changes)
    assert next(iter(changes)) in refused(dataset)


@pytest.mark.parametrize(
    ("write", "dataset", "path", "separator"),
    [
        (write_zheng68k, "zheng68k", LABELS, "\t"),
        (write_ms, "ms", "ExpDesign-E-HCAD-35.tsv", "\t"),
        (write_myeloid, "myeloid", "GSE154763_MYE_metadata.csv.gz", ","),
    ],
)
def test_labels_of_cells_that_the_matrix_lacks_are_one_line(refused, source, write, dataset, path, separator):
    write(source)
    table = pd.read_csv(source / path, sep=separator, dtype=str)
    column = next(name for name in ("barcodes", "Assay", "index") if name in table)
    table[column] = "another-" + table[column]
    table.to_csv(source / path, sep=separator, index=False)
    assert "that the matrix lacks" in refused(dataset)


def test_a_cell_that_is_labelled_twice_is_one_line(refused, source):
    write_zheng68k(source)
    text = (source / LABELS).read_text()
    (source / LABELS).write_text(text + text.splitlines()[1] + "\n")
    assert "twice" in refused("zheng68k")


def test_a_pickle_that_would_run_a_program_is_refused(refused, source, tmp_path):
    write_pbmc10k(source)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    (source / "pbmc_metadata.pickle").write_bytes(pickle.dumps({"design": Evil()}))
    assert "it would make a" in refused("pbmc10k")
    assert not (tmp_path / "made").exists()


def test_metadata_of_another_form_are_one_line(refused, source):
    write_pbmc10k(source)
    (source / "pbmc_metadata.pickle").write_bytes(pickle.dumps({"barcodes": 1}))
    assert "lacks 'design'" in refused("pbmc10k")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("clusters", np.full(73, -1), "whole numbers from 0 to 3"),
        ("clusters", np.full(73, 4), "whole numbers from 0 to 3"),
        ("clusters", np.full(73, 0.5), "whole numbers from 0 to 3"),
        ("clusters", "0" * 73, "whole numbers from 0 to 3"),
        ("clusters", np.zeros(5, dtype=int), "different lengths"),
        ("list_clusters", 7, "no list of names"),
        ("list_clusters", np.array("B cell"), "no list of names"),
        ("list_clusters", [1, 2, 3, 4], "no list of names"),
        ("barcodes", ["ACGT"] * 73, "'barcodes' is no table, but list"),
        ("design", {"batchpbmc4k": 1}, "'design' is no table, but dict"),
    ],
)
def test_metadata_with_other_contents_are_one_line(refused, source, key, value, said):
    write_pbmc10k(source, **{key: value})
    assert said in refused("pbmc10k")


def test_a_damaged_pickle_is_one_line_wherever_the_damage_is(source):
    write_pbmc10k(source)
    path, n_refused = source / "pbmc_metadata.pickle", 0
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :])
        try:
            read_metadata(path)
        except ScDMCError:
            n_refused += 1
    assert n_refused > 20


def test_an_archive_without_a_matrix_is_one_line(refused, source):
    write_zheng68k(source)
    write_tar(source / "fresh_68k_pbmc_donor_a_filtered_gene_bc_matrices.tar.gz", {"readme.txt": "nothing"})
    assert "no archive of a 10x matrix" in refused("zheng68k")


def test_bmmc_without_counts_is_one_line(refused, source):
    write_bmmc(source)
    path = next(source.iterdir())
    plain = path.with_suffix("")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    adata = anndata.read_h5ad(plain)
    adata.layers["counts"] = adata.layers["counts"] * 1.5
    adata.write_h5ad(plain)
    assert "no whole numbers" in refused("bmmc")


def test_half_a_pair_of_myeloid_is_one_line(refused, source):
    write_myeloid(source)
    (source / "GSE154763_MYE_metadata.csv.gz").unlink()
    assert "no GSE154763_MYE_metadata.csv.gz" in refused("myeloid")


def test_a_part_of_myeloid_is_named(read, source, capsys):
    write_myeloid(source)
    said = "the tables of THCA, LYM, KIDNEY, OV-FTC, ESCA are missing"
    assert any(said in note for note in read("myeloid").uns["source"]["notes"])
    assert f"warning: only a part of the data set is there: {said}" in capsys.readouterr().err


def test_two_tables_of_one_cancer_are_one_line(refused, source):
    write_myeloid(source)
    for name in ("expression", "metadata"):
        there = next(source.glob(f"*MYE_*{name}.csv.gz"))
        other = source / f"GSE154763_MYE_{name}.csv"
        other.write_bytes(gzip.decompress(there.read_bytes()))
        said = refused("myeloid")
        assert there.name in said
        assert other.name in said
        other.unlink()


def test_a_table_that_lies_there_under_another_name_is_not_downloaded(source):
    write_myeloid(source, cancers=("MYE",))
    there = source / "GSE154763_MYE_normalized_expression.csv.gz"
    other = there.rename(source / "GSE154763_MYE_expression.csv.gz")
    files = tuple(dataclasses.replace(file, url="") for file in SOURCES["myeloid"].files if "_MYE_" in file.name)
    found = source_files("myeloid", dataclasses.replace(SOURCES["myeloid"], files=files), source, is_download=True)
    assert sorted(found.values()) == sorted([other, source / "GSE154763_MYE_metadata.csv.gz"])


def test_a_first_line_without_an_end_is_not_read_whole(refused, source, monkeypatch):
    write_myeloid(source)
    monkeypatch.setattr("scdmc.public_data.paper.gene_tables.LONGEST_HEADER", 100)
    assert "first line has more than 100 characters" in refused("myeloid")


def test_files_of_one_name_in_two_folders_are_two_sources(read, source):
    counts = write_pbmc10k(source)
    for run in ("pbmc8k", "pbmc4k"):
        (source / run).mkdir()
        there = source / f"{run}_filtered_gene_bc_matrices.tar.gz"
        there.rename(source / run / "filtered_gene_bc_matrices.tar.gz")
    adata = read("pbmc10k")
    assert (counts_of(adata) == counts).all()
    about = adata.uns["source"]
    assert len(set(about["files"])) == len(set(about["sha256"])) == 4
    assert about["files"][0] == "pbmc8k_filtered_gene_bc_matrices.tar.gz (as filtered_gene_bc_matrices.tar.gz)"
    assert about["urls"][0] == ""  # nobody knows whether it is the file of that address


def test_myeloid_without_cells_to_test_on_is_one_line(refused, source):
    write_myeloid(source, cancers=("UCEC", "PAAD"))
    assert "are needed" in refused("myeloid")


def test_a_source_directory_that_is_a_file_is_one_line(paper_data, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert paper_data("ms", "--source_directory", tmp_path / "file") == 2
    assert "is no folder" in capsys.readouterr().err


# ---- downloads by the script


def test_the_script_downloads_goes_on_and_compares(paper_data, source, tmp_path, monkeypatch, capsys):
    write_zheng68k(source)
    with serving({f"/{path.name}": path.read_bytes() for path in source.iterdir()}) as shelf:
        there = SOURCES["zheng68k"]
        files = tuple(dataclasses.replace(file, url=f"{shelf.url}/{file.name}") for file in there.files)
        monkeypatch.setitem(SOURCES, "zheng68k", dataclasses.replace(there, files=files))
        monkeypatch.setattr("scdmc.public_data.paper.download.FIRST_PAUSE", 0)
        shelf.breaks_after = 300
        assert paper_data("zheng68k", "--download") == 2
        assert "goes on there" in capsys.readouterr().err
        shelf.breaks_after = None
        assert paper_data("zheng68k", "--download") == 0
        n_asked = len(shelf.asked)
        assert paper_data("zheng68k", "--download", "--overwrite") == 0
        assert len(shelf.asked) == n_asked  # what is there is not asked for again
    adata = anndata.read_h5ad(tmp_path / "out" / "zheng68k.h5ad")
    assert all(url.startswith("http://127.0.0.1") for url in adata.uns["source"]["urls"])
    labels = tmp_path / "out" / "sources" / "zheng68k" / LABELS
    assert json.loads((labels.parent / f"{LABELS}.download.json").read_text())["size"] == labels.stat().st_size
    before = (tmp_path / "out" / "zheng68k.h5ad").read_bytes()
    labels.write_text(labels.read_text() + "\n")
    capsys.readouterr()
    assert paper_data("zheng68k", "--overwrite") == 2
    assert "is not the file that was downloaded" in capsys.readouterr().err
    assert (tmp_path / "out" / "zheng68k.h5ad").read_bytes() == before


def test_the_census_is_read_over_the_network_on_the_users_word_only(paper_data, tmp_path, capsys):
    assert paper_data("census_2m") == 2
    assert "--download says so" in capsys.readouterr().err
    assert paper_data("census_2m", "--source_directory", tmp_path) == 2
    assert "error:" in capsys.readouterr().err


def test_what_a_killed_run_has_unpacked_goes(paper_data, source, tmp_path):
    write_zheng68k(source)
    left = tmp_path / "out" / ".zheng68k.99999999.partial.unpacked"
    left.mkdir(parents=True)
    assert paper_data("zheng68k", "--source_directory", source) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["zheng68k.h5ad"]


def test_what_was_made_is_not_replaced_without_the_users_word(paper_data, source):
    write_zheng68k(source)
    assert paper_data("zheng68k", "--source_directory", source) == 0
    assert paper_data("zheng68k", "--source_directory", source) == 2
