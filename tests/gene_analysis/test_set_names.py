"""Genes of sets may be symbols or Ensembl ids, weighted or not, in every script; a set's name has no hidden sign."""

import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.sets import gene_set_membership, read_gene_sets, require_known_sets
from scdmc.genes.ids import load_symbols
from scdmc.genes.symbols import gene_symbols, tokens_of_genes
from scdmc.genes.vocabulary import load_vocabulary

SYMBOLS = ["INS", "GCG", "TP53", "HLA-A", "MT-CO1", "ACTB"]
WRITTEN = {
    "symbols": lambda symbol: symbol,
    "lower case": str.lower,
    "ids": lambda symbol: load_symbols()[symbol],
    "ids with versions": lambda symbol: f"{load_symbols()[symbol].lower()}.7",
    "weights": lambda symbol: f"{symbol},1.0",
    "small weights": lambda symbol: f"{symbol},2.5e-3",
    "weighted ids": lambda symbol: f"{load_symbols()[symbol]},0.5",
    "of R": lambda symbol: symbol.replace("-", "."),
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_genes_of_a_set_are_found_however_they_are_written(way, mark, tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text(mark + "\t".join(["islets", "note", *map(WRITTEN[way], SYMBOLS)]) + "\n", encoding="utf8")
    sets = read_gene_sets(path)
    assert list(sets) == ["islets"]
    genes = [load_symbols()[symbol] for symbol in SYMBOLS]
    vocabulary = load_vocabulary()
    expected = [vocabulary.token_ids[gene] for gene in genes]
    assert tokens_of_genes(sets["islets"], vocabulary, "a test").tolist() == expected
    seen = gene_symbols([*genes, "ENSG00000000003"])
    names, membership = gene_set_membership(sets, np.array(seen[::-1]), "a test")
    assert names == ["islets"]
    assert membership.toarray().tolist() == [[0, 1, 1, 1, 1, 1, 1]]
    require_known_sets(sets, vocabulary, "a test")


def test_sets_without_known_genes_are_refused_before_the_work():
    sets = {"mouse": ["ENSMUSG00000000001"] * 9, "small": ["INS", "GCG"]}
    with pytest.raises(ScDMCError, match="none of the 2 gene sets has 5 genes of the model's vocabulary"):
        require_known_sets(sets, load_vocabulary(), "sets.gmt")
