"""Downloads of sources: on the loopback, they go on, are compared, and end in one line where they cannot."""

import gzip
import io
import json
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import PurePosixPath
from types import SimpleNamespace

import pytest

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.public_data.paper import download
from scdmc.public_data.paper.archives import gunzipped, unpacked
from scdmc.public_data.paper.download import checked_record, fetch, record_path
from scdmc.public_data.paper.options import PaperSource, SourceFile
from tests.public_data.loopback import serving

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE", 0)


def source_of(url):
    file = SourceFile("cells.bin", f"{url}/cells.bin")
    return file, PaperSource("cells", "https://example.org/by-hand", (file,), "nobody", "none")


@pytest.fixture
def shelf():
    with serving({"/cells.bin": CONTENT}) as opened:
        yield opened


def said_by(call, *arguments):
    with pytest.raises(ScDMCError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_whole_with_its_size_and_checksum_beside_it(shelf, tmp_path):
    file, source = source_of(shelf.url)
    path = fetch(file, tmp_path / "new" / "folder", source)
    assert path.read_bytes() == CONTENT
    record = json.loads(record_path(path).read_text())
    assert record["size"] == len(CONTENT)
    assert record["sha256"] == sha256_of_file(path)
    assert record["url"] == file.url
    assert checked_record(path)["sha256"] == record["sha256"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["cells.bin", "cells.bin.download.json"]


def test_a_download_that_broke_off_goes_on_where_it_stopped(shelf, tmp_path):
    file, source = source_of(shelf.url)
    shelf.breaks_after = 1_000
    said = said_by(fetch, file, tmp_path, source)
    assert "repeat the command" in said
    assert "example.org/by-hand" in said
    assert not (tmp_path / "cells.bin").exists()
    n_came = (tmp_path / "cells.bin.part").stat().st_size
    assert n_came == 1_000 * download.TRIES  # each try goes on, too
    shelf.breaks_after, shelf.asked = None, []
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT
    assert shelf.asked == [("/cells.bin", f"bytes={n_came}-")]


def test_half_of_a_file_that_has_changed_meanwhile_is_not_gone_on_with(shelf, tmp_path):
    file, source = source_of(shelf.url)
    shelf.breaks_after = 1_000
    said_by(fetch, file, tmp_path, source)
    shelf.breaks_after, shelf.files["/cells.bin"] = None, CONTENT[::-1]
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"goes_on_at": 0}, {}),
        ({"goes_on_at": 2_000}, {}),
        ({"goes_on_anyway": True}, {}),
        ({}, {"Content-Range": None}),
        ({}, {"Content-Range": "bytes 1000-1999/10240", "Content-Length": "1000"}),
        ({}, {"Content-Range": "bytes 1000-10239/20000"}),
        ({}, {"Content-Range": "bytes 1000-20000/*"}),
        ({}, {"ETag": '"another"'}),
    ],
)
def test_a_rest_that_does_not_fit_the_part_is_never_appended(shelf, tmp_path, monkeypatch, changes, headers):
    monkeypatch.setattr(download, "TRIES", 1)
    file, source = source_of(shelf.url)
    shelf.breaks_after = 1_000
    said_by(fetch, file, tmp_path, source)
    shelf.breaks_after, shelf.headers = None, headers
    vars(shelf).update(changes)
    if shelf.goes_on_anyway:
        shelf.files["/cells.bin"] = CONTENT[::-1]
    assert "did not go on where the part ends" in said_by(fetch, file, tmp_path, source)
    assert list(tmp_path.iterdir()) == []
    shelf.headers = {}
    assert fetch(file, tmp_path, source).read_bytes() == shelf.files["/cells.bin"]


def test_a_server_that_does_not_know_the_whole_size_may_go_on(shelf, tmp_path):
    file, source = source_of(shelf.url)
    shelf.breaks_after = 1_000
    said_by(fetch, file, tmp_path, source)
    n_came = 1_000 * download.TRIES
    shelf.breaks_after, shelf.headers = None, {"Content-Range": f"bytes {n_came}-{len(CONTENT) - 1}/*"}
    shelf.asked = []
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT
    assert shelf.asked == [("/cells.bin", f"bytes={n_came}-")]


@pytest.mark.parametrize("length", [None, "abc", "-5"])
def test_a_file_of_unknown_size_comes_with_a_warning(shelf, tmp_path, caplog, length):
    file, source = source_of(shelf.url)
    shelf.headers = {"Content-Length": length}
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT
    assert "nobody knows whether that is all" in caplog.text


def test_a_file_that_is_sent_packed_is_refused(shelf, tmp_path):
    file, source = source_of(shelf.url)
    shelf.headers = {"Content-Encoding": "gzip"}
    assert "sends it packed, as gzip" in said_by(fetch, file, tmp_path, source)
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_may_not_leave_https():
    def led(start, end):
        return (
            download.StaysEncrypted()
            .redirect_request(urllib.request.Request(start), None, 302, "Found", {}, end)
            .full_url
        )

    for start in ("https://a.org/x", "http://a.org/x"):
        assert led(start, "https://b.org/y") == "https://b.org/y"
    assert led("http://a.org/x", "http://b.org/y") == "http://b.org/y"
    for end in ("http://b.org/y", "ftp://b.org/y"):
        with pytest.raises(urllib.error.URLError, match="away from https"):
            led("https://a.org/x", end)


def test_a_try_that_failed_is_followed_by_a_pause_that_grows(shelf, tmp_path, monkeypatch):
    paused = []
    monkeypatch.setattr(download, "FIRST_PAUSE", 2)
    monkeypatch.setattr(download.time, "sleep", paused.append)
    file, source = source_of(shelf.url)
    shelf.headers = {"Content-Encoding": "gzip"}
    said_by(fetch, file, tmp_path, source)
    assert paused == [2, 4]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"too much", b""])
