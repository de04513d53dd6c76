"""What can be chosen of genes. Nothing heavy is imported here, so that ``--help`` is quick."""

SPECIES = ("human", "mouse")

ORTHOLOGS_FILE = "orthologs.tsv"

FETCH_ORTHOLOGS = (
    f"`python prepare/fetch_orthologs.py --output_dir orthologs` writes orthologs/{ORTHOLOGS_FILE} (so does `scdmc "
    "orthologs`)"
)

ORTHOLOGS_NEEDED = (
    f"needs a table of orthologs, --ortholog_file: {FETCH_ORTHOLOGS}; an export of Ensembl BioMart with mouse ids or "
    "symbols and human ids will do, too"
)
