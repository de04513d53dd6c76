"""A trained text model: how well it does on validation cells, its folder, its card and its page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.locks import command_of_run
from scdmc.model.storage import model_card
from scdmc.reports.figures import save_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.text.corpus import Corpus
from scdmc.text.features import Centre
from scdmc.text.model import CellTextModel, save_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextTrainingOptions
from scdmc.text.projectors.qformer_training import Checkpointing
from scdmc.text.training import LabelledSet, Trained, calibrated, train, validation_score
from scdmc.text.training_data import TrainingData
from scdmc.training.figures import loss_curve_figure

HISTORY_FILE = "history.csv"


# Of the macro-F1 on validation cells: better is good, worse than the second is bad.
GOOD, BAD = 0.7, 0.4


@dataclass(frozen=True)
class TrainedTextModel:
    """What a training gave.

    Attributes
    ----------
    model
        The model.
    history
        Rows of step, loss, validation_macro_f1.
    calibration
        Content of ``calibration.json``.
    data_sets
        One row a data set: cells, terms, macro-F1 of the validation cells, and that of chance.
    """

    model: CellTextModel
    history: pd.DataFrame
    calibration: dict[str, object]
    data_sets: pd.DataFrame

    @property
    def score(self) -> float:
        """Mean macro-F1 on validation cells."""
        return float(self.data_sets["validation macro-F1"].mean())

    def summary(self) -> list[str]:
        """What to say of it, line by line."""
        found = "left-out data sets" if self.calibration["is_calibrated"] else "nothing: not calibrated"
        return [
            self.data_sets.to_string(index=False, float_format="%.3f"),
            f"temperature {self.model.temperature:g}, by {found}",
        ]


def trained_model(
    data: TrainingData,
    corpus: Corpus,
    options: TextTrainingOptions,
    ontology: CellOntology,
    checkpointing: Checkpointing | None = None,
    has_calibration: bool = True,
) -> TrainedTextModel:
    """Train on a corpus, and find the temperature.

    Parameters
    ----------
    data
        What :func:`scdmc.text.training_data.training_data` gave.
    corpus
        Where it is from.
    options
        What is trained, and how.
    ontology
        Which terms are related.
    checkpointing
        Of a Q-Former (:func:`scdmc.text.training.train`).
    has_calibration
        False leaves the temperature at its default, where no probability is wanted.
    """
    trained = train(data.sets, data.space, options, checkpointing=checkpointing)
    data = data.read_by(trained)
    sets = data.sets
    ids = data.space.terms["cl_id"].tolist()
    related = np.array([[ontology.relatives(one, other) for other in ids] for one in ids], dtype=bool)
    calibration = calibrated(sets if has_calibration else sets[:1], data.space, options, related)
    table = _table_of_sets(sets, trained, data)
    facts = {
        "corpus": corpus.path.name,
        "parts": corpus.parts_sha256,
        "data_sets": {
            each.name: data.space.terms["cl_id"].iloc[each.own_terms].tolist() for each in sets
        },
        "ontology": corpus.facts["ontology"],
        "held_out_terms": corpus.facts["held_out_terms"],
        "training": asdict(options),
    }  # fmt: skip
    if options.qformer_from is not None:  # its name alone: a folder tells of the machine
        facts["training"]["qformer_from"] = Path(options.qformer_from).resolve().name
    model = CellTextModel(
        data.maker.kind,
        options.projector,
        trained.projection,
        Centre.shared(data.centres),
        data.maker.components,
        data.space,
        float(calibration["temperature"]),
        float(calibration["none_margin"]),
        facts,
        trained.reader,
    )
    return TrainedTextModel(model, trained.history, calibration, table)


def _table_of_sets(sets: Sequence[LabelledSet], trained: Trained, data: TrainingData) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "data set": [each.name for each in sets],
            "training cells": [int(each.is_training.sum()) for each in sets],
            "validation cells": [int((~each.is_training).sum()) for each in sets],
            "terms": [len(each.own_terms) for each in sets],
            "validation macro-F1": [validation_score(trained.projection, [each], data.space) for each in sets],
            "chance": [1 / len(each.own_terms) for each in sets],
        }
    )


def write_text_model(folder: Path, trained: TrainedTextModel, data: TrainingData, shares_encoder: bool = False) -> None:
    """Write the model with its card and ``history.csv``.

    Parameters
    ----------
    folder
        To write.
    trained, data
        The model, and what it was trained on.
    shares_encoder
        Whether the encoder of cells, which must come with scDMC, is named in place of a copy.
    """
    model, terms = trained.model, trained.model.texts.terms
    facts = {
        "data": trained.model.facts["corpus"],
        "data sets": ", ".join(trained.data_sets["data set"]),
        "training cells": f"{trained.data_sets['training cells'].sum():,}",
        "terms": f"{len(terms)}: {'; '.join(terms['label'])}",
        "features, projector": f"{model.features}, {model.projector}",
        **_facts_of_reader(model),
        "text encoder": f"{model.texts.encoder_name} ({model.texts.encoder_sha256[:12]})",
        "temperature": f"{model.temperature:g}",
        "cannot see": "types that are no relatives of its terms: their cells may get any label",
    }
    command = list(command_of_run()) or ["scdmc", "text-pretrain"]
    metrics = {} if np.isnan(trained.score) else {"validation macro-F1": trained.score}
    card = model_card("scDMC, cells and texts", facts, metrics, command, "zero-shot-classification")
    encoder_name = data.maker.model_directory.path.name
    encoder_card = None
    if not shares_encoder:
        encoder_card = model_card(f"The encoder {encoder_name} of a text model", {}, {}, command)
    save_text_model(folder, model, data.maker, trained.calibration, card, encoder_card)
    trained.history.to_csv(folder / HISTORY_FILE, index=False)


def _facts_of_reader(model: CellTextModel) -> dict[str, str]:
    """What the card says of a Q-Former."""
    if model.reader is None:
        return {}
    shape, n_weights = model.reader.shape, sum(weight.numel() for weight in model.reader.parameters())
    return {
        "Q-Former": f"{shape.n_layers} layers of width {shape.hidden_size}, {shape.n_queries} queries, "
        f"{n_weights:,} weights",
        "reads": f"the first {shape.max_tokens} tokens of a cell; the encoder was not trained",
    }


def write_training_page(
    folder: Path, trained: TrainedTextModel, data: TrainingData, origin: tuple[Path, float]
) -> None:
    """Write ``report.html``, and the loss curves of a training that has some.

    Parameters
    ----------
    folder
        Where.
    trained, data
        What was trained, on what.
    origin
        The corpus, and when the work began.
    """
    corpus, began = origin
    model = trained.model
    made = Provenance((corpus,), data.maker.model_directory.path.name, model.facts["training"]["seed"], began)
    tables = [
        ("Data sets, and how well their validation cells find their term among those of the set", trained.data_sets)
    ]
    figures = []
    if len(trained.history) > 1:
        title = f"The loss ends at {trained.history['loss'].iloc[-1]:.2f}"
        figures = [(title, save_figure(loss_curve_figure(trained.history, title), folder / "loss_curves"))]
    sections = [
        Section("Data sets", tables=tables, figures=figures),
        Section("Terms", _text_of_terms(trained), tables=[("Training terms", model.texts.terms[["cl_id", "label"]])]),
    ]
    title = f"Cells and texts: {len(model.texts.terms)} terms, {len(trained.data_sets)} data sets"
    write_report(folder / "report.html", title, sections, _verdict(trained), made)


def _text_of_terms(trained: TrainedTextModel) -> str:
    why = "" if trained.calibration["is_calibrated"] else f" It is {trained.calibration['why']}."
    return (
        "Cells may be annotated by any text. What these terms and their relatives do not cover is a guess. "
        f"Scores become probabilities at the temperature {trained.model.temperature:g}.{why}"
    )


def _verdict(trained: TrainedTextModel) -> Verdict:
    score, chance = trained.score, trained.data_sets["chance"].mean()
    level = "good" if score >= GOOD else "bad" if score < BAD else "caution"
    headline = "Cells find the texts of their types" if level == "good" else "Cells often miss the texts of their types"
    if np.isnan(score):
        level, headline = "caution", "There were no validation cells to look at"
    reason = "Validation cells are of the training data sets; a new data set is harder. scdmc annotate-text labels one."
    number = KeyNumber("Macro-F1 on validation cells", f"{score:.2f}", f"chance {chance:.2f}")
    return Verdict(level, headline, (reason,), (number,))
