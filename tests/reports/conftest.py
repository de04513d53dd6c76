"""Here figures are what is tested: they are drawn."""

import pytest


@pytest.fixture(autouse=True)
def drawn(drawn_figures):
    """Draw in every test of this folder."""
