"""What a Q-Former found in a cell becomes soft tokens, and a language model goes on from them in words.

Source: docs/text.md, "Captions".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.model.weights import save_tensors
from scdmc.progress import progress_bar
from scdmc.result_folders import require_whole
from scdmc.text.captions.language_models import LanguageModel, adapted, language_model_folder, open_language_model
from scdmc.text.captions.options import FACTS_FILE, TINY, require_captioner
from scdmc.text.captions.options import LANGUAGE_MODEL_FOLDER as FOLDER
from scdmc.text.encoders import quiet_transformers
from scdmc.text.projectors.qformer import QFormer
from scdmc.text.projectors.states import GeneStates

ADAPTER_FOLDER = "adapter"


SOFT_TOKENS_FILE = "soft_tokens.safetensors"


# What is read of the folder, where it is there.
FILES = (
    FACTS_FILE, SOFT_TOKENS_FILE, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", f"{ADAPTER_FOLDER}/adapter_config.json", f"{ADAPTER_FOLDER}/adapter_model.safetensors",
)  # fmt: skip


MOST_WORDS, CELLS_PER_BATCH = 64, 64


# Fewer cells have no mean that would be worth taking away: that of the training cells is.
FEWEST_CELLS_OF_A_MEAN = 50


# More would change the mean of a large file by nothing that shows.
MOST_CELLS_OF_A_MEAN = 2_000


class SoftTokens(nn.Module):
    """Each query's finding as a vector that stands where a word would, as large as words are.

    Parameters
    ----------
    hidden_size
        Of the queries.
    width, scale
        Of the language model's vectors of words: their width and standard deviation.
    """

    def __init__(self, hidden_size: int, width: int, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, width))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """(n_cells, n_queries, hidden_size) -> (n_cells, n_queries, width)."""
        found = self.layers(outputs)
        return self.scale * nn.functional.layer_norm(found, found.shape[-1:])


@dataclass(frozen=True)
class Captioner:
    """A language model and what it reads of a cell.

    Attributes
    ----------
    language_model
        Says the words.
    soft_tokens
        What stands before them.
    mean
        Of the queries over the cells of the training data sets, each of which counts the same, shape (n_queries,
        hidden_size).
    facts
        Content of ``captions.json``.
    """

    language_model: LanguageModel
    soft_tokens: SoftTokens
    mean: np.ndarray
    facts: Mapping[str, object]

    def summary(self) -> list[str]:
        """What to say of it, line by line."""
        facts = self.facts
        if "names_right" not in facts:
            return ["captions: there were no validation cells to look at"]
        return [
            f"captions: {facts['names_right']:.3f} of {facts['validation_cells']} validation cells get the right name "
            f"({facts['names_right_with_another_cell']:.3f} with what was found in another cell, "
            f"{facts['names_right_by_the_commonest']:.3f} by the commonest name)"
        ]

    def prefix(self, outputs: torch.Tensor) -> torch.Tensor:
        """Soft tokens and what begins a text, shape (n_cells, n_queries + 1, width), or without the 1."""
        soft = self.soft_tokens(outputs)
        first = torch.tensor(self.language_model.first_ids, dtype=torch.long, device=soft.device)
        begin = self.language_model.model.get_input_embeddings()(first).to(soft.dtype)
        return torch.cat([soft, begin.expand(len(soft), -1, -1)], dim=1)

    @torch.no_grad()
    def captions(self, outputs: np.ndarray, what: str | None = None) -> list[str]:
        """The likeliest word each time, so that the same cells get the same words.

        Parameters
        ----------
        outputs
            What the queries found, without the mean of the cells, shape (n_cells, n_queries, hidden_size).
        what
            Name of the work, for the progress bar; None for none.
        """
        model, tokenizer = self.language_model.model.eval(), self.language_model.tokenizer
        found: list[str] = []
        with progress_bar(total=len(outputs), unit=" cells", desc=what, disable=what is None) as progress:
            for start in range(0, len(outputs), CELLS_PER_BATCH):
                chosen = torch.from_numpy(outputs[start : start + CELLS_PER_BATCH]).to(model.device)
                prefix = self.prefix(chosen).to(model.dtype)
                mask, end = prefix.new_ones(prefix.shape[:2], dtype=torch.long), self.language_model.end_id
                words = model.generate(
                    inputs_embeds=prefix, attention_mask=mask, do_sample=False, max_new_tokens=MOST_WORDS,
                    eos_token_id=end, pad_token_id=end,
                )  # fmt: skip
                found += [text.strip() for text in tokenizer.batch_decode(words, skip_special_tokens=True)]
                progress.update(len(chosen))
        return found


def outputs_of(reader: QFormer, states: GeneStates) -> np.ndarray:
    """What the queries found in cells, shape (n_cells, n_queries, hidden_size), float32."""
    found = np.empty((len(states), reader.shape.n_queries, reader.shape.hidden_size), dtype=np.float32)
    for rows, outputs in reader.read(states):
        found[rows] = outputs.cpu().numpy()
    return found


def centred_outputs(
    reader: QFormer, states: GeneStates, mean: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """What the queries found in some cells of a file, without what the cells of the file have in common.

    Parameters
    ----------
    reader
        The Q-Former.
    states
        Of all cells of the file that have counts.
    mean
        Is taken away where the cells of the file are too few to have one, shape (n_queries, hidden_size).
    rows
        Which cells are wanted; None for all. They do not decide what is taken away.

    Returns
    -------
    Shape (n_wanted, n_queries, hidden_size), float32.
    """
    if len(states) >= FEWEST_CELLS_OF_A_MEAN:
        draw = np.random.default_rng(0)
        of_mean = np.sort(draw.permutation(len(states))[:MOST_CELLS_OF_A_MEAN])
        mean = outputs_of(reader, states.part(of_mean)).mean(axis=0)
    return outputs_of(reader, states if rows is None else states.part(rows)) - mean


def save_captioner(folder: Path, captioner: Captioner) -> None:
    """Write ``language_model/`` of a text model: the tiny one whole, of another its name, hash and adapter.

    Parameters
    ----------
    folder
        Of the text model.
    captioner
        What was trained.
    """
    place, language_model = Path(folder) / FOLDER, captioner.language_model
    place.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        if language_model.name == TINY:
            language_model.model.save_pretrained(place)
            language_model.tokenizer.save_pretrained(place)
        elif captioner.facts["adapter"] == "lora":
            language_model.model.save_pretrained(place / ADAPTER_FOLDER)
    if captioner.facts["adapter"] == "lora":
        config = place / ADAPTER_FOLDER / "adapter_config.json"
        content = read_json_object(config, "configuration of an adapter")
        write_json(config, content | {"base_model_name_or_path": language_model.name})  # no folder of this machine
        (place / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # a template, with such a folder
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in captioner.soft_tokens.state_dict().items()}
    save_tensors(place / SOFT_TOKENS_FILE, tensors | {"mean": torch.from_numpy(captioner.mean)})
    write_json(place / FACTS_FILE, dict(captioner.facts))


def open_captioner(folder: Path, language_model: Path | None = None) -> Captioner:
    """Read what :func:`save_captioner` wrote.

    Parameters
    ----------
    folder
        Of the text model.
    language_model
        The language model, where the text model does not hold it: a folder, ``smollm2``, or the file of its wheel.

    Raises
    ------
    ScDMCError
        If the text model has no captions, is damaged, or another language model is named than it was trained with.
    """
    folder = Path(folder)
    require_captioner(folder)
    require_whole(folder, *(f"{FOLDER}/{name}" for name in FILES))
    facts = read_json_object(folder / FOLDER / FACTS_FILE, "facts of captions")
    try:
        name, digest, adapter = facts["language_model"], facts["sha256"], facts["adapter"]
        tensors = load_file(folder / FOLDER / SOFT_TOKENS_FILE)
        mean = tensors.pop("mean").numpy()
        width = tensors["layers.0.weight"].shape[0]
        soft_tokens = SoftTokens(mean.shape[1], width, 1.0)
        soft_tokens.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ScDMCError(f"{folder / FOLDER} is damaged: {reason}; train it again") from error
    if name == TINY:
        opened = replace(open_language_model(folder / FOLDER, TINY), sha256="")
    elif language_model is None:
        raise ScDMCError(
            f"{folder} says captions with {name} ({digest[:12]}), which it does not hold; name it with --language_model"
        )
    else:
        opened = open_language_model(language_model_folder(language_model)[0], name)
        if opened.sha256 != digest:
            raise ScDMCError(f"{folder} says captions with {name} ({digest[:12]}), and {language_model} is another one")
    if adapter == "lora":
        opened = adapted(opened, folder / FOLDER / ADAPTER_FOLDER)
    return Captioner(opened, soft_tokens.eval(), mean, facts)
