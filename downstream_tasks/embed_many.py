"""Embed and label millions of cells: shard by shard, on several processes, GPUs or machines, in constant memory."""

import argparse
import os
import time

from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_worker_arguments,
    count_options,
    embedding_options,
    placement,
)
from scdmc.cli.inputs import require_count_file, require_counts, require_gene_files, require_input, require_model
from scdmc.cli.parser import argument_parser, fill_in, positive_int, probability, script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_folder
from scdmc.reading.options import CountOptions, is_counts
from scdmc.shards.options import CELLS_PER_SHARD, holds_counts
from scdmc.training.launch import require_launch

EXAMPLES = (
    "{prog} --model scDMC-small --data_path counts --output_dir embedded --num_workers 8",
    "{prog} --model fine_tuned --data_path tokenized --output_dir labelled --labels --cells_per_shard 5000",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of embedding at scale."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    meaning = "folder of files of raw counts, or one of them, or tokenized parquet"
    add_data_argument(parser, meaning=meaning)
    add_output_dir_argument(parser, meaning="folder for the shards, index.json and report.html")
    parser.add_argument("--cells_per_shard", type=positive_int, default=CELLS_PER_SHARD, help="most cells of a file")
    add_embedding_arguments(parser)
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labels", action="store_true", help="add the labels of the model, which is a classifier")
    labels.add_argument(
        "--min_probability", type=probability, help="less certain cells become Unknown, with --labels (default: 0.0)"
    )
    add_worker_arguments(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, {"min_probability": 0.0}, arguments.labels, "without --labels")
    of_embedding = dict.fromkeys(("stream", "pooling", "encoder_layer"))
    fill_in(arguments, of_embedding, not arguments.labels, "with --labels: a classifier has chosen what it reads")
    return arguments


def require_cells(arguments: argparse.Namespace) -> CountOptions:
    """How counts are read, after cells that cannot be read were refused."""
    path = arguments.data_path
    if not holds_counts(path):
        require_input(path, "--data_path")
    elif is_counts(path):
        require_count_file(path, "--data_path")
    else:
        require_counts(path, "--data_path")
    options = count_options(arguments)
    if options != CountOptions() and not holds_counts(path):
        raise ScDMCError(f"{path} is tokenized already; leave out the flags that say how counts are read")
    return options


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all shards that are not there yet, and publish them."""
    began, arguments = time.time(), parse_arguments(argv)
    require_launch()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and (arguments.num_workers > 1 or arguments.scheduler_address):
        raise ScDMCError("torchrun has started the processes; leave out --num_workers and --scheduler_address")
    if rank == 0:
        require_new_folder(arguments.output_dir, arguments.overwrite)
    require_model(arguments.model)
    counts = require_cells(arguments)
    require_gene_files(arguments)

    from scdmc.reports.provenance import Provenance
    from scdmc.shards.job import EmbeddingJob
    from scdmc.shards.ranks import processes_of_torchrun
    from scdmc.shards.run import embed_shards

    job = EmbeddingJob(
        data_path=arguments.data_path,
        output_dir=arguments.output_dir,
        model=arguments.model,
        token_dictionary_file=arguments.token_dictionary_file,
        count_options=counts,
        embedding=embedding_options(arguments),
        placement=placement(arguments),
        cells_per_shard=arguments.cells_per_shard,
        has_labels=arguments.labels,
        min_probability=arguments.min_probability,
    )
    made = Provenance((arguments.data_path,), arguments.model.name, began=began)
    with processes_of_torchrun(world_size) as barrier:
        workers = (arguments.num_workers, arguments.scheduler_address)
        index = embed_shards(job, made, *workers, rank, world_size, barrier)
    if index is not None:
        what = "embedded and labelled" if arguments.labels else "embedded"
        print(f"{index['n_cells']:,} cells {what} in {len(index['shards'])} shard(s); wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
