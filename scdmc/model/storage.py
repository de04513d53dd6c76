"""Models on disk: a model folder is written, a model is loaded from one, and the model card."""

import copy
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import ModelCardData

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, without_folders, write_json
from scdmc.genes.vocabulary import Vocabulary
from scdmc.model.checks import require_fitting_weights
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory, changed_config, open_model_directory, read_config
from scdmc.model.heads import TIED_WEIGHT, ScDMCForCellClassification, ScDMCForMaskedLM
from scdmc.model.names import (
    CARD_FILE,
    CONFIG_FILE,
    GENE_MEDIANS_FILE,
    TOKEN_IDS_FILE,
    TOKENIZATION_FILE,
    WEIGHTS_FILE,
)
from scdmc.model.shipped import model_folder
from scdmc.model.standalone import AUTO_MAP, write_standalone_model
from scdmc.model.weights import read_weights, save_tensors, weight_names
from scdmc.result_folders import unchanged
from scdmc.tokens.medians import GeneMedians
from scdmc.tokens.tokenized_cells import TokenizationSettings
from scdmc.version import __version__


def load(folder: str | Path, token_dictionary_file: str | Path | None = None) -> ScDMCPreTrainedModel:
    """Load a model folder, ours or a published one, as what its weights say that it is; strict, in evaluation mode.

    The name of a shipped model, such as ``"scDMC-small"``, stands for its folder. The functions of :mod:`scdmc` take
    the result as ``model`` and read no weights again.

    Parameters
    ----------
    folder
        The folder, or the name of a shipped model.
    token_dictionary_file
        Vocabulary of a published folder that brings none.

    Returns
    -------
    ``ScDMCForCellClassification``, ``ScDMCForMaskedLM``, or ``ScDMCModel`` where there is neither head. Its
    ``model_directory`` says how cells must be tokenized for it; None for a folder without vocabulary.

    Raises
    ------
    ScDMCError
        If the folder is no model folder, or weights are missing.
    """
    folder = model_folder(folder)
    heads = {name.partition(".")[0] for name in weight_names(folder)}
    if "classifier" in heads:
        model = load_model(folder, ScDMCForCellClassification)
    else:
        model = load_model(folder, ScDMCForMaskedLM if "cls" in heads else ScDMCModel)
    has_vocabulary = token_dictionary_file is not None or (folder / TOKEN_IDS_FILE).is_file()
    model.model_directory = open_model_directory(folder, token_dictionary_file) if has_vocabulary else None
    return model


CARD_TAGS = ("biology", "single-cell", "transcriptomics", "scdmc")


VERSIONED_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pyarrow")


def saw_labels(model_directory: ModelDirectory) -> bool:
    """True if the folder holds a classifier, whose encoder was trained with labels."""
    if model_directory.loaded is not None:
        return isinstance(model_directory.loaded, ScDMCForCellClassification)
    return any(name.startswith("classifier.") for name in weight_names(model_directory.path))


def weights_of(model_directory: ModelDirectory) -> Mapping[str, torch.Tensor]:
    """Weights by name: those of the loaded model, or of the folder."""
    loaded = model_directory.loaded
    return read_weights(model_directory.path) if loaded is None else loaded.state_dict()


def load_model(
    path: str | Path | ModelDirectory,
    model_class: type[ScDMCPreTrainedModel],
    changes: Mapping[str, object] | None = None,
) -> ScDMCPreTrainedModel:
    """Load a model, in evaluation mode, strictly: no weight stays random.

    Parameters
    ----------
    path
        Model folder, ours or a published one (recognised by the names of its parameters), or the name of a shipped
        model; or an opened folder, whose loaded model, if it has one, is copied.
    model_class
        ``ScDMCModel``, ``ScDMCForMaskedLM`` or ``ScDMCForCellClassification``.
    changes
        Fields of the configuration to be changed, such as dropouts; none that changes the shape of a weight.

    Raises
    ------
    ScDMCError
        If there is no such folder, or weights are missing, unknown, or of another shape.
    """
    if isinstance(path, ModelDirectory):
        weights, path = weights_of(path), path.path
        config = read_config(path)
    else:
        path = model_folder(path)
        with unchanged(path):  # weights of one run and names of labels of the next would be silently wrong
            weights, config = read_weights(path), read_config(path)
    require_fitting_weights(config, {name: tensor.shape for name, tensor in weights.items()}, path)
    model = model_class(changed_config(config, **(changes or {})))
    load_weights(model, weights, str(path))
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
    used = {name: weights[name] for name in expected if name in weights}
    for name, tensor in used.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ScDMCError(f"{source}: {name} holds values that are no finite numbers; the weights are damaged")
    model.load_state_dict(used, strict=False)


