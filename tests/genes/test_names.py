"""Names of genes as users' files write them: each finds its gene, and a file of another species none."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scdmc.errors import ScDMCError
from scdmc.genes.ids import UNMATCHED, load_symbols, match_genes
from scdmc.genes.names import clean_names
from scdmc.genes.vocabulary import load_vocabulary

GENES = {
    "HLA-A": "ENSG00000206503", "MT-CO1": "ENSG00000198804", "TP53": "ENSG00000141510", "INS": "ENSG00000254647",
    "C1orf112": "ENSG00000000460",
}  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary():
    return load_vocabulary()


@pytest.fixture(scope="module")
def symbols():
    """Two thousand official symbols; none like C1orf112, which is a human's with its small letters."""
    return sorted(name for name in load_symbols() if name[0].isalpha() and name.isalnum() and "ORF" not in name)[::10][
        :2000
    ]


def found(match, vocabulary):
    return [None if token == UNMATCHED else str(vocabulary.tokens[token]) for token in match.token_ids]


def require_found(names, vocabulary, expected=None, **columns):
    match = match_genes(pd.DataFrame(columns, index=names), vocabulary)
    assert found(match, vocabulary) == list(expected or GENES.values())
    return match


WRITTEN = {
    "plain": lambda symbol, _: symbol,
    "id": lambda _, gene: gene,
    "lower case": lambda symbol, _: symbol.lower(),
    "of R": lambda symbol, _: symbol.replace("-", "."),
    "genome and id": lambda _, gene: f"GRCh38_{gene}",
    "genome and symbol": lambda symbol, _: f"GRCh38_{symbol}",
    "genome of Cell Ranger 6": lambda _, gene: f"GRCh38_____{gene}.12",
    "genome hg19": lambda symbol, _: f"hg19_{symbol}",
    "id|symbol": lambda symbol, gene: f"{gene}|{symbol}",
    "symbol|id": lambda symbol, gene: f"{symbol}|{gene}.3",
    "symbol|Entrez": lambda symbol, _: f"{symbol}|7157",
    "symbol_id": lambda symbol, gene: f"{symbol}_{gene}",
    "id_symbol": lambda symbol, gene: f"{gene}_{symbol}",
    "id:symbol": lambda symbol, gene: f"{gene}:{symbol}",
    "quoted": lambda symbol, _: f'"{symbol}"',
    "quoted id": lambda _, gene: f"'{gene}'",
    "bytes": lambda symbol, _: symbol.encode(),
    "bytes as text": lambda symbol, _: f"b'{symbol}'",
    "blanks": lambda symbol, _: f" {symbol} ",
}  # fmt: skip


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("place", ["index", "gene_symbols", "gene_ids", "Symbol", "hgnc_symbol", "ENSEMBL"])
def test_a_gene_is_found_however_its_name_is_written_and_wherever_it_stands(way, place, vocabulary):
    names = [WRITTEN[way](symbol, gene) for symbol, gene in GENES.items()]
    if place == "index":
        require_found(names, vocabulary)
    else:
        require_found([f"row{number}" for number in range(len(names))], vocabulary, **{place: names})


def test_an_x_of_r_before_a_digit_is_no_part_of_a_symbol(vocabulary):
    of_digits = sorted(name for name in load_symbols() if name[0].isdigit())[:20]
    assert of_digits
    names = [f"X{name.replace('-', '.').replace('_', '.')}" for name in of_digits]
    found_genes = found(match_genes(pd.DataFrame(index=[*names, "INS"]), vocabulary), vocabulary)[:-1]
    assert found_genes == [load_symbols()[name] for name in of_digits]


def test_every_symbol_is_found_in_the_spelling_of_r_unless_another_has_the_same(vocabulary):
    def of_r(name):
        return "".join(letter if letter.isalnum() or letter == "." else "." for letter in name)

    spelt = pd.Series({name: of_r(name) for name in load_symbols() if name[0].isalpha()})
    clear = spelt[~spelt.duplicated(keep=False)]
    assert len(clear) > 30_000
    genes = found(match_genes(pd.DataFrame(index=clear.to_numpy()), vocabulary), vocabulary)
    assert genes == [load_symbols()[name] for name in clear.index]


@pytest.mark.parametrize(
    "name", ["ENSG00000141510|ENSG00000254647", "mm10___TP53", "GRCm39_INS", "MY_GENE", "TP53|INS", "X", ".", "|", "_"]
)
def test_a_name_that_is_no_gene_or_not_one_of_a_human_finds_none(name, vocabulary):
    assert found(match_genes(pd.DataFrame(index=[name, "INS"]), vocabulary), vocabulary) == [None, GENES["INS"]]


