"""The parquet format: what is written comes back, and what does not belong together is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.tokens.parquet import (
    METADATA_KEY,
    gene_medians_path,
    parquet_files,
    parquet_schema,
    parquet_table,
    parquet_writer,
    read_settings,
    read_tokenized,
    token_ids_path,
)
from scdmc.tokens.streams import cell_streams
from scdmc.tokens.tokenized_cells import TokenizationSettings, concatenate_cells, obs_data_type, require_valid_ids

SETTINGS = TokenizationSettings("a" * 64, "b" * 64, 2048)
N_GENES = 60


@pytest.fixture
def streams():
    """Five cells, the second of which is empty."""
    return streams_of(5)


def streams_of(n_cells, seed=0):
    counts = np.random.default_rng(seed).poisson(2.0, (n_cells, N_GENES)).astype(np.float64)
    counts[1] = 0
    tokens = np.arange(4, 4 + N_GENES)
    return cell_streams(scipy.sparse.csr_matrix(counts), tokens, counts.sum(axis=1), np.ones(4 + N_GENES))


def obs_of(n_cells, source_file="a.h5ad", **columns):
    obs = {"cell_id": [f"cell_{i}" for i in range(n_cells)], "source_file": source_file}
    return pd.DataFrame(obs | columns, index=range(n_cells))


def write(path, streams, obs, obs_types=None, settings=SETTINGS, blocks=1):
    schema = parquet_schema(obs_types or {}, settings, "a.h5ad")
    with parquet_writer(path, schema) as writer:
        for _ in range(blocks):
            writer.write_table(parquet_table(streams, obs, schema))
    return path


def lists(cells):
    """(rank, expression genes, values) of each cell."""
    return [
        (
            cells.rank_ids[slice(*cells.rank_offsets[i : i + 2])].tolist(),
            cells.expression_ids[slice(*cells.expression_offsets[i : i + 2])].tolist(),
            cells.expression_values[slice(*cells.expression_offsets[i : i + 2])].tolist(),
        )
        for i in range(len(cells))
    ]


def test_streams_survive_the_disk(tmp_path, streams):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5)))
    assert cells.rank_ids.tolist() == streams.input_ids_rank.tolist()
    assert cells.expression_ids.tolist() == streams.input_ids_epe.tolist()
    assert cells.expression_values.tolist() == streams.expression_values.tolist()
    assert cells.rank_offsets.tolist() == cells.expression_offsets.tolist() == streams.offsets.tolist()
    assert [array.dtype for array in (cells.rank_ids, cells.expression_ids, cells.expression_values)] == [
        np.int32,
        np.int32,
        np.float32,
    ]
    assert cells.obs["cell_id"].tolist() == [f"cell_{i}" for i in range(5)]
    assert cells.obs["source_file"].tolist() == ["a.h5ad"] * 5
    assert cells.settings == SETTINGS


def test_columns_have_the_types_of_the_format(tmp_path, streams):
    path = write(tmp_path / "x.parquet", streams, obs_of(5))
    table = pq.read_table(path)
    assert {name: str(table.schema.field(name).type) for name in table.schema.names[:5]} == {
        "input_ids_rank": "list<element: int32>",
        "input_ids_epe": "list<element: int32>",
        "expression_values": "list<element: float>",
        "length": "int32",
        "cell_id": "string",
    }
    assert table["length"].to_pylist() == [len(genes) for genes in table["input_ids_epe"].to_pylist()]
    assert table["length"].to_pylist()[1] == 2
    chunk = pq.ParquetFile(path).metadata.row_group(0)
    assert {chunk.column(i).compression for i in range(chunk.num_columns)} == {"ZSTD"}


def test_the_metadata_holds_settings_and_source(tmp_path, streams):
    path = write(tmp_path / "x.parquet", streams, obs_of(5))
    assert json.loads(pq.read_schema(path).metadata[METADATA_KEY]) == {
        "format_version": 1,
        "vocabulary_sha256": "a" * 64,
        "gene_medians_sha256": "b" * 64,
        "model_input_size": 2048,
        "normalisation": "ln(1 + x / n * 10000 / median)",
        "source_file": "a.h5ad",
    }
    assert read_settings([path]) == SETTINGS


@pytest.mark.parametrize(
    ("column", "expected_type", "expected"),
    [
        (pd.Categorical(["b", "a", None, "b", "a"]), "dictionary", ["b", "a", None, "b", "a"]),
        (pd.Categorical([2, 1, 1, 2, 1]), "dictionary", ["2", "1", "1", "2", "1"]),
        (["x", None, np.nan, "", "y"], "dictionary", ["x", None, None, "", "y"]),
        ([True, False, True, True, False], "bool", [True, False, True, True, False]),
        ([1, 2, 3, 4, 2**40], "int64", [1, 2, 3, 4, 2**40]),
        (np.array([1, 2, 3, 4, 5], dtype=np.uint8), "int64", [1, 2, 3, 4, 5]),
        ([0.5, np.nan, 1.0, 2.0, 3.0], "double", [0.5, None, 1.0, 2.0, 3.0]),
        (np.array([0.5, 1, 2, 3, 4], dtype=np.float32), "double", [0.5, 1, 2, 3, 4]),
        (pd.array([1, None, 3, 4, 5], dtype="Int64"), "int64", [1, None, 3, 4, 5]),
        (pd.array([True, None, False, True, True], dtype="boolean"), "bool", [True, None, False, True, True]),
        (["x", 1, 2.5, None, True], "dictionary", ["x", "1", "2.5", None, "True"]),
    ],
)
@pytest.mark.parametrize("as_objects", [False, True])
def test_columns_of_obs_keep_their_kind_and_their_gaps(tmp_path, streams, column, expected_type, expected, as_objects):
    obs = obs_of(5, kept=column)
    data_type = obs_data_type([obs["kept"]])
    assert str(data_type).split("<")[0] == expected_type
    if as_objects:
        obs["kept"] = obs["kept"].astype(object)
    path = write(tmp_path / "x.parquet", streams, obs, {"kept": data_type})
    assert pq.read_table(path)["kept"].to_pylist() == expected
    read = read_tokenized(path).obs["kept"]
    assert read.isna().tolist() == [value is None for value in expected]
    assert [value for value in read if not pd.isna(value)] == [value for value in expected if value is not None]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([[1, 2], [1.5, np.nan]], "double"),
        ([[1, 2], [3, 4]], "int64"),
        ([[True], [False]], "bool"),
        ([[True], [1]], "dictionary"),
        ([["a"], [1]], "dictionary"),
        ([[0.5], ["a"]], "dictionary"),
        # What the wider type would round is kept as text.
        ([[2**63], [1]], "dictionary"),
        ([[2**53], [0.5]], "double"),
        ([[2**53 + 1], [0.5]], "dictionary"),
        ([[-(2**53) - 1], [0.5]], "dictionary"),
    ],
)
def test_a_column_that_differs_between_files_has_the_type_that_holds_both(columns, expected):
    data_type = obs_data_type([pd.Series(column) for column in columns])
    assert str(data_type).split("<")[0] == expected


def test_a_column_of_numbers_and_text_is_kept_as_text_of_the_same_bytes_every_time(tmp_path, streams):
    mixed = pd.Series([1, "1", 2.5, None, True], dtype=object)
    data_type = obs_data_type([mixed])
    paths = [
        write(tmp_path / name, streams, obs_of(5, kept=mixed.to_numpy()), {"kept": data_type}) for name in ("a", "b")
    ]
    assert pq.read_table(paths[0])["kept"].to_pylist() == ["1", "1", "2.5", None, "True"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_integers_that_no_number_type_holds_are_written_as_they_are(tmp_path, streams):
    column = np.array([2**64 - 1, 1, 2, 3, 4], dtype=np.uint64)
    data_type = obs_data_type([pd.Series(column)])
    path = write(tmp_path / "x.parquet", streams, obs_of(5, kept=column), {"kept": data_type})
    assert pq.read_table(path)["kept"].to_pylist() == ["18446744073709551615", "1", "2", "3", "4"]


@pytest.mark.parametrize("data_type", [pa.bool_(), pa.int64(), pa.float64(), pa.dictionary(pa.int32(), pa.string())])
def test_a_column_that_a_file_lacks_is_null(tmp_path, streams, data_type):
    path = write(tmp_path / "x.parquet", streams, obs_of(5), {"absent": data_type})
    assert pq.read_table(path)["absent"].to_pylist() == [None] * 5
    assert read_tokenized(path).obs["absent"].isna().all()


def test_shards_of_one_data_set_are_read_as_one(tmp_path):
    kept = pa.dictionary(pa.int32(), pa.string())
    parts = [streams_of(5, seed) for seed in range(3)]
    for index, (part, types) in enumerate(zip(parts, (["x"] * 5, list("yzyzx"), None), strict=True)):
        obs = obs_of(5, f"{index}.h5ad", **({"kept": types} if types else {}))
        write(tmp_path / f"p-{index:05d}.parquet", part, obs, {"kept": kept})
    for place in (tmp_path, tmp_path / "p-*.parquet"):
        cells = read_tokenized(place)
        assert cells.rank_ids.tolist() == np.concatenate([part.input_ids_rank for part in parts]).tolist()
        assert cells.expression_ids.tolist() == np.concatenate([part.input_ids_epe for part in parts]).tolist()
        assert np.diff(cells.rank_offsets).tolist() == np.concatenate([np.diff(p.offsets) for p in parts]).tolist()
        assert cells.rank_offsets.tolist() == cells.expression_offsets.tolist()
        assert cells.obs["kept"].tolist()[:10] == [*["x"] * 5, *"yzyzx"]
        assert cells.obs["kept"].isna().tolist() == [False] * 10 + [True] * 5
        assert cells.obs["source_file"].tolist() == np.repeat(["0.h5ad", "1.h5ad", "2.h5ad"], 5).tolist()


def test_row_groups_are_joined_in_order(tmp_path, streams):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5), blocks=3))
    once = read_tokenized(write(tmp_path / "y.parquet", streams, obs_of(5)))
    assert lists(cells) == lists(once) * 3


def test_only_the_asked_columns_of_obs_are_read(tmp_path, streams):
    path = write(tmp_path / "x.parquet", streams, obs_of(5, a=1, b=2), {"a": pa.int64(), "b": pa.int64()})
    assert list(read_tokenized(path).obs) == ["cell_id", "source_file", "a", "b"]
    assert list(read_tokenized(path, ["b"]).obs) == ["cell_id", "source_file", "b"]
    assert list(read_tokenized(path, []).obs) == ["cell_id", "source_file"]
    with pytest.raises(ScDMCError, match=r"no column 'c'; it keeps \['a', 'b'\]"):
        read_tokenized(path, ["a", "c"])


@pytest.mark.parametrize("context", [3, 10, 30])
def test_truncated_cells_keep_exactly_the_first_genes_of_the_rank_stream(tmp_path, streams, context):
    path = write(tmp_path / "x.parquet", streams, obs_of(5, kept=range(5)), {"kept": pa.int64()})
    full = lists(read_tokenized(path))
    short = read_tokenized(path).truncated(context)
    assert max(len(rank) for rank, _, _ in full) > context
    for (rank, genes, values), (full_rank, full_genes, full_values) in zip(lists(short), full, strict=True):
        expected = full_rank[1:-1][: context - 2]
        assert rank == [2, *expected, 3]
        assert genes == [2, *sorted(expected), 3]
        value_of_gene = dict(zip(full_genes, full_values, strict=True))
        assert values == [1.0, *(value_of_gene[gene] for gene in sorted(expected)), 1.0]
    assert short.obs["kept"].tolist() == list(range(5))
    assert short.settings == SETTINGS
    assert lists(read_tokenized(path, model_input_size=context)) == lists(short)


def test_cells_that_fit_are_not_truncated(tmp_path, streams):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5)))
    longest = cells.rank_lengths.max()
    assert lists(cells.truncated(int(longest))) == lists(cells)
    assert lists(cells.truncated(int(longest) - 1)) != lists(cells)


@pytest.mark.parametrize("chosen", [[3, 0, 0, 4], [1], [], [True, False, False, True, True]])
def test_selected_cells_stand_in_the_asked_order(tmp_path, streams, chosen):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5)))
    selected = cells.select(np.array(chosen, dtype=bool if True in chosen and False in chosen else int))
    rows = [0, 3, 4] if False in chosen and len(chosen) == 5 else chosen
    assert lists(selected) == [lists(cells)[row] for row in rows]
    assert selected.obs["cell_id"].tolist() == [f"cell_{row}" for row in rows]


def test_joining_undoes_selecting(tmp_path, streams):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5)))
    joined = concatenate_cells([cells.select(np.array([0, 1])), cells.select(np.array([2, 3, 4]))])
    assert lists(joined) == lists(cells)
    assert joined.obs.equals(cells.obs)


@pytest.fixture
def published(tmp_path, streams):
    """Data as the published tool writes it: int64, double, no metadata of ours, no cell ids."""
    pieces = [slice(*streams.offsets[i : i + 2]) for i in range(5)]
    table = pa.table(
        {
            "input_ids_rank": [streams.input_ids_rank[piece].astype(np.int64) for piece in pieces],
            "input_ids_epe": [streams.input_ids_epe[piece].astype(np.int64) for piece in pieces],
            "expression_values": [streams.expression_values[piece].astype(np.float64) for piece in pieces],
            "length": np.diff(streams.offsets),
        }
    )
    pq.write_table(table, tmp_path / "published.parquet", row_group_size=2)
    return tmp_path / "published.parquet"


def test_data_of_the_published_tool_loads(tmp_path, streams, published):
    assert str(pq.read_schema(published).field("input_ids_rank").type) == "list<element: int64>"
    assert str(pq.read_schema(published).field("expression_values").type) == "list<element: double>"
    cells = read_tokenized(published)
    assert lists(cells) == lists(read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5))))
    assert cells.settings is None
    assert cells.rank_ids.dtype == np.int32
    assert cells.expression_values.dtype == np.float32
    assert cells.obs["cell_id"].tolist() == [f"row_{i}" for i in range(5)]
    assert cells.obs["source_file"].tolist() == ["published.parquet"] * 5


@pytest.mark.parametrize("case", ["main", "dense", "same_size", "filter_pass"])
def test_golden_data_of_the_published_tool_loads(shared, case):
    path = shared / "golden" / "tokenizer_synth" / case / "out.parquet"
    expected = pq.read_table(path).to_pydict()
    cells = read_tokenized(path)
    found = lists(cells)
    assert [rank for rank, _, _ in found] == expected["input_ids_rank"]
    assert [genes for _, genes, _ in found] == expected["input_ids_epe"]
    np.testing.assert_allclose(
        np.concatenate([values for _, _, values in found]), np.concatenate(expected["expression_values"]), rtol=1e-6
    )
    assert [len(genes) for _, genes, _ in found] == expected["length"]


def test_truncating_published_streams_of_different_genes_keeps_those_they_share(shared):
    cells = read_tokenized(shared / "golden" / "tokenizer_long" / "out.parquet")
    for (rank, genes, _), (full_rank, full_genes, _) in zip(lists(cells.truncated(102)), lists(cells), strict=True):
        assert rank[1:-1] == full_rank[1:101]
        assert genes[1:-1] == [gene for gene in full_genes[1:-1] if gene in set(full_rank[1:101])]
    # The published expression stream is cut by column order: of its first cell, 32 of the best 100 genes are missing.
    rank, genes, _ = lists(cells)[0]
    assert sum(gene not in genes for gene in rank[1:101]) == 32


@pytest.mark.parametrize(
    "other",
    [
        TokenizationSettings("c" * 64, "b" * 64, 2048),
        TokenizationSettings("a" * 64, "c" * 64, 2048),
        TokenizationSettings("a" * 64, "b" * 64, 1024),
    ],
)
def test_shards_with_different_settings_are_not_read_together(tmp_path, streams, other):
    write(tmp_path / "a.parquet", streams, obs_of(5))
    write(tmp_path / "b.parquet", streams, obs_of(5), settings=other)
    with pytest.raises(ScDMCError, match=r"b.parquet was not tokenized like .*a.parquet"):
        read_tokenized(tmp_path)


def test_values_of_another_formula_are_refused(tmp_path, streams):
    write(tmp_path / "a.parquet", streams, obs_of(5), settings=replace(SETTINGS, normalisation="none"))
    with pytest.raises(ScDMCError, match="the expression values are not"):
        read_tokenized(tmp_path)


def test_data_with_and_without_settings_are_not_read_together(tmp_path, streams, published):
    write(tmp_path / "a.parquet", streams, obs_of(5))
    with pytest.raises(ScDMCError, match="was not tokenized like"):
        read_tokenized(tmp_path)


def test_another_format_version_is_refused(tmp_path, streams):
    newer = TokenizationSettings("a" * 64, "b" * 64, 2048, format_version=99)
    with pytest.raises(ScDMCError, match="format version 99"):
        read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5), settings=newer))


def test_what_is_no_tokenized_data_is_an_error(tmp_path):
    with pytest.raises(ScDMCError, match="no such parquet file"):
        read_tokenized(tmp_path / "absent.parquet")
    with pytest.raises(ScDMCError, match="no such parquet file"):
        read_tokenized(tmp_path)
    (tmp_path / "text.parquet").write_text("no parquet at all")
    with pytest.raises(ScDMCError, match=r"text.parquet is not a readable parquet file"):
        read_tokenized(tmp_path / "text.parquet")
    pq.write_table(pa.table({"length": [1], "x": [2]}), tmp_path / "other.parquet")
    with pytest.raises(ScDMCError, match=r"lacks the columns \['input_ids_rank', .*it has \['length', 'x'\]"):
        read_tokenized(tmp_path / "other.parquet")


@pytest.mark.parametrize("blocks", [0, 1])
def test_data_without_cells_is_an_error(tmp_path, streams, blocks):
    none = cell_streams(scipy.sparse.csr_matrix((0, 3)), np.array([4, 5, 6]), np.zeros(0), np.ones(7))
    path = write(tmp_path / "x.parquet", none, obs_of(0), blocks=blocks)
    with pytest.raises(ScDMCError, match="holds no cells"):
        read_tokenized(path)
    write(tmp_path / "y.parquet", streams, obs_of(5))
    assert len(read_tokenized(tmp_path)) == 5


def test_hidden_files_are_no_shards(tmp_path):
    for name in ("b.parquet", "a.parquet", ".c.parquet", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in parquet_files(tmp_path)] == ["a.parquet", "b.parquet"]


def test_vocabulary_and_medians_lie_beside_one_shard_and_beside_many(tmp_path):
    for name in ("pbmc.parquet", "pbmc-00000.parquet", "pbmc-00012.parquet"):
        assert token_ids_path(tmp_path / name) == tmp_path / "pbmc.token_ids.json"
        assert gene_medians_path(tmp_path / name) == tmp_path / "pbmc.gene_medians.json"
    assert token_ids_path(tmp_path / "covid-19.parquet") == tmp_path / "covid-19.token_ids.json"


def test_ids_outside_of_the_vocabulary_are_refused(tmp_path, streams):
    cells = read_tokenized(write(tmp_path / "x.parquet", streams, obs_of(5)))
    require_valid_ids(cells, 4 + N_GENES, "x")
    with pytest.raises(ScDMCError, match=r"x: token id 63 is outside of the vocabulary of 63 tokens"):
        require_valid_ids(cells, 3 + N_GENES, "x")
    cells.rank_ids = np.where(np.arange(len(cells.rank_ids)) == cells.rank_offsets[2], 7, cells.rank_ids)
    with pytest.raises(ScDMCError, match="do not start with <cls>"):
        require_valid_ids(cells, 4 + N_GENES, "x")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("expression_values", r"in row 3, input_ids_epe has length \d+, but expression_values has length 2"),
        ("length", r"in row 3, input_ids_epe has length \d+, but length is 2"),
    ],
)
def test_a_row_whose_lengths_disagree_is_refused(published, column, message):
    table = pq.read_table(published)
    content = table[column].to_pylist()
    content[3] = 2 if column == "length" else content[3][:2]
    index = table.schema.get_field_index(column)
    table = table.set_column(index, table.schema.field(column), pa.array(content, table.schema.field(column).type))
    pq.write_table(table, published, row_group_size=2)
    with pytest.raises(ScDMCError, match=f"published.parquet: damaged data: {message}"):
        read_tokenized(published)
