"""annotate.py on synthetic counts, end to end: cells/s per stream and peak memory, file in to file out.

Weights and counts are random, which changes nothing about the time. Run it with more cells to see that memory does not
grow with them.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch

from scdmc.annotation.annotate_file import annotate_file
from scdmc.annotation.annotators import Annotator
from scdmc.annotation.options import AnnotationOptions
from scdmc.annotation.prediction import annotate_cells, names_of_classes
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.configuration import ScDMCConfig
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary, load_vocabulary
from scdmc.model.devices import choose_device
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.options import STREAMS
from scdmc.reading.options import CountOptions
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings

CELLS_AT_ONCE = 1_000


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the README."""
    parser = argument_parser(__doc__)
    parser.add_argument("--cells", type=positive_int, default=2_000, help="cells of the file")
    parser.add_argument("--genes", type=positive_int, default=20_000, help="genes of the file")
    parser.add_argument("--genes_per_cell", type=positive_int, default=1_500, help="genes of a cell with counts, about")
    parser.add_argument("--context", type=positive_int, default=512, help="most tokens of a stream")
    parser.add_argument("--hidden_size", type=positive_int, default=128, help="width of the encoder")
    parser.add_argument("--num_hidden_layers", type=positive_int, default=4, help="layers")
    parser.add_argument("--num_attention_heads", type=positive_int, default=4, help="heads")
    parser.add_argument("--intermediate_size", type=positive_int, default=256, help="of the gated linear unit")
    parser.add_argument("--stream", choices=STREAMS, default="rank", help="both counts twice")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads of torch")
    return parser.parse_args(argv)


def write_counts(path: Path, arguments: argparse.Namespace, vocabulary: Vocabulary) -> None:
    """Random counts of genes of the vocabulary."""
    genes = vocabulary.tokens[EOS_TOKEN_ID + 1 :][: arguments.genes]
    density = arguments.genes_per_cell / len(genes)
    generator = np.random.default_rng(0)
    blocks = []
    for first in range(0, arguments.cells, CELLS_AT_ONCE):
        shape = (min(CELLS_AT_ONCE, arguments.cells - first), len(genes))
        block = scipy.sparse.random_array(shape, density=density, format="csr", rng=generator, dtype=np.float32)
        block.data = np.ceil(10 * block.data**4).astype(np.float32)
        blocks.append(scipy.sparse.csr_matrix(block))
    anndata.AnnData(scipy.sparse.vstack(blocks, format="csr"), var=pd.DataFrame(index=genes)).write_h5ad(path)


def new_classifier(arguments: argparse.Namespace, vocabulary: Vocabulary) -> ScDMCForCellClassification:
    """A classifier of ten types with random weights."""
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=len(vocabulary),
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size,
        max_position_embeddings=arguments.context,
        classifier_stream=arguments.stream,
    )
    config.id2label = {index: f"type {index}" for index in range(10)}
    model = ScDMCForCellClassification(config).to(choose_device(None)).eval()
    model.set_attention("auto")
    return model


@script
def main(argv: list[str] | None = None) -> int:
    """Print cells/s per stream and the peak of memory before and after."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    vocabulary, medians = load_vocabulary(), load_gene_medians(None)
    model = new_classifier(arguments, vocabulary)
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, arguments.context)
    annotator = Annotator(
        names_of_classes(model),
        model.classifier.in_features,
        lambda cells: annotate_cells(model, cells, show_progress=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        data_path = Path(folder) / "counts.h5ad"
        # In a process of its own, so that making the file is not in the peak of memory.
        spawn = multiprocessing.get_context("spawn")
        maker = spawn.Process(target=write_counts, args=(data_path, arguments, vocabulary))
        maker.start()
        maker.join()
        model_directory = ModelDirectory(Path(folder), model.config, vocabulary, medians, settings)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.perf_counter()
        annotate_file(
            data_path, Path(folder) / "out.h5ad", model_directory, annotator, AnnotationOptions(), CountOptions()
        )
        seconds = time.perf_counter() - start
    n_streams = 2 if arguments.stream == "both" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.cells:,} cells in {seconds:.1f} s: {arguments.cells / seconds:.1f} cells/s, "
          f"{n_streams * arguments.cells / seconds:.1f} streams/s")  # fmt: skip
    print(f"peak memory {peak:,.0f} MiB, {before:,.0f} MiB of it before the first cell")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
