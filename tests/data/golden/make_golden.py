"""Write the parity vectors: a tiny model and what it should give, in plain float64 numpy (see README.md beside this).

Usage: ``python make_golden.py [FOLDER]``; without FOLDER the files beside this script are written again.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PAD, MASK, CLS, EOS = 0, 1, 2, 3
N_GENES = 20
VOCAB_SIZE = 4 + N_GENES
WIDTH, N_LAYERS, N_HEADS, INNER = 8, 2, 2, 8
CONTEXT = 12
TEMPERATURE = 0.07
KEY_SCALE = 0.5

CONFIG = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "alibi_starting_size": CONTEXT,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-12,
    "pad_token_id": PAD,
    "tie_word_embeddings": True,
}
GENES = [f"ENSG{2 * number + 1:011d}" for number in range(N_GENES)]
MEDIANS = {gene: [0.5, 2.0, 1.25, 4.0][number % 4] for number, gene in enumerate(GENES) if number % 5}

# Columns of the count matrix: all genes in another order, one of them twice (once with a version), and a stranger.
COLUMNS = [*(GENES[(7 * number + 3) % N_GENES] for number in range(N_GENES)), f"{GENES[4]}.2", "ENSG00000099999"]
COUNTS = [
    [3, 0, 9, 2, 1, 0, 4, 4, 1, 0, 6, 1, 0, 8, 2, 5, 1, 0, 7, 2, 3, 11],  # more genes than fit
    [0, 0, 2, 0, 5, 1, 0, 0, 0, 3, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 2, 0],
    [0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 40],
]
# Which tokens of each cell are masked, counted from <cls>, in the rank and in the expression stream.
MASKED = {"rank": [[2, 7], [1], [3]], "expression": [[4, 5], [3, 6], [1]]}


class Numbers:
    """Uniform numbers in (-1, 1) by the congruential generator of Knuth's MMIX: the same on every machine."""

    def __init__(self):
        self.state = 2026

    def draw(self, *shape):
        """An array of so many, as float32 holds them."""
        numbers = []
        for _ in range(math.prod(shape)):
            self.state = (6364136223846793005 * self.state + 1442695040888963407) % 2**64
            numbers.append((self.state >> 40) / 2**23 - 1)
        return np.array(numbers, dtype=np.float32).reshape(shape)


def make_weights():
    """Name -> weight, under the names of the published checkpoints."""
    draw = Numbers().draw
    weights = {}

    def linear(name, n_out, n_in, bias=True):
        weights[f"{name}.weight"] = 0.8 * draw(n_out, n_in)
        if bias:
            weights[f"{name}.bias"] = 0.5 * draw(n_out)

    def norm(name):
        weights[f"{name}.weight"] = 1 + 0.5 * draw(WIDTH)
        weights[f"{name}.bias"] = 0.5 * draw(WIDTH)

    weights["bert.embeddings.word_embeddings.weight"] = draw(VOCAB_SIZE, WIDTH)
    weights["bert.embeddings.token_type_embeddings.weight"] = draw(1, WIDTH)
    norm("bert.embeddings.LayerNorm")
    for layer in range(N_LAYERS):
        prefix = f"bert.encoder.layer.{layer}"
        linear(f"{prefix}.attention.self.Wqkv", 3 * WIDTH, WIDTH)
        linear(f"{prefix}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{prefix}.attention.output.LayerNorm")
        linear(f"{prefix}.mlp.gated_layers", 2 * INNER, WIDTH, bias=False)
        linear(f"{prefix}.mlp.wo", WIDTH, INNER)
        norm(f"{prefix}.mlp.layernorm")
    linear("cls.predictions.transform.dense", WIDTH, WIDTH)
    norm("cls.predictions.transform.LayerNorm")
    weights["cls.predictions.decoder.bias"] = 0.5 * draw(VOCAB_SIZE)
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


# ---- the tokenizer


def tokenize(counts):
    """(rank tokens, expression tokens, expression values) of one cell."""
    total = sum(counts)
    of_gene = {}
    for column, count in zip(COLUMNS, counts, strict=True):
        gene = column.split(".")[0]
        if gene in GENES and count:
            of_gene[gene] = of_gene.get(gene, 0) + count
    value = {4 + GENES.index(gene): n / total * 10_000 / MEDIANS.get(gene, 1.0) for gene, n in of_gene.items()}
    rank = sorted(value, key=lambda token: (-value[token], token))[: CONTEXT - 2]
    expression = sorted(rank)
    values = [1.0, *(math.log1p(value[token]) for token in expression), 1.0]
    return [CLS, *rank, EOS], [CLS, *expression, EOS], values


# ---- the model, one cell at a time


def layer_norm(x, weights, name):
    """Normalise the rows; eps is 1e-12."""
    centred = x - x.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    """X W^T + b."""
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def gelu(x):
    """The exact one, by the error function."""
    return x * (1 + np.array([[math.erf(entry / math.sqrt(2)) for entry in row] for row in x])) / 2


def attention(qkv):
    """Softmax of q.k / sqrt(d) - slope |i - j|, times v; [q | k | v], each split by head."""
    n, size = len(qkv), WIDTH // N_HEADS
    positions = np.arange(n)
    heads = []
    for head in range(N_HEADS):
        q, k, v = (qkv[:, part * WIDTH + head * size :][:, :size] for part in range(3))
        slope = 2.0 ** (-8 * (head + 1) / N_HEADS)
        scores = q @ k.T / math.sqrt(size) - slope * abs(positions[:, None] - positions)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    return np.concatenate(heads, axis=1)


