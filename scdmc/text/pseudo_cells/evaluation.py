"""Scores of a generator on test cells, beside baselines and controls (docs/pseudo_cells.md, "Scores").

Test cells are of the part ``test``. Components and neighbours are of the part ``validation``, which trains nothing; the
guidance was chosen on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.reading.options import CountOptions
from scdmc.text.corpus import TRAIN, UNSEEN, Corpus, require_same_parts
from scdmc.text.model import TEXTS_OF_TERM, TextSpace, read_text_model, unit
from scdmc.text.pseudo_cells import scores
from scdmc.text.pseudo_cells.baselines import BASELINES, TypeCells, copied, made_expression, without_flow
from scdmc.text.pseudo_cells.counts import CorpusCounts, read_corpus_counts
from scdmc.text.pseudo_cells.generator import CellGenerator, CellText, text_of_term
from scdmc.text.pseudo_cells.novelty import place_of_text
from scdmc.text.pseudo_cells.storage import read_generator
from scdmc.text.texts import SYNONYM
from scdmc.text.training_data import VALIDATION

TRAINED, HELD_OUT, SYNONYMS = "trained terms", "held-out term", "terms with a synonym"


OURS, OTHER_TEXT, LABEL_ALONE, NO_FLOW = "text, autoencoder and flow", "another type's text", "label alone", "no flow"


REAL = "real test cells"


NEAREST = "copies of the text-nearest trained type"


FEWEST_CELLS = 5  # of a type, for it to be scored


@dataclass(frozen=True)
class Judge:
    """Real cells of one data set that generated ones are compared to.

    Attributes
    ----------
    real, types
        ln(1 + CP10k) of the test cells, shape (n_cells, n_genes), and their terms.
    training
        Term -> training cells.
    space
        Components of the reference cells.
    near
        The training cells in these components.
    """

    real: np.ndarray
    types: np.ndarray
    training: Mapping[str, TypeCells]
    space: scores.Space
    near: np.ndarray

    @property
    def sizes(self) -> dict[str, int]:
        """Term -> how many cells are made of it: as many as it has test cells."""
        terms, sizes = np.unique(self.types, return_counts=True)
        return dict(zip(terms.tolist(), sizes.tolist(), strict=True))

    def ceiling(self) -> dict[str, float]:
        """What real cells themselves get of the scores that need no second set of real cells."""
        low = self.space.of(self.real)
        found = {f"kNN {k}": value for k, value in scores.neighbour_accuracies(self.space, low, self.types).items()}
        return found | {"distance to training cell": scores.distance_to_nearest(low, self.near)}

    def scores_of(self, made: Mapping[str, np.ndarray], seed: int) -> dict[str, float]:
        """All scores of cells; ``made`` is term -> ln(1 + CP10k) of its cells."""
        types = np.repeat(list(made), [len(cells) for cells in made.values()])
        cells = np.concatenate(list(made.values()))
        own = np.isin(self.types, list(made))
        real, real_types = self.real[own], self.types[own]
        rng = np.random.default_rng(seed)
        mixed, real_mixed = rng.permutation(len(cells)), rng.permutation(len(real))
        low, real_low = self.space.of(cells)[mixed], self.space.of(real)[real_mixed]
        found = {f"kNN {k}": value for k, value in scores.neighbour_accuracies(self.space, low, types[mixed]).items()}
        relative = [
            {name: np.expm1(values[labels == name].astype(np.float64)).mean(axis=0) for name in made}
            for values, labels in ((real, real_types), (cells, types))
        ]
        slope, agreement, markers = scores.fold_changes(*relative)
        return found | {
            "MMD": scores.mmd(real_low, low),
            "sliced Wasserstein": scores.sliced_wasserstein(real_low, low, seed),
            "r of mean": scores.correlation(real.mean(axis=0), cells.mean(axis=0)),
            "r of variance": scores.correlation(real.var(axis=0), cells.var(axis=0)),
            "LFC slope": slope,
            "LFC r": agreement,
            "top 10 markers": markers,
            "gene correlation r": scores.gene_correlations(real, real_types, cells, types),
            "zeros, generated - real": float((cells == 0).mean() - (real == 0).mean()),
            "AUC": scores.two_sample_auc(real, cells, seed),
            "distance to training cell": scores.distance_to_nearest(low, self.near),
        }


Score = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class GenerationTask:
    """What is scored at once, for each seed.

    Attributes
    ----------
    mode, data_set, method
        What is asked of which cells, and what makes them.
    score
        Seed -> metric -> value.
    """

    mode: str
    data_set: str
    method: str
    score: Score


def generation_tasks(
    corpus: Corpus, model: Path, counts_paths: Sequence[Path], counts: CountOptions | None = None
) -> list[GenerationTask]:
    """All that is scored of the generator of a text model, on the cells of its corpus.

    Parameters
    ----------
    corpus
        With the parts train, validation and test.
    model
        Folder of the text model.
    counts_paths
        The files that the corpus was made of.
    counts
        How the files are read.

    Raises
    ------
    ScDMCError
        If the model has no generator, or one of another split, the counts are not those of the corpus, or there are
        too few test cells.
    """
    opened, model_directory = read_text_model(Path(model))
    generator, facts = read_generator(Path(model), opened.texts)
    require_same_parts(facts, corpus, f"the generator of {model}")
    cells = read_corpus_counts(corpus, counts_paths, model_directory, counts)
    tasks = [
        GenerationTask(mode, name, method, score)
        for name in generator.data_sets
        for mode, method, score in _tasks(corpus, cells, generator, opened.texts, name)
    ]
    if not tasks:
        raise ScDMCError(
            f"{corpus.path} has too few test or validation cells of the terms of {model}; give text_corpus.py "
            "larger parts"
        )
    return tasks


def _tasks(
    corpus: Corpus, counts: CorpusCounts, generator: CellGenerator, space: TextSpace, name: str
) -> Iterator[tuple[str, str, Score]]:
    """Mode, method, and what scores it for a seed, of one data set."""
    judge = _judge(corpus, counts, generator, space, name)
    if judge is not None:
        maker = _Maker(generator, space, generator.data_sets.index(name))
        yield from _trained(judge, maker)
        yield from _synonyms(corpus, judge, maker)
    yield from _held_out(corpus, counts, generator, space, name)


@dataclass(frozen=True)
class _Maker:
    """Makes cells of texts, like those of one data set."""

    generator: CellGenerator
    space: TextSpace
    data_set: int

    def made(self, text: CellText, n_cells: int, seed: int, generator: CellGenerator | None = None) -> np.ndarray:
        made = (generator or self.generator).made(text, n_cells, self.space, seed, data_set=self.data_set)
        return made_expression(made)

    def text(self, cl_id: str) -> CellText:
        return text_of_term(self.space, self._row(cl_id))

    def label(self, cl_id: str) -> CellText:
        row = self._row(cl_id)
        return CellText((str(self.space.terms["label"].iloc[row]),), unit(self.space.vectors[row, 0]))

    def _row(self, cl_id: str) -> int:
        return int(np.flatnonzero(self.space.terms["cl_id"].to_numpy() == cl_id)[0])


def _trained(judge: Judge, maker: _Maker) -> Iterator[tuple[str, str, Score]]:
    sizes, bare = judge.sizes, without_flow(maker.generator)

    def of_baseline(draw: Callable, seed: int) -> dict[str, float]:
        rng = np.random.default_rng(seed)
        return judge.scores_of({term: draw(judge.training[term], n, rng) for term, n in sizes.items()}, seed)

    def of_texts(text_of: Callable, seed: int, generator: CellGenerator | None = None) -> dict[str, float]:
        made = {term: maker.made(text_of(term), n, seed, generator) for term, n in sizes.items()}
        return judge.scores_of(made, seed)

    terms = list(sizes)
    others = dict(zip(terms, terms[1:] + terms[:1], strict=True))
    yield TRAINED, REAL, lambda seed: judge.ceiling()
    for method, draw in BASELINES.items():
        yield TRAINED, method, lambda seed, draw=draw: of_baseline(draw, seed)
    yield TRAINED, NO_FLOW, lambda seed: of_texts(maker.text, seed, bare)
    yield TRAINED, OURS, lambda seed: of_texts(maker.text, seed)
    yield TRAINED, OTHER_TEXT, lambda seed: of_texts(lambda term: maker.text(others[term]), seed)
    yield TRAINED, LABEL_ALONE, lambda seed: of_texts(maker.label, seed)


def _synonyms(corpus: Corpus, judge: Judge, maker: _Maker) -> Iterator[tuple[str, str, Score]]:
    """Texts that were never trained on: the first synonym of each term that has one."""
    if corpus.vectors is None:
        return
    rows = corpus.terms[(corpus.terms["kind"] == SYNONYM) & corpus.terms["cl_id"].isin(judge.sizes)]
    first = rows.drop_duplicates("cl_id")
    if len(first) < 2:
        return
    synonyms = {
        cl_id: CellText((text,), unit(corpus.vectors[row]))
        for cl_id, text, row in zip(first["cl_id"], first["text"], first["row"], strict=True)
    }
    sizes = {term: n for term, n in judge.sizes.items() if term in synonyms}

    def score(text_of: Callable, seed: int) -> dict[str, float]:
        return judge.scores_of({term: maker.made(text_of(term), n, seed) for term, n in sizes.items()}, seed)

    yield SYNONYMS, OURS, lambda seed: score(maker.text, seed)
    yield SYNONYMS, "a synonym as text", lambda seed: score(synonyms.__getitem__, seed)


def _cells_of(corpus: Corpus, counts: CorpusCounts, genes: np.ndarray, cells: np.ndarray) -> dict[str, TypeCells]:
    """Term -> its cells, of some of the cells with counts."""
    terms = corpus.cells.obs["cl_id"].astype(str).to_numpy()[counts.rows[cells]]
    dense = counts.select(cells).of_genes(genes).toarray()
    totals = counts.totals[cells]
    return {term: TypeCells(dense[terms == term], totals[terms == term]) for term in np.unique(terms)}


def _parts(corpus: Corpus, counts: CorpusCounts, name: str) -> dict[str, np.ndarray]:
    """Part -> the cells of a data set, as rows of the counts."""
    obs = corpus.cells.obs.iloc[counts.rows]
    own = (obs["dataset"].astype(str) == name).to_numpy() & (counts.totals > 0)
    return {
        part: np.flatnonzero(own & (obs["split"] == part).to_numpy()) for part in (TRAIN, VALIDATION, "test", UNSEEN)
    }


def _joined(cells: Mapping[str, TypeCells], terms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    expression = [cells[term].expression for term in terms]
    return np.concatenate(expression), np.repeat(list(terms), [len(each) for each in expression])


def _judge(corpus: Corpus, counts: CorpusCounts, generator: CellGenerator, space: TextSpace, name: str) -> Judge | None:
    parts = _parts(corpus, counts, name)
    of_part = {part: _cells_of(corpus, counts, generator.genes, parts[part]) for part in (TRAIN, VALIDATION, "test")}
    known = set(space.terms["cl_id"]) & set(of_part[TRAIN])
    terms = [term for term, cells in of_part["test"].items() if term in known and len(cells.totals) >= FEWEST_CELLS]
    reference = sorted(set(of_part[VALIDATION]) & known)
    if not terms or len(parts[VALIDATION]) <= min(scores.NEIGHBOURS) or not reference:
        return None
    real, types = _joined(of_part["test"], terms)
    components = scores.Space(*_joined(of_part[VALIDATION], reference))
    near = components.of(_joined(of_part[TRAIN], sorted(known))[0])
    return Judge(real, types, of_part[TRAIN], components, near)


def _held_out(
    corpus: Corpus, counts: CorpusCounts, generator: CellGenerator, space: TextSpace, name: str
) -> Iterator[tuple[str, str, Score]]:
    """Terms of which no training has seen a cell or a text: made of their texts, beside copies of the nearest term."""
    parts = _parts(corpus, counts, name)
    if corpus.vectors is None or not len(parts[UNSEEN]) or not len(parts[TRAIN]):
        return
    unseen = _cells_of(corpus, counts, generator.genes, parts[UNSEEN])
    unseen = {term: cells for term, cells in unseen.items() if len(cells.totals) >= 2 * FEWEST_CELLS}
    training = _cells_of(corpus, counts, generator.genes, parts[TRAIN])
    others = np.concatenate([parts[VALIDATION], parts["test"]])
    reference = _cells_of(corpus, counts, generator.genes, others)
    if not unseen or len(others) <= min(scores.NEIGHBOURS):
        return
    # As large a share of them is reference as of other terms: with more they would be everybody's neighbours.
    share = len(others) / (len(others) + len(parts[TRAIN]))
    is_reference = {
        term: np.diff(np.floor(np.arange(len(cells.totals) + 1) * share)) > 0 for term, cells in unseen.items()
    }
    known = reference | {term: cells.select(is_reference[term]) for term, cells in unseen.items()}
    components = scores.Space(*_joined(known, sorted(known)))
    scored = {term: cells.select(~is_reference[term]) for term, cells in unseen.items()}
    real, types = _joined(scored, sorted(scored))
    near = components.of(_joined(training, sorted(training))[0])
    maker = _Maker(generator, space, generator.data_sets.index(name))
    texts = {term: _text_of_corpus(corpus, term) for term in unseen}
    in_set = generator.terms.cells[:, maker.data_set] > 0
    for term, text in texts.items():
        own = Judge(real[types == term], types[types == term], training, components, near)
        rows = place_of_text(text.vector, space).ordered
        nearest = str(space.terms["cl_id"].iloc[next(row for row in rows if in_set[row])])
        yield from _of_stranger(own, maker, text, training[nearest])


def _of_stranger(judge: Judge, maker: _Maker, text: CellText, nearest: TypeCells) -> Iterator[tuple[str, str, Score]]:
    """What is made of the text of one term that is held out; ``nearest`` are cells of the text-nearest trained type."""
    ((term, n_cells),) = judge.sizes.items()
    mode = f"{HELD_OUT}: {text.words[0]}"
    is_novel = float(place_of_text(text.vector, maker.space).is_novel)

    def scored(cells: np.ndarray, seed: int) -> dict[str, float]:
        found = judge.scores_of({term: cells}, seed)
        return {metric: value for metric, value in found.items() if np.isfinite(value)}  # one type has no fold changes

    yield mode, REAL, lambda seed: judge.ceiling()
    yield mode, NEAREST, lambda seed: scored(copied(nearest, n_cells, np.random.default_rng(seed)), seed)
    yield mode, OURS, lambda seed: scored(maker.made(text, n_cells, seed), seed) | {"flagged as novel": is_novel}


def _text_of_corpus(corpus: Corpus, term: str) -> CellText:
    own = corpus.terms[(corpus.terms["cl_id"] == term) & corpus.terms["kind"].isin(TEXTS_OF_TERM)]
    return CellText(tuple(own["text"].astype(str)), unit(corpus.vectors[own["row"].to_numpy(dtype=int)].mean(axis=0)))


# What a generator should reach, for the verdict in words.
BEST_AUC, LEAST_CORRELATION, SLOPES = 0.62, 0.5, (0.9, 1.1)


def verdict_in_words(table: pd.DataFrame, name: str) -> str:
    """What the scores of a data set say: AUC, gene correlation and fold changes; neighbours alone say nothing.

    Parameters
    ----------
    table
        Columns mode, data_set, method, metric, mean.
    name
        The data set.
    """
    own = table[(table["data_set"] == name) & (table["mode"] == TRAINED)]
    ours = own[own["method"] == OURS].set_index("metric")["mean"]
    best = own[own["method"] == "copies of training cells"].set_index("metric")["mean"]
    auc, related, slope = ours["AUC"], ours["gene correlation r"], ours["LFC slope"]
    reached = [auc <= BEST_AUC, related >= LEAST_CORRELATION, SLOPES[0] <= slope <= SLOPES[1]]
    headline = {3: "Like real cells", 0: "Unlike real cells"}.get(sum(reached), "Partly like real cells")
    return (
        f"{headline}: a forest tells them from real cells with AUC {auc:.2f} (copies of training cells "
        f"{best['AUC']:.2f}, target at most {BEST_AUC}); genes vary together as in real cells with r {related:.2f} "
        f"(copies {best['gene correlation r']:.2f}, target {LEAST_CORRELATION}); fold changes have the slope "
        f"{slope:.2f} (target {SLOPES[0]} to {SLOPES[1]})"
    )
