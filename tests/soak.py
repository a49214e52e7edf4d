"""An endless sweep under kills, trainings under kills, and mutants of every kind of file.

    python -m tests.soak [--minutes 30] [--seed 0] [--parts sweeps trainings] [--record]

Until the time is over, three parts run: sweeps of a small grid of 60 jobs, of which at random
moments the grid, one of its jobs or all of its processes are killed with SIGKILL, and which must
end with the records, and byte for byte with the board, of a sweep that nobody disturbed; trainings
of every algorithm, killed likewise, which must end with the bits of an undisturbed one; and, in a
process beside them, mutants of datasets, checkpoints and records, of which none may raise another
error than a UserError or load as something else. Beside that, what lives long is looked at: the
memory of the sweeps' grids and of the process of the mutants may grow by less than 5 % from the
first third of their lives to the last, their open files by two, and temporary files of sweeps
stay below 10 MB and are gone at a sweep's end. The first finding ends it with an error: a record is
of a soak that found nothing.

`--record` adds it to leaderboard/perf/soak.json: counts, and the machine. Another `--seed` kills at
other moments; `--parts` leaves the sweeps or the trainings out, the mutants are always there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import algorithms
from benchmark import checkpoint, files, provenance, record
from benchmark.cli import board
from benchmark.record import Record
from leaderboard.table import render
from tests.conftest import ROOT, TINY, bench, command
from tests.mutants import Checkpoints, Records
from tests.test_fuzz import Trial, make_layouts, mutant
from tests.test_kill import arguments, dataset_for, folder
from tests.test_runner import same

RECORD = ROOT / "leaderboard" / "perf" / "soak.json"
PLUGIN = ROOT / "tests" / "plugins" / "plain_net.py"
ROWS, SOURCES = ("bc", "random", "plain_net"), (TINY, "probe/xor/two-mode-v1")
LONGEST = 6.0  # seconds to a kill; twice as long after one that came before any progress
KINDS = ("parent", "tree", "job", "job", "job")  # of kills of a sweep; few find a job to kill
TIMES = 10  # as many steps as the slow test's trainings: most are killed before their end
LOOK = 0.25  # seconds between two looks at a process
FEW = 30  # looks: of a life of less nothing is said
MOST_GROWTH, MOST_TEMPORARY = 0.05, 10_000_000  # share of memory, bytes
MOST_FILES = 2  # more open at the end than at first: some wait for the collector of garbage


def check(true: bool, text: str) -> None:
    if not true:
        raise SystemExit(f"soak: {text}")


def state_of(records: Path) -> dict[str, str]:
    """Path -> sha256 of every record that is there."""
    return {
        str(path.relative_to(records)): files.sha256_file(path)
        for path in sorted(records.rglob("*.json"))
        if not path.name.startswith(files.TEMPORARY)
    }


def lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Records that were there and are gone, or are others now."""
    return [path for path, digest in before.items() if after.get(path) != digest]


def essence(made: Record) -> Record:
    """A record without what differs from run to run: times, memory, when and in which commit."""
    cost = dataclasses.replace(
        made.cost, train_seconds=0.0, update_ms=0.0, act_ms=0.0, evaluate_seconds=0.0, peak_mb=0.0
    )
    cost = dataclasses.replace(cost, extra={name: 0.0 for name in cost.extra})
    where = dataclasses.replace(made.provenance, commit="", dirty=False, finished="")
    return dataclasses.replace(made, cost=cost, provenance=where, checkpoint_sha256="")


def board_text(records: list[Record]) -> bytes:
    return render(board.rows_of(list(map(essence, records))), "markdown").encode()


