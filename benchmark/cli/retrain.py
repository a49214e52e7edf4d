"""Level 3 of verify: train a seed's group again, in a process of its own with limits.

This is the one place where code that belongs to a submission may run, and only where the verifier
asked for it and gave the file. The limits bound time, memory and disk; they are no sandbox: read
the code first, and use a machine that holds no secrets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import launch, provenance, record, registry, trace
from benchmark.cli import ROOT
from benchmark.cli.train import make_data
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Verify
    from benchmark.record import Record
    from leaderboard.soundness import Suite
    from leaderboard.submission import Submission
    from leaderboard.verification import Seen

WAIT = 4  # wall-clock time at most, in units of the processor time

# Sets the limits on itself and becomes the program; argv: seconds, bytes of memory, program ...
LIMITED = """
import os, resource, sys
seconds, memory, *program = sys.argv[1:]
for kind, value in (
    (resource.RLIMIT_CPU, int(seconds)),
    (resource.RLIMIT_AS, int(memory)),
    (resource.RLIMIT_FSIZE, 2**31),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (value, value))
os.execv(program[0], program)
"""


def verify_training(
    submission: Submission, suite: Suite, seen: dict[str, Seen], first: int, options: Verify
) -> tuple[list[str], dict[str, Seen]]:
    """Retrain the group of one seed of every row, `options.seed`, and compare; play checkpoints of
    foreign code on the fresh seeds from `first` up.

    Returns faults, and what was seen with the rows that came out equal at level 3.
    """
    found: list[str] = []
    seen = dict(seen)
    rows: dict[tuple[str, str], dict[str, Record]] = {}
    for name, item in submission.records.items():
        rows.setdefault((item.algo, item.dataset or item.task), {})[name] = item
    for (algo, source), own in rows.items():
        chosen = next((item for item in own.values() if item.seed == options.seed), None)
        if chosen is None:
            raise UserError(f"option --seed: {algo} has no seed {options.seed}.")
        try:
            plugin = foreign_code(chosen, suite, options)
            if suite.own(chosen) is None:
                seen |= play(submission, own, plugin, first, options)
            faults = differences(chosen, train(chosen, plugin, options), list(own.values()))
        except UserError as error:
            faults = [str(error)]
        found += [f"{algo} on {source}, trained again: {fault}" for fault in faults]
        if not faults:
            seen |= {name: replace(seen[name], level=3, how="retrained") for name in own}
    return found, seen


def foreign_code(item: Record, suite: Suite, options: Verify) -> Path | None:
    """The file that made a record and that the verifier gave; None where no file is needed."""
    name = item.algo.split(".")[0]
    if suite.own(item) is not None:
        return None
    plugin = {Path(path).stem: Path(path).resolve() for path in options.plugin}.get(name)
    if plugin is None and name not in _installed():
        raise UserError(
            f"the code of {item.algo} is not in this checkout; give its file with PLUGIN=, or"
            " install its package."
        )
    if plugin is not None and provenance.plugin_sha256(plugin) != item.code_sha256:
        raise UserError(f"{plugin} is not the code that made the record: its sha256 differs.")
    return plugin


def train(item: Record, plugin: Path | None, options: Verify) -> Record:
    """The record of the same run, made here."""
    if item.dataset:
        make_data([item.dataset])
    arguments = ["train", item.algo, item.dataset or item.task, "--protocol", item.protocol]
    arguments += ["--seeds", *map(str, item.group), "--device", item.cost.device]
    arguments += ["--backend", item.notes.get("backend", "auto")]
    arguments += ["--precision", item.notes.get("precision", "float32")]
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", folder, "--progress", "none"]
        _limited([*arguments, *out], plugin, Path(folder), options)
        made = [x for x in record.read_all([Path(folder) / "records"]) if x.seed == item.seed]
    if len(made) != 1 or (made[0].key, made[0].compiled) != (item.key, item.compiled):
        raise UserError("the run that was trained is not the record's: its run key differs.")
    return made[0]


def play(
    submission: Submission,
    row: dict[str, Record],
    plugin: Path | None,
    first: int,
    options: Verify,
) -> dict[str, Seen]:
    """What a row's checkpoints do on fresh seeds: the other process acts, this one plays its
    actions, so that returns are counted here.
    """
    from leaderboard import replay
    from leaderboard.submission import checkpoint_name

    found: dict[str, Seen] = {}
    groups: dict[str, dict[str, Record]] = {}
    for name, item in row.items():
        groups.setdefault(item.key, {})[name] = item
    for members in groups.values():
        done = [item for item in members.values() if not item.failed]
        if not done:
            continue
        item = done[0]
        task, episodes = registry.task(item.task), len(item.team_returns)
        count = trace.length(task.spec, episodes)
        if not count:
            continue  # an episode is too large for a trace
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "played.safetensors"
            copy.write_bytes(submission.blob(checkpoint_name(item)))
            arguments = ["play", str(copy), "--first", str(first), "--out", folder]
            _limited([*arguments, "--episodes", str(episodes)], plugin, Path(folder), options)
            for name, member in members.items():
                written = Path(folder) / f"trace-seed{member.seed}.safetensors"
                if member.failed:
                    continue
                if written.is_symlink() or not written.is_file():
                    raise UserError(f"seed {member.seed} left no trace of actions on fresh seeds.")
                if written.stat().st_size > 2**22:
                    raise UserError(f"seed {member.seed} left a trace of more than 4 MB.")
                source = f"the trace of seed {member.seed}"
                kept = trace.unpack(written.read_bytes(), task.spec, count, source)
                seeds = range(first, first + count)
                found[name] = replay.seen_in(task, kept, seeds, "replayed")
    return found


def _installed() -> set[str]:
    import importlib.metadata

    return {entry.name for entry in importlib.metadata.entry_points(group=registry.ENTRY_POINTS)}


def _limited(arguments: list[str], plugin: Path | None, folder: Path, options: Verify) -> None:
    """Run the command line in a process that may not use more, and sees no environment of ours."""
    if plugin is not None:
        arguments = [*arguments, "--plugin", str(shutil.copy(plugin, folder))]
    seconds = round(3600 * options.hours)
    data = Path(os.environ.get("OFFLINE_MARL_DATA") or ROOT / "data")
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "OFFLINE_MARL_DATA": str(data.resolve()),
        **launch.ONE_THREAD,
    }
    program = [sys.executable, "-m", "benchmark", *arguments]
    limits = [str(seconds), str(round(options.memory_gb * 2**30))]
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, *limits, *program],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=WAIT * seconds + 60)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise UserError(f"it was not done after {WAIT * options.hours:g} hours.") from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # and whatever it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode < 0:
        raise UserError(
            f"it was ended by signal {-process.returncode}; the limits are {options.hours:g} hours"
            f" of processor time and {options.memory_gb:g} GB."
        )
    if process.returncode:
        last = said.strip().splitlines()[-1:] or ["no reason was given"]
        raise UserError(f"it failed: {last[0].removeprefix('error: ')}")


def differences(item: Record, again: Record, row: list[Record]) -> list[str]:
    """How a retrained seed differs from its record: not at all on an equal machine; else it must
    lie among the seeds of its row, within three standard deviations of a new seed or 1% of the gap.
    """
    from leaderboard.replay import TOLERANCE, same_machine

    if (item.status, item.reason) != (again.status, again.reason) or item.failed:
        if item.reason == again.reason:
            return []
        return [f"the seed ends as {again.status} ({again.reason}), the record says {item.reason}."]
    exactly = same_machine(item.provenance) and not item.compiled and item.cost.device == "cpu"
    if exactly:
        if again.team_returns == item.team_returns and again.curve == item.curve:
            return []
        return ["its returns or losses are not those of the record."]
    task = registry.task(item.task)
    metric, reference = task.spec.metric, task.reference()
    values = np.array([x for x in (r.value(metric) for r in row if not r.failed) if x is not None])
    found = again.value(metric)
    assert reference is not None
    gap = reference.uniform_exploitability or abs(reference.expert - reference.random)
    spread = values.std(ddof=1) * np.sqrt(1 + 1 / len(values)) if len(values) > 1 else 0.0
    if found is None or not abs(found - values.mean()) <= max(TOLERANCE * gap, 3 * spread):
        return [f"its {metric} is {found}, the row's seeds have {values.mean():.5g} on average."]
    return []
