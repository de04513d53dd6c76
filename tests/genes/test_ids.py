"""From gene names to tokens: the order in which ids are looked for, and what a name may look like."""

import gzip

import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.genes.ids import UNMATCHED, load_gene_mapping, load_orthologs, load_symbols, match_genes
from scdmc.genes.vocabulary import load_vocabulary, require_same_vocabulary

TP53, INS, GCG, ASMTL_Y, OUTSIDE = (
    "ENSG00000141510",
    "ENSG00000254647",
    "ENSG00000115263",
    "ENSG00000169093",
    "ENSG00000999999",
)
SYMBOLS = {"TP53": TP53, "INS": INS, "GCG": GCG, "ELSEWHERE": OUTSIDE}


@pytest.fixture
def vocabulary(make_vocabulary):
    return make_vocabulary([TP53, INS, GCG, ASMTL_Y])


@pytest.fixture
def genes_of(vocabulary):
    """A function that matches genes and returns the gene of each column, None where there is none."""

    def genes(var, **options):
        match = match_genes(var, vocabulary, symbols=SYMBOLS, **options)
        return [None if token == UNMATCHED else str(vocabulary.tokens[token]) for token in match.token_ids]

    return genes


def annotation(index, **columns):
    return pd.DataFrame(columns, index=index, dtype=object)


def test_ids_are_looked_for_in_the_order_of_the_design(vocabulary):
    var = pd.DataFrame(
        {"mine": TP53, "ensembl_id": INS, "feature_id": GCG, "gene_ids": TP53, "gene_id": INS, "gene_symbol": "GCG"},
        index=[ASMTL_Y],
    )
    expected = [("ensembl_id", INS), ("feature_id", GCG), ("gene_ids", TP53), ("gene_id", INS)]
    by_option = match_genes(var, vocabulary, gene_id_column="mine", symbols=SYMBOLS)
    assert vocabulary.tokens[by_option.token_ids[0]] == TP53
    for column, gene in expected:
        match = match_genes(var, vocabulary, symbols=SYMBOLS)
        assert vocabulary.tokens[match.token_ids[0]] == gene
        assert match.columns_used[0] == f"var[{column!r}]"
        var = var.drop(columns=column)
    match = match_genes(var, vocabulary, symbols=SYMBOLS)
    assert vocabulary.tokens[match.token_ids[0]] == ASMTL_Y
    assert match.columns_used[0] == "var_names"
    var.index = ["anything"]
    match = match_genes(var, vocabulary, symbols=SYMBOLS)
    assert vocabulary.tokens[match.token_ids[0]] == GCG
    assert match.columns_used == ["var['gene_symbol']"]


def test_symbols_as_var_names_are_the_last_resort(genes_of):
    assert genes_of(annotation(["INS", "nonsense", "TP53"])) == [INS, None, TP53]


@pytest.mark.parametrize(
    "name",
    [
        TP53,
        f"{TP53}.18",
        TP53.lower(),
        f" {TP53} ",
        f"{TP53}.18_PAR_Y",
        f"{TP53}_PAR_Y",
        f"{TP53.lower()}.3_par_y",
        "tp53",
        "Tp53",
    ],
)
def test_versions_case_and_the_mark_of_the_y_copy_are_no_part_of_a_name(genes_of, name):
    assert genes_of(annotation([name])) == [TP53]
    assert genes_of(annotation(["x"], ensembl_id=[name])) == [TP53]


@pytest.mark.parametrize("name", [f"{TP53}x", f"{TP53}.", f"{TP53}.1.2", f"X{TP53}", TP53[:-1], f"{TP53}0", ""])
def test_what_only_resembles_an_id_is_no_gene(genes_of, name):
    assert genes_of(annotation([name, INS], ensembl_id=[name, INS])) == [None, INS]


