"""What the user sees of errors, and which numbers flags take."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

import scdmc
from scdmc.cli import parser as command_line
from scdmc.cli.endings import BROKEN_PIPE_STATUS, USER_ERRNOS
from scdmc.cli.parser import argument_parser, fill_in, script
from scdmc.errors import ScDMCError

EXAMPLES = ("{prog} --n 3", "{prog} --n 4")


def failing(error):
    @script
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize("number", sorted(USER_ERRNOS))
def test_a_full_disk_or_a_missing_permission_is_one_line(capsys, number):
    assert failing(OSError(number, "no\nway", "out/x.csv"))() == 2
    assert capsys.readouterr().err == "error: out/x.csv: no\n"
    assert failing(OSError(number, "No space left on device"))() == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


@pytest.mark.parametrize("error", [OSError("unknown"), FileNotFoundError(errno.ENOENT, "absent"), ValueError("a bug")])
def test_other_errors_are_bugs(error):
    with pytest.raises(type(error)):
        failing(error)()


def test_a_date_that_pages_cannot_have_is_refused_before_the_work(capsys, monkeypatch):
    @script
    def main(argv=None):
        argument_parser("", EXAMPLES).parse_args([])
        raise AssertionError("the work began")

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "noon")
    assert main() == 2
    assert (
        capsys.readouterr().err == "error: SOURCE_DATE_EPOCH=noon: give a number of seconds since 1970, or unset it\n"
    )


def test_a_user_error_and_ctrl_c_are_one_line(capsys):
    assert failing(ScDMCError("mend this"))() == 2
    assert failing(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "error: mend this\nerror: interrupted\n"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--n", "-1"], "argument --n: -1 is not a positive integer"),
        (["--zzz"], "--zzz: no such flag; see script.py --help"),
        ([], "the following arguments are required: --n"),
        # What is not there is named before what is missing: the one often is the other, mistyped.
        (["--labl_key", "x"], "--labl_key: no such flag; did you mean --label_key?"),
        (["--label", "x"], "--label: no such flag; did you mean --label_key?"),
        (["--pretrained_model_path=x"], "--pretrained_model_path: no such flag; did you mean --model?"),
        (["--bf16"], "--bf16: no such flag; did you mean --dtype bfloat16?"),
        (["--n", "1", "--dtype", "float16"],
         "argument --dtype: invalid choice float16 (choose from float32, bfloat16); did you mean bfloat16?"),
        (["--n", "1", "--dtype", "x"], "argument --dtype: invalid choice x (choose from float32, bfloat16)"),
        (["--n", "1", "--data_path"], "argument --data_path: expected one argument"),
        (["--n", "1", "stray"], "unrecognized arguments: stray"),
        (["--label_k", "x", "--n", "1"], "--label_k: no such flag; did you mean --label_key?"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_flag_is_one_line_that_names_the_nearest(capsys, monkeypatch, argv, line):
    monkeypatch.setattr(sys, "argv", ["folder/script.py"])
    parser = argument_parser("A script.", EXAMPLES)
    parser.add_argument("--n", type=command_line.positive_int, required=True)
    parser.add_argument("--label_key", default="cell_type")
    parser.add_argument("--model")
    parser.add_argument("--data_path", "--dataset_path")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_values_that_look_like_flags_are_values():
    parser = argument_parser("A script.", EXAMPLES)
    parser.add_argument("--filter")
    parser.add_argument("--n", type=float)
    arguments = parser.parse_args(["--filter=--a", "--n", "-1"])
    assert (arguments.filter, arguments.n) == ("--a", -1.0)
    assert parser.parse_args(["--filter", "-- not a flag"]).filter == "-- not a flag"


@pytest.mark.parametrize(
    ("started_as", "shown"),
    [("downstream_tasks/annotate.py", "python -u annotate.py"), ("scdmc annotate", "scdmc annotate")],
)
def test_help_ends_with_the_examples_as_the_script_was_started(capsys, monkeypatch, started_as, shown):
    monkeypatch.setattr(sys, "argv", [started_as])
    with pytest.raises(SystemExit) as stop:
        argument_parser("A script.", EXAMPLES).parse_args(["--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.endswith(f"\nexamples:\n  {shown} --n 3\n  {shown} --n 4\n")


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        argument_parser("A script.", EXAMPLES).parse_args(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"scdmc {scdmc.__version__}\n"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("positive_int", ["1"], ["0", "-1", "1.5", "x", "1e3", "nan", "99999999999999999999", "--"]),
        ("non_negative_int", ["0", "3"], ["-1", "0.5"]),
        ("fraction", ["0.5"], ["0", "1", "nan"]),
        ("probability", ["0", "0.5"], ["1", "-0.1", "nan", "x"]),
        ("positive_float", ["1e-9", "3"], ["0", "-1", "nan", "inf", "x", "1e300"]),
        ("non_negative_float", ["0", "2.5"], ["-1e-9", "nan", "inf"]),
        ("seed", ["0", "4294967295"], ["-1", "4294967296", "1.5"]),
        ("process_count", ["1", "256"], ["0", "257", "99999999999999999999"]),
        ("extra_process_count", ["0", "256"], ["-1", "257"]),
        ("model_size", ["1", "65536"], ["0", "65537"]),
    ],
)
def test_numbers_outside_of_their_range_are_refused(capsys, name, good, bad):
    parser = argument_parser("A script.", EXAMPLES)
    parser.add_argument("--flag", type=getattr(command_line, name))
    for text in good:
        assert parser.parse_args([f"--flag={text}"]).flag == float(text)
    for text in bad:
        with pytest.raises(SystemExit):
            parser.parse_args([f"--flag={text}"])
        assert text in capsys.readouterr().err.splitlines()[-1]


def test_a_number_of_thousands_of_digits_is_one_short_line(capsys):
    parser = argument_parser("A script.", EXAMPLES)
    parser.add_argument("--n", type=command_line.positive_int)
    parser.add_argument("--x", type=command_line.fraction)
    for argv, words in (
        (["--n", "9" * 9_000], "(9,000 characters) is too large (at most 2,147,483,647)"),
        (["--n=-" + "9" * 9_000], "(9,001 characters) is not a positive integer"),
        (["--x", "y" * 9_000], "(9,000 characters) is not a number"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(argv)
        line = capsys.readouterr().err
        assert words in line
        assert len(line) < 120


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the value is empty"),
        (" \t", "the value is empty"),
        ("a\0b", "holds a character that no file name can have"),
        ("caf\udce9.h5ad", "is a name that is not UTF-8; rename the file or folder"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(capsys, text, words):
    parser = argument_parser("A script.", EXAMPLES)
    parser.add_argument("--output_file", type=Path)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"--output_file={text}"])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: argument --output_file: ")
    assert printed.endswith(f"{words}\n")


def test_a_lack_of_memory_is_one_line(capsys):
    for error in (
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 1 bytes.\nmore"),
        OSError("libx.so: failed to map segment from shared object"),
        ImportError("liby.so: failed to map segment from shared object"),
    ):
        assert failing(error)() == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: there is not enough memory")
        assert printed.count("\n") == 1
        assert str(error).splitlines()[:1] in ([], [printed.partition("(")[2].rpartition(")")[0]])


def test_a_name_that_is_not_utf8_is_one_line_wherever_it_turns_up(capsys):
    @script
    def main(argv=None):
        return len("caf\udce9".encode())

    assert main() == 2
    assert capsys.readouterr().err == "error: 'caf\\udce9' is a name that is not UTF-8; rename the file or folder\n"
    with pytest.raises(UnicodeEncodeError):
        failing(UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"))()


@pytest.fixture
def printing():
    """A script that prints, more than a buffer holds where it is asked to."""

    @script
    def main(argv=None):
        print("é" * (100_000 if argv else 10))
        return 0

    return main


@pytest.mark.parametrize("much", [False, True])
def test_a_reader_that_is_gone_ends_the_script_quietly(capsys, monkeypatch, printing, much):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf8") as stdout:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stdout)
        assert printing(["much"] if much else None) == BROKEN_PIPE_STATUS
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_of_another_process_is_a_bug():
    with pytest.raises(BrokenPipeError):
        failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")  # noqa: PTH110
def test_output_that_cannot_be_printed_is_one_line_and_no_word_against_the_files(capsys, monkeypatch, printing):
    with Path("/dev/full").open("w", encoding="utf8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert printing() == 2
    assert capsys.readouterr().err == (
        "error: standard output cannot be written (No space left on device); the files that the script wrote are "
        "complete\n"
    )


def test_letters_that_the_terminal_lacks_are_printed_as_escapes(monkeypatch, printing):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert printing() == 0
    assert stdout.buffer.getvalue() == b"\\xe9" * 10 + b"\n"


def test_flags_that_were_left_out_get_their_defaults_and_those_in_vain_are_refused():
    def arguments(*argv):
        parser = argument_parser("a test", EXAMPLES)
        parser.add_argument("--n", type=int, help="so many; 3 without it")
        parser.add_argument("--switch", action="store_true")
        return parser.parse_args(argv)

    defaults = {"n": 3, "switch": False}
    left_out, given = arguments(), arguments("--n", "0", "--switch")
    fill_in(left_out, defaults, False, "here")
    assert (left_out.n, left_out.switch) == (3, False)
    fill_in(given, defaults, True, "here")
    assert (given.n, given.switch) == (0, True)
    for argv, named in ((["--n", "3"], "--n"), (["--n", "0"], "--n"), (["--switch"], "--switch")):
        with pytest.raises(ScDMCError, match=f"^{named} has no effect here; leave it out$"):
            fill_in(arguments(*argv), defaults, False, "here")


def test_help_shows_every_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = argument_parser("a test", EXAMPLES)
    parser.add_argument("--filled_in", type=int, help="so many (default: 3)")
    parser.add_argument("--number", type=int, default=7, help="more")
    parser.add_argument("--needed", required=True, help="what is needed")
    parser.add_argument("--switch", action="store_true", help="do it")
    parser.add_argument("--words", nargs="+", default=["a", "b"], help="some")
    parser.add_argument("--others", nargs="+", default=[], help="others")
    parser.add_argument("--share", default="5%", help="of 100%%")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert "None" not in printed
    for line in ("so many (default: 3)", "more (default: 7)", "what is needed", "do it (default: off)",
                 "some (default: a b)", "others (default: none)", "of 100% (default: 5%)"):  # fmt: skip
        assert f" {line}\n" in printed
