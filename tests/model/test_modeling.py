"""The encoder: against the published model, against an oracle written from docs/method.md, and against itself."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.attention import alibi_slopes
from scdmc.model.encoder import ScDMCModel
from scdmc.model.heads import ScDMCForCellClassification, ScDMCForMaskedLM
from scdmc.model.layout import PackedLayout
from scdmc.model.packing import PackedCells, pack
from scdmc.model.storage import load_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
BACK_ENDS = ("sdpa", "eager", "flex")
VOCAB_SIZE = 50


def tiny_config(n_heads=3, n_layers=2, **changes):
    sizes = {
        "vocab_size": VOCAB_SIZE, "hidden_size": 4 * n_heads, "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads, "intermediate_size": 20, "hidden_dropout_prob": 0.0,
    }  # fmt: skip
    return ScDMCConfig(**{**sizes, **changes})


def randomise(model, seed=0):
    """Random values for every weight, so that no bias, LayerNorm or pad row hides behind 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_cells(lengths, seed=0):
    """Padded ids (n_cells, longest) of <cls>, genes, <eos>, and their mask."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    for cell, length in enumerate(lengths):
        ids[cell, :length] = [2, *generator.integers(4, VOCAB_SIZE, length - 2), 3]
    mask = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


@pytest.fixture(scope="module")
def golden(golden_tensors):
    """Inputs and outputs of the published model."""
    return golden_tensors("model_a/io.npz")


@pytest.fixture(scope="module")
def golden_model(shared):
    return load_model(shared / "golden" / "model_a", ScDMCForMaskedLM)


def largest_difference(found, expected):
    return (found.double() - expected.double()).abs().max().item()


# ---- against the published model


@torch.no_grad()
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_hidden_states_and_logits_are_those_of_the_published_model(golden, golden_model, back_end):
    assert golden_model.set_attention(back_end) == back_end
    output = golden_model(golden["input_ids"], golden["attention_mask"], output_hidden_states=True)
    valid = golden["attention_mask"].bool()
    states = [state[valid] for state in output.hidden_states]
    assert largest_difference(states[0], golden["embeddings_valid"]) < 1e-5
    for layer, expected in enumerate(golden["layer_outputs_valid"], start=1):
        assert largest_difference(states[layer], expected) < 1e-5, f"layer {layer}"
    assert len(states) == 1 + len(golden["layer_outputs_valid"])
    assert largest_difference(states[-1], golden["last_hidden_state_valid"]) < 1e-5
    assert largest_difference(output.logits[valid], golden["logits_valid"]) < 3e-5


@torch.no_grad()
def test_float64_hidden_states_are_those_of_the_published_model_to_rounding(shared, golden):
    model = load_model(shared / "golden" / "model_a", ScDMCModel).double()
    model.set_attention("sdpa")
    states = model(golden["input_ids"], golden["attention_mask"]).last_hidden_state
    expected = golden["last_hidden_state_valid_f64"]
    assert largest_difference(states[golden["attention_mask"].bool()], expected) < 1e-12


@torch.no_grad()
def test_padded_positions_have_zero_states_and_the_logits_of_the_head_at_zero(golden, golden_model):
    golden_model.set_attention("sdpa")
    output = golden_model(golden["input_ids"], golden["attention_mask"], output_hidden_states=True)
    padded = ~golden["attention_mask"].bool()
    assert output.hidden_states[-1][padded].abs().max() == 0
    assert largest_difference(output.logits[padded], golden["pad_logits_row"].expand(int(padded.sum()), -1)) < 3e-5


def test_loss_with_labels_is_that_of_the_published_model(golden, golden_model):
    golden_model.set_attention("sdpa")
    loss = golden_model(golden["input_ids"], golden["attention_mask"], labels=golden["labels"]).loss
    assert loss.item() == pytest.approx(golden["builtin_labels_loss"].item(), abs=1e-5)


def test_published_alibi_slopes(golden):
    assert torch.equal(alibi_slopes(4), golden["alibi_slopes"])


# ---- against docs/method.md, written down once more in float64 numpy


def oracle_slopes(h):
    def of(power):  # the model holds its slopes in float32
        return [float(np.float32(2.0 ** (-8 * (i + 1) / power))) for i in range(power)]

    if h & (h - 1) == 0:
        return of(h)
    c = 1
    while 2 * c <= h:
        c *= 2
    return of(c) + of(2 * c)[0::2][: h - c]


def oracle_layer_norm(x, weight, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-12) * weight + bias


def oracle_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def oracle_states(w, ids, h, n_layers):
    """States of one cell without padding after the embedding and every layer, from docs/method.md, "Encoder"."""
    word, types = w["bert.embeddings.word_embeddings.weight"], w["bert.embeddings.token_type_embeddings.weight"]
    norm = "bert.embeddings.LayerNorm"
    x = oracle_layer_norm(word[ids] + types[0], w[f"{norm}.weight"], w[f"{norm}.bias"])
    all_states, n, width = [x], len(ids), x.shape[1]
    d = width // h
    for layer in range(n_layers):
        p = f"bert.encoder.layer.{layer}"
        qkv = x @ w[f"{p}.attention.self.Wqkv.weight"].T + w[f"{p}.attention.self.Wqkv.bias"]
        q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
        joined = np.empty_like(x)
        for head in range(h):
            part = slice(head * d, (head + 1) * d)
            scores = np.empty((n, n))
            for i in range(n):
                for j in range(n):
                    scores[i, j] = q[i, part] @ k[j, part] / math.sqrt(d) - oracle_slopes(h)[head] * abs(i - j)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            joined[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
        out = joined @ w[f"{p}.attention.output.dense.weight"].T + w[f"{p}.attention.output.dense.bias"]
        norm = f"{p}.attention.output.LayerNorm"
        x = oracle_layer_norm(out + x, w[f"{norm}.weight"], w[f"{norm}.bias"])
        a, b = np.split(x @ w[f"{p}.mlp.gated_layers.weight"].T, 2, axis=1)
        out = (oracle_gelu(a) * b) @ w[f"{p}.mlp.wo.weight"].T + w[f"{p}.mlp.wo.bias"]
        x = oracle_layer_norm(out + x, w[f"{p}.mlp.layernorm.weight"], w[f"{p}.mlp.layernorm.bias"])
        all_states.append(x)
    return all_states


def oracle_logits(w, states):
    p = "cls.predictions"
    x = oracle_gelu(states @ w[f"{p}.transform.dense.weight"].T + w[f"{p}.transform.dense.bias"])
    x = oracle_layer_norm(x, w[f"{p}.transform.LayerNorm.weight"], w[f"{p}.transform.LayerNorm.bias"])
    return x @ w["bert.embeddings.word_embeddings.weight"].T + w[f"{p}.decoder.bias"]


@torch.no_grad()
@pytest.mark.parametrize("n_heads", [1, 3, 4, 6, 12])
def test_the_model_is_what_the_design_says_for_any_number_of_heads(n_heads):
    model = randomise(ScDMCForMaskedLM(tiny_config(n_heads)), seed=n_heads).double()
    model.set_attention("sdpa")
    lengths = [2, 11, 7, 7]
    ids, mask = random_cells(lengths)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    output = model(ids, mask, output_hidden_states=True)
    for cell, length in enumerate(lengths):
        expected = oracle_states(weights, ids[cell, :length].numpy(), n_heads, n_layers=2)
        for found, states in zip(output.hidden_states, expected, strict=True):
            np.testing.assert_allclose(found[cell, :length], states, atol=1e-7)
        np.testing.assert_allclose(output.logits[cell, :length], oracle_logits(weights, expected[-1]), atol=1e-7)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 5, 6, 8, 12, 20])
def test_alibi_slopes_are_those_of_the_design(n_heads):
    assert alibi_slopes(n_heads).shape == (n_heads,)
    assert alibi_slopes(n_heads).tolist() == oracle_slopes(n_heads)


# ---- against itself


@pytest.fixture
def model():
    model = randomise(ScDMCModel(tiny_config()))
    model.set_attention("sdpa")
    return model


@torch.no_grad()
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_padding_does_not_change_a_cell(model, back_end):
    model.set_attention(back_end)
    ids, mask = random_cells([9])
    longer = torch.cat([ids, torch.zeros(1, 6, dtype=torch.int64)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(1, 6, dtype=torch.int64)], dim=1)
    found = model(longer, longer_mask).last_hidden_state
    torch.testing.assert_close(found[:, :9], model(ids, mask).last_hidden_state, atol=1e-6, rtol=0)
    assert found.shape == (1, 15, 12)


@torch.no_grad()
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_other_cells_of_a_batch_do_not_change_a_cell(model, back_end):
    model.set_attention(back_end)
    lengths = [9, 4, 9, 2, 13]
    ids, mask = random_cells(lengths)
    together = model(ids, mask).last_hidden_state
    reversed_order = model(ids.flip(0), mask.flip(0)).last_hidden_state.flip(0)
    torch.testing.assert_close(reversed_order, together, atol=2e-6, rtol=0)
    for cell, length in enumerate(lengths):
        alone = model(ids[cell : cell + 1, :length], mask[cell : cell + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(together[cell, :length], alone, atol=2e-6, rtol=0)


@torch.no_grad()
def test_packed_cells_give_the_states_of_padded_cells(model):
    lengths = [5, 12, 3]
    ids, mask = random_cells(lengths)
    packed = PackedCells(
        torch.cat([ids[cell, :length] for cell, length in enumerate(lengths)]), PackedLayout.from_lengths(lengths)
    )
    states = model.encode(packed)
    padded = model(ids, mask).last_hidden_state
    torch.testing.assert_close(states, padded[mask.bool()], atol=0, rtol=0)
    torch.testing.assert_close(states[packed.cls_positions], padded[:, 0], atol=0, rtol=0)
    assert packed.cls_positions.tolist() == [0, 5, 17]


@torch.no_grad()
def test_without_a_mask_pad_tokens_are_padding(model):
    ids, mask = random_cells([5, 12, 3])
    assert torch.equal(model(ids).last_hidden_state, model(ids, mask).last_hidden_state)


def test_padding_on_the_left_is_refused():
    with pytest.raises(ValueError, match="padding on the right"):
        pack(torch.tensor([[0, 2, 3]]), torch.tensor([[0, 1, 1]]))


@torch.no_grad()
def test_hidden_states_come_when_asked_for_by_argument_or_by_configuration(model):
    ids, mask = random_cells([5, 3])
    assert model(ids, mask).hidden_states is None
    asked = model(ids, mask, output_hidden_states=True)
    assert [state.shape for state in asked.hidden_states] == 3 * [(2, 5, 12)]
    assert torch.equal(asked.hidden_states[-1], asked.last_hidden_state)
    model.config.output_hidden_states = True
    assert torch.equal(model(ids, mask).hidden_states[-1], asked.last_hidden_state)


@torch.no_grad()
def test_attention_weights_sum_to_one_within_a_cell(model):
    model.set_attention("eager")
    lengths = [4, 4, 9]
    output = model(*random_cells(lengths), output_attentions=True)
    assert len(output.attentions) == 2
    for layer in output.attentions:
        assert layer.shape == (3, 3, 9, 9)
        for cell, length in enumerate(lengths):
            sums = layer[cell, :, :length].sum(dim=-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
            assert layer[cell, :, length:].abs().sum() == 0
            assert layer[cell, :, :, length:].abs().sum() == 0


@pytest.mark.parametrize("back_end", ["sdpa", "flex"])
def test_only_eager_returns_attention_weights(model, back_end):
    model.set_attention(back_end)
    with pytest.raises(ValueError, match=f"{back_end} returns no weights"):
        model(*random_cells([4]), output_attentions=True)


def test_dropout_acts_in_training_only():
    model = randomise(ScDMCModel(tiny_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)))
    model.set_attention("sdpa")
    cells = random_cells([12])
    assert torch.equal(model(*cells).last_hidden_state, model(*cells).last_hidden_state)
    model.train()
    assert not torch.equal(model(*cells).last_hidden_state, model(*cells).last_hidden_state)


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_attention_dropout_alone_acts_in_training_only(back_end):
    model = randomise(ScDMCModel(tiny_config(attention_probs_dropout_prob=0.5)))
    model.set_attention(back_end)
    cells = random_cells([12])
    assert torch.equal(model(*cells).last_hidden_state, model(*cells).last_hidden_state)
    model.train()
    assert not torch.equal(model(*cells).last_hidden_state, model(*cells).last_hidden_state)


# ---- saving and loading


@torch.no_grad()
def test_a_saved_model_comes_back_with_its_decoder_tied(tmp_path):
    model = randomise(ScDMCForMaskedLM(tiny_config()))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "scdmc"
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(again) is ScDMCForMaskedLM
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight
    cells = random_cells([5, 9])
    assert torch.equal(again.eval()(*cells).logits, model(*cells).logits)


@torch.no_grad()
def test_auto_model_opens_the_encoder_of_a_saved_model(tmp_path):
    model = randomise(ScDMCForMaskedLM(tiny_config()))
    model.save_pretrained(tmp_path)
    encoder, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is ScDMCModel
    assert not loading["missing_keys"]
    cells = random_cells([5, 9])
    assert torch.equal(encoder.eval()(*cells).last_hidden_state, model.bert(*cells).last_hidden_state)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ScDMCConfig)


def test_parameter_names_are_those_of_the_published_checkpoints(shared):
    published = load_file(shared / "golden" / "model_a" / "model.safetensors")
    config = tiny_config(n_heads=4, vocab_size=200, hidden_size=32, intermediate_size=64)
    ours = ScDMCForMaskedLM(config).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in published.items()
    }


def test_the_gradient_of_the_decoder_reaches_the_word_embedding():
    model = randomise(ScDMCForMaskedLM(tiny_config()))
    ids, mask = random_cells([6])
    model(ids, mask, labels=ids).loss.backward()
    unread = next(token for token in range(4, VOCAB_SIZE) if token not in ids)
    assert model.bert.embeddings.word_embeddings.weight.grad[unread].abs().max() > 0


def test_initial_weights():
    torch.manual_seed(0)
    config = tiny_config(n_heads=8, hidden_size=128, intermediate_size=256, vocab_size=2000, initializer_range=0.05)
    for name, parameter in ScDMCForMaskedLM(config).named_parameters():
        if name == "bert.embeddings.word_embeddings.weight":
            assert parameter[0].abs().max() == 0
            assert parameter[1:].abs().sum(dim=1).min() > 0
        if "layernorm" in name.lower() and name.endswith("weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.05), name
            assert parameter.mean().item() == pytest.approx(0, abs=0.005), name


def test_the_defaults_are_the_published_sizes():
    config = ScDMCConfig()
    sizes = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert sizes == (60534, 512, 12, 8)
    assert (config.intermediate_size, config.max_position_embeddings) == (1024, 2048)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.02, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 13}, "no multiple of the 3 attention heads"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ScDMCError, match=message):
        ScDMCModel(tiny_config(**changes))


# ---- cell classification


@torch.no_grad()
@pytest.mark.parametrize(("stream", "n_streams"), [("rank", 1), ("expression", 1), ("both", 2)])
def test_the_classifier_reads_the_cls_states_of_its_streams(stream, n_streams):
    config = tiny_config(classifier_stream=stream, num_labels=4)
    model = randomise(ScDMCForCellClassification(config))
    ids, mask = random_cells([5, 9, 7, 3])
    states = model.bert(ids, mask).last_hidden_state[:, 0]
    joined = torch.cat([states[:2], states[2:]], dim=1) if n_streams == 2 else states
    expected = joined @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(ids, mask).logits, expected)
    torch.testing.assert_close(model.classify(pack(ids, mask)), expected)


def test_an_unknown_stream_is_refused():
    with pytest.raises(ScDMCError, match="there are rank, expression, both"):
        ScDMCForCellClassification(tiny_config(classifier_stream="epe"))


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[5], [3, 40, 41, 7, 7, 90, 3]], ids=str)
def test_the_states_of_cls_alone_are_those_among_all_tokens(back_end, lengths):
    torch.manual_seed(0)
    model = ScDMCModel(ScDMCConfig(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=6,
                                   intermediate_size=16, initializer_range=0.3)).eval()  # fmt: skip
    model.set_attention(back_end)
    ids = torch.randint(4, 50, (sum(lengths),))
    cells = PackedCells(ids, PackedLayout.from_lengths(lengths))
    with torch.no_grad():
        expected = model.encode(cells)[cells.cls_positions]
    torch.testing.assert_close(model.encode_cls(cells), expected, atol=2e-6, rtol=0)
