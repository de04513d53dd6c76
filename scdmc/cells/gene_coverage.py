"""Which genes a model saw in training, and which of them a new file lacks."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary
from scdmc.model.checks import require_gene_numbers
from scdmc.model.names import TRAINING_GENES_FILE
from scdmc.result_folders import require_whole
from scdmc.tokens.tokenized_cells import TokenizedCells

logger = logging.getLogger(__name__)


# Above these shares a file differs so much from the training cells that labels deserve doubt.
LARGE_SHARE_MISSING = 0.2


LARGE_SHARE_UNMATCHED = 0.3


SHOWN = 5


def genes_of_cells(cells: TokenizedCells, vocabulary: Vocabulary) -> dict[str, int]:
    """How many of the cells have each gene in their rank stream; genes without any are absent."""
    n_cells = np.bincount(cells.rank_ids, minlength=len(vocabulary))
    return {str(vocabulary.tokens[token]): int(n_cells[token])
            for token in np.flatnonzero(n_cells) if token > EOS_TOKEN_ID}  # fmt: skip


def write_training_genes(folder: Path, genes: Mapping[str, int]) -> None:
    """Keep the genes of the training cells (:func:`genes_of_cells`) in a model folder."""
    write_json(Path(folder) / TRAINING_GENES_FILE, dict(sorted(genes.items())))


def read_training_genes(folder: Path) -> dict[str, int] | None:
    """The genes of the training cells; None where the folder does not say.

    Raises
    ------
    ScDMCError
        If the file does not hold the cells of each gene.
    """
    path = Path(folder) / TRAINING_GENES_FILE
    require_whole(path.parent, path.name)
    if not path.exists():
        return None
    genes = read_json_object(path, "genes of the training cells")
    require_gene_numbers(genes, str(path))
    return genes


def describe_missing_genes(genes: Mapping[str, int], available: set[str]) -> tuple[str, float]:
    """One line about the genes that a file lacks, and how large a part of those of the labelled cells they are.

    Parameters
    ----------
    genes
        Gene -> labelled cells that had it.
    available
        Genes that the file has.

    Returns
    -------
    The line, and the share of the labelled cells' genes (counted once for each cell) that the file lacks.
    """
    missing = sorted((gene for gene in genes if gene not in available), key=lambda gene: (-genes[gene], gene))
    share = sum(genes[gene] for gene in missing) / max(1, sum(genes.values()))
    shown = f", the most frequent ones {', '.join(missing[:SHOWN])}" if missing else ""
    line = (
        f"{len(missing):,} of the {len(genes):,} genes of the labelled cells are missing in the file "
        f"({share:.1%} of the genes that these cells had){shown}"
    )
    return line, share


def require_known_genes(name: str, genes: Mapping[str, int] | None, available: set[str], least: float) -> None:
    """Refuse a file that has too few of the genes of the labelled cells, as a panel of some dozen genes does.

    What is measured is the share of the genes that the labelled cells had, each counted once for every cell that had
    it: a cell is read as its genes, in their order. By expression the 60 most variable genes would be a third of a
    cell.

    Parameters
    ----------
    name
        Of the file.
    genes, available
        See :func:`describe_missing_genes`; without the former nothing is known, and nothing refused.
    least
        The share that is needed, 0 to 1.

    Raises
    ------
    ScDMCError
        If the file has less.
    """
    if genes is None:
        return
    line, missing = describe_missing_genes(genes, available)
    if 1 - missing < least:
        raise ScDMCError(
            f"{name} has {1 - missing:.1%} of the genes that the labelled cells had, and labels from less than "
            f"{least:.0%} are guesses: {line}; --min_known_genes {int(100 * (1 - missing)) / 100:g} labels these cells "
            "all the same"
        )


def log_coverage(name: str, share_unmatched: float, genes: Mapping[str, int] | None, available: set[str]) -> None:
    """Say how far a file's genes and the model's agree, as a warning where they do not.

    Parameters
    ----------
    name
        Of the file.
    share_unmatched
        Share of its counts that lie in genes outside of the vocabulary.
    genes, available
        See :func:`describe_missing_genes`; without the former nothing is said of missing genes.
    """
    if share_unmatched > LARGE_SHARE_UNMATCHED:
        logger.warning(
            "warning: %s: %.0f%% of the counts lie in genes that the model does not know; its labels may be wrong",
            name, 100 * share_unmatched,
        )  # fmt: skip
    if genes is None:
        logger.info("%s: the model does not say which genes its labelled cells had", name)
        return
    line, share = describe_missing_genes(genes, available)
    if share > LARGE_SHARE_MISSING:
        logger.warning("warning: %s: %s; its labels may be wrong", name, line)
    else:
        logger.info("%s: %s", name, line)
