"""One folder with everything needed to use a model (design.md, section 7)."""

import json
import logging
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, write_json
from scdmc.gene_medians import GeneMedians, load_gene_medians
from scdmc.modeling import (
    TIED_WEIGHT,
    ScDMCForCellClassification,
    ScDMCForMaskedLM,
    ScDMCModel,
    ScDMCPreTrainedModel,
)
from scdmc.shipped_models import model_folder
from scdmc.tokenized_data import TokenizationSettings
from scdmc.vocabulary import Vocabulary, load_vocabulary, require_same_vocabulary

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PUBLISHED_WEIGHTS_FILE = "pytorch_model.bin"
SPLIT_WEIGHTS_FILE = "model-{:05d}.safetensors"
# A table that is larger than a file is cut into blocks of rows, named after it.
ROWS_SUFFIX = ".rows."
TOKEN_IDS_FILE = "token_ids.json"
GENE_MEDIANS_FILE = "gene_medians.json"
TOKENIZATION_FILE = "tokenization.json"
CARD_FILE = "README.md"
VERSIONED_PACKAGES = ("scdmc", "torch", "transformers", "accelerate", "numpy", "pyarrow")


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
    """

    path: Path
    config: ScDMCConfig
    vocabulary: Vocabulary
    medians: GeneMedians
    settings: TokenizationSettings

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
    config = read_config(path)
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


def weights_file(path: Path) -> Path:
    """The file of weights in a model folder.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    for name in (WEIGHTS_FILE, SPLIT_WEIGHTS_FILE.format(1), PUBLISHED_WEIGHTS_FILE):
        if (path / name).is_file():
            return path / name
    raise ScDMCError(f"{path} holds no weights ({WEIGHTS_FILE} or {PUBLISHED_WEIGHTS_FILE}); is it a model folder?")


def read_config(path: Path) -> ScDMCConfig:
    """The configuration of a model folder; a published one, which calls itself BERT, is read for what it is."""
    content = read_json_object(Path(path) / CONFIG_FILE, "model configuration")
    if content.get("model_type") not in ("scdmc", "bert"):
        raise ScDMCError(f"{path}: the model is of type {content.get('model_type')!r}, not scdmc")
    names = {*ScDMCConfig().to_dict(), "id2label", "label2id"} - {"model_type", "transformers_version", "architectures"}
    config = ScDMCConfig(**{name: content[name] for name in names if name in content})
    if "alibi_starting_size" in content:
        config.max_position_embeddings = content["alibi_starting_size"]
    return config