def encode(weights, tokens):
    """States after the embedding and after each layer, (1 + N_LAYERS, n_tokens, WIDTH)."""
    x = weights["bert.embeddings.word_embeddings.weight"][tokens]
    x = layer_norm(x + weights["bert.embeddings.token_type_embeddings.weight"][0], weights, "bert.embeddings.LayerNorm")
    states = [x]
    for layer in range(N_LAYERS):
        prefix = f"bert.encoder.layer.{layer}"
        attended = attention(linear(x, weights, f"{prefix}.attention.self.Wqkv"))
        attended = linear(attended, weights, f"{prefix}.attention.output.dense")
        x = layer_norm(x + attended, weights, f"{prefix}.attention.output.LayerNorm")
        gate, value = np.split(linear(x, weights, f"{prefix}.mlp.gated_layers"), 2, axis=1)
        out = linear(gelu(gate) * value, weights, f"{prefix}.mlp.wo")
        x = layer_norm(x + out, weights, f"{prefix}.mlp.layernorm")
        states.append(x)
    return np.stack(states)


def predict(weights, x):
    """Logits over the vocabulary, (n_tokens, VOCAB_SIZE)."""
    x = layer_norm(
        gelu(linear(x, weights, "cls.predictions.transform.dense")), weights, "cls.predictions.transform.LayerNorm"
    )
    return x @ weights["bert.embeddings.word_embeddings.weight"].T + weights["cls.predictions.decoder.bias"]


# ---- the losses


def surprise(logits, label):
    """Cross entropy of one row of logits, in nats."""
    return math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def contrast(queries, keys):
    """Symmetric InfoNCE of rows that belong together."""
    queries, keys = (rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)) for rows in (queries, keys))
    similarities = queries @ keys.T / TEMPERATURE
    return sum(
        surprise(table[cell], cell) / len(table) / 2 for table in (similarities, similarities.T) for cell in range(3)
    )


def losses(weights, streams):
    """Every part of the loss of the three cells as one batch, and the masked genes."""
    # A momentum encoder that differs from the encoder: each of its weights is half as large.
    key_weights = {name: KEY_SCALE * weight for name, weight in weights.items()}
    queries, keys, entropies, masked = {}, {}, {}, {}
    for stream, places in MASKED.items():
        inputs = [np.array(tokens) for tokens in streams[stream]]
        labels = [tokens[where] for tokens, where in zip(inputs, places, strict=True)]
        for tokens, where in zip(inputs, places, strict=True):
            tokens[where] = MASK
        states = [encode(weights, tokens)[-1] for tokens in inputs]
        queries[stream] = np.stack([cell[0] for cell in states])
        keys[stream] = np.stack([encode(key_weights, tokens)[-1][0] for tokens in inputs])
        entropies[stream] = np.array(
            [
                surprise(row, label)
                for cell, where, genes in zip(states, places, labels, strict=True)
                for row, label in zip(predict(weights, cell[where]), genes, strict=True)
            ]
        )
        masked[f"masked_{stream}"] = np.concatenate(inputs).astype(np.int64)
    values = np.concatenate([np.array(v)[w] for v, w in zip(streams["values"], MASKED["expression"], strict=True)])
    n_tokens = sum(len(tokens) for tokens in streams["rank"])
    parts = {
        "mlm_rank_loss": entropies["rank"].mean(),
        "mlm_expression_loss": (entropies["expression"] * values).sum() / values.sum(),
        "contrastive_loss": (
            contrast(queries["rank"], keys["expression"]) + contrast(queries["expression"], keys["rank"])
        )
        / 2,
    }
    parts["total_loss"] = sum(parts.values())
    published_mlm = (entropies["rank"].sum() + (entropies["expression"] * values).sum()) / n_tokens
    parts["published_total_loss"] = published_mlm + parts["contrastive_loss"]
    return {name: np.float32(part).reshape(1) for name, part in parts.items()} | masked


def main(folder):
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = make_weights()
    weights = {name: weight.astype(np.float64) for name, weight in stored.items()}
    streams = dict(
        zip(("rank", "expression", "values"), zip(*(tokenize(counts) for counts in COUNTS), strict=True), strict=True)
    )
    states = {
        stream: np.concatenate([encode(weights, tokens) for tokens in streams[stream]], axis=1)
        for stream in ("rank", "expression")
    }
    expected = {
        "lengths": np.array([len(tokens) for tokens in streams["rank"]], dtype=np.int64),
        "ids_rank": np.concatenate(streams["rank"]).astype(np.int64),
        "ids_expression": np.concatenate(streams["expression"]).astype(np.int64),
        "expression_values": np.concatenate(streams["values"]).astype(np.float32),
        "states_rank": states["rank"].astype(np.float32),
        "states_expression": states["expression"].astype(np.float32),
        "logits_rank": predict(weights, states["rank"][-1]).astype(np.float32),
    }
    save_file(stored, folder / "model.safetensors")
    save_file(expected | losses(weights, streams), folder / "expected.safetensors")
    tokens = {name: token for token, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *GENES])}
    for name, content in (
        ("config.json", CONFIG),
        ("token_ids.json", tokens),
        ("gene_medians.json", MEDIANS),
        ("counts.json", {"genes": COLUMNS, "counts": COUNTS}),
    ):
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