@pytest.mark.parametrize("empty", ["", "  ", None, np.nan, pd.NA, "nan", "NaN", "None", "<NA>", "NA"])
@pytest.mark.parametrize("dtype", [object, "category"])
def test_an_empty_id_falls_back_to_the_symbol_of_that_gene(genes_of, empty, dtype):
    var = annotation(["a", "b", "c"], ensembl_id=[TP53, empty, OUTSIDE], gene_symbol=["GCG", "INS", "GCG"])
    var["ensembl_id"] = var["ensembl_id"].astype(dtype)
    # The third gene has an id, which the vocabulary does not know: its symbol is not asked.
    assert genes_of(var) == [TP53, INS, None]


def test_an_empty_id_falls_back_to_var_names_where_there_is_no_column_of_symbols(genes_of):
    assert genes_of(annotation(["INS", "GCG"], ensembl_id=[TP53, ""])) == [TP53, GCG]


def test_var_names_are_ids_if_most_look_like_ids(genes_of):
    var = annotation([TP53, GCG, "INS"], gene_symbol=["INS", "INS", "INS"])
    assert genes_of(var) == [TP53, GCG, INS]
    mostly_symbols = annotation([TP53, "INS", "GCG"], gene_symbol=["GCG", "INS", "TP53"])
    assert genes_of(mostly_symbols) == [GCG, INS, TP53]


def test_the_mapping_comes_first_also_for_ids_of_the_vocabulary_and_for_symbols(genes_of):
    mapping = {TP53: INS, "INS": GCG, "OLD": TP53}
    assert genes_of(annotation([TP53, f"{TP53.lower()}.4", "ins", "old", "GCG"]), gene_mapping=mapping) == [
        INS,
        INS,
        GCG,
        TP53,
        GCG,
    ]


def test_a_mapping_is_applied_once(genes_of):
    assert genes_of(annotation([TP53]), gene_mapping={TP53: INS, INS: GCG}) == [INS]


def test_mapping_entries_whose_target_is_outside_of_the_vocabulary_are_ignored(vocabulary, write_json_file, genes_of):
    path = write_json_file("mapping.json", {"ins": OUTSIDE, TP53.lower(): GCG, "A": None, "B": [TP53], "C": "<mask>"})
    mapping = load_gene_mapping(path, vocabulary)
    assert mapping[TP53] == GCG
    assert not {"INS", "A", "B"} & set(mapping)
    assert genes_of(annotation(["INS", TP53, "C"]), gene_mapping=mapping) == [INS, GCG, None]


def test_a_mapping_that_is_absent_or_no_object_is_an_error(vocabulary, write_json_file, tmp_path):
    with pytest.raises(ScDMCError, match="no such file"):
        load_gene_mapping(tmp_path / "absent.json", vocabulary)
    with pytest.raises(ScDMCError, match="should hold a JSON object"):
        load_gene_mapping(write_json_file("list.json", [TP53]), vocabulary)


def test_special_tokens_are_never_genes(genes_of, vocabulary):
    names = ["<pad>", "<mask>", "<cls>", "<eos>", INS]
    mapping = {"A": "<mask>"}
    assert genes_of(annotation(names, ensembl_id=names)) == [None, None, None, None, INS]
    assert genes_of(annotation(["A", "INS"]), gene_mapping=mapping) == [None, INS]
    assert match_genes(annotation(["EOS", "INS"]), vocabulary, symbols={"EOS": "<eos>", "INS": INS}).n_duplicates == 0


def test_columns_of_one_gene_are_counted(vocabulary):
    match = match_genes(annotation(["INS", INS, "ins", "GCG", "nonsense", "other"]), vocabulary, symbols=SYMBOLS)
    assert match.n_duplicates == 2
    assert match.is_matched.tolist() == [True, True, True, True, False, False]


