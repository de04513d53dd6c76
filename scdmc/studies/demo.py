"""The page and the table that gather what ``make demo`` has filled a folder with."""

import json
from pathlib import Path

import pandas as pd

from scdmc.annotation.annotated_cells import ALL_VIEWS, LANGUAGE_MODEL
from scdmc.annotation.options import FINE_TUNED, LOGISTIC_REGRESSION
from scdmc.cells.scores import classification_scores, metric_rows, wide_metrics
from scdmc.cells.splits import PARTS
from scdmc.files import atomic_path
from scdmc.integration.options import PUBLISHED
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.training.guessing import best_guess

ZERO_SHOT = "scDMC zero-shot"


TASKS = ("annotation", "clustering", "integration")
TASK_NAMES = {
    "labels": "labels of new cells",
    "annotation": "fine-tuning",
    "clustering": "clustering",
    "integration": "integration",
}


# Rows of the labels of new cells: the product itself, and each of its views alone.
ALL_TOGETHER = "scDMC, all views"
NOT_LABELLED = "not labelled"  # of no type, so wrong
VIEW_NAMES = {
    "genes": "logistic regression on genes",
    "components": "principal components",
    "scdmc": "scDMC, its view of the model alone",
}


def write_demo_report(demo: Path, inputs: tuple[Path, ...] = ()) -> dict[str, pd.DataFrame]:
    """Write ``report.html`` and ``metrics.csv``.

    Parameters
    ----------
    demo
        The folder that ``make demo`` filled.
    inputs
        What of it is read, for the page.

    Returns
    -------
    Task -> methods x metrics.
    """
    tables = {task: pd.read_csv(demo / task / "metrics.csv") for task in TASKS}
    of_integration = tables["integration"]
    published = of_integration[of_integration["protocol"] == PUBLISHED]
    tables["integration"] = published[["task", "method", "metric", "value"]]
    tables = {"labels": pd.DataFrame(scores_of_labels(demo)), **tables}
    wide = {task: wide_metrics(table) for task, table in tables.items()}
    pretraining = pd.DataFrame(metric_rows("pre-training", "scDMC", pretraining_metrics(demo)))
    with atomic_path(demo / "metrics.csv") as temporary:
        pd.concat([pretraining, *tables.values()]).to_csv(temporary, index=False)
    sections = [
        labels_section(demo, wide["labels"]),
        data_section(demo),
        pretraining_section(demo),
        annotation_section(demo, wide["annotation"]),
        clustering_section(demo, wide["clustering"]),
        words_section(demo),
        integration_section(demo, wide["integration"]),
    ]
    started = json.loads((demo / "pretrained" / "arguments.json").read_text())["model"]
    made = Provenance(inputs, "" if started is None else Path(started).name)
    write_report(demo / "report.html", "scDMC on 1,937 human islet cells", sections, demo_verdict(wide), made)
    return wide


def demo_verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """In how many of the tasks the model is ahead of the standard methods, with the numbers of the first three."""
    kinds = {
        "labels": (ALL_TOGETHER, "macro_f1", "Labels of new cells, macro-F1"),
        "annotation": (FINE_TUNED, "macro_f1", "Fine-tuning, macro-F1"),
        "clustering": (ZERO_SHOT, "ARI", "Clusters, ARI with the types"),
        "integration": (ZERO_SHOT, "overall", "Integration, overall score"),
    }
    numbers, ahead, behind = [], [], []
    for task, (ours, metric, name) in kinds.items():
        scores = tables[task][metric]
        others = scores.drop(ours)[lambda of: ~of.index.str.startswith("scDMC")].dropna()
        (ahead if scores[ours] > others.max() else behind).append(TASK_NAMES[task])
        numbers.append(KeyNumber(name, f"{scores[ours]:.3f}", f"{others.max():.3f} for {others.idxmax()}"))
    headline = f"scDMC is ahead of the standard methods in {len(ahead)} of {len(kinds)} tasks"
    reason = f"The standard methods are as good or better in {', '.join(behind)}." if behind else ""
    level = "good" if not behind else "caution"
    return Verdict(level, headline, (*[reason] * bool(behind), "One split and one seed of one small data set."),
                   tuple(numbers[:3]))  # fmt: skip


def pretraining_metrics(demo: Path) -> dict[str, float]:
    """Held-out losses and accuracies at the last evaluation, and what mere guessing reaches."""
    history = pd.read_csv(demo / "pretrained" / "history.csv")
    names = [name for name in history if name.startswith("eval_")]
    last = history.dropna(subset=names).iloc[-1]
    metrics = {"held_out_" + name.removeprefix("eval_"): float(last[name]) for name in names}
    return metrics | json.loads((demo / "pretrained" / "guessing.json").read_text())


