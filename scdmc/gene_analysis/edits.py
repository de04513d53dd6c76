"""In-silico perturbation of tokenized cells: genes are taken out of both streams, or put on top of them."""

from collections.abc import Sequence

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.tokens.tokenized_cells import TokenizedCells


def edit_genes(cells: TokenizedCells, genes: Sequence[np.ndarray], edit: str, context: int) -> TokenizedCells:
    """Cells with some genes removed or raised; the order of the cells stays.

    Parameters
    ----------
    cells
        The cells.
    genes
        Tokens for each cell.
    edit
        ``remove``: the genes leave both streams (a knock-out; nothing happens where a gene is absent). ``raise``: they
        become the first of the rank stream, in the given order, and get the highest value of the cell in the expression
        stream (an over-expression; absent genes are added).
    context
        Longest stream: where raised genes do not fit, the lowest-ranked genes leave both streams.

    Raises
    ------
    ScDMCError
        If more genes are raised than a stream has room for.
    """
    rank_parts, expression_parts, value_parts = [], [], []
    for cell, edited in enumerate(genes):
        rank = cells.rank_ids[slice(*cells.rank_offsets[cell : cell + 2])]
        place = slice(*cells.expression_offsets[cell : cell + 2])
        expression, values = cells.expression_ids[place], cells.expression_values[place]
        edited = distinct_genes(edited).astype(rank.dtype)
        require_room(edited, edit, context)
        kept_rank = rank[1:-1][~np.isin(rank[1:-1], edited)]
        if edit == "raise":
            kept_rank = np.concatenate([edited, kept_rank])[: context - 2]
        kept = np.isin(expression[1:-1], kept_rank) & ~np.isin(expression[1:-1], edited)
        inner, inner_values = expression[1:-1][kept], values[1:-1][kept]
        if edit == "raise":
            highest = values[1:-1].max(initial=0.0)
            order = np.argsort(np.concatenate([inner, edited]), kind="stable")
            inner_values = np.concatenate([inner_values, np.full(len(edited), highest, values.dtype)])[order]
            inner = np.concatenate([inner, edited])[order]
        rank_parts.append(np.concatenate([rank[:1], kept_rank, rank[-1:]]))
        expression_parts.append(np.concatenate([expression[:1], inner, expression[-1:]]))
        value_parts.append(np.concatenate([values[:1], inner_values, values[-1:]]))
    return TokenizedCells(
        np.concatenate(rank_parts),
        np.concatenate(expression_parts),
        np.concatenate(value_parts),
        np.cumsum([0, *map(len, rank_parts)]),
        np.cumsum([0, *map(len, expression_parts)]),
        cells.obs_table,
        cells.settings,
        cells.rows,
    )


def distinct_genes(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Each token once, in the order of the first, shape (n_distinct,)."""
    return np.array(list(dict.fromkeys(int(token) for token in tokens)), dtype=np.int64)


def require_room(tokens: np.ndarray, edit: str, context: int, name: str = "the set") -> None:
    """Refuse to raise more genes than fit between ``<cls>`` and ``<eos>``: the two streams would hold other genes."""
    if edit == "raise" and len(tokens) > context - 2:
        raise ScDMCError(
            f"{name} has {len(tokens)} genes, and no more than {context - 2} can be raised: the model reads {context} "
            "tokens; take a smaller set, or remove the genes instead"
        )
