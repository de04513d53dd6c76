"""Stage 3 of ``text_pretrain.py``: from a corpus, its counts and the texts of a model to a generator in its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import write_json
from scdmc.model.folder import ModelDirectory
from scdmc.model.names import CARD_FILE
from scdmc.reading.options import CountOptions
from scdmc.result_folders import extended_folder
from scdmc.text.corpus import TRAIN, Corpus
from scdmc.text.model import TextSpace, read_text_model
from scdmc.text.pseudo_cells.counts import read_corpus_counts
from scdmc.text.pseudo_cells.generator import CellGenerator
from scdmc.text.pseudo_cells.guidance import with_best_guidance
from scdmc.text.pseudo_cells.novelty import novelty_threshold
from scdmc.text.pseudo_cells.options import GeneratorOptions
from scdmc.text.pseudo_cells.storage import FILES, save_generator
from scdmc.text.pseudo_cells.training import train_generator
from scdmc.text.pseudo_cells.training_data import generator_data

ARGUMENTS_FILE = "generator_arguments.json"


CARD_HEADING = "\n## Cells of texts\n"


@dataclass(frozen=True)
class TrainedGenerator:
    """What stage 3 gave.

    Attributes
    ----------
    generator
        With the guidance that is best on validation cells.
    history
        Rows of part, step and loss.
    guidances
        What was tried on validation cells.
    facts
        What ``generator.json`` says of the training.
    """

    generator: CellGenerator
    history: pd.DataFrame
    guidances: pd.DataFrame
    facts: dict[str, object]

    def save(self, folder: Path) -> None:
        """Write it into the folder of the text model."""
        save_generator(folder, self.generator, self.history, self.facts)

    def summary(self) -> list[str]:
        """What to say of it, line by line."""
        generator, lines = self.generator, []
        if len(self.guidances):
            lines.append(self.guidances.to_string(index=False, float_format="%.3f"))
        chosen = "by validation cells" if len(self.guidances) else "not chosen: too few validation cells"
        lines.append(
            f"generator: {len(generator.genes):,} genes, {self.facts['training_cells']:,} training cells, guidance "
            f"{generator.guidance:g} ({chosen})"
        )
        return lines


def trained_generator(
    corpus: Corpus,
    counts_paths: Sequence[Path],
    model_directory: ModelDirectory,
    space: TextSpace,
    options: GeneratorOptions,
    counts: CountOptions | None = None,
) -> TrainedGenerator:
    """Train a generator on a corpus, and choose its guidance.

    Parameters
    ----------
    corpus, counts_paths
        The cells, and the files of their counts.
    model_directory
        With which the corpus was tokenized.
    space
        The training texts of the text model.
    options
        How.
    counts
        How the files are read.

    Raises
    ------
    ScDMCError
        If the counts are not those of the corpus, or there are too few cells or genes.
    """
    data = generator_data(
        corpus, read_corpus_counts(corpus, counts_paths, model_directory, counts), space, options.panel_genes
    )
    generator, history = train_generator(data, options)
    generator, guidances = with_best_guidance(generator, data, options.seed)
    facts = {
        "corpus": corpus.path.name,
        "parts": corpus.parts_sha256,
        "counts": [Path(path).name for path in counts_paths],
        "training": asdict(options),
        "training_cells": int(data.is_training.sum()),
        "validation_cells": int((~data.is_training).sum()),
        "novelty_threshold": novelty_threshold(space),
        "guidances": guidances.to_dict(orient="records"),
    }
    return TrainedGenerator(generator, history, guidances, facts)


def add_to_model(folder: Path, trained: TrainedGenerator, arguments: Mapping[str, object]) -> None:
    """Add a generator to a text model, in place of an older one; the folder is whole before and after.

    Parameters
    ----------
    folder
        Of the text model.
    trained
        The generator.
    arguments
        The flags, for ``generator_arguments.json``.
    """
    with extended_folder(folder, {*FILES, ARGUMENTS_FILE}.__contains__) as hidden:
        trained.save(hidden)
        write_json(hidden / ARGUMENTS_FILE, dict(arguments))
        card = hidden / CARD_FILE
        text = card.read_text(encoding="utf8") if card.is_file() else ""
        card.write_text(text.partition(CARD_HEADING)[0].rstrip("\n") + _card_of(trained), encoding="utf8")


def _card_of(trained: TrainedGenerator) -> str:
    generator, facts = trained.generator, trained.facts
    return (
        f"\n{CARD_HEADING}\n`scdmc generate-cells` makes cells of texts: counts of {len(generator.genes):,} genes and "
        f"of all others together. The generator was trained on {facts['training_cells']:,} cells of "
        f"{', '.join(generator.data_sets)}, and its guidance is {generator.guidance:g}. Its cells look like those of "
        "these data sets. Of a text that is far from all of its terms they are a guess, and a warning says so.\n"
    )


def texts_of_model(folder: Path, corpus: Corpus) -> TextSpace:
    """The training texts of a text model to which a generator is added.

    Raises
    ------
    ScDMCError
        If the folder is no text model, or was trained on other terms or with another text encoder than the corpus has.
    """
    model, _ = read_text_model(folder)
    encoder = corpus.facts["text_encoder"]
    if encoder and encoder["sha256"] != model.texts.encoder_sha256:
        raise ScDMCError(
            f"{corpus.path} has vectors of another text encoder ({encoder['name']}) than {folder} "
            f"({model.texts.encoder_name}); make the corpus again"
        )
    own = set(corpus.terms_of(TRAIN)["cl_id"])
    missing = sorted(set(model.texts.terms["cl_id"]) - own)
    if missing:
        raise ScDMCError(
            f"{folder} was trained on terms of which {corpus.path} has no training cells: {shown_names(missing)}; name "
            "the corpus that it was trained on"
        )
    return model.texts
