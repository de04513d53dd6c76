"""One folder with everything needed to use a model (docs/method.md, "Model directory")."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary, require_same_vocabulary
from scdmc.model.checks import require_fitting_weights, require_sound_config
from scdmc.model.names import CONFIG_FILE, GENE_MEDIANS_FILE, TOKEN_IDS_FILE, TOKENIZATION_FILE
from scdmc.model.shipped import model_folder
from scdmc.model.weights import weight_shapes, weights_file
from scdmc.result_folders import require_whole
from scdmc.tokens.medians import GeneMedians, load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelDirectory:
    """What a model folder says beside its weights.

    Attributes
    ----------
    path
        The folder.
    config
        Sizes of the model; label names for a classifier.
    vocabulary, medians, settings
        How cells must be tokenized for this model.
    loaded
        The model itself where it was given as such; its weights then take the place of those in the folder.
    """

    path: Path
    config: ScDMCConfig
    vocabulary: Vocabulary
    medians: GeneMedians
    settings: TokenizationSettings
    loaded: "PreTrainedModel | None" = field(default=None, compare=False, repr=False)

    @property
    def context(self) -> int:
        """Longest stream that the model reads, ``<cls>`` and ``<eos>`` included."""
        return self.config.max_position_embeddings

    def with_context(self, context: int | None) -> "ModelDirectory":
        """The same with another context, or as it is for None; ALiBi lets a model read more than it was trained on."""
        if context is None:
            return self
        config = changed_config(self.config, max_position_embeddings=context)
        return replace(self, config=config, settings=replace(self.settings, model_input_size=context))


def open_model_directory(path: str | Path, token_dictionary_file: Path | None = None) -> ModelDirectory:
    """Read everything but the weights.

    Parameters
    ----------
    path
        The model folder, or the name of a shipped model.
    token_dictionary_file
        Vocabulary of a published folder that brings none.

    Raises
    ------
    ScDMCError
        If the folder is absent or incomplete, or its parts disagree.
    """
    path = model_folder(path)
    weights_file(path)
    require_whole(path, TOKEN_IDS_FILE, GENE_MEDIANS_FILE, TOKENIZATION_FILE)
    config = read_config(path)
    require_fitting_weights(config, weight_shapes(path), path)
    if token_dictionary_file is None and not (path / TOKEN_IDS_FILE).exists():
        raise ScDMCError(f"{path} has no {TOKEN_IDS_FILE}; name its vocabulary with --token_dictionary_file")
    vocabulary = load_vocabulary(token_dictionary_file or path / TOKEN_IDS_FILE)
    if len(vocabulary) != config.vocab_size:
        raise ScDMCError(
            f"{path}: the model has {config.vocab_size:,} tokens, but {vocabulary.source} has {len(vocabulary):,}"
        )
    has_medians = (path / GENE_MEDIANS_FILE).exists()
    if not has_medians:
        logger.warning("warning: %s has no %s; every median counts as 1", path, GENE_MEDIANS_FILE)
    medians = load_gene_medians(path / GENE_MEDIANS_FILE if has_medians else None)
    if not (path / TOKENIZATION_FILE).exists():
        settings = TokenizationSettings(vocabulary.sha256, medians.sha256, config.max_position_embeddings)
        return ModelDirectory(path, config, vocabulary, medians, settings)
    content = read_json_object(path / TOKENIZATION_FILE, "tokenization settings")
    settings = TokenizationSettings.from_dict(content, str(path / TOKENIZATION_FILE))
    require_same_vocabulary(settings.vocabulary_sha256, vocabulary.sha256, str(path), vocabulary.source)
    if medians.sha256 != settings.gene_medians_sha256:
        raise ScDMCError(f"{path}: {GENE_MEDIANS_FILE} is not the file that the model was trained with")
    return ModelDirectory(path, config, vocabulary, medians, settings)


def require_same_settings(found: TokenizationSettings, model_directory: ModelDirectory, source: str) -> None:
    """Refuse cells that were tokenized with another vocabulary or other medians than a model's.

    Parameters
    ----------
    found
        How the cells were tokenized.
    model_directory
        The model that is to read them.
    source
        Where the cells are, for the message.

    Raises
    ------
    ScDMCError
        If vocabulary or medians differ.
    """
    expected, path = model_directory.settings, model_directory.path
    require_same_vocabulary(expected.vocabulary_sha256, found.vocabulary_sha256, str(path), source)
    if found.gene_medians_sha256 != expected.gene_medians_sha256:
        raise ScDMCError(
            f"{source} was tokenized with other gene medians than {path}; tokenize the counts again with "
            f"--gene_median_file {path / GENE_MEDIANS_FILE} --token_dictionary_file {path / TOKEN_IDS_FILE}"
        )


def read_config(path: Path) -> ScDMCConfig:
    """The configuration of a model folder; a published one, which calls itself BERT, is read for what it is.

    Raises
    ------
    ScDMCError
        If there is none, or a value is of another type or outside of any sensible range.
    """
    require_whole(path, CONFIG_FILE)
    content = read_json_object(Path(path) / CONFIG_FILE, "model configuration")
    if content.get("model_type") not in ("scdmc", "bert"):
        raise ScDMCError(f"{path}: the model is of type {content.get('model_type')!r}, not scdmc")
    require_sound_config(content, str(Path(path) / CONFIG_FILE))
    # A null, which two fields may have, stands for the default.
    config = ScDMCConfig(
        **{name: content[name] for name in ScDMCConfig.__annotations__ if content.get(name) is not None}
    )
    if "id2label" in content:
        config.id2label = {int(number): label for number, label in content["id2label"].items()}
        config.label2id = {label: number for number, label in config.id2label.items()}
    if "alibi_starting_size" in content:
        config.max_position_embeddings = content["alibi_starting_size"]
    return config


def changed_config(config: ScDMCConfig, **changes: object) -> ScDMCConfig:
    """The same configuration with some fields changed; a field that there is not is a ``TypeError``."""
    unknown = sorted(set(changes) - set(config.to_dict()))
    if unknown:
        raise TypeError(f"ScDMCConfig has no field {', '.join(unknown)}")
    return ScDMCConfig(**{**config.to_dict(), **changes})
