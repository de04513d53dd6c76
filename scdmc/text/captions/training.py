"""Stage 2 of a text model: a language model learns to say the captions of cells from what a Q-Former found in them.

Source: docs/text.md, "Captions".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scdmc.progress import progress_bar
from scdmc.text.captions.captioner import Captioner, SoftTokens, outputs_of
from scdmc.text.captions.language_models import (
    language_model_folder,
    open_language_model,
    tiny_language_model,
    with_adapter,
)
from scdmc.text.captions.options import TINY, CaptionOptions
from scdmc.text.captions.texts import Caption, caption_of, name_in
from scdmc.text.corpus import Corpus
from scdmc.text.model import TextSpace
from scdmc.text.objectives import weighted_cross_entropy
from scdmc.text.ontology import CellOntology
from scdmc.text.projectors.batches import MAX_GRADIENT_NORM, Batches, LabelledSet
from scdmc.text.projectors.qformer import QFormer
from scdmc.text.texts import description_of

MOST_TOKENS = 64


# Validation cells whose names are looked at: a large language model says a few in a second.
MOST_CELLS_JUDGED = {TINY: 400, "": 40}


# Columns of a corpus that captions speak of, where it has them.
TISSUE, DISEASE = "tissue", "disease"


@dataclass(frozen=True)
class CaptionedSet:
    """Cells of one data set and what is said of them.

    Attributes
    ----------
    cells
        With the states of their genes.
    outputs
        What the queries found, without the mean of the set's cells, shape (n_cells, n_queries, hidden_size).
    captions
        Of each cell.
    """

    cells: LabelledSet
    outputs: np.ndarray
    captions: list[Caption]


def texts_to_learn_from(ontology: CellOntology, unseen: frozenset[str]) -> list[str]:
    """Names and definitions of all terms but those that are held out of the corpus."""
    return [description_of(term) for cl_id, term in ontology.items() if cl_id not in unseen]


def captions_of_cells(cells: LabelledSet, corpus: Corpus, space: TextSpace, ontology: CellOntology) -> list[Caption]:
    """A caption for each cell of a data set: its term, and tissue and disease where the corpus has them."""
    obs = cells.states.cells.obs
    known = [
        obs[name].astype(object).where(obs[name].notna(), "").astype(str).tolist()
        if name in obs and name in corpus.cells.obs
        else [""] * len(obs)
        for name in (TISSUE, DISEASE)
    ]
    terms = [ontology[cl_id] for cl_id in space.terms["cl_id"].iloc[cells.terms]]
    return [caption_of(*of_cell) for of_cell in zip(terms, *known, strict=True)]


def trained_captioner(
    sets: Sequence[LabelledSet],
    corpus: Corpus,
    space: TextSpace,
    reader: QFormer,
    ontology: CellOntology,
    options: CaptionOptions,
) -> Captioner:
    """Teach a language model the captions of the training cells; scDMC and the Q-Former stay as they are.

    Parameters
    ----------
    sets
        Data sets with the states of their genes.
    corpus
        Where they are from: which terms are held out, tissues and diseases.
    space
        The training texts.
    reader
        The Q-Former of stage 1.
    ontology
        Names and definitions.
    options
        Which language model, and how.

    Raises
    ------
    ScDMCError
        If the language model cannot be read, or an adapter is asked for beside the tiny one.
    """
    if options.language_model == TINY:
        language_model = tiny_language_model(texts_to_learn_from(ontology, corpus.unseen), options.seed)
    else:
        opened = open_language_model(*language_model_folder(options.language_model, options.may_fetch))
        language_model = with_adapter(opened, options.adapter)
    captioned, means = [], []
    for each in sets:
        outputs = outputs_of(reader, each.states)
        means.append(outputs.mean(axis=0))
        captions = captions_of_cells(each, corpus, space, ontology)
        captioned.append(CaptionedSet(each, outputs - means[-1], captions))
    mean = np.mean(means, axis=0)
    device = reader.queries.device
    language_model.model.to(device)
    scale = float(language_model.model.get_input_embeddings().weight.detach().float().std())
    torch.manual_seed(options.seed)
    soft_tokens = SoftTokens(reader.shape.hidden_size, language_model.width, scale).to(device)
    facts = {
        "language_model": language_model.name,
        "sha256": language_model.sha256,
        "adapter": options.adapter,
        "steps": options.caption_steps,
        "name_weight": options.name_weight,
        "held_out_terms": sorted(corpus.facts["held_out_terms"]),
        "parts": corpus.parts_sha256,
        "of_the_language_model": language_model.facts,
    }
    captioner = Captioner(language_model, soft_tokens, mean.astype(np.float32), facts)
    facts["loss"] = _train(captioner, captioned, space, options)
    soft_tokens.eval()
    return replace(captioner, facts=facts | _judged(captioner, captioned, options))


def caption_loss(
    captioner: Captioner, outputs: torch.Tensor, captions: Sequence[Caption], weight: float
) -> torch.Tensor:
    """Cross-entropy of the words of captions behind their cells' soft tokens.

    Parameters
    ----------
    captioner
        Soft tokens and language model.
    outputs
        What the queries found, centred, shape (n_cells, n_queries, hidden_size).
    captions
        Of the cells.
    weight
        Of the words of the name; all others have 1.
    """
    language_model = captioner.language_model
    names = [language_model.ids(caption.name) for caption in captions]
    rests = [language_model.ids(f" {caption.rest}") if caption.rest else [] for caption in captions]
    words = [
        torch.tensor([*[*name, *rest][:MOST_TOKENS], language_model.end_id])
        for name, rest in zip(names, rests, strict=True)
    ]
    device = language_model.model.device
    padded = torch.nn.utils.rnn.pad_sequence(words, batch_first=True).to(device)  # (n_cells, longest)
    place = torch.arange(padded.shape[1])
    weights = torch.where(place < torch.tensor([len(name) for name in names])[:, None], weight, 1.0)
    weights = (weights * (place < torch.tensor([len(own) for own in words])[:, None])).to(device)
    prefix = captioner.prefix(outputs.to(device))
    embedded = torch.cat([prefix, language_model.model.get_input_embeddings()(padded[:, :-1])], dim=1)
    mask = torch.cat([weights.new_ones(prefix.shape[:2]), weights[:, :-1]], dim=1) > 0
    logits = language_model.model(inputs_embeds=embedded, attention_mask=mask.long()).logits
    # What stands before a word says it: the last of the prefix says the first.
    return weighted_cross_entropy(logits[:, prefix.shape[1] - 1 :].float(), padded, weights)


def _train(captioner: Captioner, captioned: Sequence[CaptionedSet], space: TextSpace, options: CaptionOptions) -> float:
    """AdamW with one cycle of the rate; the mean loss of the last tenth of the steps."""
    model = captioner.language_model.model.train()
    trained = [weight for weight in (*captioner.soft_tokens.parameters(), *model.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.caption_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.caption_rate, options.caption_steps)
    sets = [each.cells for each in captioned]
    batches = Batches(sets, space, options.caption_batch, np.random.default_rng(options.seed))
    losses = []
    with progress_bar(total=options.caption_steps * options.caption_batch, unit=" cells", desc="captions") as progress:
        for _ in range(options.caption_steps):
            number, rows, _, _ = batches.next()
            outputs = torch.from_numpy(captioned[number].outputs[rows])
            captions = [captioned[number].captions[row] for row in rows]
            loss = caption_loss(captioner, outputs, captions, options.name_weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress.update(options.caption_batch)
    model.eval()
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def _judged(captioner: Captioner, captioned: Sequence[CaptionedSet], options: CaptionOptions) -> dict[str, object]:
    """How many validation cells get their names, and how many if each is given what was found in another cell."""
    pairs = [
        (each.outputs[row], each.captions[row].name)
        for each in captioned
        for row in np.flatnonzero(~each.cells.is_training)
    ]
    if not pairs:
        return {}
    draw = np.random.default_rng(options.seed)
    most = MOST_CELLS_JUDGED.get(captioner.language_model.name, MOST_CELLS_JUDGED[""])
    chosen = draw.permutation(len(pairs))[:most]
    outputs, names = np.stack([pairs[place][0] for place in chosen]), [pairs[place][1] for place in chosen]
    said = captioner.captions(outputs, "say captions")
    others = captioner.captions(outputs[draw.permutation(len(chosen))])

    def share(captions: list[str]) -> float:
        return float(np.mean([f"{name_in(text)}." == name for text, name in zip(captions, names, strict=True)]))

    commonest = max(names.count(name) for name in set(names)) / len(names)
    return {
        "validation_cells": len(names),
        "names_right": share(said),
        "names_right_with_another_cell": share(others),
        "names_right_by_the_commonest": commonest,
    }