def test_a_symbol_of_several_ids_goes_to_protein_coding_then_lncrna_then_the_lowest_id(tmp_path):
    rows = [
        ("ENSG00000000009", "A", "lncRNA"),
        ("ENSG00000000008", "a", "protein_coding"),
        ("ENSG00000000001", "A", "pseudogene"),
        ("ENSG00000000006", "B", "pseudogene"),
        ("ENSG00000000007", "B", "lncRNA"),
        ("ENSG00000000005", "C", "misc_RNA"),
        ("ENSG00000000004", "C", "pseudogene"),
        ("ENSG00000000003", "D", "protein_coding"),
        ("ENSG00000000002", "D", "protein_coding"),
    ]
    path = tmp_path / "genes.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("id,symbol,biotype\n" + "".join(",".join(row) + "\n" for row in rows))
    assert {symbol: int(gene[-1]) for symbol, gene in load_symbols(path).items()} == {"A": 8, "B": 7, "C": 4, "D": 2}


def test_the_shipped_symbols_lead_into_the_shipped_vocabulary():
    symbols, vocabulary = load_symbols(), load_vocabulary()
    assert {symbols[name] for name in ("TP53", "INS", "GCG")} == {TP53, INS, GCG}
    assert set(symbols.values()) <= set(vocabulary.token_ids)


def test_without_a_gene_table_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(ScDMCError, match="build_vocabulary"):
        load_symbols(tmp_path / "absent.csv.gz")


def test_no_match_shows_three_names_and_the_columns_tried(vocabulary):
    var = annotation(["w", "x", "y", "z"], gene_ids=["one", "two", "three", "four"], length=[1, 2, 3, 4])
    with pytest.raises(ScDMCError) as error:
        match_genes(var, vocabulary, symbols=SYMBOLS, source="mouse.h5ad")
    message = str(error.value)
    for part in ("mouse.h5ad", "4 genes", "'one', 'two', 'three',", "var['gene_ids']", "var_names", "'length'"):
        assert part in message
    assert "four" not in message
    assert "--gene_id_column" in message
    assert "\n" not in message


def test_an_absent_gene_id_column_lists_those_there_are(vocabulary):
    with pytest.raises(ScDMCError, match=r"no column 'mine'; it has \['ensembl_id'\]"):
        match_genes(annotation(["a"], ensembl_id=[INS]), vocabulary, gene_id_column="mine", symbols=SYMBOLS)


def test_without_a_file_there_is_no_gene_mapping(make_vocabulary):
    assert load_gene_mapping(None, make_vocabulary(["ENSG00000254647"])) == {}


def test_the_advice_on_two_vocabularies_fits_data_and_models_alike():
    require_same_vocabulary("a", "a", "one", "two")
    with pytest.raises(ScDMCError, match=r"two was made with another vocabulary \(b\) than one \(a\)") as error:
        require_same_vocabulary("a", "b", "one", "two")
    assert "model" not in str(error.value)


MOUSE = [f"ENSMUSG0000000000{number}" for number in range(9)]


@pytest.fixture
def write_orthologs(tmp_path):
    """A function that writes a table of orthologs."""

    def write(rows, header, name="orthologs.tsv"):
        separator = "," if ".csv" in name else "\t"
        content = "".join(separator.join(row) + "\n" for row in [header, *rows])
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write


PAIRS = [
    (MOUSE[1], "Trp53", TP53),
    (MOUSE[1], "Trp53", TP53),
    # Two mouse genes for one human gene, and the other way round.
    (MOUSE[2], "Ins1", INS),
    (MOUSE[3], "Ins2", INS),
    (MOUSE[4], "Asmtl", ASMTL_Y),
    (MOUSE[4], "Asmtl", OUTSIDE),
    (f"{MOUSE[5]}.7", "Gcg", f"{GCG.lower()}.3"),
    (MOUSE[6], "Else", "ENSG00000999998"),
    (MOUSE[7], "Alone", ""),
]


@pytest.mark.parametrize("name", ["o.tsv", "o.csv", "o.csv.gz"])
@pytest.mark.parametrize(
    "header", [("mouse_id", "mouse_symbol", "human_id"), ("Gene stable ID", "Gene name", "Human gene stable ID")]
)
def test_only_pairs_of_one_mouse_and_one_human_gene_are_taken(write_orthologs, vocabulary, caplog, name, header):
    caplog.set_level("INFO")
    orthologs = load_orthologs(write_orthologs(PAIRS, header, name), vocabulary)
    assert orthologs == {MOUSE[1]: TP53, "TRP53": TP53, MOUSE[5]: GCG, "GCG": GCG}
    assert "2 pairs of one mouse and one human gene; left out: 4 not one to one, 1 outside" in caplog.text


