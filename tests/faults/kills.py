"""Runs that are killed at one point, what is visible then, and the same run again."""

import os
import random
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.faults.jobs import JOBS, words_of
from tests.faults.readers import content_of, digest
from tests.faults.server import Case, ForkServer, Outcome

SEED = int(os.environ.get("SCDMC_FAULT_SEED", "0"))
N_POINTS = int(os.environ.get("SCDMC_KILL_POINTS", "22"))


def contents(folder: Path) -> dict[str, str]:
    """Path -> hash of every file, hidden or not; the time and the process in names of TensorBoard are left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {re.sub(r"(?<=tfevents).*", "", str(path.relative_to(folder))): digest(content_of(path)) for path in paths}


@dataclass
class Undisturbed:
    """What a job leaves when nothing disturbs it.

    Attributes
    ----------
    before, after
        All files before and after the run.
    same
        Files whose bytes are the same in two runs.
    n_events
        File-system events of the run.
    sizes
        Sizes of the files that it writes, for kills in the middle of a write.
    older, newer
        What the reader says of the folder before and after; None for a fresh one.
    """

    before: dict[str, str]
    after: dict[str, str]
    same: set[str]
    n_events: int
    sizes: list[int]
    older: str | None
    newer: str


class Killer:
    """Kills one job again and again."""

    def __init__(self, server: ForkServer, inputs: Path, folder: Path, name: str):
        self.server, self.inputs, self.job = server, inputs, JOBS[name]
        self.place, self.template = folder / "place", folder / "template"
        self.out = self.place / "out"
        self.template.mkdir(parents=True)
        if self.job.older is not None:
            self.fresh()
            self.require_success(self.run(changes=self.job.older(inputs)))
            shutil.rmtree(self.template)
            self.place.rename(self.template)
        self.undisturbed = self.run_undisturbed()

    def fresh(self) -> None:
        """The place of the output folder as it was before."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.template, self.place)

    def case(self, *extra: str, changes: dict | None = None, **limits: object) -> Case:
        """One run of the script in the output folder as it is."""
        flags = self.job.flags(self.inputs, self.out) | (changes or {})
        needed = ["--overwrite"] if any(self.template.iterdir()) and "--overwrite" not in extra else []
        words = [self.job.script, *words_of(flags), *extra, *needed]
        return Case("tests.faults.server:run_script", words, watch=str(self.place), draws=False, **limits)

    def run(self, *extra: str, **more: object) -> Outcome:
        """Such a run, and what became of it."""
        return self.server.run(self.case(*extra, **more))[0]

    def require_success(self, outcome: Outcome) -> Outcome:
        """A run that nothing disturbs ends well."""
        assert outcome.result == 0, f"{self.job.script}: {outcome.tail}"
        assert outcome.orphans == 0
        return outcome

    def read(self) -> str:
        """What the reader of the job makes of what is there."""
        (outcome,) = self.server.run(Case("tests.faults.readers:read", [self.job.reader, str(self.out)]))
        assert isinstance(outcome.result, str), f"the reader broke:\n{outcome.tail}"
        return outcome.result

    def run_undisturbed(self) -> Undisturbed:
        """Run twice, to see which bytes are always the same, whatever the words of the command."""
        self.fresh()
        before = contents(self.place)
        older = self.read() if before else None
        outcome = self.require_success(self.run())
        after, newer = contents(self.place), self.read()
        sizes = sorted({path.stat().st_size for path in self.place.rglob("*") if path.is_file()})
        self.fresh()
        self.require_success(self.run("--overwrite"))
        again = contents(self.place)
        assert set(again) == set(after), "two runs leave other files"
        read_again = self.read()
        assert read_again == newer, f"two runs read as {newer} and {read_again}"
        assert not newer.startswith("refused: "), newer
        same = {name for name, text in after.items() if again[name] == text}
        return Undisturbed(before, after, same, outcome.n_events, sizes, older, newer)

    def points(self, n: int, generator: random.Random) -> list[dict]:
        """Events and sizes at which to kill, in a random order."""
        known = self.undisturbed
        events = [{"kill_at": event} for event in range(1, known.n_events + 1)]
        sizes = [size for size in known.sizes if size > 1]
        n_sizes = max(len(events) // 3, n - len(events))
        middles = [{"most_bytes": 1 + int(generator.choice(sizes) * generator.random())} for _ in range(n_sizes)]
        points = [*events, *middles]
        generator.shuffle(points)
        return points[:n]

    def kill(self, point: dict) -> None:
        """Kill a run at a point, look, run again, and compare."""
        self.fresh()
        outcome = self.run(**point, kills=True)
        where = f"{self.job.script} killed at {point}"
        # Of a worker of its own the limit of sizes is an error of the run.
        assert outcome.signal or outcome.result == 0 or outcome.is_refusal, f"{where}: {outcome.tail}"
        assert outcome.orphans == 0, f"{where}: {outcome.orphans} processes live on"
        self.require_nothing_false(where)
        self.run_again(where)
        self.require_the_same(where)

    def fill(self, most_bytes: int) -> None:
        """Let no file grow beyond so many bytes, as on a full disk; look, run again, and compare."""
        self.fresh()
        outcome = self.run(most_bytes=most_bytes)
        where = f"{self.job.script} with files of at most {most_bytes} bytes"
        assert not outcome.signal, f"{where}: {outcome.tail}"
        assert outcome.result == 0 or outcome.is_refusal, f"{where}: {outcome.tail}"
        self.require_nothing_false(where)
        self.run_again(where)
        self.require_the_same(where)

    def race(self) -> None:
        """Two runs with other flags at the same time: one result is whole, and who has to wait is told for whom."""
        self.fresh()
        outcomes = self.server.run(self.case(), self.case(changes=self.job.older(self.inputs)))
        tails = "\n".join(outcome.tail for outcome in outcomes)
        assert any(outcome.result == 0 for outcome in outcomes), tails
        for outcome in outcomes:
            told = re.search(rf"is being written by process \d+ on {re.escape(socket.gethostname())}", outcome.err)
            assert outcome.result == 0 or (outcome.is_refusal and told), tails
        text = self.read()
        assert text in (self.undisturbed.older, self.undisturbed.newer), f"a mixture: {text}"
        known = set(self.undisturbed.after) | set(self.undisturbed.before)
        assert set(contents(self.place)) <= known, f"left over {sorted(set(contents(self.place)) - known)}"

    def require_nothing_false(self, where: str) -> None:
        """What is visible is nothing, the older result, the new one, or is refused."""
        found, known = shown(contents(self.place)), self.undisturbed
        for whole in ({}, known.before, known.after):
            whole = shown(whole)
            if set(found) == set(whole) and all(found[name] == whole[name] for name in set(whole) & known.same):
                return
        text = self.read()
        is_honest = text in (known.older, known.newer) or text.startswith("refused: ")
        assert is_honest, f"{where}: neither the older result nor the new one: {sorted(found)}"

    def run_again(self, where: str) -> None:
        """The user repeats the command, with --resume where there is one, with --overwrite where that is asked for."""
        again = ["--resume"] if self.job.resumes else []
        for words in (again, [*again, "--overwrite"], ["--overwrite"]):
            outcome = self.run(*words)
            if outcome.result == 0:
                assert outcome.orphans == 0, f"{where}, then {words}: {outcome.orphans} processes live on"
                return
            assert outcome.is_refusal, f"{where}, then {words}: {outcome.tail}"
        raise AssertionError(f"{where}: the run cannot be repeated: {outcome.tail}")

    def require_the_same(self, where: str) -> None:
        """All files are those of a run that nothing disturbed; nothing is left over."""
        found, known = contents(self.place), self.undisturbed
        assert set(found) == set(known.after), (
            f"{where}, and again: left over {sorted(set(found) - set(known.after))}, "
            f"lost {sorted(set(known.after) - set(found))}"
        )
        other = [name for name in known.same if found[name] != known.after[name]]
        assert not other, f"{where}, and again: other bytes in {other}"
        text = self.read()
        assert text == known.newer, f"{where}, and again: reads as {text}"


def shown(files: dict[str, str]) -> dict[str, str]:
    """Those that are not hidden, nor in a hidden folder."""
    return {name: text for name, text in files.items() if not any(part.startswith(".") for part in Path(name).parts)}


def points_of(name: str) -> int:
    """How many points a job gets of all."""
    total = sum(job.weight for job in JOBS.values())
    return max(1, round(N_POINTS * JOBS[name].weight / total))