@pytest.mark.parametrize(
    "ids",
    [
        ["100", "200", "300", "400", "500"], [100, 200, 300, 400, 500], [1.0, 2.0, np.nan, 4.0, 5.0],
        ["free text", "", "of a protein", "x", "y"], ["NM_000207"] * 5, ["P01308"] * 5, ["HGNC:1"] * 5,
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["gene_ids", "gene_id", "ensembl_id", "feature_id"])
def test_a_column_of_other_ids_hides_no_symbol(ids, column, vocabulary):
    match = require_found(list(GENES), vocabulary, **{column: ids})
    assert match.columns_used == ["var_names"]
    assert match.matched_by["var_names"] == len(GENES)


def test_sources_are_asked_gene_by_gene_and_each_says_how_many_it_found(vocabulary):
    genes = list(GENES.values())
    match = require_found(
        ["x", "HLA.A", "TP53", "INS", "C1orf112"], vocabulary, [genes[0], genes[0], *genes[2:]],
        ensembl_id=[genes[0], "", "7157", None, ""], gene_name=["INS", "", "", "INS", "nothing"],
    )  # fmt: skip
    assert match.matched_by == {"var['ensembl_id']": 1, "var['gene_name']": 1, "var_names": 3}
    assert match.spellings == {"R's spelling (HLA.A)": 1}


def test_the_index_can_be_named(vocabulary):
    var = pd.DataFrame({"ensembl_id": list(GENES.values())[::-1]}, index=list(GENES))
    assert found(match_genes(var, vocabulary, gene_id_column="index"), vocabulary) == list(GENES.values())
    assert found(match_genes(var, vocabulary), vocabulary) == list(GENES.values())[::-1]
    with pytest.raises(ScDMCError, match="'index' stands for var_names"):
        match_genes(var, vocabulary, gene_id_column="none")


def title_case(names):
    return [name.capitalize() for name in names]


@pytest.mark.parametrize("place", ["index", "gene_symbols", "gene_name"])
def test_symbols_of_a_mouse_are_not_taken_for_those_of_a_human(place, symbols, vocabulary):
    names = title_case(symbols)
    var = pd.DataFrame(index=names) if place == "index" else pd.DataFrame({place: names}, index=map(str, range(2000)))
    with pytest.raises(ScDMCError) as error:
        match_genes(var, vocabulary, source="islets.h5ad")
    for part in ("islets.h5ad", "mouse or a rat", names[0], "scdmc orthologs", "--species mouse"):
        assert part in str(error.value)


def test_symbols_of_a_fish_are_not_taken_for_those_of_a_human(symbols, vocabulary):
    with pytest.raises(ScDMCError, match="zebrafish"):
        match_genes(pd.DataFrame(index=[name.lower() for name in symbols[:300]] + [f"zgc:{n}" for n in range(300)]),
                    vocabulary)  # fmt: skip


def test_human_symbols_in_lower_case_are_a_humans(symbols, vocabulary):
    match = match_genes(pd.DataFrame(index=[name.lower() for name in symbols]), vocabulary)
    assert found(match, vocabulary) == [load_symbols()[name] for name in symbols]


def test_of_symbols_of_both_species_only_those_of_a_human_are_taken(symbols, vocabulary, caplog):
    names = [*symbols[:1500], *title_case(symbols[:500])]
    match = match_genes(pd.DataFrame(index=names), vocabulary, source="both.h5ad")
    n_mouse = sum(name != name.upper() for name in names)
    assert found(match, vocabulary) == [load_symbols().get(name) if name == name.upper() else None for name in names]
    assert f"both.h5ad: {n_mouse} of 2000 genes are spelt" in caplog.text


def test_ids_of_a_human_beside_symbols_of_any_case_are_enough(symbols, vocabulary):
    genes = [load_symbols()[name] for name in symbols]
    var = pd.DataFrame({"gene_ids": genes}, index=title_case(symbols))
    assert found(match_genes(var, vocabulary), vocabulary) == genes


@pytest.mark.parametrize(
    ("prefix", "species"), [("ENSMUSG", "mouse"), ("ENSRNOG", "rat"), ("ENSDARG", "zebrafish"), ("ENSMFAG", "macaque")]
)
def test_ids_of_another_species_are_called_by_its_name(prefix, species, vocabulary):
    names = [f"{prefix}{number:011}" for number in range(30)]
    with pytest.raises(ScDMCError, match=f"these are {species} genes"):
        match_genes(pd.DataFrame(index=names), vocabulary)


def test_a_message_names_twenty_columns_at_most(vocabulary):
    var = pd.DataFrame({f"column{number}": ["x"] for number in range(300)}, index=["y"])
    with pytest.raises(ScDMCError, match="and 280 more") as error:
        match_genes(var, vocabulary)
    assert len(str(error.value)) < 900


ODD_NAMES = [
    "CD4", " CD8A", "CD8A ", "\tX", "'CD3E'", '"CD3D"', "b'IL7R'", "a\nb", "c\n", "\nd", "", "nan", "NA", "<NA>",
    "None", "e f", "g'h", "'", "CD4\u2028", "\x1fCD4", "HLA-A",
]  # fmt: skip


@given(st.lists(st.sampled_from(ODD_NAMES), max_size=6))
def test_many_names_are_cleaned_as_each_is_alone(names):
    alone = [clean_names(pd.Series([name, None], dtype=object))[0] for name in names]  # with a missing one: one by one
    assert clean_names(pd.Series(names, dtype=object)) == alone
