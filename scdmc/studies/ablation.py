"""The study of what matters in pre-training: variants of one run, what judges them, and the table of their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation.probing import probe_scores
from scdmc.cells.data import read_cells
from scdmc.files import read_json_object
from scdmc.integration.comparison import compare_integrations
from scdmc.integration.data import usable_cells
from scdmc.labels import is_missing, labels_of, type_labels
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.storage import load_model
from scdmc.reports.tables import best_of_columns, markdown, score_texts
from scdmc.studies.embedding_choices import EmbeddingChoice, embeddings_of_choices
from scdmc.studies.few_labels import few_label_scores, frozen_states, mean_gene_vectors
from scdmc.studies.few_labels import judged_embeddings as joined_states
from scdmc.studies.variants import TINY, VARIANTS
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.guessing import best_guess

CELLS_SEED = 42  # which cells of a large data set are judged: the same for every run


HELD_OUT = "held-out cells"


# Embeddings of the judge of few labels.
ALL_LAYERS, GENE_VECTORS = "all layers", "gene vectors"


# Judge, embedding, metric: what the table and the figures show of all scores, and its name there.
HEADLINES = (
    ("mlm", "none", "rank_nats_below_guessing", "rank stream (nats below guessing)"),
    ("mlm", "none", "expression_nats_below_guessing", "expression stream (nats below guessing)"),
    ("probe", "weighted", "probe_macro_f1", "linear probe, macro-F1"),
    ("probe", "weighted", "neighbours_macro_f1", "15-NN, macro-F1"),
    ("probe", "cls", "probe_macro_f1", "linear probe of cls, macro-F1"),
    ("few_labels", ALL_LAYERS, "macro_f1_5", "all layers, 5% of the labels, macro-F1"),
    ("few_labels", ALL_LAYERS, "macro_f1_10", "all layers, 10% of the labels, macro-F1"),
    ("few_labels", ALL_LAYERS, "macro_f1_100", "all layers, all labels, macro-F1"),
    ("few_labels", GENE_VECTORS, "macro_f1_10", "gene vectors, 10% of the labels, macro-F1"),
    ("integration", "cls", "overall", "integration by cls, overall"),
    ("integration", "weighted", "overall", "integration by weighted genes, overall"),
    ("fine_tuning", "fine-tuned", "macro_f1", "fine-tuned, macro-F1"),
)


NOTE = (
    "All scores are of cells that were not trained on; higher is better. Nats below guessing: how far the loss of "
    "masked genes lies below the best guess from frequency and position. Probe and 15-NN read the mean state of the "
    "genes, weighted by their values, in the streams that the variant has, unless cls is named. Overall: 0.6 "
    "AvgBIO + 0.4 AvgBATCH.\n"
)


# ---- judges


@dataclass(frozen=True)
class JudgedModel:
    """A trained model as the judges take it: its folder, its encoder on the device, and the streams that it has."""

    directory: ModelDirectory
    encoder: ScDMCModel
    stream: str


def open_judged(folder: Path, stream: str, num_gpus: int | None) -> JudgedModel:
    """Load a run's model; on a processor in float32, since many compute bfloat16 by way of float32, far slower."""
    encoder = place_model(load_model(folder, ScDMCModel), num_gpus)
    return JudgedModel(open_model_directory(folder), encoder, stream)


def masked_gene_judge(model: JudgedModel) -> dict[str, dict[str, float]]:
    """How far a run's losses on its held-out cells lie below what guessing reaches, in nats; higher is better.

    ``STREAM_nats_below_unigram`` is against the frequency of each gene, ``STREAM_nats_below_guessing`` against the best
    guess from frequency and position (:func:`scdmc.training.guessing.best_guess`), so that an order of genes which
    gives much away is no merit. ``contrastive_accuracy`` is among the cells of a batch: compare it at one batch size
    only.

    Parameters
    ----------
    model
        The model; its folder holds ``history.csv`` and ``guessing.json``.
    """
    folder = model.directory.path
    last = pd.read_csv(folder / "history.csv").dropna(subset=["eval_loss"]).iloc[-1].dropna()
    guesses = read_json_object(folder / "guessing.json", "what guessing reaches")
    scores = {}
    for stream in ("rank", "expression"):
        if f"eval_mlm_{stream}_loss" not in last:
            continue  # a variant without this stream
        loss = last[f"eval_mlm_{stream}_loss"]
        scores[f"{stream}_nats_below_unigram"] = guesses[f"guessing_{stream}_unigram"] - loss
        scores[f"{stream}_nats_below_guessing"] = best_guess(guesses, stream) - loss
    if "eval_contrastive_accuracy" in last:
        scores["contrastive_accuracy"] = last["eval_contrastive_accuracy"]
    return {"none": scores}