def changed_config(config: ScDMCConfig, **changes: object) -> ScDMCConfig:
    """The same configuration with some fields changed; a field that there is not is a ``TypeError``."""
    unknown = sorted(set(changes) - set(config.to_dict()))
    if unknown:
        raise TypeError(f"ScDMCConfig has no field {', '.join(unknown)}")
    return ScDMCConfig(**{**config.to_dict(), **changes})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a model folder; no format can run code (``.bin`` is read with ``weights_only=True``).

    Weights that :func:`write_split_weights` cut into several files are joined.
    """
    path = Path(path)
    file = weights_file(path)
    try:
        if file.name == SPLIT_WEIGHTS_FILE.format(1):
            return _read_split_weights(path)
        weights = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, weights_only=True, map_location="cpu")
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ScDMCError(f"{file} is damaged or no file of weights ({reason})") from error
    if not isinstance(weights, Mapping):
        raise ScDMCError(f"{file} holds a {type(weights).__name__}, not tensors by name")
    return weights


def saw_labels(model_directory: ModelDirectory) -> bool:
    """True if the folder holds a classifier, whose encoder was trained with labels."""
    return any(name.startswith("classifier.") for name in read_weights(model_directory.path))


def write_split_weights(path: Path, weights: Mapping[str, torch.Tensor], max_bytes: int) -> list[Path]:
    """Write weights as float16 in files of at most ``max_bytes``; tables are cut between rows where they must be.

    Parameters
    ----------
    path
        The folder.
    weights
        Name -> tensor.
    max_bytes
        Largest file.

    Returns
    -------
    The files.
    """
    room = max_bytes - 65_536  # for names and shapes
    pieces: list[tuple[str, torch.Tensor]] = []
    for name, tensor in sorted(weights.items()):
        half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        row_bytes = max(1, half[:1].numel() * half.element_size()) if half.ndim else half.element_size()
        blocks = half.split(max(1, room // row_bytes)) if half.ndim else (half,)
        pieces += [
            (name if len(blocks) == 1 else f"{name}{ROWS_SUFFIX}{i:05d}", block) for i, block in enumerate(blocks)
        ]
    files: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for name, tensor in pieces:
        n_bytes = tensor.numel() * tensor.element_size()
        if used + n_bytes > room and files[-1]:
            files.append({})
            used = 0
        files[-1][name] = tensor.contiguous()
        used += n_bytes
    paths = [path / SPLIT_WEIGHTS_FILE.format(number) for number in range(1, len(files) + 1)]
    for file, content in zip(paths, files, strict=True):
        _save_tensors(file, content, files=str(len(files)))
    return paths


def _save_tensors(file: Path, tensors: Mapping[str, torch.Tensor], **more: str) -> None:
    """Write safetensors; transformers reads the format from the metadata."""
    with atomic_path(file) as temporary:
        temporary.touch()
        rights = temporary.stat().st_mode  # those that the user's umask gives, and safetensors would not
        save_file(dict(tensors), temporary, metadata={"format": "pt", **more})
        temporary.chmod(rights)


def _read_split_weights(path: Path) -> dict[str, torch.Tensor]:
    """Join the files and blocks of rows that :func:`write_split_weights` wrote."""
    with safe_open(path / SPLIT_WEIGHTS_FILE.format(1), framework="pt") as first:
        n_files = int(first.metadata()["files"])
    pieces: dict[str, torch.Tensor] = {}
    for number in range(1, n_files + 1):
        pieces |= load_file(path / SPLIT_WEIGHTS_FILE.format(number))
    joined: dict[str, list[torch.Tensor]] = {}
    for name in sorted(pieces):
        joined.setdefault(name.partition(ROWS_SUFFIX)[0], []).append(pieces[name])
    return {name: torch.cat(blocks) if len(blocks) > 1 else blocks[0] for name, blocks in joined.items()}


def load_model(
    path: str | Path, model_class: type[ScDMCPreTrainedModel], changes: Mapping[str, object] | None = None
) -> ScDMCPreTrainedModel:
    """Load a model, in evaluation mode, strictly: no weight stays random.

    Parameters
    ----------
    path
        Model folder, ours or a published one (recognised by the names of its parameters), or the name of a shipped
        model.
    model_class
        ``ScDMCModel``, ``ScDMCForMaskedLM`` or ``ScDMCForCellClassification``.
    changes
        Fields of the configuration to be changed, such as dropouts; none that changes the shape of a weight.

    Raises
    ------
    ScDMCError
        If there is no such folder, or weights are missing, unknown, or of another shape.
    """
    path = model_folder(path)
    model = model_class(changed_config(read_config(path), **(changes or {})))
    load_weights(model, read_weights(path), str(path))
    return model.eval()


def load_weights(model: ScDMCPreTrainedModel, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Put all weights of a folder into a model; heads that the model does not have are left out."""
    prefix = "bert."
    if isinstance(model, ScDMCModel):
        weights = {
            name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)
        } or weights
    expected = model.state_dict()
    tied = {TIED_WEIGHT}
    missing = sorted(set(expected) - set(weights) - tied)
    if missing and all(name.startswith("classifier.") for name in missing):
        raise ScDMCError(f"{source} is no classifier; fine-tune it first with downstream_tasks.py")
    if missing:
        raise ScDMCError(
            f"{source}: {len(missing)} weights of {type(model).__name__} are missing, such as {', '.join(missing[:3])}"
        )
    wrong = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if wrong:
        raise ScDMCError(
            f"{source}: {wrong[0]} has shape {tuple(weights[wrong[0]].shape)}, "
            f"but the configuration asks for {tuple(expected[wrong[0]].shape)}"
        )
    unknown = sorted(name for name in weights if name not in expected and not name.startswith(("cls.", "classifier.")))
    if unknown:
        raise ScDMCError(
            f"{source}: unknown weights, such as {', '.join(unknown[:3])}; the layout is not that of scDMC"
        )
    decoder = weights.get(TIED_WEIGHT)
    embedding = weights.get("bert.embeddings.word_embeddings.weight")
    if decoder is not None and embedding is not None and not torch.equal(decoder, embedding):
        raise ScDMCError(f"{source}: the decoder's matrix is not the word embedding; in scDMC the two are one")
    model.load_state_dict({name: weights[name] for name in expected if name in weights}, strict=False)