def scores_of_labels(demo: Path) -> list[dict[str, object]]:
    """Labels that the new library got, and those of each view alone, against the types that were hidden from them."""
    given = pd.read_csv(demo / "labels" / "labels.csv").set_index("cell_id")
    true = pd.read_csv(demo / "split.csv").set_index("cell_id")["label"].loc[given.index].to_numpy()
    columns = {ALL_TOGETHER: "scDMC_cell_type"}
    for column in given.columns[given.columns.str.startswith("scDMC_view_")]:
        view = column.removeprefix("scDMC_view_")
        columns[VIEW_NAMES.get(view, view)] = column
    return [
        row
        for method, column in columns.items()
        for row in metric_rows(
            "labels", method, classification_scores(true, given[column].fillna(NOT_LABELLED).to_numpy())
        )
    ]


def labels_section(demo: Path, table: pd.DataFrame) -> Section:
    """Labels of new cells by labelled ones: scores against the hidden types, and what the step itself held out."""
    labels = demo / "labels"
    held_out = pd.read_csv(labels / "views.csv")
    sizes = pd.read_csv(labels / "per_type.csv")
    scores = held_out.set_index("method")["macro_f1"]
    without = scores[[name for name in scores.index if name != ALL_VIEWS and not name.startswith(LANGUAGE_MODEL)]]
    ours = table.loc[ALL_TOGETHER]
    others = table.drop(index=[name for name in table.index if name.startswith("scDMC")])["macro_f1"]
    text = (
        f"One command, annotate.py, labelled the {sizes['new_cells'].sum():,} cells of the third library by the "
        f"{sizes['n_cells'].sum():,} labelled cells of the two others; no training came before. The types of the third "
        f"library were hidden. Against them accuracy is {ours['accuracy']:.3f} and macro-F1 {ours['macro_f1']:.3f}; "
        f"the best view without the language model ({others.idxmax()}) reaches {others.max():.3f}.\n\n"
        "A user has no such types. The command then estimates its scores on labelled cells that it holds out: macro-F1 "
        f"{scores[ALL_VIEWS]:.3f}, and {without.max():.3f} for the best method without the language model "
        f"({without.idxmax()}). Types of a few cells move macro-F1 by several hundredths. The full page of this step, "
        "with a map that moves, is labels/report.html."
    )
    tables = [
        ("New cells, against their hidden types", as_table(table)),
        ("Labelled cells that the command held out", held_out),
        ("Labelled cells that were held out, type by type", sizes),
    ]
    figures = [
        ("Labels of the new cells, laid out by UMAP", labels / "umap_labels.png"),
        ("Share of each label in the new cells and in the labelled ones", labels / "composition.png"),
    ]
    return Section("Labels of new cells", text, tables=tables, figures=figures)


def data_section(demo: Path) -> Section:
    """Cells by type and part of the split, and what the tokenizer did."""
    split = pd.read_csv(demo / "split.csv")
    sizes = pd.crosstab(split["label"], split["split"]).reindex(columns=PARTS, fill_value=0)
    sizes = sizes.sort_values("train", ascending=False).rename_axis(None, axis=1).reset_index(names="type")
    report = json.loads((demo / "tokenized" / "islets.report.json").read_text())["files"][0]
    lost = report["counts_of_unmatched_genes"] / report["counts_total"]
    text = (
        f"{report['cells_in']:,} human pancreatic islet cells (Baron et al. 2016; raw UMI counts, three libraries of "
        "one donor). The cells were split once into train, validation and test; types of fewer than 10 cells are left "
        "out. Of these cells pre-training saw the training cells only; gene medians and vocabulary are those of "
        "scDMC-small.\n\n"
        f"Of {report['genes']:,} genes {report['genes_matched']:,} are in the vocabulary; {lost:.1%} of the counts lie "
        "in genes that are not (the model knows the genes of its training cells and all that code for proteins; some "
        f"symbols are out of use). {report['cells_truncated']:,} cells have more genes than a stream of 2,048 tokens "
        "holds; their lowest genes are cut."
    )
    return Section("The cells", text, tables=[("Cells by type and part of the split", sizes)])


def pretraining_section(demo: Path) -> Section:
    """Loss curves."""
    arguments = json.loads((demo / "pretrained" / "arguments.json").read_text())
    metrics = pretraining_metrics(demo)
    model = arguments["model"]
    start = "A small, new model" if model is None else f"A small model that started from {Path(model).name}"
    losses = {stream: metrics[f"held_out_mlm_{stream}_loss"] for stream in ("rank", "expression")}
    guesses = {stream: best_guess(metrics, stream) for stream in losses}
    is_below = all(losses[stream] < guesses[stream] for stream in losses)
    verdict = (
        "The model is below both: it uses more than position."
        if is_below
        else "The model is not below both: so short a training has learned little about which genes go together."
    )
    text = (
        f"{start} ({arguments['num_hidden_layers']} layers, hidden size {arguments['hidden_size']}, streams of "
        f"{arguments['max_length']} tokens) learned for {arguments['max_steps']} steps of {arguments['batch_size']} "
        "cells to name masked genes in both streams and to tell which two streams are of one cell. On held-out cells "
        f"the cross entropy of masked genes is {losses['rank']:.2f} nats (rank stream) and {losses['expression']:.2f} "
        f"(expression stream). The best guess from frequency and position alone reaches {guesses['rank']:.2f} and "
        f"{guesses['expression']:.2f}. {verdict}\n\n"
        "A few minutes on two cores show that the machinery works; the published model saw two million cells."
    )
    figures = [("Losses of training batches and of held-out cells", demo / "pretrained" / "loss_curves.png")]
    return Section("Pre-training", text, figures=figures)


