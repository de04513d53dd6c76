"""Look up known vulnerabilities of the locked packages, and say what could not be looked up.

pip-audit alone ends with status 0 where a package cannot be looked up; here that is said, and no success.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"

FOUND, NOTHING_CHECKED = 1, 2


def verdict(report: dict) -> tuple[int, str]:
    """Exit status and words for what pip-audit reports.

    Parameters
    ----------
    report
        The JSON of pip-audit, which has a list ``dependencies``.
    """
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return NOTHING_CHECKED, "no advisory database answers (is there a network?): nothing was checked"
    found = [
        f"{package['name']} {package['version']}: {flaw['id']} (mended in {', '.join(flaw['fix_versions']) or 'none'})"
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    lines = [f"{len(packages) - len(skipped)} packages checked, {len(found)} known vulnerabilities", *found]
    if skipped:
        lines.append(f"not checked: {', '.join(skipped)}")
    return FOUND if found else 0, "\n".join(lines)


def main() -> int:
    """Run pip-audit on the lock file."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--no-deps"]
    result = subprocess.run([*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        report = json.loads(result.stdout)
    except json.JSONDecodeError:
        last = (result.stderr.strip().splitlines() or ["no word"])[-1]
        print(f"error: pip-audit could not look anything up (is there a network?): {last}", file=sys.stderr)
        return NOTHING_CHECKED
    status, words = verdict(report)
    print(words)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
