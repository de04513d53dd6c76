"""scDMC: a dual-stream single-cell language model.

``scdmc.tokenize(adata)`` gives both streams of every cell; ``scdmc.embed``, ``scdmc.annotate``, ``scdmc.fine_tune`` and
``scdmc.integration_benchmark`` run a model on an AnnData. They and the submodules are loaded on first use: torch costs
seconds and hundreds of megabytes, and the tokenizer needs none of it.
"""

__version__ = "0.1.0"
__all__ = ["__version__", "annotate", "embed", "fine_tune", "integration_benchmark", "tokenize"]


def __getattr__(name: str) -> object:
    """Load what ``__all__`` names when it is asked for."""
    if name == "tokenize":
        from scdmc.api import tokenize

        return tokenize
    if name in ("annotate", "embed", "fine_tune"):
        from scdmc import annotation_api

        return getattr(annotation_api, name)
    if name == "integration_benchmark":
        from scdmc.integration_api import integration_benchmark

        return integration_benchmark
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
