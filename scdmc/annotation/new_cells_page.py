"""The page of new cells: how far to trust their labels, where the cells lie, and what to check by hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation.annotated_cells import ALL_VIEWS, LANGUAGE_MODEL, AnnotatedCells
from scdmc.annotation.calibration import expected_calibration_error, reliability_table
from scdmc.annotation.figures import per_class_figure, reliability_figure
from scdmc.annotation.new_cells_figures import (
    composition_figure,
    dot_plot_figure,
    markers_drawn,
    methods_figure,
    value_map_figure,
)
from scdmc.annotation.new_cells_tables import FAR, TypeEvidence, cells_text, is_only_rare, labels_shown
from scdmc.annotation.new_cells_verdict import Evidence, verdict_of
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.group_expression import group_expression
from scdmc.cells.scores import classification_scores
from scdmc.labels import is_missing
from scdmc.reports.cell_map import MappedCells, columns_to_map, interactive_map
from scdmc.reports.figures import group_colours, save_figure, shortened, umap_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

MOST_CELLS_OF_PICTURE = 20_000


MOST_NAMED, MOST_POINTS, MOST_PAIRS = 20, 12, 15


def write_new_cells_page(folder: Path, cells: AnnotatedCells, made: Provenance) -> None:
    """Write ``report.html`` and its figures, each as PNG and PDF; the same cells give the same bytes.

    Parameters
    ----------
    folder
        Where to; it is there.
    cells
        The new cells with their labels, and what is known of these.
    made
        From what they were labelled.
    """
    folder, evidence = Path(folder), TypeEvidence(cells)
    scored = _held_out_cells(evidence)
    sections = [
        _section_of_map(folder, evidence),
        _section_of_composition(folder, evidence),
        _section_of_markers(folder, evidence),
        _section_of_doubts(evidence),
        _section_of_methods(folder, cells),
        _section_of_types(folder, cells, scored),
    ]
    title = f"Labels of {cells.new.name} by {cells.reference.name}"
    made = replace(made, settings=_settings(cells))
    write_report(folder / "report.html", title, sections, _verdict(evidence, scored), made)


def _held_out_cells(evidence: TypeEvidence) -> pd.DataFrame:
    """Reference cells that were held out: columns true, label, probability."""
    held_out, true = evidence.cells.held_out, np.asarray(evidence.cells.reference_labels, dtype=object)
    if len(held_out.labels) != len(true):
        return pd.DataFrame({"true": [], "label": [], "probability": []})
    labels = np.asarray(held_out.labels, dtype=object)
    table = pd.DataFrame({"true": true, "label": labels, "probability": held_out.probability})
    return table[(evidence.reference_codes >= 0) & ~is_missing(labels)]


def _verdict(evidence: TypeEvidence, scored: pd.DataFrame) -> Verdict:
    """The verdict with its three numbers."""
    cells = evidence.cells
    scores = _scores_of_all_views(cells, scored)
    doubtful = evidence.doubtful[~evidence.doubtful["doubts"].map(is_only_rare).astype(bool)]
    n_labelled = int((~is_missing(evidence.labels)).sum())
    found = verdict_of(
        Evidence(
            n_types=len(cells.names),
            **scores,
            shared_genes=len(cells.reference.genes),
            reference_genes=cells.reference.n_genes,
            new_genes=cells.new.n_genes,
            share_far=float((cells.distance > FAR).mean()),
            share_unknown=1 - n_labelled / len(cells.labels),
            doubtful=tuple(shortened(name) for name in doubtful.index),
            share_doubtful=doubtful["cells"].sum() / max(n_labelled, 1),
        )
    )
    numbers = (
        _number_of_score(cells, scores["macro_f1"]),
        _number_of_unknown(evidence),
        KeyNumber(
            "Median distance from the reference",
            f"{np.median(cells.distance):.0%}",
            "50% for cells like those of the reference; 100% is farther than any of them",
        ),
    )
    return Verdict(found.level, found.headline, found.reasons, numbers)


def _scores_of_all_views(cells: AnnotatedCells, scored: pd.DataFrame) -> dict[str, float]:
    """Held-out scores as the table has them, or else of the held-out labels themselves; NaN without any."""
    methods, wanted = cells.held_out.methods, ("accuracy", "macro_f1", "calibration_error")
    if ALL_VIEWS in methods.index:
        return {name: float(methods.loc[ALL_VIEWS, name]) for name in wanted}
    if not len(scored):
        return dict.fromkeys(wanted, np.nan)
    true, labels = scored["true"].to_numpy(), scored["label"].to_numpy()
    measured = classification_scores(true, labels)
    error = expected_calibration_error(scored["probability"].to_numpy(dtype=float), true == labels)
    return {"accuracy": measured["accuracy"], "macro_f1": measured["macro_f1"], "calibration_error": error}


def _number_of_score(cells: AnnotatedCells, macro_f1: float) -> KeyNumber:
    """The held-out score beside that of the best method without the language model."""
    methods = cells.held_out.methods
    others = methods[~_uses_model(methods.index)]["macro_f1"].dropna() if len(methods) else pd.Series(dtype=float)
    value = "–" if np.isnan(macro_f1) else f"{macro_f1:.3f}"
    beside = "nothing to compare with was measured"
    if len(others):
        beside = f"{others.max():.3f} for the best method without the language model ({shortened(others.idxmax())})"
    return KeyNumber("Macro-F1 on held-out reference cells", value, beside)


def _number_of_unknown(evidence: TypeEvidence) -> KeyNumber:
    """The share of cells without a label, at the threshold that was used and at the recommended one."""
    cells, missing = evidence.cells, is_missing(evidence.labels)
    familiarity = np.asarray(cells.familiarity, dtype=float)
    # NaN: cells without counts, which no threshold brings back.
    then = (np.isnan(familiarity) | (familiarity < cells.recommended_familiarity)).mean()
    if cells.min_familiarity and np.isclose(cells.min_familiarity, cells.recommended_familiarity):
        beside = f"below a familiarity of {cells.min_familiarity:.2f}, as the reference recommends"
    else:
        beside = (
            f"below a probability of {cells.min_probability:.2f}; {then:.1%} would be below the recommended "
            f"familiarity of {cells.recommended_familiarity:.2f}"
        )
    return KeyNumber("New cells without a label", f"{missing.mean():.1%}", beside)


def _uses_model(methods: pd.Index) -> np.ndarray:
    """True for views of the language model, and for all views together where it is one of them; shape (n_methods,)."""
    of_model = np.array([_is_of_model(name) for name in methods], dtype=bool)
    return of_model | ((methods == ALL_VIEWS) & of_model.any())


def _is_of_model(view: str) -> bool:
    """True for a view of the language model."""
    return view.casefold().startswith(LANGUAGE_MODEL)


def _section_of_map(folder: Path, evidence: TypeEvidence) -> Section:
    """Cells by label, and by how sure and how far they are."""
    cells = evidence.cells
    placed = np.flatnonzero(np.isfinite(np.asarray(cells.umap, dtype=float)).all(axis=1))
    if not len(placed):
        return Section("Map of the new cells", "The cells could not be laid out: they are too few.")
    if len(placed) > MOST_CELLS_OF_PICTURE:
        placed = np.sort(np.random.default_rng(evidence.seed).permutation(placed)[:MOST_CELLS_OF_PICTURE])
    coordinates, shown = np.asarray(cells.umap)[placed], labels_shown(evidence)
    values = {"probability": evidence.probability, "distance": np.asarray(cells.distance, dtype=float)}
    caption = _finding_of_map(evidence)
    by_label = save_figure(umap_figure(coordinates, {"label": shown[placed]}, caption), folder / "umap_labels")
    sureness = (
        f"Half of the cells have a probability of at least {np.median(evidence.probability):.2f}; "
        f"{(cells.distance > FAR).mean():.0%} lie far from the reference"
    )
    by_value = save_figure(
        value_map_figure(coordinates, {name: value[placed] for name, value in values.items()}, sureness),
        folder / "umap_sureness",
    )
    names = np.array([*evidence.names, None], dtype=object)
    obs = cells.new.obs
    mapped = MappedCells(
        cells.umap,
        evidence.labels,
        names[evidence.best],
        names[evidence.second],
        values,
        UNKNOWN,
        columns=columns_to_map(obs),
        ids=obs.index.to_numpy(),
    )
    text = (
        "Each point is a cell, laid out by UMAP: neighbours are alike, but sizes of groups and gaps between them mean "
        "little. Distance is the share of reference cells that lie nearer to the reference than the cell does: 0% is "
        "amidst the reference, 100% is farther than any of its cells. Click the map, then zoom with the wheel or + and "
        "−, and drag it; the arrow keys move it, too. A click on a name shows its cells alone."
    )
    maps = [interactive_map(mapped, caption, by_label, evidence.seed)]
    return Section(
        "Map of the new cells", text, maps=maps, figures=[("Probability and distance of each cell", by_value, sureness)]
    )


def _finding_of_map(evidence: TypeEvidence) -> str:
    n_cells, types = len(evidence.codes), evidence.types
    if not len(types):
        return f"None of the {n_cells:,} new cells has a label"
    first = types.iloc[0]
    return (
        f"{n_cells:,} new cells, {len(types):,} of {len(evidence.names):,} types; the largest is "
        f"{shortened(first.name)} ({first['share']:.0%}); {is_missing(evidence.labels).mean():.0%} have no label"
    )


def _section_of_composition(folder: Path, evidence: TypeEvidence) -> Section:
    """Cells of each type, beside the reference."""
    types = evidence.types
    table = pd.DataFrame({
        "type": types.index, "cells": types["cells"], "share": types["share"],
        "share in the reference": types["reference_share"], "median probability": types["probability"],
        "median distance": types["distance"],
    }).reset_index(drop=True)  # fmt: skip
    unknown = is_missing(evidence.labels)
    if unknown.any():
        distance = np.asarray(evidence.cells.distance)[unknown]
        row = [UNKNOWN, int(unknown.sum()), unknown.mean(), np.nan, np.median(evidence.probability[unknown]),
               np.median(distance)]  # fmt: skip
        table = pd.concat([table, pd.DataFrame([row], columns=table.columns)], ignore_index=True)
    absent = [shortened(name) for name in evidence.names if name not in types.index]
    text = ""
    if absent:
        more = f" and {len(absent) - MOST_NAMED:,} more" if len(absent) > MOST_NAMED else ""
        text = f"No new cell got the label of these types of the reference: {', '.join(absent[:MOST_NAMED])}{more}."
    figures = []
    if len(types):
        away = (types["share"] - types["reference_share"]).abs()
        change = types.loc[away.idxmax()]
        title = (
            f"{shortened(away.idxmax())} differs most: {change['share']:.0%} of the new cells, "
            f"{change['reference_share']:.0%} of the reference"
        )
        figure = composition_figure(types, group_colours(evidence.labels), title)
        caption = "Bars: share of each label in the new cells; lines: share of the type in the reference"
        figures = [(caption, save_figure(figure, folder / "composition"), f"{title}. {caption}")]
    return Section("Composition", text, [("Cells by label", table)], figures)


def _section_of_markers(folder: Path, evidence: TypeEvidence) -> Section:
    """Whether the reference's markers rise in the new cells."""
    types, title = evidence.types, "Do the markers of the reference rise in the new cells?"
    drawn = markers_drawn(evidence.markers, types)
    if not len(drawn):
        return Section(title, "There are no markers to look at: one type only, or no new cell with a label.")
    labels = types.index[: drawn["place"].max() + 1]
    codes = pd.Index(labels).get_indexer(pd.Index(evidence.labels))
    of_labels = group_expression(
        evidence.cells.new.expression[:, drawn["column"].to_numpy(dtype=int)], codes, len(labels)
    )
    mean, share = (pd.DataFrame(values.T, columns=labels) for values in (of_labels.mean, of_labels.share))
    tested = types[types["markers"] > 0]
    fails = [any("markers" in doubt for doubt in doubts) for doubts in tested["doubts"]]
    finding = (
        f"The markers of {len(tested) - sum(fails):,} of {len(tested):,} types rise in the new cells of that label"
    )
    if not len(tested):
        finding = "Markers of the reference in the new cells; too few cells to tell whether they rise"
    figure = save_figure(dot_plot_figure(drawn, mean, share, finding), folder / "markers")
    genes = evidence.markers.groupby("type")["gene"].agg(", ".join)
    table = pd.DataFrame({
        "type": types.index, "cells": types["cells"], "markers tested": types["markers"],
        "share that rise": types["rising"], "mean log2 fold change": types["rise"],
        "verdict": ["not tested" if not n else "doubtful" if any("markers" in doubt for doubt in doubts) else "rise"
                    for n, doubts in zip(types["markers"], types["doubts"], strict=True)],
        "markers in the reference": genes.reindex(types.index).fillna("none"),
    }).reset_index(drop=True)  # fmt: skip
    text = (
        "Markers were sought in the reference, one type against all others (Welch's t; at most ten a type). In the new "
        "cells each is compared between cells of that label and of other labels. New cells were labelled by these same "
        "genes, so rising markers are no proof; markers that do not rise are a warning."
    )
    caption = (
        f"Markers of the {len(labels):,} largest labels in the new cells. Frames: where the reference has these markers"
    )
    figures = [(caption, figure, f"{finding}. {caption}")]
    return Section(title, text, [("Markers by label", table)], figures)


