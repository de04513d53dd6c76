"""scDMC: a dual-stream single-cell language model.

``scdmc.tokenize(adata)`` gives both streams of every cell; ``scdmc.embed``, ``scdmc.annotate``, ``scdmc.fine_tune`` and
``scdmc.integration_benchmark`` run a model on an AnnData, and the functions of :mod:`scdmc.gene_analysis.api` look at
its genes. Each takes as ``model`` a folder, the name of a shipped model, or what ``scdmc.load`` returned; with the last
of these, several calls read the weights once.

The functions and the submodules are loaded on first use: torch costs seconds and hundreds of megabytes, and the
tokenizer needs none of it.
"""

from scdmc.version import __version__

GENE_FUNCTIONS = ("attention_analysis", "gene_embeddings", "gene_modules", "gene_network", "perturb")


__all__ = [
    "__version__",
    "annotate",
    "annotate_by_text",
    "describe",
    "embed",
    "fine_tune",
    "generate_cells",
    "integration_benchmark",
    "load",
    "read_embeddings",
    "tokenize",
    *GENE_FUNCTIONS,
]


def __getattr__(name: str) -> object:
    """Load what ``__all__`` names when it is asked for."""
    if name == "tokenize":
        from scdmc.cells.from_adata import tokenize

        return tokenize
    if name == "annotate":
        from scdmc.views.api import annotate

        return annotate
    if name == "annotate_by_text":
        from scdmc.text.api import annotate_by_text

        return annotate_by_text
    if name == "describe":
        from scdmc.text.descriptions.api import describe

        return describe
    if name == "generate_cells":
        from scdmc.text.pseudo_cells.api import generate_cells

        return generate_cells
    if name in ("embed", "fine_tune"):
        from scdmc.annotation import api as annotation_api

        return getattr(annotation_api, name)
    if name == "load":
        from scdmc.model.storage import load

        return load
    if name == "read_embeddings":
        from scdmc.shards.results import read_embeddings

        return read_embeddings
    if name == "integration_benchmark":
        from scdmc.integration.api import integration_benchmark

        return integration_benchmark
    if name in GENE_FUNCTIONS:
        from scdmc.gene_analysis import api as gene_api

        return getattr(gene_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
