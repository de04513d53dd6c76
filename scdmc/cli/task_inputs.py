"""What every downstream task checks first, before anything heavy is imported: its model, its cells, its output."""

import argparse
from collections.abc import Callable
from pathlib import Path

from scdmc.cli.inputs import require_gene_files, require_input, require_model
from scdmc.files import require_new_file, require_new_folder


def require_task_inputs(
    arguments: argparse.Namespace, require_its_model: Callable[[Path], None] = require_model
) -> None:
    """Refuse a task whose output would replace something, or whose model or cells are not there or cannot be read.

    Parameters
    ----------
    arguments
        ``model``, ``data_path`` (one or several), ``overwrite``, and ``output_dir`` or ``output_file``; of
        ``token_dictionary_file`` and ``gene_mapping_file`` those that are given.
    require_its_model
        Refuses what is no such model as the task needs.

    Raises
    ------
    ScDMCError
        Naming what is wrong.
    """
    if getattr(arguments, "output_dir", None) is not None:
        require_new_folder(arguments.output_dir, arguments.overwrite)
    else:
        require_new_file(arguments.output_file, arguments.overwrite)
    require_its_model(arguments.model)
    paths = arguments.data_path
    for path in [paths] if isinstance(paths, Path) else paths:
        require_input(path, "--data_path")
    require_gene_files(arguments)