def annotation_section(demo: Path, table: pd.DataFrame) -> Section:
    """Scores on the test cells beside the baselines."""
    ours, theirs = table.loc[FINE_TUNED], table.loc[LOGISTIC_REGRESSION]
    verdict = "above" if ours["macro_f1"] > theirs["macro_f1"] else "below"
    text = (
        "Fine-tuned on the training cells, the best epoch chosen on validation cells, scored once on the test cells: "
        f"accuracy {ours['accuracy']:.3f}, macro-F1 {ours['macro_f1']:.3f}. That macro-F1 is {verdict} the "
        f"{theirs['macro_f1']:.3f} of logistic regression on log1p CP10k of all genes, on the same split. "
        "One split and one seed; differences of one or two hundredths are within noise."
    )
    annotation = demo / "annotation"
    per_class = pd.read_csv(annotation / "per_class.csv")
    tables = [
        ("Test cells, same split for every method", as_table(table)),
        ("Fine-tuned scDMC, type by type", per_class),
    ]
    figures = [
        ("Confusion matrix of the test cells", annotation / "confusion_matrix.png"),
        ("Precision, recall and F1 of each type", annotation / "per_class.png"),
    ]
    return Section("Annotation by fine-tuning", text, tables=tables, figures=figures)


def clustering_section(demo: Path, table: pd.DataFrame) -> Section:
    """Clusters of zero-shot embeddings."""
    text = (
        "Leiden clusters of the pre-trained model's embeddings; no label was used but to score them and to colour the "
        "second panel. The same on the principal components of 2,000 variable genes stands beside it."
    )
    clustering = demo / "clustering"
    figures = [
        ("Embeddings of scDMC, by cluster and by type", clustering / "umap.png"),
        ("Principal components, by cluster and by type", clustering / "umap_pca.png"),
    ]
    return Section("Clustering", text, tables=[("Agreement with the known types", as_table(table))], figures=figures)


def words_section(demo: Path) -> Section:
    """The clusters in words, beside the types that most of their cells have."""
    described = pd.read_csv(demo / "described" / "descriptions.csv", dtype={"scDMC_cluster": str})
    sizes = pd.read_csv(demo / "clustering" / "cluster_sizes.csv", dtype={"cluster": str})
    known = sizes.set_index("cluster")[["most_frequent_label", "share_of_label"]]
    table = described[["scDMC_cluster", "cells", "type", "share", "text"]].rename(columns={"scDMC_cluster": "cluster"})
    table = table.join(known, on="cluster")[["cluster", "cells", "most_frequent_label", "type", "share", "text"]]
    text = (
        "describe.py put each cluster into words, by scDMC-small-text, which comes with scDMC: the types of which it "
        "knows a text, the definition of the Cell Ontology, and genes that set the cluster apart. Every clause is "
        "computed. That model was trained on labelled cells of these islets and of blood, so that this shows what the "
        "command gives, and is no test of the model. most_frequent_label is the cluster's known type."
    )
    return Section("Clusters in words", text, tables=[("Clusters, the largest first", table)], folds=True)


def integration_section(demo: Path, table: pd.DataFrame) -> Section:
    """Scores over the three libraries."""
    best = table["overall"].idxmax()
    text = (
        "How well each embedding keeps types apart (AvgBIO) and mixes the three libraries (AvgBATCH); overall is 0.6 "
        f"times the first and 0.4 times the second. No method saw a label. The best overall score here has {best} "
        f"({table.loc[best, 'overall']:.3f}); scDMC has {table.loc[ZERO_SHOT, 'overall']:.3f}."
    )
    integration = demo / "integration"
    names = {"scDMC": "scDMC", "pca": "PCA", "harmony": "Harmony"}
    figures = [("Scores, the higher the better", integration / "scores.png")]
    figures += [(f"{name}, by type and by library", integration / f"umap_{stem}.png") for stem, name in names.items()]
    return Section("Integration", text, tables=[("Scores of each method", as_table(table))], figures=figures)


def as_table(table: pd.DataFrame) -> pd.DataFrame:
    """Methods as the first column."""
    return table.reset_index(names="method")
