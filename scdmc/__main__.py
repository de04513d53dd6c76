"""``python -m scdmc`` is the command ``scdmc``."""

from scdmc.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
