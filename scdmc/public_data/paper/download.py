"""Files that come over the network: a download that broke off goes on, and a file that has changed is refused.

Beside each file ``NAME`` lies ``NAME.download.json`` with its size and SHA-256. What is not whole yet is ``NAME.part``;
``NAME.part.json`` says which version of the file that is the beginning of.
"""

import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from scdmc.disk import require_space, shown_size
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, sha256_of_file, write_json
from scdmc.locks import output_lock
from scdmc.public_data.paper.options import PaperSource, SourceFile
from scdmc.version import __version__

logger = logging.getLogger(__name__)


SECONDS_TO_ANSWER, TRIES, BLOCK_BYTES = 60, 3, 1 << 20


# Seconds before the second try; twice as long before the next one.
FIRST_PAUSE = 2


# Statuses of HTTP: the rest of a file; no such place any more; nothing lies behind the end of the part.
PARTIAL_CONTENT, GONE, NOTHING_LEFT = 206, (404, 410), 416


CONTENT_RANGE = re.compile(r"bytes (?P<start>\d+)-(?P<end>\d+)/(?P<total>\d+|\*)", re.ASCII)


SUFFIX_OF_PART, SUFFIX_OF_RECORD = ".part", ".download.json"


def record_path(path: Path) -> Path:
    """Where the size and the SHA-256 of a file stand."""
    return path.with_name(path.name + SUFFIX_OF_RECORD)


def checked_record(path: Path) -> dict[str, str]:
    """What is known of a file: ``url`` ('' for one that a person put there), ``sha256``, ``date``.

    Raises
    ------
    ScDMCError
        If the file is not the one that was downloaded.
    """
    path, record = Path(path), record_path(path)
    size, found = path.stat().st_size, sha256_of_file(path)
    if not record.is_file():
        date = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
        return {"url": "", "sha256": found, "date": date}
    known = read_json_object(record, "record of a download")
    if known.get("size") != size or known.get("sha256") != found:
        raise ScDMCError(
            f"{path} is not the file that was downloaded: SHA-256 expected {known.get('sha256')}, found {found}; "
            f"delete it and {record.name} and download it again"
        )
    return {"url": str(known.get("url", "")), "sha256": found, "date": str(known.get("date", ""))}


