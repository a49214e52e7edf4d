"""Online runs: the trainer of every run, fed by a simulator through a growing buffer.

A seed's environment steps follow its gradient steps: before update g (from 0) it has played
`warmup + g / utd` steps, of which the first `warmup` uniformly at random and the others by
`Algorithm.explore`. `n_envs` episodes a seed run side by side, so that one network call serves all.
The buffer holds the last `capacity` steps of each seed. On the track o2o half of each batch comes
from a dataset and half from the run's own steps.

At CURVE_POINTS marks, evenly spaced in environment steps, the policy is evaluated on CURVE_SEEDS,
which no board uses; the returns stand in the record's curve beside the losses.

A resume goes on with equal bits. New steps are written to a file of their own at each checkpoint,
so that a checkpoint costs what is new and not the whole buffer; running episodes are played again
from their seeds and logged actions.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark import checkpoint
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.device import fits, sent
from benchmark.errors import UserError
from benchmark.evaluate import check_actions, rollout_group
from benchmark.protocol import LONG, TUNING_SEEDS
from benchmark.task import Array, ArrayEnv, Task, TaskSpec
from benchmark.train import Run, Surviving, Trainer, blame

TRACKS = ("online", "o2o")
CURVE_POINTS = 50
CURVE_SEEDS = TUNING_SEEDS[-20:]
LONG_CURVE = (20, 5)  # points and episodes where an episode is LONG
EPISODE_SEEDS = (1_000_000_000, 2_000_000_000)  # of exploration, drawn at random from this range
# Streams of a seed's generators beside the trainer's own, which are 0 and 1
EPISODES, UNIFORM = 2, 3


@dataclass(frozen=True)
class Schedule:
    """How many environment steps a seed has played before each update."""

    n_envs: int
    warmup: int
    utd: float
    capacity: int

    @classmethod
    def of(cls, run: Run) -> Schedule:
        """From the fields that the Config of an online algorithm must have."""
        lacking = [f.name for f in fields(cls) if not hasattr(run.config, f.name)]
        if lacking:
            raise UserError(
                f"{run.row} is on the track {run.variant.track}, but its Config lacks {lacking[0]};"
                " expected n_envs, warmup, utd and capacity."
            )
        made = cls(**{f.name: getattr(run.config, f.name) for f in fields(cls)})
        least = 1 if run.data is None else 0
        for name, ok, wanted in (
            ("n_envs", made.n_envs >= 1, "1 or more episodes"),
            ("warmup", made.warmup >= least, f"{least} or more environment steps"),
            ("utd", made.utd > 0, "a number above 0"),
            ("capacity", made.capacity >= made.n_envs, "n_envs or more environment steps"),
        ):
            if not ok:
                raise UserError(f"--config.{name} is {getattr(made, name)}, expected {wanted}.")
        return made

    def due(self, step: int) -> int:
        """Environment steps before update `step`, counted from 0."""
        return self.warmup + math.floor(step / self.utd + 1e-9)


class Buffer:
    """Transitions of K seeds, each seed's its own; samples as `benchmark.batch.Dataset` does.

    With `data`, half of a batch comes from there, and all of it as long as there is nothing else.
    It stands on the device of its run, if there is room.
    """

    def __init__(
        self,
        spec: TaskSpec,
        seeds: int,
        capacity: int,
        data: Dataset | None,
        device: str = "cpu",
    ) -> None:
        n, empty = spec.n_agents, functools.partial(torch.empty, device="meta")
        lead, action = (seeds, capacity), (n,) if spec.discrete else (n, spec.act_dim)
        of_obs = torch.int64 if spec.n_obs is not None else torch.float32
        of_act = torch.int64 if spec.discrete else torch.float32
        self.spec, self.data, self.capacity, self.device = spec, data, capacity, device
        self.added = 0  # steps of each seed so far; step i is in row i modulo the capacity
        arrays = {
            "obs": empty(*lead, n, spec.obs_dim, dtype=of_obs),
            "act": empty(*lead, *action, dtype=of_act),
            "rew": empty(*lead, n),
            "next_obs": empty(*lead, n, spec.obs_dim, dtype=of_obs),
            "terminated": empty(lead),
            "truncated": empty(lead),
            "step": empty(lead, dtype=torch.int64),
            "episode": empty(lead, dtype=torch.int64),
        }
        if spec.can_die:
            arrays["alive"] = empty(*lead, n, dtype=torch.bool)
        if spec.exchangeable:  # populations may play in turns
            arrays["active"] = empty(*lead, n, dtype=torch.bool)
        n_bytes = sum(array.nbytes for array in arrays.values())
        self.where = device if fits("the buffer of an online run", n_bytes, device) else "cpu"
        self.arrays = {n: torch.empty_like(x, device=self.where) for n, x in arrays.items()}

    @property
    def n_steps(self) -> int:
        """Steps of the dataset: what there is before the first update to take statistics from."""
        return self.data.n_steps if self.data else 0

    @property
    def obs(self) -> Array:
        return self._of_data().obs

    @property
    def act(self) -> Array:
        return self._of_data().act

    @property
    def rew(self) -> Array:
        return self._of_data().rew

    @property
    def logp(self) -> Array | None:
        return self._of_data().logp

    @property
    def active(self) -> Array | None:
        return self._of_data().active

    def _of_data(self) -> Dataset:
        if self.data is None:
            raise UserError(f"an online run of {self.spec.id} has no dataset to prepare from.")
        return self.data

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append transitions [K, E, ...] by field; the oldest go where there is no more room."""
        first = self.added
        self.added += rows["rew"].shape[1]
        place = torch.arange(first, self.added, device=self.where) % self.capacity
        for name, array in self.arrays.items():
            array.index_copy_(1, place, sent(rows[name].to(array.dtype), self.where))

    def since(self, first: int) -> dict[str, Tensor]:
        """The transitions from step `first` on that are still there, in their order."""
        first = max(first, self.added - self.capacity)
        place = torch.arange(first, self.added, device=self.where) % self.capacity
        return {name: array.index_select(1, place) for name, array in self.arrays.items()}

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int | None = None) -> Batch:
        if agents is not None:
            raise UserError(f"agents = {agents}: an online run samples all agents of a team.")
        if self.data is None:
            return self._own(rngs, batch_size)
        if not self.added:
            return self.data.transitions(rngs, batch_size)
        old = self.data.transitions(rngs, batch_size - batch_size // 2)
        own = self._own(rngs, batch_size // 2)
        return _concatenate(old.to(self.device), own.to(self.device))

    def _own(self, rngs: Rngs, batch_size: int) -> Batch:
        held = min(self.added, self.capacity)
        steps = np.stack([rng.integers(held, size=batch_size) for rng in rngs])
        drawn = sent(torch.from_numpy(steps), self.where)  # [K, B]

        def pick(name: str) -> Tensor:
            pairs = zip(self.arrays[name].unbind(), drawn.unbind(), strict=True)
            return torch.stack([array.index_select(0, rows) for array, rows in pairs])

        found = {name: pick(name) for name in self.arrays}  # [K, B, ...]
        lead = found["step"].shape
        at_start = ("step", "episode")  # [K, B] in a batch; the others have the axis T
        found = {n: x if n in at_start else x.unsqueeze(2) for n, x in found.items()}
        valid = torch.ones(*lead, 1, dtype=torch.bool, device=self.where)
        return Batch(**found, valid=valid, agent=torch.zeros_like(found["step"]))


def _concatenate(a: Batch, b: Batch) -> Batch:
    """Both one after the other along B, with the fields that both have."""
    parts = {}
    for field in fields(Batch):
        x, y = getattr(a, field.name), getattr(b, field.name)
        parts[field.name] = None if x is None or y is None else torch.cat([x, y.to(x.dtype)], 1)
    return Batch(**parts)  # type: ignore[arg-type]


class Episodes:
    """K x E running episodes; one that ends is replaced at once, so that every slot always plays.

    All slots share one array environment until an episode ends before the others. From then on each
    has its own, with its episode played again up to there: an array environment cannot begin one
    episode anew, and equal seeds and actions give equal episodes.
    """

    def __init__(self, task: Task, seeds: tuple[int, ...], n_envs: int) -> None:
        self.task, self.n_envs = task, n_envs
        n, spec = len(seeds) * n_envs, task.spec
        self.draws = [np.random.default_rng([seed, EPISODES]) for seed in seeds]
        self.seeds = np.zeros(n, np.int64)  # of the running episodes
        self.episode = np.zeros(n, np.int64)  # how many each slot has ended
        self.log: list[list[Array]] = [[] for _ in range(n)]  # actions of the running episodes
        of_obs = np.int64 if spec.n_obs is not None else np.float32
        self.obs = np.zeros((n, spec.n_agents, spec.obs_dim), of_obs)
        self.alive = np.ones((n, spec.n_agents), bool)
        self.mask = np.ones((n, spec.n_agents, spec.n_actions or 0), bool)
        self.parts: list[tuple[ArrayEnv, list[int]]] = [(task.arrays(n), list(range(n)))]
        self._start(0)

    @property
    def t(self) -> Array:
        """Step of each running episode: [K * E]."""
        return np.array([len(actions) for actions in self.log])

    def _start(self, part: int) -> None:
        env, slots = self.parts[part]
        for slot in slots:
            self.seeds[slot] = self.draws[slot // self.n_envs].integers(*EPISODE_SEEDS)
            self.log[slot] = []
            self.alive[slot] = self.mask[slot] = True
        self.obs[slots] = env.reset([int(self.seeds[slot]) for slot in slots])

    def step(self, act: Array) -> dict[str, Array]:
        """Play actions [K * E, ...]; the fields of a transition, [K * E, ...] each."""
        n = len(act)
        rows: dict[str, Array] = {
            "obs": self.obs.copy(),
            "act": act,
            "rew": np.zeros((n, self.task.spec.n_agents), np.float32),
            "terminated": np.zeros(n, np.float32),
            "truncated": np.zeros(n, np.float32),
            "step": self.t,
            "episode": self.episode.copy(),
            "alive": self.alive.copy(),
            "active": np.ones((n, self.task.spec.n_agents), bool),
        }
        for part in range(len(self.parts)):
            slots = self.parts[part][1]
            rew, terminated, truncated, active = self._play(part, act[slots])
            if active is not None:
                rows["active"][slots] = active
            rows["rew"][slots] = np.where(rows["alive"][slots], rew, 0.0)
            rows["terminated"][slots] = terminated
            rows["truncated"][slots] = truncated
        rows["next_obs"] = self.obs.copy()
        ended = (rows["terminated"] + rows["truncated"]) > 0
        self.episode += ended
        if len(self.parts) == 1 and ended.any() and not ended.all():
            self.replay(apart=True)
        for part, (_, slots) in enumerate(self.parts):
            if ended[slots].all():
                self._start(part)
        return rows

    def _play(self, part: int, act: Array) -> tuple[Array, Array, Array, Array | None]:
        env, slots = self.parts[part]
        for slot, own in zip(slots, act, strict=True):
            self.log[slot].append(own)
        step = env.step(act)
        self.obs[slots] = step.obs
        if step.alive is not None:
            self.alive[slots] = step.alive
        if step.mask is not None:
            self.mask[slots] = step.mask
        return step.rew, step.terminated, step.truncated, step.active

    def replay(self, apart: bool) -> None:
        """Begin the running episodes anew and bring them to where they are."""
        played, self.log = self.log, [[] for _ in self.log]
        groups = [[slot] for slot in range(len(played))] if apart else [list(range(len(played)))]
        self.parts = [(self.task.arrays(len(slots)), slots) for slots in groups]
        for part, (env, slots) in enumerate(self.parts):
            self.obs[slots] = env.reset([int(self.seeds[slot]) for slot in slots])
            for t in range(len(played[slots[0]])):
                self._play(part, np.stack([played[slot][t] for slot in slots]))

    def state(self) -> dict[str, Any]:
        actions = [action for own in self.log for action in own]
        return {
            "draws": [draw.bit_generator.state for draw in self.draws],
            "seeds": self.seeds,
            "episode": self.episode,
            "lengths": self.t,
            "actions": np.stack(actions) if actions else np.zeros(0),
            "apart": len(self.parts) > 1,
        }

    def load(self, state: dict[str, Any]) -> None:
        for draw, saved in zip(self.draws, state["draws"], strict=True):
            draw.bit_generator.state = saved
        self.seeds, self.episode = state["seeds"].numpy().copy(), state["episode"].numpy().copy()
        self.alive[:] = self.mask[:] = True
        ends = np.cumsum([0, *state["lengths"].tolist()])
        actions = list(state["actions"].numpy())
        self.log = [actions[a:b] for a, b in itertools.pairwise(ends)]
        self.replay(state["apart"])


class OnlineTrainer(Trainer):
    """A trainer whose batches come from a buffer that it fills by playing."""

    def __init__(self, run: Run, *args: Any) -> None:
        if len(run.seeds) > 1 and not run.cls.stacks_seeds:
            raise UserError(f"{run.row} does not stack seeds, found the group {list(run.seeds)}.")
        self.schedule = Schedule.of(run)
        super().__init__(run, *args)
        wanted = self.schedule.due(run.steps) + self.schedule.n_envs  # no more than ever comes
        capacity = min(self.schedule.capacity, wanted)
        held = len(run.seeds), capacity, self.run.data, run.device
        self.buffer = Buffer(run.task.spec, *held)
        self.episodes = Episodes(run.task, run.seeds, self.schedule.n_envs)
        self.uniform = [np.random.default_rng([seed, UNIFORM]) for seed in run.seeds]
        self.files, self.saved = 0, 0  # files of the buffer, and the steps in them
        self.points, episodes = LONG_CURVE if run.task.spec.horizon >= LONG else (CURVE_POINTS, 20)
        self.curve_seeds = CURVE_SEEDS[:episodes]

    # -------------------------------------------------------------------------------- the buffer
    @property
    def env_steps(self) -> int:
        return self.buffer.added

    def _prepare(self) -> None:
        rngs = [np.random.default_rng([seed, 1]) for seed in self.run.seeds]
        with blame(self.run.row, "prepare"):
            self.group.prepare(self.buffer, self.run.steps, rngs, None)  # type: ignore[arg-type]

    def _batch(self) -> Any:
        begun = time.perf_counter()
        while self.env_steps < self.schedule.due(self.step):
            self._play()
        self.env_seconds += time.perf_counter() - begun
        with blame(self.run.row, "sample"):
            return self.group.sample(self.buffer, self.rngs)  # type: ignore[arg-type]

    def _play(self) -> None:
        """One step of every running episode."""
        spec, now = self.run.task.spec, self.episodes
        lead = (len(self.run.seeds), self.schedule.n_envs)

        def fold(x: Array) -> Array:
            return x.reshape(*lead, *x.shape[1:])

        mask = fold(now.mask) if spec.discrete else None
        if self.env_steps < self.schedule.warmup:
            act = self._uniform(mask)
        else:
            policy = Surviving(self.group, self.run.seeds, self.failed)
            alive = fold(now.alive) if spec.can_die else None
            with blame(self.run.row, "explore"):
                act = policy.explore(fold(now.obs), alive, mask, fold(now.t))
        tail = (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.act_dim)
        act = check_actions(act, (*lead, *tail), spec)
        rows = now.step(act.reshape(-1, *tail))
        self.buffer.add({name: torch.from_numpy(fold(x)) for name, x in rows.items()})

    def _uniform(self, mask: Array | None) -> Array:
        """Uniform actions [K, E, N, ...]; 0 in dimensions that an agent lacks."""
        spec = self.run.task.spec
        shape = (self.schedule.n_envs, spec.n_agents)
        if mask is not None:
            u = np.stack([rng.random((*shape, spec.n_actions or 0)) for rng in self.uniform])
            return np.where(mask, u, -1.0).argmax(-1)
        widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        drawn = [rng.uniform(-1, 1, (*shape, spec.act_dim)) for rng in self.uniform]
        return np.stack(drawn).astype(np.float32) * (np.arange(spec.act_dim) < widths[:, None])

    # ------------------------------------------------------------------------------------ the curve
    def _every(self) -> int:
        return max(1, self.run.steps // self.points)

    def _log(self, losses: dict[str, Tensor]) -> None:
        begun = time.perf_counter()
        k = len(self.run.seeds)
        policy = Surviving(self.group, self.run.seeds, self.failed)
        with blame(self.run.row, "act"):
            found = rollout_group(self.run.task, policy, k, self.curve_seeds)
        team = self.run.task.spec.team(found.returns).mean(-1)  # [K]
        played = torch.full((k,), float(self.env_steps))
        super()._log(losses | {"env_steps": played, "return": torch.from_numpy(team)})
        self.train_seconds -= time.perf_counter() - begun  # what is drawn is no part of training

    # ------------------------------------------------------------------------------- the checkpoint
    def _file(self, number: int) -> Path:
        return self.run.where / f"buffer-{number:05d}.safetensors"

    def state(self) -> dict[str, Any]:
        base = super().state() | {"env_seconds": self.env_seconds, "env_steps": self.env_steps}
        if self.finished:
            return base
        if self.env_steps > self.saved:  # before the checkpoint that counts on it
            path, rows = self._file(self.files), self.buffer.since(self.saved)
            checkpoint.save(path, {"last": self.env_steps, **rows})
            self.files, self.saved = self.files + 1, self.env_steps
        return base | {
            "files": self.files,
            "episodes": self.episodes.state(),
            "uniform": [rng.bit_generator.state for rng in self.uniform],
        }

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.env_seconds = state["env_seconds"]
        if self.finished:
            self.buffer.added = state["env_steps"]
            return
        self.files = state["files"]
        for number in range(self.files):
            rows = checkpoint.load(self._file(number))
            self.buffer.added = rows["last"] - rows["rew"].shape[1]
            self.buffer.add(rows)
        self.saved = self.buffer.added
        self.episodes.load(state["episodes"])
        for rng, saved in zip(self.uniform, state["uniform"], strict=True):
            rng.bit_generator.state = saved

    def fit(self) -> str:
        digest = super().fit()
        for path in self.run.where.glob("buffer-*.safetensors"):
            path.unlink()
        return digest
