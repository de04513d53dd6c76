"""The model of the tests of gene-level analyses."""

import pytest

from tests.small_models import save_small_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "m", num_hidden_layers=2, initializer_range=0.2)