def judged_embeddings(model: JudgedModel, cells: TokenizedCells) -> dict[str, np.ndarray]:
    """Embeddings of the last layer by name, all in one pass; each of shape (n_cells, n_dimensions).

    ``cls`` and ``weighted`` are of the streams that the variant has; with both, ``cls of the rank stream`` comes too.
    """
    choices = {"cls": (model.stream, "cls"), "weighted": (model.stream, "weighted")}
    if model.stream == "both":
        choices["cls of the rank stream"] = ("rank", "cls")
    embeddings = embeddings_of_choices(model.encoder, cells)
    layer = model.encoder.config.num_hidden_layers
    return {name: embeddings[EmbeddingChoice(layer, *choice)] for name, choice in choices.items()}


def drawn_cells(cells: TokenizedCells, most_cells: int) -> TokenizedCells:
    """So many of the cells, the same at every call, in their order; all if there are not more."""
    if len(cells) <= most_cells:
        return cells
    drawn = np.random.default_rng(CELLS_SEED).choice(len(cells), most_cells, replace=False)
    return cells.select(np.sort(drawn))


def probe_judge(model: JudgedModel, path: Path, label_key: str, most_cells: int) -> dict[str, dict[str, float]]:
    """Embedding -> linear probe and 15 nearest neighbours on labelled cells that were not trained on.

    Parameters
    ----------
    model
        The model.
    path
        ``.h5ad`` or tokenized parquet.
    label_key
        Column of obs with the types; cells without one count nowhere.
    most_cells
        Of more cells, so many are drawn, the same for every model.

    Raises
    ------
    ScDMCError
        If the data cannot be read as the model was trained, or hold too few types.
    """
    cells = drawn_cells(read_cells(path, model.directory, (label_key,)), most_cells)
    labels, _ = type_labels(cells.obs[label_key])
    return {name: probe_scores(values, labels) for name, values in judged_embeddings(model, cells).items()}


