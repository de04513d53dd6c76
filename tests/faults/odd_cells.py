"""Odd AnnData files, each from its seed: what users have, and what they should not have."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

from tests.faults.inputs import small_cells

STRANGE = (
    "a/b", "$\\alpha_{1$", "=cmd|x", "<script>alert(1)</script>", "", " ", "nan", "NA", "Unknown", "none", "x" * 300,
    "naïve β", "a\nb", "a\tb", "\"quoted\", 'too'", "..", "-1", "7", "7.0", "True", "alpha ", "Alpha", "unassigned",
)  # fmt: skip


@dataclass
class OddCells:
    """An AnnData, and which of its counts are none."""

    adata: anndata.AnnData
    has_bad_counts: bool = False
    traits: list[str] = field(default_factory=list)


def write_odd_cells(seed: int, path: Path) -> OddCells:
    """Write the odd file of a seed; what anndata itself refuses to write is drawn again."""
    for attempt in range(100):
        odd = Draw(random.Random(f"{seed} {attempt}")).cells()
        try:
            odd.adata.write_h5ad(path)
        except (TypeError, ValueError, NotImplementedError, KeyError):
            path.unlink(missing_ok=True)
            continue
        return odd
    raise AssertionError(f"seed {seed} gives nothing that can be written")


class Draw:
    """Draws one AnnData, trait by trait."""

    def __init__(self, generator: random.Random):
        self.draw, self.traits = generator, []
        self.numbers = np.random.default_rng(generator.getrandbits(32))

    def chance(self, share: float, trait: str) -> bool:
        """True in a share of the files, and remembered."""
        is_so = self.draw.random() < share
        self.traits += [trait] if is_so else []
        return is_so

    def cells(self) -> OddCells:
        """All of it."""
        draw, source = self.draw, small_cells()
        n_cells = draw.choice([44, 44, 44, 60, 44, 30, 12, 3, 2, 1, 0])
        n_genes = draw.choice([120, 120, 120, 60, 20, 3, 1])
        rows = self.numbers.permutation(44)[:n_cells] if n_cells <= 44 else self.numbers.integers(0, 44, n_cells)
        columns = self.numbers.permutation(120)[:n_genes]
        counts = source.X.toarray()[np.ix_(rows, columns)].astype(np.float64)
        if counts.size and self.chance(0.3, "empty cells"):
            counts[self.numbers.random(n_cells) < 0.2] = 0
        if counts.size and self.chance(0.2, "empty genes"):
            counts[:, self.numbers.random(n_genes) < 0.3] = 0
        has_bad_counts = bool(counts.size) and self.chance(0.1, "bad counts")
        if has_bad_counts:
            counts[draw.randrange(n_cells), draw.randrange(n_genes)] = draw.choice([np.nan, -1, 0.5, np.inf])
        obs = self.obs(source.obs.iloc[rows])
        var = self.var(source.var_names[columns])
        adata = self.assembled(self.stored(counts, has_bad_counts), obs, var)
        self.add_more(adata)
        return OddCells(adata, has_bad_counts, self.traits)

    def stored(self, counts: np.ndarray, has_bad_counts: bool) -> object:
        """Counts as a file may hold them."""
        dtype = self.draw.choice(["float32", "float64", *([] if has_bad_counts else ["int32", "int64", "uint16"])])
        layout = self.draw.choice(["csr", "csr", "csc", "dense"])
        self.traits += [layout, dtype]
        counts = counts.astype(dtype)
        return (
            counts
            if layout == "dense"
            else {"csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}[layout](counts)
        )

    def obs(self, obs: pd.DataFrame) -> pd.DataFrame:
        """Types, batches, totals and names of cells."""
        draw, n_cells = self.draw, len(obs)
        labels = self.labels(obs["cell_type"].astype(str).to_list())
        batch = obs["batch"].astype(str).to_list()
        if self.chance(0.15, "one batch"):
            batch = ["only"] * n_cells
        elif self.chance(0.15, "batches are numbers"):
            batch = [int(name[-1]) for name in batch]
        elif self.chance(0.1, "batches are missing"):
            batch = [None if self.draw.random() < 0.3 else name for name in batch]
        names = [f"cell{row}" for row in range(n_cells)]
        if self.chance(0.15, "repeated cell names"):
            names = [f"cell{row // 2}" for row in range(n_cells)]
        elif self.chance(0.15, "strange cell names"):
            names = [draw.choice(STRANGE) + str(row) for row in range(n_cells)]
        odd = pd.DataFrame({"cell_type": pd.Series(labels, dtype=object if n_cells else str)})
        odd.index = pd.Index(names, dtype=object)
        odd["batch"] = batch
        if self.chance(0.2, "categories"):
            odd["cell_type"] = odd["cell_type"].astype("category")
        if self.chance(0.15, "n_counts"):
            odd["n_counts"] = self.numbers.choice([0, -1, np.nan, 1, 5000, 1e6], n_cells)
        if self.chance(0.1, "filter_pass"):
            odd["filter_pass"] = self.numbers.integers(0, 2, n_cells)
        if self.chance(0.15, "nullable columns"):
            odd["whole"] = pd.array([None if row % 3 else row for row in range(n_cells)], dtype="Int64")
            odd["maybe"] = pd.array([None if row % 2 else True for row in range(n_cells)], dtype="boolean")
        if self.chance(0.1, "no labels at all"):
            odd = odd.drop(columns="cell_type")
        return odd

    def labels(self, labels: list) -> list:
        """Cell types of some kind."""
        draw, kinds = self.draw, sorted(set(labels))
        kind = draw.choice(["text"] * 4 + ["strange", "numbers", "decimals", "bool", "missing", "all missing", "one"])
        self.traits.append(f"labels: {kind}")
        number = {name: place for place, name in enumerate(kinds)}
        strange = {name: draw.choice(STRANGE) for name in kinds}
        return {
            "text": labels,
            "strange": [strange[name] for name in labels],
            "numbers": [number[name] for name in labels],
            "decimals": [number[name] + 0.5 for name in labels],
            "bool": [number[name] % 2 == 0 for name in labels],
            "missing": [None if draw.random() < 0.3 else name for name in labels],
            "all missing": [None] * len(labels),
            "one": ["alpha"] * len(labels),
        }[kind]

    def var(self, symbols: pd.Index) -> pd.DataFrame:
        """Names of genes."""
        symbols = list(symbols)
        kind = self.draw.choice(["symbols"] * 5 + ["lower", "repeated", "column", "numbers", "strange", "prefix"])
        self.traits.append(f"genes: {kind}")
        names = {
            "lower": [name.lower() for name in symbols],
            "repeated": [symbols[place // 2] for place in range(len(symbols))],
            "strange": [self.draw.choice(STRANGE) for _ in symbols],
            "prefix": [f"GRCh38_{name}" for name in symbols],
            "numbers": [str(place) for place in range(len(symbols))],
            "column": [str(place) for place in range(len(symbols))],
        }.get(kind, symbols)
        var = pd.DataFrame(index=pd.Index(names, dtype=object))
        if kind == "column":
            var["gene_symbol"] = symbols
        if self.chance(0.1, "feature types"):
            var["feature_types"] = self.numbers.choice(["Gene Expression", "Antibody Capture"], len(symbols))
        return var

    def assembled(self, matrix: object, obs: pd.DataFrame, var: pd.DataFrame) -> anndata.AnnData:
        """Counts in X, or in a layer or raw beside values that are none."""
        place = self.draw.choice(["X", "X", "X", "layer", "raw"])
        self.traits.append(f"counts in {place}")
        if place == "X":
            return anndata.AnnData(matrix, obs, var)
        dense = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
        with np.errstate(all="ignore"):
            adata = anndata.AnnData(np.log1p(dense.astype(np.float32) * 1.7), obs, var)
        if place == "layer":
            adata.layers["counts"] = matrix
        else:
            adata.raw = anndata.AnnData(matrix, obs, var)
        return adata

    def add_more(self, adata: anndata.AnnData) -> None:
        """What no task needs."""
        n_cells, n_genes = adata.shape
        if self.chance(0.15, "embeddings"):
            adata.obsm["X_pca"] = self.numbers.normal(size=(n_cells, 3))
            adata.obsm["X_scDMC"] = self.numbers.normal(size=(n_cells, 2)).astype(np.float32)
        if self.chance(0.1, "a table in obsm"):
            adata.obsm["table"] = pd.DataFrame({"a b": np.arange(n_cells), "c": "x"}, index=adata.obs_names)
        if self.chance(0.1, "neighbours"):
            adata.obsp["connectivities"] = scipy.sparse.identity(n_cells, format="csr")
        if self.chance(0.15, "uns"):
            adata.uns |= {"log1p": {"base": None}, "nested": {"a": {"b": np.arange(3)}}, "text": "ü", "none": {}}
        if self.chance(0.1, "other layers"):
            adata.layers["scaled"] = self.numbers.normal(size=(n_cells, n_genes))
        if self.chance(0.1, "strange columns"):
            adata.obs[self.draw.choice(["a b", "ä", "scDMC_label", "predicted_label", "cluster", "X", "0"])] = "x"
