"""The lock file, the table of licences, and the look-up of vulnerabilities."""

import importlib.util
import re

import pytest

from tests.conftest import ROOT


def tool(name):
    """A tool of the folder of the checks."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def locked():
    """Name -> version and number of hashes in the lock file."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf8")
    blocks = re.findall(
        r"^([\w.-]+)==([^ ;\\]+)[^\n]*\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", text, re.MULTILINE
    )
    return {name: (version, hashes.count("--hash")) for name, version, hashes in blocks}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_holds_what_requirements_pin_and_a_hash_of_every_package(locked):
    pins = dict(line.strip().split("==") for line in (ROOT / "requirements.txt").open(encoding="utf8") if "==" in line)
    assert len(pins) > 25
    assert {normalised(name): version for name, version in pins.items()}.items() <= {
        normalised(name): version for name, (version, _) in locked.items()
    }.items()
    assert len(locked) > 140
    assert [name for name, (_, n_hashes) in locked.items() if not n_hashes] == []


def test_the_lock_names_no_index_no_host_and_no_folder():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf8").splitlines()
    assert [line for line in lines if "://" in line or "index" in line or re.search(r"(^|\s)/\w", line)] == []


def test_the_table_of_licences_has_every_direct_dependency_and_names_the_gpl():
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w.]+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    licence_of = {name: (version, licence) for name, version, licence in rows if name != "package"}
    pins = dict(line.strip().split("==") for line in (ROOT / "requirements.txt").open(encoding="utf8") if "==" in line)
    assert {name: version for name, (version, _) in licence_of.items()} == pins
    gpl = {name for name, (_, licence) in licence_of.items() if re.search("GPL|General Public", licence)}
    assert gpl == {"leidenalg", "igraph", "harmonypy"}
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert all(name in readme for name in gpl)
    assert tool("licences").licence("leidenalg") == licence_of["leidenalg"][1]


def test_harmony_is_an_extra_that_the_environment_files_install():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    needed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]
    assert "harmonypy" not in needed
    assert re.search(r'^harmony = \["harmonypy', project, re.MULTILINE)
    assert "harmonypy==" in (ROOT / "requirements.txt").read_text()
    assert "-r requirements.txt" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages checked, 0 known"),
        ([{"name": "a", "skip_reason": "not found"}], 2, "nothing was checked"),
        ([], 2, "nothing was checked"),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "x"}], 0, "not checked: b"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: CVE-1 (mended in 2)",
        ),
    ],
)
def test_an_audit_that_looked_nothing_up_is_no_success(packages, status, words):
    found, said = tool("audit").verdict({"dependencies": packages})
    assert found == status
    assert words in said