def few_labels_judge(
    model: JudgedModel, path: Path, label_key: str, fractions: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Embedding -> mean macro-F1 of probes that are shown few labels (:func:`few_label_scores`).

    All layers and poolings joined, and the mean of the gene vectors, which is the control without an encoder.

    Parameters
    ----------
    model
        The model, of both streams.
    path
        ``.h5ad`` or tokenized parquet; all cells are read.
    label_key
        Column of obs with the types; cells without one count nowhere.
    fractions
        Shares of the labels that are shown.

    Raises
    ------
    ScDMCError
        If the data cannot be read as the model was trained.
    """
    cells = read_cells(path, model.directory, (label_key,))
    labels = labels_of(cells.obs[label_key])
    labels = np.where(is_missing(labels), "", labels).astype(str)
    vectors = model.encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    embeddings = {
        ALL_LAYERS: joined_states(frozen_states(model.encoder, cells))[ALL_LAYERS],
        GENE_VECTORS: mean_gene_vectors(vectors, cells),
    }
    return {
        name: {
            f"macro_f1_{100 * fraction:g}": float(scores["macro_f1"].mean())
            for fraction, scores in few_label_scores(values, labels, fractions).groupby("fraction")
        }
        for name, values in embeddings.items()
    }


def integration_judge(
    model: JudgedModel, path: Path, label_key: str, batch_key: str, most_cells: int
) -> dict[str, dict[str, float]]:
    """Embedding -> scores of zero-shot integration (:func:`scdmc.cells.scores.integration_scores`).

    Parameters
    ----------
    model
        The model.
    path
        ``.h5ad`` or tokenized parquet.
    label_key, batch_key
        Columns of obs with types and batches.
    most_cells
        Of more cells, so many are drawn, the same for every model.

    Raises
    ------
    ScDMCError
        If the data cannot be read as the model was trained, or cannot be scored.
    """
    cells = drawn_cells(read_cells(path, model.directory, (batch_key, label_key)), most_cells)
    cells = cells.select(usable_cells(cells, model.directory, batch_key, label_key))
    batch, labels = labels_of(cells.obs[batch_key]), type_labels(cells.obs[label_key])[0]
    results = compare_integrations(judged_embeddings(model, cells), labels, batch)
    return {name: result.scores for name, result in results.items()}


# ---- the table


def budget_order(budget: str) -> int:
    """Where a budget stands among others: ``tiny`` first."""
    return -1 if budget == TINY else int(budget)


def headline_scores(study: pd.DataFrame) -> pd.DataFrame:
    """The rows of the long table that :data:`HEADLINES` names, in the order in which they are shown.

    Parameters
    ----------
    study
        Columns variant, budget, seed, cells_seen, minutes, data, judge, embedding, metric, value.

    Returns
    -------
    The same columns, and ``score``: name of the score, with its data set.
    """
    named = pd.DataFrame(HEADLINES, columns=["judge", "embedding", "metric", "score"])
    rows = study.merge(named.assign(place=named.index), on=["judge", "embedding", "metric"])
    rows["score"] = np.where(rows["data"] == HELD_OUT, rows["score"], rows["score"] + ": " + rows["data"])
    variants = {name: place for place, name in enumerate(VARIANTS)}
    rows["row"] = rows["variant"].map(variants).fillna(len(variants))  # from a folder of other variants: last
    rows["budget_order"] = rows["budget"].map(budget_order)
    rows = rows.sort_values(["row", "variant", "budget_order", "seed", "place", "data"], ignore_index=True)
    return rows.drop(columns=["row", "budget_order", "place"])


def study_markdown(study: pd.DataFrame) -> str:
    """A table for each budget, variants x headline scores, mean ± standard deviation over seeds; the best are bold."""
    rows = headline_scores(study)
    parts = []
    for budget in sorted(rows["budget"].unique(), key=budget_order):
        shown = rows[rows["budget"] == budget]
        order = (shown["variant"].unique(), _score_order(shown))
        grouped = shown.groupby(["variant", "score"])["value"]
        means, deviations = (table.unstack().loc[order] for table in (grouped.mean(), grouped.std()))
        texts, is_best = score_texts(means, deviations), best_of_columns(means)
        runs = shown.drop_duplicates(["variant", "seed"]).groupby("variant")
        counts, took = runs.size(), runs[["cells_seen", "minutes"]].mean()
        texts.insert(0, "seeds", [f"{counts[name]}" for name in order[0]])
        texts.insert(1, "cells seen", [f"{took.loc[name, 'cells_seen']:,.0f}" for name in order[0]])
        texts.insert(2, "minutes", [f"{took.loc[name, 'minutes']:.1f}" for name in order[0]])
        is_best = np.hstack([np.zeros((len(texts), 3), dtype=bool), is_best])
        title = "two steps, to see that all works" if budget == TINY else f"{int(budget):,} cells"
        parts.append(f"## Budget: {title}\n\n{markdown(texts, is_best)}")
    questions = [f"- {name}: {VARIANTS[name].question}" for name in rows["variant"].unique() if name in VARIANTS]
    return "\n".join([*parts, NOTE, *questions, ""])


def _score_order(rows: pd.DataFrame) -> list[str]:
    """Names of the scores in the order of :data:`HEADLINES`, data sets by name."""
    place = {title: index for index, (*_, title) in enumerate(HEADLINES)}
    return sorted(rows["score"].unique(), key=lambda name: (place[name.split(": ")[0]], name))


def score_rows(judge: str, data: str, scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, object]]:
    """Scores by embedding and metric as rows: data, judge, embedding, metric, value."""
    return [
        {"data": data, "judge": judge, "embedding": embedding, "metric": metric, "value": float(value)}
        for embedding, metrics in scores.items()
        for metric, value in metrics.items()
    ]
