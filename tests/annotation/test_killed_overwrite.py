"""A classifier that is replaced: wherever the run is killed, a reader gets the old one, the new one or a refusal."""

import contextlib
from pathlib import Path

import pytest
import torch

from scdmc.annotation.calibration import Calibration, read_temperature, write_calibration
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load, save_model_directory
from scdmc.result_folders import result_folder
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings
from tests.killing import Killed
from tests.small_models import SIZES

TYPES = {"older": ["alpha", "beta", "ductal"], "newer": ["ductal", "alpha", "beta"]}
BIAS = {"older": 1.0, "newer": 2.0}


@pytest.fixture(scope="module")
def write():
    """A function that writes one of two classifiers of the same sizes, whose types have another order."""
    tokens = load_vocabulary().tokens[:50].tolist()
    vocabulary = Vocabulary({token: number for number, token in enumerate(tokens)}, "a test")
    medians = load_gene_medians(None)
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, 64)

    def write(path, which):
        config = ScDMCConfig(vocab_size=50, max_position_embeddings=64, **SIZES)
        config.id2label = dict(enumerate(TYPES[which]))
        config.label2id = {name: number for number, name in enumerate(TYPES[which])}
        torch.manual_seed(0)
        model = ScDMCForCellClassification(config)
        torch.nn.init.constant_(model.classifier.bias, BIAS[which])
        with result_folder(path) as folder:
            write_calibration(folder, Calibration(BIAS[which], 10, 0.1, 0.1))
            save_model_directory(folder, model, vocabulary, medians, settings, "a test")

    return write


def what_is_read(path):
    """Which classifier a reader gets; the error where it gets none."""
    try:
        model = load(path)
        temperature = read_temperature(path)
    except ScDMCError as error:
        return str(error)
    types, bias = list(model.config.id2label.values()), model.classifier.bias[0].item()
    found = [which for which in TYPES if types == TYPES[which] and bias == temperature == BIAS[which]]
    assert found, f"types {types} with bias {bias} and temperature {temperature}"
    return found[0]


def test_a_kill_before_any_rename_never_mixes_weights_and_names_of_types(write, tmp_path, monkeypatch):
    seen, kill_at, is_done = [], 0, False
    while not is_done:
        path, n_events = tmp_path / str(kill_at), 0
        write(path, "older")

        def replace(self, target, original=Path.replace, kill_at=kill_at, path=path):
            nonlocal n_events
            if Path(target).parent == path:
                n_events += 1
            if n_events > kill_at:
                raise Killed
            return original(self, target)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "replace", replace)
            write(path, "newer")
            is_done = True
        seen.append(what_is_read(path))
        kill_at += 1
    assert seen[0] == "older"
    assert seen[-1] == "newer"
    assert len(seen) > 8
    assert all("do not belong together" in each for each in seen[1:-1])
