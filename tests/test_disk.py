"""Room on the disk is asked for before the work."""

import shutil
from types import SimpleNamespace

import pytest

from scdmc.disk import require_space, shown_size
from scdmc.errors import ScDMCError


def test_a_result_that_will_not_fit_is_refused_with_both_sizes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=3 << 20))
    output = tmp_path / "not" / "there" / "x.h5ad"
    require_space(output, 3 << 20, "it")
    with pytest.raises(ScDMCError, match=r"x.h5ad: it needs 3.5 GiB, and 3.0 MiB are free there; make room"):
        require_space(output, 7 << 29, "it")
    assert asked == [tmp_path, tmp_path]


def test_sizes_for_people():
    assert [shown_size(n) for n in (3, 1536, 5 << 20, 1 << 41)] == ["3 bytes", "1.5 KiB", "5.0 MiB", "2,048.0 GiB"]
