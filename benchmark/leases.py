"""Who works on which job: claims with a lease, and failed tries, as files of a shared folder.

A claim is a file that is linked into place if it is absent, so that one process alone gets it. Its
holder touches it while it works. One that nobody has touched for the length of the lease, or whose
holder is known to be dead on this very machine, is stale, and the next generation of it may be
taken; whoever lost it finds the newer one at its next touch and stops. Two holders for a moment do
no harm: records are never replaced.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmark import files
from benchmark.errors import UserError

LEASE = 120.0  # seconds
CLOCK_ERROR = 10.0  # seconds by which two readings of a process's start may differ


@dataclass(frozen=True)
class Claim:
    name: str
    generation: int
    path: Path


@functools.cache
def machine() -> str:
    """This machine, and inside it the space of process numbers: containers have their own."""
    parts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            link = os.path.islink(source)
            parts.append(os.readlink(source) if link else Path(source).read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def alive(pid: int, started: float) -> bool:
    """Whether the process of this number on this machine is the one that started then."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_ERROR
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Leases:
    """The claims and failed tries in a folder; raises UserError where it cannot be written."""

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        if lease <= 0:
            raise UserError(f"option --lease: found {lease:g}, expected seconds above 0.")
        self.folder, self.lease = folder, lease
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.write_error(folder, error) from error
        files.sweep(folder, older_than=lease)
        self.owner = {
            "machine": machine(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "owner": uuid.uuid4().hex,
        }
        self._clock = folder / f"{files.TEMPORARY}clock-{self.owner['owner']}"

    def take(self, name: str) -> Claim | None:
        """The claim of a job, or None while another holds it."""
        last = self._last(name)
        if last and not self.stale(last):
            return None
        generation = last.generation + 1 if last else 1
        claim = Claim(name, generation, self._path(name, generation))
        try:
            files.write_json(claim.path, self.owner, exclusive=True)
        except FileExistsError:
            return None
        if last:
            last.path.unlink(missing_ok=True)
        return claim

    def renew(self, claim: Claim) -> bool:
        """Touch a claim; False where another has taken the job over."""
        try:
            os.utime(claim.path)
        except FileNotFoundError:
            return False
        last = self._last(claim.name)
        return last is not None and last.generation == claim.generation

    def release(self, claim: Claim) -> None:
        claim.path.unlink(missing_ok=True)

    def stale(self, claim: Claim) -> bool:
        """Whether its holder is dead, or has not touched it for the length of the lease."""
        try:
            holder, touched = json.loads(claim.path.read_text()), claim.path.stat().st_mtime
        except FileNotFoundError:
            return False  # just released: whoever comes next finds no claim at all
        except ValueError:
            return True  # a claim is linked whole: this is no claim of ours
        here = holder.get("machine") == self.owner["machine"]
        if here and not alive(int(holder["pid"]), float(holder["started"])):
            return True
        return self._now() - touched > self.lease

    def tries(self, name: str) -> list[str]:
        """Reasons of the failed tries of a job, oldest first."""
        return [str(json.loads(path.read_text())["reason"]) for path in self._failures(name)]

    def note(self, name: str, reason: str) -> int:
        """Note a failed try; returns how many there are."""
        value: dict[str, Any] = {"reason": reason, "machine": platform.node()}
        while True:
            number = len(self._failures(name)) + 1
            try:
                files.write_json(
                    self.folder / f"{name}.failed-{number:02d}.json", value, exclusive=True
                )
                return number
            except FileExistsError:
                continue

    def forget(self, name: str) -> None:
        """Remove the failed tries of a job that is done with."""
        for path in self._failures(name):
            path.unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Remove what a dead grid left of a job that is finished: its claim and failed tries."""
        last = self._last(name)
        if last and self.stale(last):
            last.path.unlink(missing_ok=True)
        self.forget(name)

    def names(self) -> set[str]:
        """The jobs that something in the folder speaks of."""
        return {path.name.split(".")[0] for path in self.folder.glob("*.json")}

    def close(self) -> None:
        self._clock.unlink(missing_ok=True)

    def _now(self) -> float:
        """The time by the clock of the folder's file system, which all machines share."""
        self._clock.touch()
        return self._clock.stat().st_mtime

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{name}.claim-{generation:06d}.json"

    def _last(self, name: str) -> Claim | None:
        numbers = [
            int(path.name.split("-")[-1].split(".")[0])
            for path in self.folder.glob(f"{name}.claim-*.json")
        ]
        return Claim(name, max(numbers), self._path(name, max(numbers))) if numbers else None

    def _failures(self, name: str) -> list[Path]:
        return sorted(self.folder.glob(f"{name}.failed-*.json"))