def test_orthologs_may_lack_ids_or_symbols_of_the_mouse(write_orthologs, vocabulary):
    pairs = [(symbol, human) for _, symbol, human in PAIRS]
    assert load_orthologs(write_orthologs(pairs, ("Mouse gene name", "human")), vocabulary) == {
        "TRP53": TP53,
        "GCG": GCG,
    }
    pairs = [(human, mouse) for mouse, _, human in PAIRS]
    assert load_orthologs(write_orthologs(pairs, ("human", "mouse")), vocabulary) == {MOUSE[1]: TP53, MOUSE[5]: GCG}

    # Exported from the human side: the plain name is a human's.
    table = [(human, "HUMAN", mouse, symbol) for mouse, symbol, human in PAIRS]
    path = write_orthologs(table, ("Gene stable ID", "Gene name", "Mouse gene stable ID", "Mouse gene name"))
    assert set(load_orthologs(path, vocabulary)) == {MOUSE[1], MOUSE[5], "TRP53", "GCG"}


def test_genes_of_a_mouse_are_found_through_orthologs_alone(write_orthologs, vocabulary, genes_of):
    orthologs = load_orthologs(write_orthologs(PAIRS, ("mouse_id", "mouse_symbol", "human_id")), vocabulary)
    options = {"species": "mouse", "orthologs": orthologs}
    # "Ins" is a symbol of a human, and no gene of a mouse.
    assert genes_of(annotation(["Trp53", "Ins", "gcg", "Ins2"]), **options) == [TP53, None, GCG, None]
    assert genes_of(annotation([f"{MOUSE[1]}.2", MOUSE[2], MOUSE[5]]), **options) == [TP53, None, GCG]
    assert genes_of(annotation(["Trp53", "Ins2"]), **options, gene_mapping={"INS2": INS}) == [TP53, INS]


def test_mouse_genes_without_orthologs_are_an_error_or_a_warning_that_says_what_to_do(vocabulary, caplog):
    with pytest.raises(ScDMCError, match=r"mouse.h5ad: none .*mouse genes: .* give --species mouse .*--ortholog_file"):
        match_genes(annotation(MOUSE), vocabulary, symbols=SYMBOLS, source="mouse.h5ad")
    match_genes(annotation([*MOUSE[:2], INS, GCG, TP53]), vocabulary, symbols=SYMBOLS, source="both.h5ad")
    assert "both.h5ad: 2 of 5 genes are mouse genes" in caplog.text
    with pytest.raises(ScDMCError, match="--species mouse needs a table of orthologs"):
        match_genes(annotation(MOUSE), vocabulary, symbols=SYMBOLS, species="mouse")
    with pytest.raises(ScDMCError, match="--species rat: choose one of human, mouse"):
        match_genes(annotation(MOUSE), vocabulary, symbols=SYMBOLS, species="rat")


def test_a_file_that_is_no_table_of_orthologs_is_an_error(write_orthologs, vocabulary, tmp_path):
    with pytest.raises(ScDMCError, match="no such file"):
        load_orthologs(tmp_path / "absent.tsv", vocabulary)
    with pytest.raises(ScDMCError, match=r"has the columns \['a', 'b'\]; it should have"):
        load_orthologs(write_orthologs([("x", "y")], ("a", "b")), vocabulary)
    with pytest.raises(ScDMCError, match="no pair of one mouse and one human gene"):
        load_orthologs(write_orthologs([(MOUSE[1], OUTSIDE)], ("a", "b")), vocabulary)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(ScDMCError, match="is no table"):
        load_orthologs(tmp_path / "empty.tsv", vocabulary)