def test_a_part_that_is_not_the_beginning_of_the_rest_starts_again(shelf, tmp_path, part):
    file, source = source_of(shelf.url)
    shelf.breaks_after = 10
    said_by(fetch, file, tmp_path, source)
    (tmp_path / "cells.bin.part").write_bytes(part)
    shelf.breaks_after = None
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["{", "[]", '{"url": "elsewhere", "validator": "x"}'])
def test_a_part_of_which_nothing_is_known_starts_again(shelf, tmp_path, damage):
    file, source = source_of(shelf.url)
    (tmp_path / "cells.bin.part").write_bytes(b"whatever")
    (tmp_path / "cells.bin.part.json").write_text(damage)
    assert fetch(file, tmp_path, source).read_bytes() == CONTENT


def test_a_file_that_has_moved_is_one_line_with_the_place_to_look(shelf, tmp_path):
    file, source = source_of(shelf.url)
    shelf.files.clear()
    said = said_by(fetch, file, tmp_path, source)
    assert "not there any more (HTTP 404)" in said
    assert "example.org/by-hand" in said
    assert len(shelf.asked) == 1  # it is not asked again
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_line(tmp_path):
    with serving({}) as shelf:
        file, source = source_of(shelf.url)
    said = said_by(fetch, file, tmp_path, source)  # nobody listens there now
    assert "could not be downloaded" in said
    assert "by hand" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_checksum_has_changed_is_refused(shelf, tmp_path):
    file, source = source_of(shelf.url)
    path = fetch(file, tmp_path, source)
    path.write_bytes(CONTENT[:-1] + b"x")
    said = said_by(checked_record, path)
    assert "is not the file that was downloaded: SHA-256 expected" in said
    assert "cells.bin.download.json" in said


def test_a_file_that_a_person_put_there_is_taken_as_it_is(tmp_path):
    path = tmp_path / "cells.bin"
    path.write_bytes(CONTENT)
    assert checked_record(path)["url"] == ""
    assert [each.name for each in tmp_path.iterdir()] == ["cells.bin"]


def tar_with(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, target in (("fine/matrix.mtx", tarfile.REGTYPE, ""), *members):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"12345"))


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("/etc/passwd", tarfile.REGTYPE, ""),
        ("../outside", tarfile.REGTYPE, ""),
        ("fine/../../outside", tarfile.REGTYPE, ""),
        ("..\\outside", tarfile.REGTYPE, ""),
        ("C:\\outside", tarfile.REGTYPE, ""),
        ("fine/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("fine/hard", tarfile.LNKTYPE, "../../outside"),
        ("fine/device", tarfile.CHRTYPE, ""),
    ],
)
def test_an_archive_with_a_path_that_leaves_its_folder_is_refused(tmp_path, name, kind, target):
    tar_with(tmp_path / "a.tar.gz", (name, kind, target))
    said = said_by(unpacked, tmp_path / "a.tar.gz", tmp_path / "into", lambda place: True)
    assert repr(name) in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "into"]


@pytest.mark.parametrize("name", ["/absolute", "../outside", "a/../../b"])
def test_a_zip_with_a_path_that_leaves_its_folder_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fine.mtx", "1")
        archive.writestr(name, "2")
    said = said_by(unpacked, tmp_path / "a.zip", tmp_path / "into", lambda place: True)
    assert "leaves its folder" in said


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "a link" in said_by(unpacked, tmp_path / "a.zip", tmp_path / "into", lambda place: True)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b", "a//b"), ("./.",), (".",)])
def test_files_that_are_in_each_others_way_are_one_line(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fine.mtx", "1")
        for name in names:
            archive.writestr(name, "2")
    assert "a file " in said_by(unpacked, tmp_path / "a.zip", tmp_path / "into", lambda place: True)
    assert list((tmp_path / "into").iterdir()) == []
    found = unpacked(tmp_path / "a.zip", tmp_path / "into", lambda place: place.suffix == ".mtx")
    assert [path.name for path in found] == ["fine.mtx"]  # what is not wanted is in nobody's way


def test_what_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    tar_with(tmp_path / "a.tar.gz", ("other/matrix.mtx", tarfile.REGTYPE, ""))
    (tmp_path / "b.gz").write_bytes(gzip.compress(bytes(5_000)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    said = said_by(unpacked, tmp_path / "a.tar.gz", tmp_path / "into", lambda place: True)
    assert "what a.tar.gz unpacks to needs 10 bytes, and 9 bytes are free" in said
    assert list((tmp_path / "into").iterdir()) == []
    assert "would fill the disk" in said_by(gunzipped, tmp_path / "b.gz", tmp_path / "into")
    assert (tmp_path / "into" / "b").stat().st_size == 0


def test_only_what_is_wanted_is_unpacked(tmp_path):
    tar_with(tmp_path / "a.tar.gz", ("other/readme.txt", tarfile.REGTYPE, ""))
    found = unpacked(tmp_path / "a.tar.gz", tmp_path / "into", lambda place: place.suffix == ".mtx")
    assert found == [tmp_path / "into" / PurePosixPath("fine/matrix.mtx")]
    assert found[0].read_bytes() == b"12345"


@pytest.mark.parametrize("keep", [0, 7, 60])
def test_a_cut_archive_is_one_line(tmp_path, keep):
    tar_with(tmp_path / "a.tar.gz")
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[:keep])
    assert "cannot be unpacked" in said_by(unpacked, tmp_path / "a.tar.gz", tmp_path / "into", lambda place: True)
    if keep:  # an empty file is gzip of nothing
        assert "cannot be unpacked" in said_by(gunzipped, tmp_path / "a.tar.gz", tmp_path / "into")
