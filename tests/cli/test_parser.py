"""What the user sees of errors, and which numbers flags take."""

import errno

import pytest

from scdmc.cli import parser as command_line
from scdmc.cli.parser import argument_parser, fill_in, script
from scdmc.errors import ScDMCError


def failing(error):
    @script
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_full_disk_or_a_missing_permission_is_one_line(capsys, number):
    assert failing(OSError(number, "no\nway", "out/x.csv"))() == 2
    assert capsys.readouterr().err == "error: out/x.csv: no\n"
    assert failing(OSError(number, "No space left on device"))() == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


@pytest.mark.parametrize("error", [OSError("unknown"), FileNotFoundError(errno.ENOENT, "absent"), ValueError("a bug")])
def test_other_errors_are_bugs(error):
    with pytest.raises(type(error)):
        failing(error)()


def test_a_user_error_and_ctrl_c_are_one_line(capsys):
    assert failing(ScDMCError("mend this"))() == 2
    assert failing(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "error: mend this\nerror: interrupted\n"


@pytest.mark.parametrize("argv", [["--n", "-1"], ["--typo"], []])
def test_a_wrong_flag_is_the_usage_and_one_line(capsys, argv):
    parser = argument_parser("A script.")
    parser.add_argument("--n", type=command_line.positive_int, required=True)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    assert stop.value.code == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ")
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("positive_int", ["1"], ["0", "-1", "1.5", "x"]),
        ("non_negative_int", ["0", "3"], ["-1", "0.5"]),
        ("fraction", ["0.5"], ["0", "1", "nan"]),
        ("probability", ["0", "0.5"], ["1", "-0.1", "nan", "x"]),
        ("positive_float", ["1e-9", "3"], ["0", "-1", "nan", "inf", "x"]),
        ("non_negative_float", ["0", "2.5"], ["-1e-9", "nan", "inf"]),
        ("seed", ["0", "4294967295"], ["-1", "4294967296", "1.5"]),
    ],
)
def test_numbers_outside_of_their_range_are_refused(capsys, name, good, bad):
    parser = argument_parser("A script.")
    parser.add_argument("--flag", type=getattr(command_line, name))
    for text in good:
        assert parser.parse_args([f"--flag={text}"]).flag == float(text)
    for text in bad:
        with pytest.raises(SystemExit):
            parser.parse_args([f"--flag={text}"])
        assert text in capsys.readouterr().err.splitlines()[-1]


def test_flags_that_were_left_out_get_their_defaults_and_those_in_vain_are_refused():
    def arguments(*argv):
        parser = argument_parser("a test")
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


def test_help_shows_defaults_but_none(capsys):
    parser = argument_parser("a test")
    parser.add_argument("--n", type=int, help="so many; 3 without it")
    parser.add_argument("--m", type=int, default=7, help="more")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert "more (default: 7)" in printed
    assert "None" not in printed
