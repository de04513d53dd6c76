"""Files that are called as users call their cell types and data sets."""

from pathlib import Path

import pytest

from scdmc.errors import ScDMCError
from scdmc.file_names import LONGEST_NAME, file_name_of, file_names_of
from scdmc.files import names_of_files


def test_names_are_safe_short_and_never_shared(tmp_path):
    texts = ["T/NK", "T NK", "t_nk", "β", "CD4+ T", "..", ".", "", "../x", "/etc/passwd", ".hidden", "x" * 5_000,
             "x" * 4_999 + "y", "β" * 5_000, "X" * 5_000, "a\x00b", "caf\udce9", "é", "e\u0301", "_", "_2"]  # fmt: skip
    names = file_names_of(texts)
    assert [names[text] for text in texts[:5]] == ["T_NK", "T_NK_2", "t_nk_3", "β", "CD4+_T"]
    assert len({name.casefold() for name in names.values()}) == len(texts)
    for name in names.values():
        path = tmp_path / f"{name}.graphml"
        path.write_text("x")
        assert path.parent == tmp_path
        assert not name.startswith(".")
        assert 0 < len(name.encode()) <= LONGEST_NAME + 2
    assert len(list(tmp_path.iterdir())) == len(texts)


def test_a_long_name_is_the_same_in_every_run():
    assert file_name_of("x" * 200) == "x" * 109 + "_" + "aa20c23e32"


@pytest.mark.parametrize("name", ["...h5ad", "....h5ad", ".h5ad", "..hidden.h5ad"])
def test_a_data_set_never_names_a_folder_outside_or_a_hidden_one(name):
    (folder,) = names_of_files([Path("in") / name], "--data_path")
    assert not folder.startswith(".")
    assert Path("out", folder).resolve().parent == Path("out").resolve()


def test_data_sets_that_differ_by_upper_case_only_would_share_a_folder():
    with pytest.raises(ScDMCError, match="two data sets are called A, a; rename a file"):
        names_of_files([Path("x/A.h5ad"), Path("y/a.h5ad")], "--data_path")
    assert names_of_files([Path("x/A.h5ad"), Path("y/b.c.h5ad")], "--data_path") == ["A", "b.c"]
