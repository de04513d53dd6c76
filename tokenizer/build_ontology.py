"""Build the file of the Cell Ontology from the release that ships in the cellxgene-ontology-guide wheel.

The file in ``text_files/`` was made by this script; running it again gives the same bytes.
"""

import argparse
import gzip
import json
import logging
import zipfile
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, require_new_file
from scdmc.public_data.wheels import PinnedWheel, open_wheel
from scdmc.text.ontology import ONTOLOGY_FILE

SOURCE_WHEEL = PinnedWheel(
    name="cellxgene-ontology-guide",
    version="1.11.1",
    sha256="621276831bc021aab348f4d6119fad033282dff3126a8f2dbe8b293fbce68aca",
    licence="MIT",
)
VERSION = "v2026-03-26"
SOURCE_FILE = f"cellxgene_ontology_guide/data/CL-ontology-{VERSION}.json.zst"
N_TERMS = 3_324
ATTRIBUTION = "Cell Ontology (CL), https://obophenotype.github.io/cell-ontology, CC BY 4.0; a selection of its fields"


@script
def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    arguments = parse_arguments(argv)
    path = arguments.output_dir / ONTOLOGY_FILE
    require_new_file(path, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    with open_wheel(SOURCE_WHEEL, arguments.wheel) as archive:
        content = selected(read_source(archive))
    if len(content["terms"]) != N_TERMS:
        raise ScDMCError(f"{SOURCE_WHEEL}: {SOURCE_FILE} gives {len(content['terms']):,} terms, expected {N_TERMS:,}")

    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    with atomic_path(path) as temporary:
        # gzip.compress stores no file name; mtime=0 leaves nothing in the bytes that depends on when they were made.
        temporary.write_bytes(gzip.compress(text.encode("utf8"), mtime=0))
    logging.info("%s: %s terms of the Cell Ontology %s", path, f"{N_TERMS:,}", VERSION)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(
        "Build the file of the Cell Ontology: its terms, their definitions, synonyms and parents.",
        ["{prog} --output_dir my_text_files", "{prog} --wheel cellxgene_ontology_guide-1.11.1.whl --overwrite"],
    )
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {SOURCE_WHEEL} wheel (default: pip downloads it, 98 MB)"
    )
    add_output_dir_argument(parser, meaning=f"where {ONTOLOGY_FILE} goes", default=Path(__file__).parent / "text_files")
    return parser.parse_args(argv)


def read_source(archive: zipfile.ZipFile) -> dict[str, dict]:
    """Read all terms of the release, also those that are no longer used."""
    import pyarrow as pa

    with pa.input_stream(pa.BufferReader(archive.read(SOURCE_FILE)), compression="zstd") as stream:
        return json.loads(stream.read())


def selected(source: dict[str, dict]) -> dict[str, object]:
    """What of the release is kept: the terms in use, and what took the place of the others, both in ascending id."""
    live = {cl_id: row for cl_id, row in sorted(source.items()) if not row["deprecated"]}
    terms = {
        cl_id: {
            "label": row["label"],
            "definition": row.get("description", ""),
            "synonyms": sorted(row.get("synonyms", ())),
            "parents": parents(row["ancestors"]),
        }
        for cl_id, row in live.items()
    }
    replaced = {cl_id: row["replaced_by"] for cl_id, row in sorted(source.items()) if row.get("replaced_by") in live}
    return {"source": f"{SOURCE_WHEEL}: {ATTRIBUTION}", "version": VERSION, "terms": terms, "replaced": replaced}


def parents(ancestors: dict[str, int]) -> list[str]:
    """The nearest ancestors: one step above, but for eight parts of cells, which reach "cell" over other ontologies."""
    nearest = min(ancestors.values(), default=1)
    return sorted(cl_id for cl_id, steps in ancestors.items() if steps == nearest)


if __name__ == "__main__":
    raise SystemExit(main())