def load_classifier_for_training(
    model_directory: ModelDirectory,
    label_names: Sequence[str],
    stream: str | None,
    dropout: float,
    is_pretrained: bool = True,
    pooling: str | None = None,
) -> ScDMCForCellClassification:
    """A classifier with the encoder of a pre-trained folder (or, to compare, a random one) and a new, random head.

    It reads the stream and the pooling that its configuration says, unless these are given.
    """
    own = model_directory.config
    config = changed_config(
        own,
        classifier_stream=stream or own.classifier_stream,
        classifier_dropout=dropout,
        classifier_pooling=pooling or own.classifier_pooling,
    )
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    model = ScDMCForCellClassification(config)
    if is_pretrained:
        load_weights(model.bert, weights_of(model_directory), str(model_directory.path))
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
    save_description(path, model, vocabulary, medians, settings, card)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != TIED_WEIGHT}
    save_tensors(Path(path) / WEIGHTS_FILE, weights)


def save_description(
    path: Path,
    model: ScDMCForMaskedLM | ScDMCForCellClassification,
    vocabulary: Vocabulary,
    medians: GeneMedians,
    settings: TokenizationSettings,
    card: str,
) -> None:
    """Write a model folder without its weights; see :func:`save_model_directory`."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocabulary.save(path / TOKEN_IDS_FILE)
    medians.save(path / GENE_MEDIANS_FILE)
    write_json(path / TOKENIZATION_FILE, settings.to_dict())
    with atomic_path(path / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf8")
    save_config(path, model)


def save_config(path: Path, model: ScDMCPreTrainedModel) -> None:
    """Write a model's configuration, and the file by which ``AutoModel`` opens it where scDMC is not installed.

    The configuration says float32 whatever the weights are stored as: models compute in that type.
    """
    write_standalone_model(path)
    config = copy.deepcopy(model.config)
    config.architectures, config.auto_map, config.dtype = [type(model).__name__], AUTO_MAP, "float32"
    with atomic_path(path / CONFIG_FILE) as temporary:
        config.to_json_file(temporary, use_diff=False)


def model_card(
    title: str,
    facts: Mapping[str, object],
    metrics: Mapping[str, float],
    command: Sequence[str],
    pipeline_tag: str = "feature-extraction",
) -> str:
    """Text of a model card: what was trained on what, how, and how well; front matter for the Hugging Face hub.

    Parameters
    ----------
    title
        First line.
    facts
        Name -> value: data, cells, steps, sizes. ``data`` is the file that the front matter names as data set.
    metrics
        Name -> value, as measured at the end.
    command
        The command line that made the model. The card names files without the folders that they lie in.
    pipeline_tag
        The task of the hub that is nearest.
    """
    front_matter = ModelCardData(
        license="mit",
        library_name="transformers",
        tags=list(CARD_TAGS),
        datasets=[re.sub(r"[^\w.-]+", "-", Path(str(facts["data"])).stem)] if "data" in facts else None,
        metrics=list(metrics),
        pipeline_tag=pipeline_tag,
    )
    versions = {"scdmc": __version__} | {package: version(package) for package in VERSIONED_PACKAGES}
    words = " ".join(map(without_folders, command))
    lines = ["---", front_matter.to_yaml(), "---", "", f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    lines += ["", "## Command", "", f"    {words}", "", "## Versions", ""]
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
