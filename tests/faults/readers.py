"""What is visible of an output, read as users read it: one text that tells results apart, or our error.

Each runs in a child of the fork server, and gives ``refused: ...`` where the readers of scDMC refuse.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError

AGAIN = rb'"(overwrite|resume)": [^\n]*|[ \\\n]+--(overwrite|resume)'


def visible_files(folder: Path) -> list[Path]:
    """Files below a folder that are not hidden, nor below a hidden folder."""
    parts = {path: path.relative_to(folder).parts for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    return [path for path, names in parts.items() if not any(name.startswith(".") for name in names)]


def content_of(path: Path) -> bytes:
    """The bytes of a file without the flags by which a run that is repeated differs."""
    if path.name == "manifest.json":  # hashes of the others, and the command
        return b""
    content = path.read_bytes()
    return re.sub(AGAIN, b"", content) if path.suffix in (".md", ".json", ".html") else content


def read(kind: str, folder: str) -> str:
    """The result in a folder, as one line."""
    try:
        return READERS[kind](Path(folder))
    except ScDMCError as error:
        return f"refused: {error}"


def digest(*parts: object) -> str:
    """One text for arrays and texts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def tokens(folder: Path) -> str:
    """All cells, as pre-training reads them."""
    from scdmc.tokens.parquet import read_tokenized

    cells = read_tokenized(folder)
    return digest(cells.rank_ids, cells.expression_ids, cells.expression_values, cells.obs.to_csv())


def corpus(folder: Path) -> str:
    """Cells, texts and facts, as training on them reads them."""
    from scdmc.text.corpus import read_corpus

    read = read_corpus(folder)
    return digest(read.cells.rank_ids, read.cells.obs.to_csv(), read.terms.to_csv(), read.facts)


def model(folder: Path) -> str:
    """Weights and what they are for."""
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load

    directory = open_model_directory(folder)
    loaded = load(directory.path)
    weights = [(name, tensor.float().numpy()) for name, tensor in sorted(loaded.state_dict().items())]
    labels = getattr(directory.config, "id2label", None)
    return digest(labels, *(part for pair in weights for part in pair))


def h5ad(folder: Path) -> str:
    """Obs and embeddings of the one file; beside it may lie its page."""
    import anndata

    (path,) = [path for path in visible_files(folder) if path.suffix == ".h5ad"]
    adata = anndata.read_h5ad(path)
    return digest(adata.obs.to_csv(), *(np.asarray(adata.obsm[name]) for name in sorted(adata.obsm)))


def files(folder: Path) -> str:
    """A result whose bytes are all that there is: what is neither the older nor the new one is a mixture."""
    from scdmc.result_folders import MANIFEST_FILE, require_whole

    paths = [path for path in visible_files(folder) if path != folder / MANIFEST_FILE]
    names = [path.relative_to(folder).as_posix() for path in paths]
    require_whole(folder, *names)
    return digest(*(name + digest(content_of(path)) for name, path in zip(names, paths, strict=True)))


def medians(folder: Path) -> str:
    """The medians; what is written beside them on where they come from is about these, or not there."""
    from scdmc.tokens.medians import load_gene_medians

    found = load_gene_medians(folder / "medians.json")
    provenance = folder / "medians.provenance.json"
    if provenance.exists():
        assert json.loads(provenance.read_text())["sha256"] == found.sha256, "provenance of other medians"
    return digest(sorted(found.medians.items()))


READERS = {"tokens": tokens, "corpus": corpus, "model": model, "h5ad": h5ad, "files": files, "medians": medians}