class Life:
    """Memory and open files of a process, looked at from time to time."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.seen = process, list[tuple[int, int]]()

    def look(self) -> None:
        with contextlib.suppress(psutil.Error):
            self.seen.append((self.process.memory_info().rss, self.process.num_fds()))

    def report(self) -> dict[str, Any]:
        """By how much its last third is above its first, by medians: a grid opens and closes files
        all the time. Nothing if short.
        """
        if len(self.seen) < FEW:
            return {}
        memory, opened = zip(*self.seen, strict=True)
        third = len(self.seen) // 3
        grown = statistics.median(memory[-third:]) / statistics.median(memory[:third]) - 1
        more = statistics.median(opened[-third:]) - statistics.median(opened[:third])
        check(grown < MOST_GROWTH, f"memory grew by {grown:.1%} to {memory[-1] / 1e6:.0f} MB")
        check(
            more <= MOST_FILES, f"{more:g} more files are open than at first, {opened[-1]} in all"
        )
        looks = {"looks": len(self.seen), "peak_mb": round(max(memory) / 1e6, 1)}
        return looks | {"memory_grew": round(grown, 4), "open_files": max(opened)}


def temporary_bytes(out: Path, tmp: Path) -> int:
    """Of the files in `tmp`, and of those in `out` that are not yet what they are written for."""
    total = 0
    for path in [*tmp.rglob("*"), *out.rglob(files.TEMPORARY + "*")]:
        with contextlib.suppress(OSError):  # renamed by now
            total += path.stat().st_size if path.is_file() else 0
    return total


class Killer:
    """Starts a command and kills processes of it at random moments."""

    def __init__(self, rng: random.Random, tmp: Path) -> None:
        self.rng, self.longest, self.counts = rng, LONGEST, Counter[str]()
        self.jobs = Counter[str]()  # how often each job of a grid was ended
        self.tmp, self.said, self.lives = tmp, tmp.with_suffix(".log"), list[Life]()
        tmp.mkdir(parents=True)

    def run(self, words: list[str], progress: Callable[[], Any], kinds: tuple[str, ...]) -> bool:
        """Whether the command came to its own end, which must be a good one."""
        before = progress()
        with self.said.open("a") as said_before:
            process = psutil.Popen(
                command(*words),
                stdin=subprocess.DEVNULL,
                stdout=said_before,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.tmp)},
            )
        self.lives.append(Life(process))
        left = self.rng.uniform(0.0, self.longest) if kinds else float("inf")
        while True:
            try:
                _, said = process.communicate(timeout=min(left, LOOK))
                tries = [x for x in self.said.read_text().splitlines() if "; try " in x]
                why = "\n".join([said, *tries])
                check(process.returncode == 0, f"{' '.join(words)} failed: {why}")
                return True
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.Error):
                    if process.children():  # it has started, and works
                        self.lives[-1].look()
            if (left := left - LOOK) > 0:
                continue
            if self._kill(process, self.rng.choice(kinds)):
                process.communicate()
                self.longest = LONGEST if progress() != before else 2 * self.longest
                return False
            left = self.rng.uniform(0.0, self.longest)

    def _kill(self, process: psutil.Process, kind: str) -> bool:
        """Kill; whether the command itself was among the victims."""
        try:
            children = process.children(recursive=True)
            if kind == "job":  # the grid goes on by itself
                children = [self.rng.choice(children)]
            lines = [child.cmdline() for child in children]
        except (psutil.Error, IndexError):
            return False
        # A third end before any progress would rightly be recorded as a failure.
        names = {" ".join(words) for words in lines if "train" in words}
        if any(self.jobs[name] == 2 for name in names):
            return False
        self.jobs.update(names)
        self.counts[kind] += 1
        for victim in [*([] if kind == "job" else [process]), *children * (kind != "parent")]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        return kind != "job"


class Sweeps:
    """Grids under kills, one after the other, against one that nobody disturbed."""

    def __init__(self, root: Path, rng: random.Random, jobs: int) -> None:
        self.root, self.killer = root, Killer(rng, root / "tmp")
        self.counts, self.temporary = Counter[str](), 0
        self.seeds = [str(seed) for seed in range(jobs // len(ROWS) // len(SOURCES))]
        self.number, self.seen = 0, dict[str, str]()
        self.killer.run(self.words(root / "whole"), lambda: None, ())
        self.whole = record.read_all([root / "whole" / "records"])
        jobs = len(ROWS) * len(SOURCES) * len(self.seeds)
        check(len(self.whole) == jobs, "the sweep is not whole")

    def words(self, out: Path) -> list[str]:
        options = ["--protocol", "smoke", "--plugin", str(PLUGIN), "--workers", "4"]
        rows = ["--algos", *ROWS, "--datasets", *SOURCES]
        return ["grid", *rows, *options, "--seeds", *self.seeds, "--out", str(out)]

    def turn(self) -> None:
        out = self.root / f"sweep-{self.number}"
        records = out / "records"

        def progress() -> Any:
            return state_of(records), sorted(out.rglob("checkpoint-*"))

        ended = self.killer.run(self.words(out), progress, KINDS)
        self.temporary = max(self.temporary, temporary_bytes(out, self.killer.tmp))
        check(self.temporary < MOST_TEMPORARY, f"{self.temporary:,} bytes of temporary files")
        found = state_of(records)
        gone = lost(self.seen, found)
        check(not gone, f"finished records are lost or replaced: {gone}")
        self.counts["records_found_unchanged_after_a_kill"] += len(self.seen)
        self.seen = found
        if ended:
            self._compare(out)
            self.number, self.seen = self.number + 1, {}

    def _compare(self, out: Path) -> None:
        made = [record.read(path) for path in sorted((out / "records").rglob("*.json"))]
        counts = Counter((item.key, item.seed) for item in made)
        check(max(counts.values()) == 1, f"duplicated records: {counts.most_common(1)}")
        made = record.read_all([out / "records"])
        check(len(made) == len(self.whole), f"{len(made)} records, expected {len(self.whole)}")
        for a, b in zip(self.whole, made, strict=True):
            check(essence(a) == essence(b), f"{a.algo} seed {a.seed} ends with other bits")
        check(board_text(self.whole) == board_text(made), "the board is not byte-equal")
        left = list((out / "claims").iterdir())
        check(not left, f"claims are left: {left}")
        check(
            not list(out.rglob(files.TEMPORARY + "*")),
            "temporary files are left at the end of a sweep",
        )
        self.counts["sweeps_with_equal_boards"] += 1
        self.counts["records_with_equal_bits"] += len(made)

    def report(self) -> dict[str, Any]:
        kills = {f"kills_of_{kind}": n for kind, n in sorted(self.killer.counts.items())}
        lives = [life for each in self.killer.lives if (life := each.report())]
        longest = max(lives, key=lambda life: life["looks"], default={})
        most = {"temporary_bytes_at_most": self.temporary, "grids_looked_at": len(lives)}
        grown = {"memory_of_a_grid_grew_at_most": max((x["memory_grew"] for x in lives), default=0)}
        end = {"kills": sum(kills.values()), "longest_life_of_a_grid": longest}
        return dict(self.counts) | kills | most | grown | end


class Trainings:
    """Trainings under kills, every algorithm in turn, against undisturbed ones."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.counts = root, Counter[str]()
        self.killer = Killer(rng, root / "tmp")
        names = algorithms.names()
        rng.shuffle(names)
        self.rows = itertools.cycle(names)
        self.row, self.number = next(self.rows), 0

    def turn(self) -> None:
        row, whole = self.row, self.root / "whole" / self.row
        if not whole.exists():
            source = dataset_for(row)
            made = bench("data", source) if source.count("/") == 2 else None
            check(made is None or made.returncode == 0, f"{source} was not made")
            done = bench(*arguments(row, whole, TIMES))
            check(done.returncode == 0, f"{row} failed undisturbed: {done.stderr}")
        out = self.root / f"run-{self.number}"

        def progress() -> Any:
            return sorted(out.rglob("checkpoint-*"))

        if self.killer.run(arguments(row, out, TIMES), progress, ("parent",)):
            paths = [checkpoint.latest(folder(where, row)) for where in (whole, out)]
            a, b = (checkpoint.load(path) for path in paths if path)
            other = same(a, b)
            check(not other, f"{row} ends with other bits after kills: {other[:3]}")
            a, b = (record.read_all([where / "records"]) for where in (whole, out))
            check(list(map(essence, a)) == list(map(essence, b)), f"records of {row} differ")
            self.counts["runs_with_equal_bits"] += 1
            self.counts[f"runs_of_{row}"] += 1
            self.row, self.number = next(self.rows), self.number + 1

    def report(self) -> dict[str, Any]:
        return dict(sorted(self.counts.items())) | {"kills": sum(self.killer.counts.values())}


