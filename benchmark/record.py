"""The result record: one JSON of at most 256 kB per algorithm x dataset x seed. Raw returns;
nothing normalised is stored.
"""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmark import files, strict
from benchmark.errors import UserError

SCHEMA = 1
MAX_BYTES = 256 * 1024
AXES = ("step", "env_steps")  # columns of a curve that are no losses
Curve = dict[str, list[float | None]]  # None: the update at that point had no such loss
# Options that decide the bits of a run: the usual value, of which keys and records say nothing, and
# the other, which stands in the notes
NOTED = {"backend": ("memory", "shuffle"), "precision": ("float32", "bf16")}


@dataclass(frozen=True)
class Cost:
    """What the run cost; times are wall-clock of one seed, amortised over the group that it was
    trained in.
    """

    train_seconds: float
    update_ms: float  # per gradient step
    act_ms: float  # per joint action, amortised over the lockstep episodes
    evaluate_seconds: float
    peak_mb: float  # peak resident memory of the process
    parameters: int
    sampler_steps: int  # network calls for one action; 1 for a plain policy
    device: str
    extra: dict[str, float] = field(default_factory=dict)  # costs that only some algorithms have


@dataclass(frozen=True)
class Provenance:
    commit: str  # "" outside a git checkout
    dirty: bool
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str  # hash of the processor's feature flags
    threads: int
    finished: str  # UTC, ISO 8601


@dataclass(frozen=True)
class Tuning:
    configs_tried: int = 0
    online_episodes: int = 0


@dataclass(frozen=True)
class Record:
    """See DESIGN.md, Record. `returns` are raw; scores are derived from them when the record is
    read.
    """

    key: (
        str  # sha256 of the run key: algorithm, code, config, steps, group, data, protocol, compile
    )
    algo: str  # row name: `algo` or `algo.variant`
    paper: str
    track: Literal["offline", "model", "online", "o2o", "oracle"]
    execution: Literal["local", "mean-field", "joint"]
    code_sha256: str  # the algorithm's file and the nn modules it imports
    config: dict[str, Any]
    steps: int
    seed: int
    group: list[int]  # seeds trained together
    compiled: bool
    task: str
    dataset: str  # "" for tracks without a buffer
    dataset_sha256: str
    rankable: bool
    protocol: str
    protocol_version: int
    first_episode_seed: int
    status: Literal["ok", "failed"]
    reason: str  # why it failed; "" when ok
    groups: list[str]  # names of the groups of agents, in the order of `returns`
    returns: list[list[float]]  # [episode][group], mean over the group's agents
    team_returns: list[float]  # [episode]
    curve: Curve  # "step" and the losses
    exact: dict[str, float]  # of finite games, see `benchmark.evaluate.exact`
    cost: Cost
    tuning: Tuning
    provenance: Provenance
    checkpoint_sha256: str
    level: int = 0
    schema: int = SCHEMA
    notes: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, list[float]] = field(default_factory=dict)  # [episode] each, of battles
    env_steps: int = 0  # of this seed's training; on the online tracks

    def identity(self, episodes: int) -> dict[str, Any]:
        """What the key is the hash of, in a protocol of that many episodes: see
        `benchmark.train.Run.identity`.
        """
        return {name: self.notes[name] for name in NOTED if name in self.notes} | {
            "algo": self.algo,
            "code": self.code_sha256,
            "config": self.config,
            "steps": self.steps,
            "seeds": self.group,
            "task": self.task,
            "dataset": self.dataset,
            "content": self.dataset_sha256,
            "protocol": [self.protocol, self.protocol_version, episodes],
            "device": self.cost.device,
        }

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def losses(self) -> list[str]:
        """Names of the curve's columns that hold a value and are no axis."""
        return [name for name in self.curve if name not in AXES and self.points("step", name)[0]]

    def points(self, axis: str, name: str) -> tuple[list[float], list[float]]:
        """Two columns of the curve, "step" and a loss, say: the points that have both."""
        pairs = zip(self.curve[axis], self.curve[name], strict=False)
        found = [(x, y) for x, y in pairs if x is not None and y is not None]
        return [x for x, _ in found], [y for _, y in found]

    def mean_return(self) -> float:
        """Mean team return over the evaluation episodes; NaN where the run failed."""
        return (
            sum(self.team_returns) / len(self.team_returns) if self.team_returns else float("nan")
        )

    def value(self, metric: str) -> float | None:
        """What a board ranks by, before it is normalised: NaN where the run failed, None where the
        record does not hold it.
        """
        if self.failed:
            return float("nan")
        if metric == "exploitability":
            return self.exact.get("exploitability")
        if metric == "margin":
            margins = self.outcomes.get("margin")
            return sum(margins) / len(margins) if margins else None
        return self.mean_return()

    def path(self, root: Path) -> Path:
        """Where this record stands under a folder of records."""
        where = self.dataset or f"{self.task}/none"
        return root / where / self.algo / f"{self.protocol}-seed{self.seed}-{self.key[:12]}.json"


