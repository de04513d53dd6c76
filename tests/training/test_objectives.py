"""The losses: against the published code, and against plain cross entropy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.packing import pack
from scdmc.model.storage import load_model
from scdmc.training.objectives import (
    contrastive_loss,
    contrastive_similarities,
    masked_gene_loss,
    mean_weights,
)
from tests.training.oracles import published_mlm_loss

N_MASKED, HIDDEN, VOCAB_SIZE = 23, 16, 101


@pytest.fixture(scope="module")
def golden(golden_tensors):
    """Values of the published losses, and what went into them."""
    return golden_tensors("losses/losses.npz")


# ---- the published functions


@pytest.mark.parametrize(
    ("expected", "labels", "weight"),
    [
        ("fn_mlm", "fn_labels", None),
        ("fn_mlm_weighted", "fn_labels", "fn_weight"),
        ("fn_mlm_pad_label", "fn_labels_with_pad_label", None),
    ],
)
def test_published_mlm_loss_is_that_of_the_published_code(golden, expected, labels, weight):
    weights = golden[weight] if weight else None
    loss = published_mlm_loss(golden["fn_logits"], golden[labels], golden["fn_attention_mask"], weights)
    assert loss.item() == pytest.approx(golden[expected].item(), rel=1e-6)


def test_published_mlm_loss_without_masked_genes_is_0(golden):
    labels = torch.full_like(golden["fn_labels"], -100)
    loss = published_mlm_loss(golden["fn_logits"], labels, golden["fn_attention_mask"])
    assert loss.item() == golden["fn_mlm_none_masked"].item() == 0


@pytest.mark.parametrize(
    ("expected", "n_cells", "is_swapped", "temperature"),
    [
        ("fn_contrastive", 6, False, 0.07),
        ("fn_contrastive_swapped", 6, True, 0.07),
        ("fn_contrastive_t05", 6, False, 0.5),
        ("fn_contrastive_batch1", 1, False, 0.07),
    ],
)
def test_contrastive_loss_is_that_of_the_published_code(golden, expected, n_cells, is_swapped, temperature):
    views = [golden["fn_features1"][:n_cells], golden["fn_features2"][:n_cells]]
    loss = contrastive_loss(*(views[::-1] if is_swapped else views), temperature)
    assert loss.item() == pytest.approx(golden[expected].item(), rel=1e-6, abs=1e-7)


def test_the_default_temperature_is_the_published_one(golden):
    loss = contrastive_loss(golden["fn_features1"], golden["fn_features2"])
    assert loss.item() == pytest.approx(golden["fn_contrastive"].item(), rel=1e-6)


@dataclass
class WholeLoss:
    """The published training loss, put together from our parts."""

    parts: dict
    gradients: dict


@pytest.fixture(scope="module")
def whole_loss(shared, golden):
    model = load_model(shared / "golden" / "model_a", ScDMCForMaskedLM)
    momentum_model = load_model(shared / "golden" / "model_a", ScDMCForMaskedLM)
    momentum_weights = load_file(shared / "golden" / "losses" / "momentum_model.safetensors")
    momentum_model.load_state_dict(momentum_weights)
    parts, cls, keys = {}, {}, {}
    for stream, number in (("rank", 1), ("epe", 2)):
        ids, mask = golden[f"collated_input_ids{number}"], golden[f"collated_attention_mask{number}"]
        output = model(ids, mask, output_hidden_states=True)
        weights = golden["collated_expression_values"] if stream == "epe" else None
        labels = golden[f"collated_labels{number}"]
        parts[f"full_mlm_{stream}"] = published_mlm_loss(output.logits, labels, mask, weights)
        parts[f"full_cls_{stream}"] = cls[stream] = output.hidden_states[-1][:, 0]
        with torch.no_grad():
            keys[stream] = momentum_model.bert(ids, mask).last_hidden_state[:, 0]
        parts[f"full_mom_cls_{stream}"] = keys[stream]
    parts["full_contrastive_rank_to_momepe"] = contrastive_loss(cls["rank"], keys["epe"])
    parts["full_contrastive_epe_to_momrank"] = contrastive_loss(cls["epe"], keys["rank"])
    parts["full_contrastive"] = (
        parts["full_contrastive_rank_to_momepe"] + parts["full_contrastive_epe_to_momrank"]
    ) / 2
    parts["full_total"] = parts["full_mlm_rank"] + parts["full_mlm_epe"] + parts["full_contrastive"]
    parts["full_total"].backward()
    return WholeLoss(
        {name: part.detach() for name, part in parts.items()},
        {name: parameter.grad for name, parameter in model.named_parameters()},
    )


def test_every_part_of_the_published_training_loss_is_met(golden, whole_loss):
    assert {name for name in golden if name.startswith("full_")} == set(whole_loss.parts)
    for name, found in whole_loss.parts.items():
        tolerance = {"atol": 1e-5, "rtol": 0} if "cls" in name else {"atol": 0, "rtol": 2e-6}
        torch.testing.assert_close(found, golden[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradient_of_the_published_training_loss_is_met(shared, whole_loss):
    with np.load(shared / "golden" / "losses" / "grads.npz") as expected:
        assert set(expected) == set(whole_loss.gradients)
        for name in expected:
            largest = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                whole_loss.gradients[name], expected[name], atol=1e-5 * largest, rtol=0, err_msg=name
            )


def test_masked_gene_loss_with_the_published_weights_is_the_published_loss(shared, golden):
    model = load_model(shared / "golden" / "model_a", ScDMCForMaskedLM)
    mask = golden["collated_attention_mask2"]
    with torch.no_grad():
        cells = pack(golden["collated_input_ids2"], mask)
        states = model.bert.encode(cells)
    labels = golden["collated_labels2"][mask.bool()]
    values = golden["collated_expression_values"][mask.bool()]
    masked = labels != -100
    head = model.cls.predictions
    result = masked_gene_loss(
        head.transform(states[masked]), head.decoder.weight, head.decoder.bias, labels[masked],
        values[masked] / mask.sum(),
    )  # fmt: skip
    assert result.loss.item() == pytest.approx(golden["full_mlm_epe"].item(), rel=5e-6)


# ---- masked genes


def random_problem(dtype=torch.float32, n_masked=N_MASKED):
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(shape, generator=generator) for shape in ((n_masked, HIDDEN), (VOCAB_SIZE, HIDDEN))]
    tensors.append(torch.randn(VOCAB_SIZE, generator=generator))
    labels = torch.randint(0, VOCAB_SIZE, (n_masked,), generator=generator)
    weights = torch.rand(n_masked, generator=generator) * 2
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], labels, weights


def plain_loss(states, matrix, bias, labels, weights):
    return (F.cross_entropy(states @ matrix.T + bias, labels, reduction="none") * weights).sum()


@pytest.mark.parametrize("chunk_size", [1, 5, 22, 23, 1000])
def test_masked_gene_loss_is_plain_cross_entropy_whatever_the_chunks(chunk_size):
    inputs, labels, weights = random_problem()
    expected = plain_loss(*inputs, labels, weights)
    expected_gradients = torch.autograd.grad(expected, inputs)
    result = masked_gene_loss(*inputs, labels, weights, chunk_size)
    torch.testing.assert_close(result.loss, expected)
    for found, gradient in zip(torch.autograd.grad(3 * result.loss, inputs), expected_gradients, strict=True):
        torch.testing.assert_close(found, 3 * gradient, atol=2e-5, rtol=1e-5)
    logits = inputs[0] @ inputs[1].T + inputs[2]
    torch.testing.assert_close(result.cross_entropy, F.cross_entropy(logits, labels, reduction="none"))
    assert not result.cross_entropy.requires_grad


def test_the_default_chunks_give_the_same_when_there_are_several():
    inputs, labels, weights = random_problem(n_masked=1200)
    torch.testing.assert_close(masked_gene_loss(*inputs, labels, weights).loss, plain_loss(*inputs, labels, weights))


def test_masked_gene_loss_survives_large_logits():
    inputs, labels, weights = random_problem()
    large = [inputs[0] * 100, *inputs[1:]]
    result = masked_gene_loss(*large, labels, weights, chunk_size=7)
    torch.testing.assert_close(result.loss, plain_loss(*large, labels, weights))
    assert torch.isfinite(torch.autograd.grad(result.loss, inputs[0])[0]).all()


@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_masked_gene_loss_under_bfloat16_autocast_is_close(chunk_size):
    inputs, labels, weights = random_problem()
    expected = plain_loss(*inputs, labels, weights)
    expected_gradients = torch.autograd.grad(expected, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = masked_gene_loss(inputs[0].bfloat16(), *inputs[1:], labels, weights, chunk_size)
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(expected.item(), rel=0.01)
    for found, gradient, tensor in zip(
        torch.autograd.grad(result.loss, inputs), expected_gradients, inputs, strict=True
    ):
        assert found.dtype == tensor.dtype
        assert (found - gradient).abs().max() < 0.03 * gradient.abs().max()


def test_under_autocast_the_logits_are_bfloat16_and_the_rest_is_float32():
    inputs, labels, weights = random_problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = masked_gene_loss(*inputs, labels, weights)
    states, matrix, bias = (tensor.bfloat16() for tensor in inputs)
    logits = torch.addmm(bias, states, matrix.T).float()
    torch.testing.assert_close(half.cross_entropy, F.cross_entropy(logits, labels, reduction="none"))
    assert not torch.equal(half.cross_entropy, masked_gene_loss(*inputs, labels, weights).cross_entropy)


def test_without_masked_genes_the_loss_is_0_and_so_is_its_gradient():
    inputs, labels, _ = random_problem(n_masked=0)
    result = masked_gene_loss(*inputs, labels, mean_weights(torch.zeros(0)))
    assert result.loss.item() == 0
    for gradient in torch.autograd.grad(result.loss, inputs):
        assert not gradient.any()


def test_is_correct_says_where_the_likeliest_gene_is_the_true_one():
    inputs, labels, weights = random_problem()
    logits = (inputs[0] @ inputs[1].T + inputs[2]).detach()
    labels[::2] = logits[::2].argmax(dim=1)
    labels[1::2] = logits[1::2].argmin(dim=1)
    result = masked_gene_loss(*inputs, labels, weights, chunk_size=4)
    assert result.is_correct.tolist() == [row % 2 == 0 for row in range(N_MASKED)]


def test_of_several_likeliest_genes_the_first_counts():
    states, weight, bias = torch.ones(2, 4), torch.zeros(6, 4), torch.tensor([0.0, 1, 0, 1, 1, 0])
    result = masked_gene_loss(states, weight, bias, torch.tensor([1, 3]), torch.ones(2))
    assert result.is_correct.tolist() == [True, False]


def test_a_loss_without_gradient_makes_no_gradient():
    inputs, labels, weights = random_problem()
    with torch.no_grad():
        result = masked_gene_loss(*inputs, labels, weights, chunk_size=4)
    torch.testing.assert_close(result.loss, plain_loss(*inputs, labels, weights).detach())
    assert not result.loss.requires_grad


# ---- weights


def test_mean_weights_make_a_weighted_mean():
    values, cross_entropy = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([2.0, 6.0, 100.0])
    assert (mean_weights(values) * cross_entropy).sum().item() == pytest.approx((2 + 18) / 4)


def test_the_scale_of_the_values_does_not_change_the_weights():
    values = torch.tensor([0.5, 1.5, 4.0])
    expected = torch.tensor([1 / 12, 3 / 12, 8 / 12])
    for scale in (1, 1000, 1e-6):
        torch.testing.assert_close(mean_weights(scale * values), expected)


def test_over_several_processes_the_weights_add_up_to_1():
    parts = [torch.tensor([0.5, 1.5]), torch.tensor([4.0])]
    total = torch.cat(parts).sum()
    joined = torch.cat([mean_weights(part, total) for part in parts])
    torch.testing.assert_close(joined, mean_weights(torch.cat(parts)))


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(4)])
def test_nothing_to_weigh_gives_weights_of_0(values):
    assert torch.equal(mean_weights(values), torch.zeros_like(values))


# ---- contrast


def two_views(n_cells=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_cells, 8, generator=generator), torch.randn(n_cells, 8, generator=generator)


def test_contrastive_loss_is_symmetric_info_nce():
    queries, keys = two_views()
    cosines = torch.tensor([[torch.cosine_similarity(q, k, dim=0) for k in keys] for q in queries])
    odds = (cosines / 0.07).exp()
    expected = -(odds.diag() / odds.sum(dim=1)).log().mean() / 2 - (odds.diag() / odds.sum(dim=0)).log().mean() / 2
    torch.testing.assert_close(contrastive_loss(queries, keys), expected)
    torch.testing.assert_close(contrastive_similarities(queries, keys), cosines / 0.07)


def test_identical_cells_are_not_each_others_negatives():
    queries, keys = two_views()
    queries[3], keys[3] = queries[1], keys[1]
    is_same = torch.eye(5, dtype=torch.bool)
    is_same[1, 3] = is_same[3, 1] = True
    loss = contrastive_loss(queries, keys, is_same=is_same)

    similarities = contrastive_similarities(queries, keys)
    terms = []
    for matrix in (similarities, similarities.T):
        for cell in range(5):
            negatives = [other for other in range(5) if not (other != cell and {other, cell} == {1, 3})]
            terms.append(torch.logsumexp(matrix[cell, negatives], dim=0) - matrix[cell, cell])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert loss < contrastive_loss(queries, keys)


def test_further_positives_share_the_loss_of_a_query():
    queries, keys = two_views()
    past = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    is_positive = torch.zeros(5, 5, dtype=torch.bool)
    is_positive[0, 2] = is_positive[2, 0] = is_positive[2, 4] = is_positive[4, 2] = True
    is_same = torch.eye(5, dtype=torch.bool)
    is_same[0, 2] = is_same[2, 0] = True  # identical cells may be positives
    loss = contrastive_loss(queries, keys, is_same=is_same, past_keys=past, is_positive=is_positive)

    positives = {0: [0, 2], 1: [1], 2: [0, 2, 4], 3: [3], 4: [2, 4]}
    similarities = contrastive_similarities(queries, keys)
    terms = []
    for matrix in (torch.cat([similarities, contrastive_similarities(queries, past)], dim=1), similarities.T):
        for cell, partners in positives.items():
            surprises = torch.logsumexp(matrix[cell], dim=0) - matrix[cell, partners]
            terms.append(surprises.mean())
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_no_further_positives_are_as_none():
    queries, keys = two_views()
    nothing = torch.zeros(5, 5, dtype=torch.bool)
    assert torch.equal(contrastive_loss(queries, keys, is_positive=nothing), contrastive_loss(queries, keys))


def test_without_identical_cells_nothing_is_removed():
    queries, keys = two_views()
    same = contrastive_loss(queries, keys, is_same=torch.eye(5, dtype=torch.bool))
    assert torch.equal(same, contrastive_loss(queries, keys))


def test_cells_that_are_all_identical_give_0_and_a_finite_gradient():
    queries, keys = two_views(3)
    queries.requires_grad_()
    loss = contrastive_loss(queries, keys, is_same=torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not queries.grad.any()
