"""Every flag of every script with nonsense: one line of error, status 2, nothing written, no waiting.

The data are absent, so that a value that a flag may have ends in an error as well, before anything is loaded. A script
without data gets a word too many at the end, which its parser refuses after all flags.
"""

import contextlib
import io
import os
import signal
import traceback

import pytest

from tests.cli.scripts import SCRIPTS, parser_of, required_words

NONSENSE = (
    "", " ", "nan", "inf", "-1", "0", "1e400", "99999999999999999999", "-0.0", "a" * 300, "no/such/path", "../x",
    "\udcff\udcfe", "a\nb", "\x01\x1b[31m", "\0", "=cmd|x", "$\\alpha_{1$", "٣", "--",
)  # fmt: skip
SECONDS = 10
NO_DATA = ("annotate_speed", "data_loading", "embedding", "pretrain_step", "tokenize_cells", "draw_architecture",
           "annotation", "embed_many_speed", "integration_speed", "page_speed", "gpu_check")  # fmt: skip
N_CASES = 3000


class _HangError(BaseException):
    """A case that does not end."""


@pytest.fixture(scope="module", autouse=True)
def _alarm():
    def ring(*_):
        raise _HangError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def cases_of(parser, base):
    """Command lines with one value of nonsense each."""
    for action in parser._actions:
        for value in NONSENSE:
            flag = action.option_strings[-1]
            words = without(base, action.option_strings)
            # A switch takes no value, and would be taken for itself with the value behind it.
            yield [*words, f"{flag}={value}"] if action.nargs == 0 else [*words, flag, value]


def without(words, flags):
    """A command line without one flag and its values."""
    kept, is_dropped = [], False
    for word in words:
        is_dropped = word in flags or (is_dropped and not word.startswith("--"))
        kept += [] if is_dropped else [word]
    return kept


def run(main, words):
    """Status, stdout, stderr and the end of a traceback, if there is one."""
    out, err, broken = io.StringIO(), io.StringIO(), ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.alarm(SECONDS)
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
        except BaseException:  # noqa: BLE001  whatever it is, a person would see it
            status, broken = 1, traceback.format_exc().splitlines()[-1]
        finally:
            signal.alarm(0)
    return status, out.getvalue(), err.getvalue(), broken


def complaint(main, words, folder):
    """What is wrong with the end of a script; nothing where it ends as it should."""
    status, out, err, broken = run(main, words)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    if (
        broken
        or status != 2
        or len(lines) != 1
        or out
        or not err.startswith("error:")
        or files_in(folder) != ["a", "a/b"]
    ):
        shown = [word if len(word) < 50 else f"{word[:20]}... ({len(word)})" for word in words]
        return f"{shown}: status {status} {broken} {err[-200:]!r} {out[:100]!r} {files_in(folder)}"
    return None


@pytest.mark.parametrize("script", SCRIPTS)
def test_nonsense_is_refused_in_one_line(script, load_script, monkeypatch, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", os.environ | {"HF_HUB_OFFLINE": "1"})
    parser, main = parser_of(load_script, monkeypatch, script), load_script(script).main
    stem = script.rpartition("/")[2].removesuffix(".py")
    last = ["one word too many"] if stem in NO_DATA else []
    cases = [[*words, *last] for words in cases_of(parser, required_words(parser, stem))]
    wrong = [found for found in (complaint(main, words, tmp_path) for words in cases) if found]
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)


def test_there_are_thousands_of_cases(load_script, monkeypatch):
    parsers = [parser_of(load_script, monkeypatch, script) for script in SCRIPTS]
    assert sum(len(parser._actions) for parser in parsers) * len(NONSENSE) >= N_CASES
