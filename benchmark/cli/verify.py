"""verify: what of the submissions and of the committed records can be believed, and how far."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import provenance, record
from benchmark.cli import ROOT, board
from benchmark.cli.board import RESULTS
from benchmark.errors import UserError, unknown_name

if TYPE_CHECKING:
    from benchmark.cli.options import Verify
    from leaderboard.submission import Submission
    from leaderboard.verification import Entry, Seen

EPISODES = 10_000  # room that is left above the first fresh evaluation seed


def run(options: Verify) -> int:
    """Verify the named submissions, or all of them and the committed records; exit code 1 where
    one is not what it says.
    """
    from leaderboard import submission

    known = {path.name: path for path in submission.folders(options.root)}
    for name in options.submissions:
        if name not in known:
            raise unknown_name("submission", name, known)
    if options.level == 3 and not options.run_code:
        raise UserError(
            "option --level 3 trains again, which runs the algorithm's code; add --run-code where"
            " you have read it and trust it (make verify LEVEL=3 RUN_CODE=1)."
        )
    if options.plugin and options.level < 3:
        raise UserError("option PLUGIN: below level 3 no foreign code is run; take it out.")
    bad, owners = 0, _owners(options.root)
    for name in options.submissions or known:
        bad += bool(_verify(known[name], owners, options))
    if not options.submissions:
        bad += _results()
    if options.base:
        bad += _history(options)
    print("everything is as it says" if not bad else f"{bad} failed")
    return 1 if bad else 0


def _verify(folder: Path, owners: list[tuple[str, str]], options: Verify) -> list[str]:
    """One submission: prints what was found, writes it where asked to, returns the faults."""
    from leaderboard import replay, submission, verification, verify

    try:
        own = submission.read(folder)
        recorded = verification.current(own, verification.read(folder))
    except UserError as error:
        return _say(folder.name, [str(error)], [], "")
    if options.level == 0:
        return _say(folder.name, list(verify.file_faults(own)), [], "level 0: it is well formed")
    suite = board.suite(owned_by_others(own.manifest.algo, owners))
    faults, flags = verify.faults(own, suite), verify.flags(own, suite)
    seen: dict[str, Seen] = {name: verification.checked(item) for name, item in own.records.items()}
    said = "its records are sound"
    first = replay.fresh_seeds(EPISODES, np.random.default_rng()).start
    if not faults and options.level >= 2:
        faults, seen = replay.verify_episodes(own, suite, first)
        said = " and ".join(sorted({entry.how for entry in seen.values()}))
    if not faults and options.level >= 3:
        from benchmark.cli import retrain

        faults, seen = retrain.verify_training(own, suite, seen, first, options)
        said = "retrained"
    if any(entry.first_episode_seed == first for entry in seen.values()):
        said += f", fresh evaluation seeds from {first}"
    level = min((entry.level for entry in seen.values()), default=0)
    if options.record:
        _record(own, _entry(own, 0 if faults else level, faults, flags, seen), recorded)
    return _say(folder.name, faults, flags, f"level {level}: {said}")


def _say(name: str, faults: Sequence[str], flags: Sequence[str], good: str) -> list[str]:
    for fault in faults:
        print(f"FAIL {name}: {fault}")
    for flag in flags:
        print(f"flag {name}: {flag}")
    if not faults:
        print(f"ok   {name}: {good}")
    return list(faults)


def _owners(root: Path) -> list[tuple[str, str]]:
    """Every checkpoint's sha256 with the row or the submission that has it."""
    from leaderboard import submission

    found = [(item.checkpoint_sha256, item.algo) for item in record.read_all([RESULTS])]
    for folder in submission.folders(root):
        try:
            items = submission.read(folder).records.values()
        except UserError:
            continue  # it fails by itself
        found += [(item.checkpoint_sha256, folder.name) for item in items]
    return found


def owned_by_others(algo: str, owners: list[tuple[str, str]]) -> dict[str, str]:
    """Checkpoints of everybody else: a new version may keep a run."""
    return {digest: name for digest, name in owners if re.split(r"\.|-v", name)[0] != algo}


def _entry(
    own: Submission, level: int, faults: list[str], flags: list[str], seen: dict[str, Seen]
) -> Entry:
    from leaderboard.verification import Entry

    return Entry(own.sha256, level, faults, flags, seen, provenance.collect(threads=1))


def _record(own: Submission, entry: Entry, before: Entry | None) -> None:
    """Append to verification.json; a lower level is written only where something is wrong."""
    from leaderboard import verification

    if before is not None and not entry.faults and entry.level < before.level:
        raise UserError(
            f"{own.folder.name} is verified at level {before.level} already; verify it at that"
            " level or a higher one to write it down."
        )
    print(f"wrote {verification.append(own, entry)}")


def _results() -> int:
    """The committed records, which have no checkpoints: what keeps one from level 1 is printed."""
    from leaderboard import verify

    found = list(verify.results(RESULTS, board.suite()))
    bad = [(path, faults) for path, _, faults in found if faults]
    for path, faults in bad:
        print(f"FAIL {path.relative_to(RESULTS.parents[1])}: {faults[0]}")
    print(f"{len(found) - len(bad)} of {len(found)} committed records are sound")
    return len(bad)


def _history(options: Verify) -> int:
    """Since a commit, submissions were only added."""
    from leaderboard import verification

    try:
        where = options.root.resolve().relative_to(ROOT)
    except ValueError:
        raise UserError(f"option --base: {options.root} is not in this checkout.") from None
    listed = _git("ls-tree", "-r", "-z", "--name-only", options.base, "--", f"{where}/").decode()
    old = {
        path.removeprefix(f"{where}/"): _git("show", f"{options.base}:{path}")
        for path in filter(None, listed.split("\0"))
    }
    new = {
        str(path.relative_to(options.root)): path.read_bytes()
        for path in options.root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    faults = verification.history_faults(old, new, options.maintainer)
    for fault in faults:
        print(f"FAIL {where}: {fault}")
    return len(faults)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode:
        raise UserError(f"option --base: git says {done.stderr.decode(errors='replace').strip()}.")
    return done.stdout