def fuzz(root: Path, first: int, minutes: float) -> dict[str, Any]:
    """Mutants of every kind of file in turn, for so long."""
    trials: dict[str, Any] = {}
    for name, path in make_layouts(root).items():
        trial = trials[f"datasets_{name}"] = Trial(path)
        trial.load(trial.content, "the sound file")
    for kind in (Records, Checkpoints):
        trials[kind.name] = kind(root)
    end, number, life = time.monotonic() + 60 * minutes, first, Life(psutil.Process())
    while time.monotonic() < end:
        for name, trial in trials.items():
            if isinstance(trial, Trial):
                outcome = trial.load(mutant(trial.content, number), f"mutant {number}")
            else:
                outcome = trial.load(number)
            good = ("refused", "same") + (("other",) if name == "records" else ())
            check(outcome in good, f"mutant {number} of {name} is {outcome}")
        number += 1
        if number % 10 == 0:
            life.look()
    counts = {name: {"mutants": number - first, **x.counts} for name, x in trials.items()}
    return counts | {"process": life.report()}


def turns(parts: list[Any], end: float) -> Iterator[None]:
    """Turns of the parts until the end, each time of the one that had the least time so far."""
    spent = [0.0] * len(parts)
    while time.monotonic() < end:
        least = spent.index(min(spent))
        begun = time.monotonic()
        parts[least].turn()
        spent[least] += time.monotonic() - begun
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the mutants")
    parser.add_argument("--jobs", type=int, default=60, help="of a sweep, a multiple of 6")
    names = ("sweeps", "trainings")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--fuzz", type=Path, help=argparse.SUPPRESS)  # the part beside the others
    options = parser.parse_args()
    if options.jobs < 6 or options.jobs % 6:
        parser.error(f"argument --jobs: found {options.jobs}, expected a multiple of 6 above 0")
    if options.minutes <= 0:
        parser.error(f"argument --minutes: found {options.minutes:g}, expected more than 0")
    if options.fuzz:
        os.nice(10)  # what is killed goes first: it needs the time to get anywhere
        print(json.dumps(fuzz(options.fuzz, 10**6 * options.seed, options.minutes)))
        return
    machine, begun = provenance.machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        root, rng = Path(name), random.Random(options.seed)
        (root / "fuzz").mkdir()
        parts: dict[str, Sweeps | Trainings] = {}
        if "sweeps" in options.parts:
            print("making the undisturbed sweep", flush=True)
            parts["sweeps"] = Sweeps(root / "grid", rng, options.jobs)
        if "trainings" in options.parts:
            parts["trainings"] = Trainings(root / "train", rng)
        again = ["--minutes", str(options.minutes), "--seed", str(options.seed)]
        beside = subprocess.Popen(
            [sys.executable, "-m", "tests.soak", "--fuzz", str(root / "fuzz"), *again],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            end, shown = time.monotonic() + 60 * options.minutes, 0.0
            for _ in turns(list(parts.values()), end):
                check(beside.poll() in (None, 0), "a mutant did harm")
                if time.monotonic() - shown > 20:
                    for part, each in parts.items():
                        print(part, each.report(), flush=True)
                    shown = time.monotonic()
            said, _ = beside.communicate()
            check(beside.returncode == 0, "a mutant did harm")
        finally:
            beside.kill()
            beside.wait()
    found = {
        "machine": machine,
        "load_after": provenance.machine()["load_1_5_15_min"],
        "settings": {"minutes": options.minutes, "seed": options.seed, "sweep": options.jobs},
        "wall_minutes": round((time.monotonic() - begun) / 60, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "open_files": len(psutil.Process().open_files()),
        **{part: parts[part].report() if part in parts else {} for part in names},
        "mutants": json.loads(said),
    }
    print(json.dumps(found, indent=1))
    if options.record:
        before = json.loads(RECORD.read_text())["soaks"] if RECORD.exists() else []
        files.write_json(RECORD, {"machine": machine, "soaks": [*before, found]})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
