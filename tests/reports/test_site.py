"""Several pages become one site that can be moved: an index with the finding of each, and the pages themselves."""

import re
import shutil

import pytest

from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

ODD = "</script><b>&'\""


@pytest.fixture(scope="module")
def report(load_script):
    main = load_script("downstream_tasks/report.py").main
    return lambda *words: main([str(word) for word in words])


@pytest.fixture
def runs(tmp_path):
    """Two runs, one of them with a page of another ending, and what is no page."""
    for number, name in enumerate(("one/report.html", "two/cells.report.html")):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True)
        lead = Verdict(
            ("good", "bad")[number], f"Finding {number} {ODD}", (), (KeyNumber("Score", "0.9", "0.8 by PCA"),)
        )
        write_report(path, f"Task {number}", [Section("Part")], lead, Provenance())
    (tmp_path / "runs" / "two" / "other.html").write_text("<p>of another program</p>")
    (tmp_path / "runs" / ".hidden").mkdir()
    shutil.copy(tmp_path / "runs" / "one" / "report.html", tmp_path / "runs" / ".hidden" / "report.html")
    return tmp_path / "runs"


def test_the_index_shows_each_finding_and_its_links_lead_to_copies(report, runs, tmp_path, capsys):
    assert report("--result_dirs", runs, runs / "one", "--output_dir", tmp_path / "site") == 0
    assert "bad      runs/two/cells: Finding 1" in capsys.readouterr().out
    site = (tmp_path / "site").rename(tmp_path / "moved")
    shutil.rmtree(runs)
    index = (site / "index.html").read_text(encoding="utf8")
    links = re.findall(r'href="([^"]+)"', index)
    assert links == ["pages/runs_one.html", "pages/runs_two_cells.html"]
    assert all("Finding" in (site / link).read_text(encoding="utf8") for link in links)
    assert "1 good, 0 with a caution, 1 bad." in index
    assert "Finding 0 &lt;/script&gt;&lt;b&gt;&amp;&#39;&#34;" in index
    assert "Score: 0.9 (0.8 by PCA)" in index
    assert "http" not in re.sub(r'http-equiv|"http[^"]*"', "", index)


def test_the_same_pages_give_the_same_site_and_a_site_is_no_run(report, runs, tmp_path):
    contents = []
    for _ in range(2):
        assert report("--result_dirs", runs, "--output_dir", runs / "site", "--overwrite") == 0
        contents.append({path.name: path.read_bytes() for path in (runs / "site").rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4  # the index, two pages, the manifest


def test_pages_of_folders_of_one_name_are_all_kept(report, tmp_path):
    paths = [tmp_path / name for name in ("a/out/report.html", "b/out/report.html", "b/out.report.html")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        lead = Verdict("good", f"Finding of {path.relative_to(tmp_path)}", ())
        write_report(path, "Task", [Section("Part")], lead, Provenance())
    folders = ("a/out", "b/out", "b/out.report.html")
    assert report("--result_dirs", *(tmp_path / name for name in folders), "--output_dir", tmp_path / "site") == 0
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf8")
    links = re.findall(r'href="([^"]+)"', index)
    assert len(set(links)) == 3
    for link, path in zip(links, paths, strict=True):
        assert (tmp_path / "site" / link).read_bytes() == path.read_bytes()
    assert [f'data-name="from">{place}<' in index for place in ("a/out", "b/out", "b/out (2)")] == [True] * 3


@pytest.mark.parametrize("content", ["<p>x</p>", '<script type="application/json" id="summary">{]</script>',
                                     '<script type="application/json" id="summary">{"title": 3}</script>'])  # fmt: skip
def test_what_is_no_page_of_this_version_is_named(content, report, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text(content)
    assert report("--result_dirs", tmp_path / "run", "--output_dir", tmp_path / "site") == 2
    said = capsys.readouterr().err
    assert "run/report.html is left out: it says nothing of itself" in said
    assert "error: " in said
    assert "has no page of scDMC" in said
    assert not (tmp_path / "site").exists()


def test_an_absent_folder_is_an_error(report, tmp_path, capsys):
    assert report("--result_dirs", tmp_path / "no", "--output_dir", tmp_path / "site") == 2
    assert "no such file or folder" in capsys.readouterr().err
