"""How fast a file of counts is annotated, and in how much memory; weights and counts are random."""

import multiprocessing
import tempfile
import time
from dataclasses import asdict
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
from scdmc.configuration import ScDMCConfig
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary, load_vocabulary
from scdmc.memory import peak_memory_of_process
from scdmc.model.devices import choose_device
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.options import EncoderSizes
from scdmc.reading.options import CountOptions
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings

CELLS_AT_ONCE = 1_000


def write_random_counts(path: Path, n_cells: int, n_genes: int, genes_per_cell: int, vocabulary: Vocabulary) -> None:
    """Random counts of genes of the vocabulary."""
    genes = vocabulary.tokens[EOS_TOKEN_ID + 1 :][:n_genes]
    density = genes_per_cell / len(genes)
    generator = np.random.default_rng(0)
    blocks = []
    for first in range(0, n_cells, CELLS_AT_ONCE):
        shape = (min(CELLS_AT_ONCE, n_cells - first), len(genes))
        block = scipy.sparse.random_array(shape, density=density, format="csr", rng=generator, dtype=np.float32)
        block.data = np.ceil(10 * block.data**4).astype(np.float32)
        blocks.append(scipy.sparse.csr_matrix(block))
    anndata.AnnData(scipy.sparse.vstack(blocks, format="csr"), var=pd.DataFrame(index=genes)).write_h5ad(path)


def new_classifier(
    sizes: EncoderSizes, max_length: int, stream: str, vocabulary: Vocabulary
) -> ScDMCForCellClassification:
    """A classifier of ten types with random weights."""
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=max_length,
        classifier_stream=stream,
        **asdict(sizes),
    )
    config.id2label = {index: f"type {index}" for index in range(10)}
    model = ScDMCForCellClassification(config).to(choose_device(None)).eval()
    model.set_attention("auto")
    return model


def measure_annotation(
    sizes: EncoderSizes, max_length: int, stream: str, n_cells: int, n_genes: int, genes_per_cell: int
) -> dict[str, float]:
    """Annotate random counts, file in to file out.

    Parameters
    ----------
    sizes, max_length, stream
        Of the classifier: its encoder, the most tokens of a stream, and one of :data:`scdmc.options.STREAMS`.
    n_cells, n_genes, genes_per_cell
        Of the file; ``genes_per_cell`` have counts, about.

    Returns
    -------
    ``seconds``; ``peak`` and ``before``: the peak of memory after the last and before the first cell, in MiB.
    """
    vocabulary, medians = load_vocabulary(), load_gene_medians(None)
    model = new_classifier(sizes, max_length, stream, vocabulary)
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, max_length)
    annotator = Annotator(
        names_of_classes(model),
        model.classifier.in_features,
        lambda cells: annotate_cells(model, cells, show_progress=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        data_path = Path(folder) / "counts.h5ad"
        # In a process of its own, so that making the file is not in the peak of memory.
        spawn = multiprocessing.get_context("spawn")
        maker = spawn.Process(
            target=write_random_counts, args=(data_path, n_cells, n_genes, genes_per_cell, vocabulary)
        )
        maker.start()
        maker.join()
        model_directory = ModelDirectory(Path(folder), model.config, vocabulary, medians, settings)
        before = peak_memory_of_process() / 2**20
        start = time.perf_counter()
        annotate_file(
            data_path, Path(folder) / "out.h5ad", model_directory, annotator, AnnotationOptions(), CountOptions()
        )
        seconds = time.perf_counter() - start
    peak = peak_memory_of_process() / 2**20
    return {"seconds": seconds, "peak": peak, "before": before}