@functools.cache
def _adapter() -> Any:
    return strict.strictly(Record, Cost, Provenance, Tuning)


def parse(text: str | bytes, source: str = "record") -> Record:
    """A record from its JSON text; strict: unknown or doubled fields, NaN and bools as numbers are
    refused.

    Raises UserError that names `source`, the field and the reason.
    """
    record: Record = strict.parse(text, _adapter(), source, "record", MAX_BYTES)
    if record.schema != SCHEMA:
        raise UserError(f"{source} has schema {record.schema}, this suite reads schema {SCHEMA}.")
    if record.status == "ok" and len(record.team_returns) != len(record.returns):
        raise UserError(
            f"{source} is not a valid record: {len(record.team_returns)} team returns for"
            f" {len(record.returns)} episodes."
        )
    if any(len(values) != len(record.returns) for values in record.outcomes.values()):
        raise UserError(
            f"{source} is not a valid record: its outcomes are not one value for each of"
            f" {len(record.returns)} episodes."
        )
    return record


def to_json(record: Record) -> str:
    values = asdict(record)
    if not record.outcomes:
        del values["outcomes"]  # only battles have them
    if not record.env_steps:
        del values["env_steps"]  # only the online tracks have them
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def read(path: Path | str) -> Record:
    try:
        return parse(Path(path).read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read record {path}: {error}.") from error


def lean(record: Record) -> Record:
    """A record with what boards read and a tenth of the memory: packed team returns, and no returns
    by group. It is not to be written again.
    """
    packed = array("d", record.team_returns)
    return replace(record, returns=[], team_returns=packed)  # type: ignore[arg-type]


def read_all(roots: Iterable[Path], *, for_boards: bool = False) -> list[Record]:
    """Every record under the folders, each run key and seed once (first folder wins), sorted by
    dataset, algorithm, seed; `for_boards`: each as `lean` leaves it.
    """
    found: dict[tuple[str, int], Record] = {}
    for root in roots:
        for path in sorted(root.rglob("*.json")):
            if path.name.startswith(files.TEMPORARY):
                continue
            record = lean(read(path)) if for_boards else read(path)
            found.setdefault((record.key, record.seed), record)
    return sorted(
        found.values(), key=lambda r: (r.task, r.dataset, r.algo, r.protocol, r.seed, r.key)
    )


def write(record: Record, root: Path, *, exclusive: bool = False) -> Path:
    """Write a record under `root`, by its own name; returns the path.

    exclusive: a record that is there already is kept, and FileExistsError is raised.
    """
    path = record.path(root)
    text = to_json(record)
    if len(text) > MAX_BYTES:
        raise UserError(
            f"the record of {record.algo} is {len(text)} bytes long, at most {MAX_BYTES} may be."
        )
    files.write_text(path, text, exclusive=exclusive)
    return path
