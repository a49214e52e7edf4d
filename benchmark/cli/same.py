"""same: show that today's code of an algorithm has the bits of the code that made its records.

Keys of runs name an algorithm's code by a hash, so that a change to shared modules would part it
from all of its records, whether or not a number changes. This command trains with both codes, the
older one from the last commit that had it: two seeds of a smoke run of every row, on one
dataset of every namespace that the row has records of. Where checkpoints and returns are equal
bit by bit, the newer hash is entered in leaderboard/same_code.json as another name of the older,
and `benchmark.provenance.code_sha256` gives the older one from then on. Settings that the newer
code has besides are entered with their values: boards and grids take records without them for runs
that have them.

A smoke run has all stages of an algorithm and few steps. It shows that a change which its author
means to change nothing does change nothing; read the change too.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

import algorithms
from benchmark import checkpoint, files, launch, provenance, record
from benchmark.cli import ROOT
from benchmark.cli.train import make_data
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options_runs import Same
    from benchmark.record import Record

SEEDS = ("0", "1")  # a group of two, stacked where the algorithm stacks


def run(options: Same) -> int:
    """Compare each algorithm with every other code of its records; 1 where one differs."""
    differ = False
    for name in options.algos or algorithms.names():
        code = provenance.code_sha256(algorithms.registry().cls(name))
        made = [x for x in record.read_all([options.records]) if x.algo.split(".")[0] == name]
        made = sorted((x for x in made if not x.provenance.dirty), key=_finished)
        names: dict[str, list[Record]] = {}  # records by the name that their code goes by
        for item in made:
            names.setdefault(provenance.first_code(item.code_sha256), []).append(item)
        if set(names) <= {code}:
            print(f"{name} {code[:8]}: no record is by another code", flush=True)
        for old, own in names.items():
            if provenance.first_code(old) == provenance.first_code(code):
                continue
            try:
                entry = compare(name, old, own)
            except UserError as error:
                print(f"{name} {code[:8]} is not {old[:8]}: {error}", flush=True)
                differ = True
                continue
            files.write_json(provenance.SAME_CODE, [*provenance.same_codes(), entry])
            provenance.same_codes.cache_clear()
            shown = ", ".join(entry["shown"])
            print(f"{name} {code[:8]} is {old[:8]}: equal bits on {shown}", flush=True)
    return int(differ)


def _finished(made: Record) -> str:
    return made.provenance.finished


def compare(name: str, old: str, made: list[Record]) -> dict[str, Any]:
    """The entry that says that today's code of an algorithm has the bits of an old one, by whose
    name the code of these records goes: with the last commit that has it, the rows and datasets
    that show it, and the settings that are new, with their values. Raises UserError where bits
    differ.
    """
    runs: dict[tuple[str, str], Record] = {}  # one dataset of a row and namespace
    for item in sorted(made, key=lambda x: (x.algo, x.dataset or x.task)):
        runs.setdefault((item.algo, item.task.split("/")[0]), item)
    shown: list[str] = []
    added: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="same-") as folder:
        before, now = Path(folder) / "before", Path(folder) / "now"
        if not (commit := find(name, old, before)):
            raise UserError("no commit of this clone has its code.")
        check_out(_git("stash", "create").decode().strip() or "HEAD", now)
        # Under one name their runs have one key, which seeds what draws from global generators
        file, cls = provenance.SAME_CODE.relative_to(ROOT), algorithms.registry().cls(name)
        (before / file).unlink(missing_ok=True)
        here, there = provenance.written_sha256(cls), provenance.checkout_sha256(before, name)
        files.write_json(now / file, [{"code": here, "same_as": there}])
        for item in runs.values():
            source = item.dataset or item.task
            config, _ = algorithms.registry().row(item.algo)[2].resolve(item.task, item.protocol)
            whole = asdict(algorithms.registry().cls(name).Config(**config))
            new = {field: whole[field] for field in whole.keys() - item.config.keys()}
            if {**item.config, **new} != whole or {**new, **added} != {**added, **new}:
                raise UserError(f"{item.algo} is configured otherwise on {source}.")
            if item.dataset:
                make_data([item.dataset])
            ends = [train(checkout, item.algo, source) for checkout in (before, now)]
            if different := checkpoint.differences(ends[0], ends[1]):
                raise UserError(f"{item.algo} on {source} ends with another {different[0][1:]}.")
            shown.append(f"{item.algo} {source}")
            added |= new
    code = provenance.code_sha256(cls)
    entry = {"algo": name, "code": code, "same_as": old, "commit": commit, "shown": shown}
    return entry | ({"added": added} if added else {})


def find(name: str, code: str, folder: Path) -> str:
    """The last commit in which an algorithm has a code, and its files in a folder; "" if there is
    none. It is the last so that all but the algorithm differs little.
    """
    after = "HEAD"
    for commit in _git("log", "--format=%H", "--", "algorithms").decode().split():
        with tempfile.TemporaryDirectory() as part:
            check_out(commit, Path(part), "algorithms")
            if has(Path(part), name, code):
                for found in (f"{after}^", commit):  # after a merge, its first parent may have it
                    shutil.rmtree(folder, ignore_errors=True)
                    check_out(found, folder)
                    if has(folder, name, code):
                        return _git("rev-parse", found).decode().strip()
        after = commit
    return ""


def has(checkout: Path, name: str, code: str) -> bool:
    """Whether an algorithm has a code in a checkout."""
    if not (checkout / "algorithms" / f"{name}.py").is_file():
        return False
    found = provenance.checkout_sha256(checkout, name)
    return code in (found, provenance.first_code(found))


def check_out(commit: str, folder: Path, *paths: str) -> None:
    """The files of a commit in a folder, beside this checkout, whose state is not touched."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, *paths))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)  # Python 3.11 before .4 has no filters; the archive is our own


def train(checkout: Path, row: str, source: str) -> dict[str, Any]:
    """What a smoke run with the code of a checkout ends with, by name."""
    out = checkout / "runs" / row
    words = ["train", row, source, "--protocol", "smoke", "--seeds", *SEEDS, "--progress", "none"]
    _python(checkout, "-m", "benchmark", *words, "--out", str(out))
    made = record.read_all([out / "records"])
    ends: dict[str, Any] = {f"return of seed {x.seed}": [*x.team_returns, x.status] for x in made}
    for item in made:  # a group of seeds has one checkpoint
        path = checkpoint.latest(out / "checkpoints" / f"{row}-{item.key[:12]}")
        ends[f"tensor of seed {item.group[0]}"] = _own(path) if path else None
    shutil.rmtree(out)
    return ends


def _own(path: Path) -> dict[str, Any]:
    """The tensors of an algorithm in a checkpoint. Its plain values are the format's, which changes
    with time; the global generators are seeded by the key, which has a new setting's name.
    """
    return {name: x for name, x in load_file(path).items() if not name.startswith("global/")}


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)
    if done.returncode:
        raise UserError(f"git {' '.join(words)} failed: {done.stderr.decode().strip()}")
    return done.stdout


def _python(checkout: Path, *words: str) -> str:
    data = Path(os.environ.get("OFFLINE_MARL_DATA") or ROOT / "data").resolve()
    environment = {"PYTHONPATH": str(checkout), "OFFLINE_MARL_DATA": str(data)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | launch.ONE_THREAD | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise UserError(f"{' '.join(words[1:5])} failed: {last[0].removeprefix('error: ')}")
    return done.stdout
