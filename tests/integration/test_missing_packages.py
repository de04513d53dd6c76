"""Packages that a method needs and scDMC does without."""

import ast
import sys

import pytest

from scdmc.errors import ScDMCError
from scdmc.integration.methods import harmony
from scdmc.integration.options import IntegrationOptions
from tests.conftest import ROOT


def test_without_harmonypy_only_harmony_is_refused(monkeypatch, load_script, capsys):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(ScDMCError, match=r"pip install 'scdmc\[harmony\]'\), or leave the method out: --methods pca$"):
        IntegrationOptions(methods=("pca", "harmony"))
    with pytest.raises(ScDMCError, match="harmonypy not installed"):
        harmony(None, None)
    assert IntegrationOptions(methods=("scdmc", "pca")).methods == ("scdmc", "pca")
    script, flags = load_script("downstream_tasks/integration.py"), ["--model", "m", "--data_path", "x.h5ad"]
    with pytest.raises(SystemExit) as stop:
        script.parse_arguments(["--help"])
    assert stop.value.code == 0
    capsys.readouterr()
    assert script.main(flags) == 2
    assert capsys.readouterr().err.startswith("error: --methods: harmonypy not installed; pip install harmonypy ")


def test_no_import_needs_an_optional_package():
    optional = {"harmonypy", "scvi", "scanorama", "scib_metrics", "distributed", "peft", "celltypist", "flash_attn"}
    for path in (ROOT / "scdmc").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf8")).body:  # what an import of the module runs
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not optional & {name.partition(".")[0] for name in names}, path