def fetch(file: SourceFile, folder: Path, source: PaperSource) -> Path:
    """Download a file, or the rest of it, and record its size and SHA-256.

    Parameters
    ----------
    file
        Which one.
    folder
        Where to.
    source
        Of which data set, for messages.

    Returns
    -------
    The file.

    Raises
    ------
    ScDMCError
        If there is no network, the file is not there any more, or the download breaks off; what has come stays, and
        the next call goes on there. If another run downloads the same file into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file.name
    with output_lock(path):  # two runs must not append to one part
        return _fetched(file, path, source)


def _fetched(file: SourceFile, path: Path, source: PaperSource) -> Path:
    part, folder = path.with_name(path.name + SUFFIX_OF_PART), path.parent
    by_hand = f"or download {file.name} by hand from {source.page} into {folder}"
    for attempt in range(1, TRIES + 1):
        try:
            _receive(file, part)
            break
        except urllib.error.HTTPError as error:
            if error.code in GONE:
                raise ScDMCError(f"{file.url} is not there any more (HTTP {error.code}): find {by_hand[3:]}") from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt < TRIES:
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            logger.info("%s: %s; trying again in %g s", file.name, reason, pause)
            time.sleep(pause)
            continue
        came = f", after {shown_size(part.stat().st_size)}, which are kept" if part.is_file() else ""
        raise ScDMCError(
            f"{file.url} could not be downloaded ({reason}){came}: repeat the command, which goes on there, {by_hand}"
        )
    record = {"url": file.url, "size": part.stat().st_size, "sha256": sha256_of_file(part)}
    write_json(record_path(path), record | {"date": time.strftime("%Y-%m-%d", time.gmtime())})
    part.replace(path)
    _validator_path(part).unlink(missing_ok=True)
    logger.info("%s: %s, SHA-256 %s", path, shown_size(record["size"]), record["sha256"])
    return path


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _receive(file: SourceFile, part: Path) -> None:
    """Let a part grow until it is the whole file."""
    n_bytes, validator = _state_of(part, file.url)
    headers = {"User-Agent": f"scDMC/{__version__}", "Accept-Encoding": "identity"}
    if n_bytes:
        headers |= {"Range": f"bytes={n_bytes}-", "If-Range": validator}
    opener = urllib.request.build_opener(StaysEncrypted)
    try:
        response = opener.open(urllib.request.Request(file.url, headers=headers), timeout=SECONDS_TO_ANSWER)
    except urllib.error.HTTPError as error:
        if error.code == NOTHING_LEFT and n_bytes:
            part.unlink()  # it is whole, or longer than the file is: what came cannot be trusted
        raise
    with response:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            raise ConnectionError(f"the server sends it packed, as {encoding}, which was not asked for")
        goes_on = response.status == PARTIAL_CONTENT
        if goes_on and not _is_the_rest(response, n_bytes, validator):
            part.unlink(missing_ok=True)
            _validator_path(part).unlink(missing_ok=True)
            raise ConnectionError("the server did not go on where the part ends")
        _write(file, part, response, n_bytes if goes_on else 0)


def _write(file: SourceFile, part: Path, response: http.client.HTTPResponse, start: int) -> None:
    """Append what comes to a part of which ``start`` bytes are there, or begin it."""
    length = _length_of(response)
    total = None if length is None else start + length
    with part.open("ab" if start else "wb") as out:
        if total is not None:
            require_space(part, total - start, file.name)
            logger.info("%s: %s of %s", file.name, shown_size(start), shown_size(total))
        write_json(_validator_path(part), {"url": file.url, "validator": _validator_of(response)})
        while block := response.read(BLOCK_BYTES):
            out.write(block)
        if total is not None and out.tell() != total:
            raise ConnectionError(f"{out.tell():,} of {total:,} bytes came")
        if total is None and not response.chunked:  # chunks have an end that is marked
            logger.warning(
                "warning: the server does not say how large %s is: %s came, and nobody knows whether that is all",
                file.name,
                shown_size(out.tell()),
            )


class StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows no redirect that leaves https: nobody on the way may change a file."""

    def redirect_request(
        self, req: urllib.request.Request, fp: object, code: int, msg: str, headers: object, newurl: str
    ) -> urllib.request.Request | None:
        """The request for the new place; refuses a step from https to anything else."""
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.URLError(f"the server leads away from https, to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _length_of(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the body, if the server says it in digits."""
    length = response.headers.get("Content-Length", "").strip()
    return int(length) if length.isascii() and length.isdecimal() else None


def _is_the_rest(response: http.client.HTTPResponse, n_bytes: int, validator: str) -> bool:
    """True if a part of ``n_bytes`` goes on with this answer: the same version, from there to the end."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not n_bytes or found is None or _validator_of(response) != validator:
        return False
    start, end, length = int(found["start"]), int(found["end"]), _length_of(response)
    total = end + 1 if found["total"] == "*" else int(found["total"])
    return start == n_bytes and end + 1 == total and length in (None, total - start)


def _state_of(part: Path, url: str) -> tuple[int, str]:
    """Bytes of a part that a download can go on from, and of which version of the file they are."""
    known = _validator_path(part)
    if not part.is_file() or not known.is_file():
        return 0, ""
    try:
        content = json.loads(known.read_text(encoding="utf8"))
    except ValueError:
        return 0, ""
    is_same = isinstance(content, dict) and content.get("url") == url and content.get("validator")
    return (part.stat().st_size, str(content["validator"])) if is_same else (0, "")


def _validator_of(response: http.client.HTTPResponse) -> str:
    """What tells versions of a file apart; empty where the server does not say it."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