def _section_of_doubts(evidence: TypeEvidence) -> Section:
    """Doubtful types, close pairs, and what to check by hand."""
    doubtful, pairs = evidence.doubtful, evidence.close_pairs
    tables = []
    if len(doubtful):
        why = pd.DataFrame({
            "type": doubtful.index, "cells": doubtful["cells"].to_numpy(), "why": doubtful["doubts"].map("; ".join),
        })  # fmt: skip
        tables.append(("Types with doubts", why.reset_index(drop=True)))
    if len(pairs):
        shown = pairs.head(MOST_PAIRS).rename(columns={
            "share": "share of the label", "reference_cells": "held-out reference cells of the second with this label",
        })  # fmt: skip
        most = f" (the first {MOST_PAIRS} of {len(pairs):,})" if len(pairs) > MOST_PAIRS else ""
        caption = (
            f"Pairs of types between which cells stand: the second has at least half the label's probability{most}"
        )
        tables.append((caption, shown))
    points = _points_to_check(evidence)
    text = "What to check by hand:" if points else (
        "Nothing stands out. Look at a few cells of each label on the map and in the dot plot all the same."
    )  # fmt: skip
    return Section("Doubtful groups, and what to check by hand", text, tables, points=points)


def _points_to_check(evidence: TypeEvidence) -> list[str]:
    """One or two sentences for each doubtful type, and for cells without a label."""
    first_markers = evidence.markers[evidence.markers["rank"] <= 3].groupby("type")["gene"].agg(", ".join)
    seconds = evidence.close_pairs.drop_duplicates("label").set_index("label")["second"]

    def genes_of(name: str) -> str:
        return f"{shortened(name)} ({first_markers[name]})" if name in first_markers else shortened(name)

    points = []
    for name, row in evidence.doubtful.head(MOST_POINTS).iterrows():
        text = f"{shortened(name)}, {cells_text(row['cells'])}: {'; '.join(row['doubts'])}."
        if name in first_markers:
            text += f" See whether the cells have {first_markers[name]}."
        if name in seconds:
            text += f" Compare with {genes_of(seconds[name])}."
        points.append(text)
    if len(evidence.doubtful) > MOST_POINTS:
        points.append(f"{len(evidence.doubtful) - MOST_POINTS:,} more types, in the table below.")
    unknown = is_missing(evidence.labels)
    if unknown.any():
        points.append(_point_of_unknown(evidence, unknown))
    return points


