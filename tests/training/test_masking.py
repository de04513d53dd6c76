"""Masks, packed streams and the order of the cells."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, batches_by_length, packed_streams
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training import masking as batches_module
from scdmc.training.batch_order import BATCHES_PER_GROUP, BatchOrder, GroupedBatchOrder
from scdmc.training.masking import hashed_uniform
from scdmc.training.settings import MaskingOptions
from tests.training.runs import random_cells

SPECIAL = [CLS_TOKEN_ID, EOS_TOKEN_ID]


def masked_batch(cells, chosen, epoch=0, process=0, n_processes=1, **options):
    return batches_module.masked_batch(cells, np.array(chosen), epoch, MaskingOptions(**options), process, n_processes)


@pytest.fixture(scope="module")
def cells():
    return random_cells()


def masks_by_cell(cells, chosen, **draw):
    """Row of a cell -> which positions of its rank and of its expression stream are masked."""
    batch = masked_batch(cells, np.array(chosen), **{"seed": 1, "epoch": 0, **draw})
    starts = batch.streams.layout.cu_seqlens.numpy()
    position = batch.masked_positions.numpy()
    stream = np.searchsorted(starts, position, side="right") - 1
    found = {}
    for index, cell in enumerate(chosen):
        found[cell] = tuple(
            tuple((position[stream == part] - starts[part]).tolist()) for part in (index, index + len(chosen))
        )
    return found


def test_hidden_values_keep_their_genes_and_are_not_those_of_masked_ones(cells):
    chosen = np.arange(6)
    plain, hiding = (masked_batch(cells, chosen, seed=3, hides_values=hides) for hides in (False, True))
    assert hiding.streams.input_ids.tolist() == plain.streams.input_ids.tolist()
    place, masked = hiding.value_positions, set(hiding.masked_positions.tolist())
    assert len(place) > 0
    assert masked.isdisjoint(place.tolist())
    assert place.min() >= hiding.streams.layout.cu_seqlens[len(chosen)]  # in the expression streams
    assert (hiding.streams.input_ids[place] > 3).all()
    assert (hiding.streams.expression_values[place] == UNKNOWN_VALUE).all()
    assert hiding.hidden_values.tolist() == plain.streams.expression_values[place].tolist()


def test_the_genes_of_a_cell_are_all_of_them_whatever_its_views_lack(cells):
    batch = masked_batch(cells, [5, 0], view_dropout=0.5, with_cell_genes=True)
    targets = batch.cell_genes.targets(2, 1 + int(cells.expression_ids.max()))
    for cell, target in zip((5, 0), targets, strict=True):
        stream = slice(cells.expression_offsets[cell] + 1, cells.expression_offsets[cell + 1] - 1)
        ids, values = cells.expression_ids[stream], cells.expression_values[stream]
        expected = np.bincount(ids, values, targets.shape[1]) / values.sum()
        np.testing.assert_allclose(target, expected, atol=1e-6)


# ---- packed streams


def test_both_streams_are_packed_rank_before_expression(cells):
    chosen = np.array([5, 0])
    both = packed_streams(cells, chosen, "both")
    parts = [array[cells.rank_offsets[c] : cells.rank_offsets[c + 1]]
             for array in (cells.rank_ids, cells.expression_ids) for c in chosen]  # fmt: skip
    assert both.input_ids.tolist() == np.concatenate(parts).tolist()
    assert both.layout.lengths == tuple(len(part) for part in parts)
    for stream, expected in (("rank", parts[:2]), ("expression", parts[2:])):
        packed = packed_streams(cells, chosen, stream)
        assert packed.input_ids.tolist() == np.concatenate(expected).tolist()
        assert packed.layout.lengths == tuple(len(part) for part in expected)


def test_streams_of_unequal_lengths_as_the_published_tool_writes_them_are_packed():
    obs = pa.table({"cell_id": ["a", "b"]})
    cells = TokenizedCells(
        np.array([2, 9, 8, 3, 2, 7, 3], np.int32), np.array([2, 8, 3, 2, 6, 7, 3], np.int32),
        np.array([1, 0.5, 1, 1, 0.25, 0.75, 1], np.float32), np.array([0, 4, 7]), np.array([0, 3, 7]), obs, None,
    )  # fmt: skip
    batch = masked_batch(cells, np.array([1, 0]), seed=0, epoch=0, mask_probability=0.9999999)
    assert batch.streams.layout.lengths == (3, 4, 4, 3)
    assert batch.streams.input_ids.tolist() == [2, 1, 3, 2, 1, 1, 3, 2, 1, 1, 3, 2, 1, 3]
    assert batch.labels.tolist() == [7, 9, 8, 6, 7, 8]
    assert batch.expression_values.tolist() == [0, 0, 0, 0.25, 0.75, 0.5]


# ---- masks


def test_masked_genes_are_mask_in_both_streams_and_the_labels_are_the_true_genes(cells):
    chosen = np.array([3, 17, 4, 40])
    batch = masked_batch(cells, chosen, seed=1, epoch=2)
    truth = packed_streams(cells, chosen, "both").input_ids
    position = batch.masked_positions
    assert (batch.streams.input_ids[position] == MASK_TOKEN_ID).all()
    assert batch.labels.tolist() == truth[position].tolist()
    untouched = np.setdiff1d(np.arange(len(truth)), position)
    assert batch.streams.input_ids[untouched].tolist() == truth[untouched].tolist()
    n_rank = sum(batch.streams.layout.lengths[:4])
    assert batch.n_masked_rank == int((position < n_rank).sum())
    assert 0 < batch.n_masked_rank < len(position)
    assert (position[: batch.n_masked_rank] < n_rank).all()
    assert batch.cells.tolist() == chosen.tolist()
    assert batch.n_cells == 4


def test_expression_values_are_those_of_the_masked_genes_and_0_in_the_rank_stream(cells):
    chosen = np.array([30, 2, 11])
    batch = masked_batch(cells, chosen, seed=1, epoch=0)
    starts = batch.streams.layout.cu_seqlens.numpy()
    assert batch.expression_values[: batch.n_masked_rank].abs().max() == 0
    for position, label, value in list(
        zip(batch.masked_positions.tolist(), batch.labels.tolist(), batch.expression_values.tolist(), strict=True)
    )[batch.n_masked_rank :]:
        cell = chosen[np.searchsorted(starts, position, side="right") - 1 - len(chosen)]
        own = slice(cells.expression_offsets[cell], cells.expression_offsets[cell + 1])
        (at,) = np.flatnonzero(cells.expression_ids[own] == label)
        assert value == cells.expression_values[own][at]


def test_about_15_percent_of_the_genes_of_each_stream_are_masked():
    cells = random_cells(n_cells=300)
    batch = masked_batch(cells, np.arange(300), seed=0, epoch=0)
    n_genes = len(cells.rank_ids) - 2 * len(cells)
    tolerance = 4 * (0.15 * 0.85 / n_genes) ** 0.5
    assert batch.n_masked_rank / n_genes == pytest.approx(0.15, abs=tolerance)
    assert (len(batch.labels) - batch.n_masked_rank) / n_genes == pytest.approx(0.15, abs=tolerance)


def test_special_tokens_are_never_masked(cells):
    batch = masked_batch(cells, np.arange(len(cells)), seed=0, epoch=0, mask_probability=1 - 1e-12)
    assert not np.isin(batch.labels, SPECIAL).any()
    left = np.delete(batch.streams.input_ids.numpy(), batch.masked_positions.numpy())
    assert sorted(set(left.tolist())) == SPECIAL
    assert len(left) == 4 * len(cells)


def test_neither_the_batch_nor_the_order_of_the_cells_changes_the_masks_of_a_cell(cells):
    everything = masks_by_cell(cells, range(len(cells)))
    assert masks_by_cell(cells, [8, 3, 21]) == {cell: everything[cell] for cell in (8, 3, 21)}
    assert masks_by_cell(cells, [21]) == {21: everything[21]}


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}, {"epoch": 2**31}])
def test_another_epoch_or_seed_masks_other_genes(cells, change):
    before, after = masks_by_cell(cells, range(60)), masks_by_cell(cells, range(60), **change)
    same = sum(len(set(before[c][s]) & set(after[c][s])) for c in range(60) for s in range(2))
    total = sum(len(before[c][s]) for c in range(60) for s in range(2))
    assert same / total == pytest.approx(0.15, abs=0.06)


def test_the_two_streams_of_a_cell_are_masked_independently(cells):
    masks = masks_by_cell(cells, range(60))
    same = sum(len(set(rank) & set(expression)) for rank, expression in masks.values())
    assert same / sum(len(rank) for rank, _ in masks.values()) == pytest.approx(0.15, abs=0.08)


def test_a_batch_without_genes_has_no_masked_genes():
    obs = pa.table({"cell_id": ["a"]})
    empty = TokenizedCells(
        np.array([2, 3], np.int32), np.array([2, 3], np.int32), np.ones(2, np.float32), np.array([0, 2]),
        np.array([0, 2]), obs, None,
    )  # fmt: skip
    batch = masked_batch(empty, np.array([0]), seed=0, epoch=0)
    assert len(batch.labels) == batch.n_masked_rank == len(batch.expression_values) == 0
    assert batch.streams.input_ids.tolist() == [2, 3, 2, 3]


def test_hashed_numbers_are_uniform():
    cell, position = np.divmod(np.arange(200_000), 500)
    numbers = hashed_uniform(42, 0, 0, cell, position)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 50).astype(int), minlength=50)
    chi_square = ((counts - 4000) ** 2 / 4000).sum()
    assert chi_square < 49 + 5 * (2 * 49) ** 0.5


def test_hashed_numbers_of_neighbours_are_independent():
    cell, position = np.divmod(np.arange(100_000), 500)
    numbers = hashed_uniform(42, 0, 0, cell, position)
    for name, others in {
        "position": hashed_uniform(42, 0, 0, cell, position + 1),
        "cell": hashed_uniform(42, 0, 0, cell + 1, position),
        "stream": hashed_uniform(42, 0, 1, cell, position),
        "epoch": hashed_uniform(42, 1, 0, cell, position),
        "seed": hashed_uniform(43, 0, 0, cell, position),
        "cell and position swapped": hashed_uniform(42, 0, 0, position, cell),
    }.items():
        apart = cell != position
        assert abs(np.corrcoef(numbers[apart], others[apart])[0, 1]) < 5 / 100_000**0.5, name


# ---- the order of the cells

LENGTHS = np.random.default_rng(0).integers(3, 2000, 1000)


def test_an_epoch_has_every_cell_once():
    order = BatchOrder(LENGTHS, batch_size=24, seed=0)
    batches = order.batches(0)
    assert len(batches) == len(order) == 42
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert sorted(len(batch) for batch in batches) == [1000 - 41 * 24] + 41 * [24]


def test_batches_of_groups_hold_one_group_and_every_cell_once():
    groups = np.repeat([0, 1, 2, 3, 4], [600, 380, 11, 4, 5])  # the last three have fewer cells than half a batch
    order = GroupedBatchOrder(LENGTHS, 24, 0, groups)
    for epoch in (0, 1):
        batches = order.batches(epoch)
        assert len(batches) == order.n_batches(epoch) == 25 + 16 + 1
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
        assert all(len(set(np.minimum(groups[batch], 2))) == 1 for batch in batches)
        assert min(map(len, batches)) >= order.fewest_cells >= 12
    assert {tuple(batch) for batch in order.batches(0)} != {tuple(batch) for batch in order.batches(1)}


def test_the_order_follows_from_seed_and_epoch():
    def flat(seed, epoch):
        return np.concatenate(BatchOrder(LENGTHS, 24, seed).batches(epoch)).tolist()

    assert flat(0, 3) == flat(0, 3)
    assert flat(0, 3) != flat(0, 4)
    assert flat(0, 3) != flat(1, 3)


def test_the_cells_of_a_batch_have_similar_lengths():
    order = BatchOrder(LENGTHS, batch_size=8, seed=0)
    spread = [np.ptp(LENGTHS[batch]) for batch in order.batches(0)]
    group = 8 * BATCHES_PER_GROUP
    assert len(LENGTHS) > 3 * group
    assert np.mean(spread) < 3 * 2000 / BATCHES_PER_GROUP


def test_batches_do_not_come_in_the_order_of_their_lengths():
    means = [LENGTHS[batch].mean() for batch in BatchOrder(LENGTHS, 24, seed=0).batches(0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_cells_meet_other_cells_in_another_epoch():
    order = BatchOrder(LENGTHS, 24, seed=0)
    together = [{frozenset((a, b)) for batch in order.batches(epoch) for a in batch[:3] for b in batch if a != b}
                for epoch in (0, 1)]  # fmt: skip
    assert len(together[0] & together[1]) < 0.3 * len(together[0])


@pytest.mark.parametrize("tokens_per_batch", [8000, 10_000, 50_000, 10**9])
def test_a_batch_of_tokens_stays_within_its_budget_and_is_well_filled(tokens_per_batch):
    order = BatchOrder(LENGTHS, 24, seed=0, tokens_per_batch=tokens_per_batch)
    for epoch in (0, 1):
        batches = order.batches(epoch)
        assert len(batches) == order.n_batches(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
        sums = [LENGTHS[batch].sum() for batch in batches]
        assert max(sums) <= tokens_per_batch
        assert np.mean(sums) > 0.8 * min(tokens_per_batch, LENGTHS.sum())


@pytest.mark.parametrize(("n_cells", "longest", "tokens"), [(221, 507, 2790), (379, 1014, 4860), (100, 1024, 4096)])
def test_every_batch_of_tokens_of_every_epoch_has_the_fewest_cells_it_says(n_cells, longest, tokens):
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(3, longest + 1, n_cells)
        lengths[0] = longest
        order = BatchOrder(lengths, 24, seed, tokens)
        assert order.fewest_cells == tokens // longest // 2 >= 2
        for epoch in range(4):
            assert min(len(batch) for batch in order.batches(epoch)) >= order.fewest_cells


def test_equal_cells_fill_batches_of_tokens():
    batches = BatchOrder(np.full(100, 1024), 24, seed=0, tokens_per_batch=4096).batches(0)
    assert {len(batch) for batch in batches} == {4}


@pytest.mark.parametrize("lengths", [[5], [100, 3, 3], [100, 100, 100, 3, 3], [7] * 500])
def test_few_cells_make_full_batches_of_tokens(lengths):
    order = BatchOrder(np.array(lengths), 24, seed=0, tokens_per_batch=400)
    batches = order.batches(0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(0 < sum(lengths[cell] for cell in batch) <= 400 for batch in batches)
    assert min(len(batch) for batch in batches) >= order.fewest_cells


def test_too_few_tokens_for_four_cells_are_refused():
    with pytest.raises(ScDMCError, match="four cells of 1999 tokens"):
        BatchOrder(np.array([10, 1999]), 24, seed=0, tokens_per_batch=7000)


@pytest.mark.parametrize("tokens_per_batch", [1, 2500, 16_384, 10**9])
def test_batches_for_inference_have_every_cell_once_within_the_budget(tokens_per_batch):
    batches = list(batches_by_length(LENGTHS, tokens_per_batch))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    for batch in batches:
        assert len(batch) == 1 or LENGTHS[batch].sum() <= tokens_per_batch
    for batch, following in pairwise(batches):
        assert LENGTHS[batch].sum() + LENGTHS[following[0]] > tokens_per_batch
        assert LENGTHS[batch].max() <= LENGTHS[following].min()


# ---- options of the objective and of several processes


def test_a_selection_keeps_the_masks_of_its_cells(cells):
    everything = masks_by_cell(cells, range(len(cells)))
    selected = masks_by_cell(cells.select(np.array([9, 4, 30])), range(3))
    assert [selected[index] for index in range(3)] == [everything[cell] for cell in (9, 4, 30)]


def test_the_shares_of_the_processes_make_up_the_batch(cells):
    chosen = np.arange(7)
    whole = masked_batch(cells, chosen, seed=1)
    shares = [masked_batch(cells, chosen, seed=1, process=number, n_processes=3) for number in range(3)]
    assert [share.n_cells for share in shares] == [3, 2, 2]
    assert all(share.cells_by_process == (3, 2, 2) for share in shares)
    labels = sorted(label for share in shares for label in share.labels.tolist())
    assert labels == sorted(whole.labels.tolist())
    assert {row for share in shares for row in share.cells.tolist()} == set(range(7))


def test_the_published_objective_labels_the_expression_stream_but_shows_it(cells):
    plain = masked_batch(cells, np.arange(20), seed=1)
    published = masked_batch(cells, np.arange(20), seed=1, mask_expression_input=False)
    assert published.labels.tolist() == plain.labels.tolist()
    position, n_rank = published.masked_positions, published.n_masked_rank
    assert (published.streams.input_ids[position[:n_rank]] == MASK_TOKEN_ID).all()
    assert published.streams.input_ids[position[n_rank:]].tolist() == published.labels[n_rank:].tolist()


def test_a_random_order_of_the_expression_stream_changes_with_the_epoch_and_keeps_genes_and_values(cells):
    def expression_streams(epoch, order):
        batch = masked_batch(cells, np.arange(10), epoch=epoch, seed=1, expression_order=order, mask_probability=1e-9)
        lengths = batch.streams.layout.lengths
        ids, values = batch.streams.input_ids.split(lengths), batch.streams.expression_values.split(lengths)
        return [(i.tolist(), v.tolist()) for i, v in zip(ids[10:], values[10:], strict=True)]

    plain, first, second = (expression_streams(*draw) for draw in ((0, "token_id"), (0, "random"), (1, "random")))
    assert first == expression_streams(0, "random")
    assert first != second
    for (ids, values), (shuffled, shuffled_values) in zip(plain, first, strict=True):
        assert (shuffled[0], shuffled[-1]) == (CLS_TOKEN_ID, EOS_TOKEN_ID)
        assert sorted(zip(ids, values, strict=True)) == sorted(zip(shuffled, shuffled_values, strict=True))
    assert sum(ids != shuffled for (ids, _), (shuffled, _) in zip(plain, first, strict=True)) >= 9


def views(cells, chosen, **draw):
    """Cell -> the genes of its rank stream and those of its expression stream, with their values."""
    batch = masked_batch(cells, np.array(chosen), **{"seed": 1, "mask_probability": 1e-9, **draw})
    lengths = batch.streams.layout.lengths
    ids = [part.tolist() for part in batch.streams.input_ids.split(lengths)]
    values = [part.tolist() for part in batch.streams.expression_values.split(lengths)]
    half = len(chosen)
    return {cell: (ids[i], ids[half + i], values[half + i]) for i, cell in enumerate(chosen)}


def test_each_view_lacks_its_own_share_of_the_genes_and_keeps_their_order_and_values():
    cells = random_cells(n_cells=20, longest=400, vocab_size=1000)
    whole, thin = (views(cells, range(20), view_dropout=share) for share in (0.0, 0.3))
    n_genes, n_kept, n_shared = 0, 0, 0
    for cell, (rank, expression, values) in thin.items():
        all_rank, all_expression, all_values = whole[cell]
        assert (rank[0], rank[-1], expression[0], expression[-1]) == (CLS_TOKEN_ID, EOS_TOKEN_ID) * 2
        assert rank == [gene for gene in all_rank if gene in set(rank)]
        assert expression == [gene for gene in all_expression if gene in set(expression)]
        value = dict(zip(all_expression, all_values, strict=True))
        assert values == [value[gene] for gene in expression]
        n_genes += len(all_rank) - 2
        n_kept += len(rank) - 2
        n_shared += len(set(rank) & set(expression)) - 2
    assert n_kept / n_genes == pytest.approx(0.7, abs=0.04)
    assert n_shared / n_genes == pytest.approx(0.49, abs=0.04)  # drawn apart


def test_the_views_of_a_cell_follow_from_seed_epoch_and_row_alone(cells):
    together = views(cells, [9, 4, 30], view_dropout=0.5)
    assert views(cells, [30, 9], view_dropout=0.5) == {cell: together[cell] for cell in (30, 9)}
    assert views(cells, [9, 4, 30], view_dropout=0.5, epoch=1) != together
    assert views(cells, [9, 4, 30], view_dropout=0.5, seed=2) != together


def test_views_are_masked_and_shuffled_as_whole_streams_are(cells):
    batch = masked_batch(cells, np.arange(8), seed=1, view_dropout=0.5, expression_order="random")
    input_ids, labels = batch.streams.input_ids, batch.labels
    assert (input_ids[batch.masked_positions] == MASK_TOKEN_ID).all()
    assert (labels > EOS_TOKEN_ID).all()
    assert 0 < len(labels) < 0.25 * len(input_ids)


def test_cells_whose_views_lost_all_genes_stay_as_empty_cells():
    cells = random_cells(n_cells=6, longest=3)
    batch = masked_batch(cells, np.arange(6), seed=1, view_dropout=1 - 1e-12)
    assert list(batch.streams.layout.lengths) == [2] * 12
    assert len(batch.labels) == 0


def test_identical_cells_are_known_as_such_whatever_their_views(cells):
    whole, thin = (masked_batch(cells, np.arange(9), seed=1, view_dropout=share) for share in (0.0, 0.5))
    assert thin.fingerprints.tolist() == whole.fingerprints.tolist()


@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_one_stream_alone_is_masked_as_beside_the_other(cells, stream):
    both = masked_batch(cells, np.arange(6), seed=1)
    alone = masked_batch(cells, np.arange(6), seed=1, streams=stream)
    part = slice(None, both.n_masked_rank) if stream == "rank" else slice(both.n_masked_rank, None)
    assert alone.labels.tolist() == both.labels[part].tolist()
    assert len(alone.streams.layout.lengths) == 6


def test_values_say_which_tokens_have_none_and_which_genes_are_masked(cells):
    batch = masked_batch(cells, np.arange(4), seed=1)
    n_rank = sum(batch.streams.layout.lengths[:4])
    values, ids = batch.streams.expression_values, batch.streams.input_ids
    assert (values[:n_rank] == NO_VALUE).all()
    expression, expression_ids = values[n_rank:], ids[n_rank:]
    assert (expression[(expression_ids == CLS_TOKEN_ID) | (expression_ids == EOS_TOKEN_ID)] == NO_VALUE).all()
    assert (expression[expression_ids == MASK_TOKEN_ID] == UNKNOWN_VALUE).all()
    assert (expression[expression_ids > EOS_TOKEN_ID] > 0).all()


def test_identical_cells_and_only_those_share_a_fingerprint(cells):
    doubled = cells.select(np.array([*range(20), 3]))
    fingerprints = masked_batch(doubled, np.arange(21)).fingerprints.tolist()
    assert fingerprints[3] == fingerprints[20]
    assert len(set(fingerprints)) == 20
    changed = cells.select(np.arange(20))
    changed.expression_values[changed.expression_offsets[5] + 1] += 1
    assert masked_batch(changed, np.arange(20)).fingerprints[5] != fingerprints[5]


@pytest.mark.parametrize(
    ("n_cells", "sizes"), [(16, [8, 8]), (17, [8, 9]), (19, [8, 11]), (20, [4, 8, 8]), (23, [7, 8, 8]), (3, [3])]
)
def test_the_last_cells_join_the_batch_before_if_they_are_fewer_than_half_a_batch(n_cells, sizes):
    order = BatchOrder(np.arange(1, n_cells + 1), batch_size=8, seed=0)
    assert sorted(len(batch) for batch in order.batches(0)) == sizes
    assert len(order) == len(sizes)
