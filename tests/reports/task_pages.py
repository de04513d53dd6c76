"""Pages of tasks from small made-up results, in a second each; what the tasks compute is tested with the tasks."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.annotation.baselines import Predicted
from scdmc.annotation.calibration import Calibration
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.learning_curve import write_learning_curve
from scdmc.annotation.options import FineTuningSettings
from scdmc.annotation.prediction import predictions_table
from scdmc.annotation.results import draw_fine_tuning_results, write_fine_tuning_tables
from scdmc.annotation.runs import FineTunedRun
from scdmc.cells.labels_page import LabelledFile, write_labels_page
from scdmc.gene_analysis.options import ScreenOptions
from scdmc.gene_analysis.perturbation_results import write_screen_results
from scdmc.integration.data import IntegrationData
from scdmc.integration.options import PUBLISHED
from scdmc.integration.results import draw_integration_results, write_page
from scdmc.integration.row import OURS, Row
from scdmc.integration.scoring import LABEL_FREE, RowScores
from scdmc.integration.study import Benchmark, IntegrationRun
from scdmc.reports.provenance import Provenance
from scdmc.studies.demo import write_demo_report
from scdmc.tokens.file_report import FileReport, histogram_of
from scdmc.tokens.report import write_html_report
from scdmc.tokens.tokenized_cells import TokenizationSettings
from tests.undrawn import ONE_PIXEL

NAMES = np.array(["alpha", "beta", "delta"], dtype=object)


def integration_page(folder):
    """Three methods, one seed, the scores as published and those without labels."""
    rng = np.random.default_rng(0)
    labels, batch = np.repeat(NAMES, 20), np.tile(["one", "two"], 30).astype(object)
    cells = SimpleNamespace(obs=pd.DataFrame({"cell_id": [f"cell-{number}" for number in range(60)]}))
    nothing = scipy.sparse.csr_matrix((60, 60))
    data = IntegrationData("islets", cells, labels, batch, np.ones(60, dtype=bool), nothing, None)
    rows = tuple(
        Row(name, f"X_{name}", None, "What it is.", kind)
        for name, kind in (("scDMC zero-shot", OURS), ("PCA, not integrated", "standard"), ("Harmony", "standard"))
    )
    results = {}
    for number, row in enumerate(rows):
        names = ("ARI", "NMI", "ASW_label", "ASW_batch", "graph_connectivity", "AvgBIO", "AvgBATCH", "overall")
        published = dict.fromkeys(names, 0.5 + 0.05 * number)
        free = {"neighbours_kept": 0.6, "batch_entropy": 0.9}
        results[row.name] = RowScores({PUBLISHED: published, LABEL_FREE: free}, {}, nothing)
    seconds = dict.fromkeys(results, 1.0)
    benchmark = Benchmark(rows, [IntegrationRun(0, {}, results)], {}, seconds, seconds)
    maps = {rows[0].name: rng.normal(size=(60, 2))}  # drawing takes the time
    write_page(folder, [draw_integration_results(folder, data, benchmark, maps)], {"islets": benchmark}, Provenance())
    return folder / "report.html"


def fine_tuning_page(folder):
    """One run and one baseline; the test cells are too few for a map, whose layout would take most of the time."""
    rng = np.random.default_rng(0)
    labels = np.tile(NAMES, 40)
    probabilities = 0.8 * np.eye(3)[np.tile([0, 1, 2], 40)] + 0.2 * rng.dirichlet(np.ones(3) / 9, 120)
    probabilities[::10] = np.roll(probabilities[::10], 1, axis=1)
    split = np.array((["train"] * 104 + ["validation"] * 12 + ["test"] * 4), dtype=object)
    obs = pd.DataFrame({"source_file": "a.h5ad", "cell_id": [f"cell-{number}" for number in range(120)]})
    predictions = predictions_table(obs, labels, split, NAMES, probabilities)
    history = [
        {"epoch": epoch, "step": 10 * epoch, "loss": 2.0 - epoch / 2, "eval_loss": 2.1 - epoch / 2,
         "eval_accuracy": 0.5 + epoch / 10, "eval_macro_f1": 0.5 + epoch / 10}
        for epoch in range(3)
    ]  # fmt: skip
    is_test = split == "test"
    run = FineTunedRun(RunPlan("run", 0, split), None, FineTuningSettings(), history, Calibration(1.2, 12, 0.1, 0.05),
                       predictions, probabilities[is_test], probabilities[is_test], {})  # fmt: skip
    methods = [{"scDMC fine-tuned": run.predicted, "majority class": Predicted(np.full(4, "beta", object),
                                                                              np.full(4, 0.33))}]  # fmt: skip
    tables = write_fine_tuning_tables(folder, [run], methods, None)
    draw_fine_tuning_results(folder, [run], tables, None, {"epochs": 2}, Provenance(seed=0))
    return folder / "report.html"


def perturbation_page(folder):
    """A screen of three genes in three types."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        [{"cell_type": kind, "perturbed": gene, "genes": 1, "cells": 10} for kind in NAMES for gene in ("INS", "GCG")]
    )
    table = table.assign(shift=rng.random(6) / 10, shift_p=0.01, shift_fdr=np.linspace(0.01, 0.2, 6))
    write_screen_results(folder, table, ScreenOptions(null_draws=100), Provenance(seed=0))
    return folder / "report.html"