def _point_of_unknown(evidence: TypeEvidence, unknown: np.ndarray) -> str:
    likeliest = pd.Series(evidence.best[unknown & (evidence.best >= 0)]).value_counts()
    far = (np.asarray(evidence.cells.distance)[unknown] > FAR).mean()
    text = f"{UNKNOWN}, {cells_text(unknown.sum())}: {far:.0%} lie far from the reference."
    if len(likeliest):
        share = likeliest.iloc[0] / unknown.sum()
        text += f" The likeliest type of {share:.0%} of them is {shortened(evidence.names[likeliest.index[0]])}."
    return text + " If they lie together on the map, they may be a type that the reference lacks."


def _points_of_left_out(left_out: Mapping[str, str]) -> list[str]:
    """One point for each reason, with the views that it concerns."""
    views = {reason: [view for view in left_out if left_out[view] == reason] for reason in left_out.values()}
    return [f"Left out: {' and '.join(names)}. {reason[:1].upper()}{reason[1:]}" for reason, names in views.items()]


def _section_of_methods(folder: Path, cells: AnnotatedCells) -> Section:
    """What the language model added, beside the controls."""
    title, methods = "How much did the language model help?", cells.held_out.methods
    points = _points_of_left_out(cells.left_out)
    if not len(methods):
        return Section(title, "No reference cells were held out, so that nothing can be compared.", points=points)
    ours = _uses_model(methods.index)
    weight = sum(part for view, part in cells.weights.items() if _is_of_model(view))
    text = f"Views of the language model have {weight:.0%} of the weight."
    if not ours.any():
        text = "The language model has no part in these labels."
    without = methods["macro_f1"][~ours].dropna()
    if ours.any() and ALL_VIEWS in methods.index and len(without):
        gain = methods["macro_f1"][ALL_VIEWS] - without.max()
        size = f"{abs(gain):.3f}"
        effect = f"adds {size}" if gain >= 0.0005 else f"costs {size}" if gain <= -0.0005 else "changes nothing"
        text += (
            f" On held-out reference cells, all views reach a macro-F1 of {methods['macro_f1'][ALL_VIEWS]:.3f}, "
            f"and the best method without the language model ({shortened(without.idxmax())}) {without.max():.3f}: "
            f"the language model {effect}."
        )
    is_labelled = ~is_missing(cells.labels)
    same = {
        view: (np.asarray(labels)[is_labelled] == np.asarray(cells.labels)[is_labelled]).mean()
        for view, labels in cells.view_labels.items()
        if is_labelled.any()
    }
    table = pd.DataFrame({
        "method": methods.index, "weight": methods["weight"], "accuracy": methods["accuracy"],
        "macro-F1": methods["macro_f1"], "log loss (nats)": methods["log_loss"],
        "calibration error": methods["calibration_error"],
        "new cells with the same label": pd.Series(same, dtype=float).reindex(methods.index),
    }).reset_index(drop=True)  # fmt: skip
    figure = save_figure(methods_figure(methods, ours, "Scores on held-out reference cells"), folder / "methods")
    caption = "Accuracy and macro-F1 of every view, of all together and of the controls"
    tables = [("Views and controls on held-out reference cells", table)]
    return Section(title, text, tables, [(caption, figure)], points)


