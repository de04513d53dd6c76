"""What only a GPU can show: parity of attention, memory, speed, host waits and resuming, in under nine minutes.

Each section runs in a process of its own with a deadline, so that one that breaks down does not end the others. The
status is 1 if something is not as expected. Needs no package beyond those of pre-training.
"""

import argparse

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.parser import argument_parser, positive_float, script
from scdmc.files import require_new_folder
from scdmc.studies.gpu_check import SECTIONS, TABLES_FILE, check, require_gpu, verdict
from scdmc.studies.gpu_check_rows import FULL, TINY

EXAMPLES = ("{prog} --output_dir OUT", "{prog} --output_dir OUT --sections facts parity step memory --minutes 4")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the check."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_output_dir_argument(parser, meaning="folder for the tables, the steps and the log")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what is checked")
    parser.add_argument("--minutes", type=positive_float, default=8.5, help="for all sections together")
    parser.add_argument("--tiny", action="store_true", help="the same code on the CPU; it measures nothing")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Run the sections, print their tables, and say what is not as expected."""
    arguments = parse_arguments(argv)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    if not arguments.tiny:
        require_gpu()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    size = TINY if arguments.tiny else FULL
    outcomes = check(arguments.sections, size, 60 * arguments.minutes, arguments.output_dir)
    print((arguments.output_dir / TABLES_FILE).read_text(encoding="utf8"))
    print(verdict(outcomes))
    return 1 if any(outcome.failures for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