def tokens_page(folder):
    """Two files, one with a warning."""
    cells = {"cells_in": 100, "cells_out": 90, "cells_empty": 10, "cells_truncated": 20, "counts_total": 1e6}
    histograms = {"genes_per_cell": histogram_of(np.full(90, 900)), "counts_per_cell": histogram_of(np.full(90, 4000))}
    reports = [
        FileReport(name, "X", False, 2000, 1800, ["NOT_A_GENE"], ["var_names"], {"symbol": 1800}, {}, 0,
                   **cells, **histograms, counts_of_unmatched_genes=lost)
        for name, lost in (("a.h5ad", 1e4), ("b.h5ad", 4e5))
    ]  # fmt: skip
    entries = [{"name": "notes.txt", "status": "ignored", "why": "no .h5ad"}]
    path = folder / "islets.report.html"
    settings = TokenizationSettings("0" * 64, "1" * 64, 1024)
    write_html_report(path, "islets", settings, reports, ["b.h5ad: 40% of the counts lie elsewhere"], entries,
                      Provenance())  # fmt: skip
    return path


def learning_curve_page(folder):
    """Two methods, three shares of the labels."""
    scores = pd.DataFrame([
        {"method": method, "metric": metric, "label_fraction": share, "value": best - 0.1 * (share < 1), "sd": 0.01,
         "runs": 5}
        for method, best in (("scDMC fine-tuned", 0.9), ("logistic regression", 0.85))
        for metric in ("accuracy", "macro_f1") for share in (0.05, 0.1, 1.0)
    ])  # fmt: skip
    write_learning_curve(folder, scores, "macro_f1", Provenance(seed=0))
    return folder / "report.html"


def labels_page(folder):
    """Labels by a classifier, some of them doubtful, with a map."""
    rng = np.random.default_rng(0)
    labels, obs = np.tile([*NAMES, "Unknown"], 20), pd.DataFrame({"batch": np.repeat(["one", "two"], 40)})
    labelled = LabelledFile("new.h5ad", "the classifier islets", 3, labels, rng.uniform(0.3, 1, 80), "Unknown", obs,
                            rng.normal(size=(80, 2)))  # fmt: skip
    write_labels_page(folder / "new.report.html", labelled, Provenance(seed=0))
    return folder / "new.report.html"


def demo_page(folder):
    """What `make demo` leaves, with pictures of one pixel."""
    for name in ("labels", "tokenized", "pretrained", "annotation", "clustering", "integration"):
        (folder / name).mkdir()
    tables = {
        "labels/labels.csv": {"cell_id": ["1", "2"], "scDMC_cell_type": ["a", "b"], "scDMC_view_genes": ["a", "a"]},
        "labels/views.csv": {"method": ["genes", "scdmc", "all views"], "macro_f1": [0.6, 0.8, 0.9]},
        "labels/per_type.csv": {"cell_type": ["a", "b"], "n_cells": [10, 20], "new_cells": [1, 1]},
        "split.csv": {"cell_id": ["1", "2"], "label": ["a", "b"], "split": ["train", "test"]},
        "pretrained/history.csv": {"step": [0, 150], "eval_mlm_rank_loss": 8.4, "eval_mlm_expression_loss": 8.9},
        "annotation/per_class.csv": {"cell_type": ["a", "b"], "f1": [0.9, 0.8]},
    }
    methods = {"annotation": ("scDMC fine-tuned", "logistic regression"), "clustering": ("scDMC zero-shot", "PCA"),
               "integration": ("scDMC zero-shot", "PCA")}  # fmt: skip
    for task, names in methods.items():
        rows = [(name, metric) for name in names for metric in ("accuracy", "macro_f1", "ARI", "overall")]
        tables[f"{task}/metrics.csv"] = {"task": task, "method": [name for name, _ in rows], "protocol": PUBLISHED,
                                         "metric": [metric for _, metric in rows], "value": 0.8}  # fmt: skip
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(folder / name, index=False)
    cells = {"cells_in": 2, "genes": 9, "genes_matched": 8, "counts_of_unmatched_genes": 1, "counts_total": 100,
             "cells_truncated": 0}  # fmt: skip
    arguments = {"model": "scDMC-small", "num_hidden_layers": 2, "hidden_size": 64, "max_length": 256,
                 "max_steps": 150, "batch_size": 32}  # fmt: skip
    guessing = {"guessing_rank_given_rank": 8.5, "guessing_expression_unigram": 9.1}
    contents = {"tokenized/islets.report.json": {"files": [cells]}, "pretrained/arguments.json": arguments,
                "pretrained/guessing.json": guessing}  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    pictures = ("labels/umap_labels", "labels/composition", "pretrained/loss_curves", "annotation/confusion_matrix",
                "annotation/per_class", "clustering/umap", "clustering/umap_pca", "integration/scores",
                "integration/umap_scDMC", "integration/umap_pca", "integration/umap_harmony")  # fmt: skip
    for name in pictures:
        (folder / f"{name}.png").write_bytes(ONE_PIXEL)
    write_demo_report(folder)
    return folder / "report.html"