def _section_of_types(folder: Path, cells: AnnotatedCells, scored: pd.DataFrame) -> Section:
    """Scores of each type of the reference, and whether a probability means what it says."""
    title, types = "Types of the reference, held out", cells.held_out.types
    if not len(types):
        return Section(title, "No reference cells were held out.")
    table = types.reset_index(names="type").rename(columns={"n_cells": "cells", "f1": "F1"})
    text = ""
    if cells.held_out.unseen_auroc:
        unseen = pd.Series(dict(cells.held_out.unseen_auroc), dtype=float)
        table["AUROC when left out"] = unseen.reindex(types.index).to_numpy()
        text = (
            "Each type was also left out of the reference in turn. Its cells then were less familiar than others: "
            f"the mean AUROC is {unseen.mean():.3f} (0.5 is chance, 1 is perfect)."
        )
    classes = table.rename(columns={"type": "class", "F1": "f1"})
    worst = table.loc[table["F1"].fillna(0).idxmin()]
    finding = f"The lowest F1 of a type is {worst['F1']:.2f}, that of {shortened(worst['type'])}"
    drawn = save_figure(per_class_figure(classes, finding), folder / "held_out_types")
    figures = [("Precision, recall and F1 of each type, all views together", drawn, finding)]
    if len(scored):
        is_right = (scored["true"] == scored["label"]).to_numpy()
        probability = scored["probability"].to_numpy(dtype=float)
        gap = expected_calibration_error(probability, is_right)
        finding = f"Probabilities are {gap:.1%} away from the share of right labels, on average"
        drawn = save_figure(
            reliability_figure(reliability_table(probability, is_right), finding), folder / "reliability"
        )
        figures.append(("Probability and share of right labels, held-out reference cells", drawn, finding))
    return Section(title, text, [("Scores of each type of the reference", table)], figures)


def _settings(cells: AnnotatedCells) -> dict[str, str]:
    """What was done with what."""
    new, reference = cells.new, cells.reference
    return {
        "new cells": f"{new.name}: {len(cells.labels):,} cells, {new.n_genes:,} genes",
        "reference": f"{reference.name}: {len(cells.reference_labels):,} cells, {reference.n_genes:,} genes",
        "shared genes": f"{len(cells.reference.genes):,}",
        "probability needed for a label": f"{cells.min_probability:.2f}",
        "familiarity needed for a label": f"{cells.min_familiarity:.2f}",
        "familiarity recommended": f"{cells.recommended_familiarity:.2f}",
        **{str(name): str(value) for name, value in cells.facts.items()},
    }
