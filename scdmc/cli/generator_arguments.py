"""Flags of stage 3 of ``text_pretrain.py``, the generator of cells, and what they stand for."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import add_count_arguments, count_options
from scdmc.cli.inputs import require_count_file, require_text_model
from scdmc.cli.parser import fill_in, positive_int
from scdmc.errors import ScDMCError
from scdmc.reading.options import CountOptions
from scdmc.text.pseudo_cells.options import ALL_GENES, FACTS_FILE, NO_GENERATOR, GeneratorOptions

STAGE = 3


DEFAULTS = {"panel_genes": GeneratorOptions().panel_genes, "generator_steps": GeneratorOptions().max_steps}


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """``--counts_path``, ``--panel_genes``, ``--generator_steps``, and how the counts are read."""
    group = parser.add_argument_group("stage 3: a generator of cells")
    meaning = "the files of counts that the corpus was made of, as it keeps none (default: none; stage 3 needs them)"
    group.add_argument("--counts_path", type=Path, nargs="+", metavar="COUNTS_PATH", help=meaning)
    meaning = (
        f"genes that a generated cell has at most, the most variable ones, or all (default: {DEFAULTS['panel_genes']})"
    )
    group.add_argument("--panel_genes", type=_panel_genes, help=meaning)
    meaning = (
        f"of the autoencoder; dispersions and flow take theirs in proportion (default: {DEFAULTS['generator_steps']})"
    )
    group.add_argument("--generator_steps", type=positive_int, help=meaning)
    add_count_arguments(parser)


def _panel_genes(text: str) -> int:
    return ALL_GENES if text == "all" else positive_int(text)


def complete_generator(arguments: argparse.Namespace) -> None:
    """Give the flags their defaults, and refuse what contradicts itself (:func:`scdmc.cli.parser.fill_in`)."""
    has_effect, why_not = STAGE in arguments.stage, "without --stage 3"
    fill_in(arguments, {"counts_path": None, **DEFAULTS}, has_effect, why_not)
    given = [name for name in CountOptions.__dataclass_fields__ if getattr(arguments, name)]
    if given and not has_effect:
        raise ScDMCError(f"--{given[0]} has no effect {why_not}, which alone reads counts; leave it out")
    if has_effect and arguments.counts_path is None:
        raise ScDMCError("--stage 3 needs --counts_path: the files of counts that the corpus was made of")


def require_generator_inputs(arguments: argparse.Namespace) -> None:
    """Refuse counts that are absent, a folder without a text model, and a generator that would be replaced."""
    for path in arguments.counts_path:
        require_count_file(path, "--counts_path")
    if 1 not in arguments.stage:
        folder = arguments.output_dir
        if (folder / FACTS_FILE).exists() and not arguments.overwrite:
            raise ScDMCError(f"{folder} has a generator already; --overwrite replaces it")


def require_generator(model: Path) -> None:
    """Refuse a model folder without a generator."""
    require_text_model(model)
    if not (Path(model) / FACTS_FILE).is_file():
        raise ScDMCError(f"{model} {NO_GENERATOR}")


def generator_options(arguments: argparse.Namespace) -> GeneratorOptions:
    """The options that the flags stand for."""
    defaults, steps = GeneratorOptions(), arguments.generator_steps
    share = steps / defaults.max_steps
    return GeneratorOptions(
        panel_genes=arguments.panel_genes,
        max_steps=steps,
        dispersion_steps=max(1, round(share * defaults.dispersion_steps)),
        flow_steps=max(1, round(share * defaults.flow_steps)),
        warm_up=max(1, round(share * defaults.warm_up)),
        seed=arguments.seed,
    )


def counts_of_stage(arguments: argparse.Namespace) -> CountOptions:
    """How ``--counts_path`` is read."""
    return count_options(arguments)