def load_classifier_for_training(
    model_directory: ModelDirectory,
    label_names: Sequence[str],
    stream: str,
    dropout: float,
    is_pretrained: bool = True,
    pooling: str = "cls",
) -> ScDMCForCellClassification:
    """A classifier with the encoder of a pre-trained folder (or, to compare, a random one) and a new, random head."""
    config = changed_config(
        model_directory.config, classifier_stream=stream, classifier_dropout=dropout, classifier_pooling=pooling
    )
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    model = ScDMCForCellClassification(config)
    if is_pretrained:
        load_weights(model.bert, read_weights(model_directory.path), str(model_directory.path))
    return model


def save_model_directory(
    path: Path,
    model: ScDMCForMaskedLM | ScDMCForCellClassification,
    vocabulary: Vocabulary,
    medians: GeneMedians,
    settings: TokenizationSettings,
    card: str,
) -> None:
    """Write a model folder; the weights appear last, so that a folder with weights is a complete one.

    Parameters
    ----------
    path
        The folder; other files in it stay.
    model
        The model.
    vocabulary, medians, settings
        How cells must be tokenized for it.
    card
        Text of the model card (see :func:`model_card`).
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocabulary.save(path / TOKEN_IDS_FILE)
    medians.save(path / GENE_MEDIANS_FILE)
    write_json(path / TOKENIZATION_FILE, settings.to_dict())
    with atomic_path(path / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf8")
    model.config.architectures = [type(model).__name__]
    with atomic_path(path / CONFIG_FILE) as temporary:
        model.config.to_json_file(temporary, use_diff=False)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != TIED_WEIGHT}
    _save_tensors(path / WEIGHTS_FILE, weights)


def model_card(title: str, facts: Mapping[str, object], metrics: Mapping[str, float], command: Sequence[str]) -> str:
    """Text of a model card: what was trained on what, how, and how well.

    Parameters
    ----------
    title
        First line.
    facts
        Name -> value: data, cells, steps, sizes.
    metrics
        Name -> value, as measured at the end.
    command
        The command line that made the model.
    """
    versions = {package: version(package) for package in VERSIONED_PACKAGES}
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    lines += ["", "## Command", "", "    " + " ".join(command), "", "## Versions", ""]
    lines += [
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {number}" for name, number in versions.items())
    ]
    lines += [
        "",
        "## Limits",
        "",
        "Trained on human cells; Ensembl ids outside of token_ids.json are ignored. Not a medical device.",
        "",
    ]
    return "\n".join(lines)


def describe_arguments(arguments: object) -> str:
    """Parsed arguments as sorted JSON, kept with a model."""
    return json.dumps({name: str(value) for name, value in vars(arguments).items()}, indent=1, sort_keys=True) + "\n"
