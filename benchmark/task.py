"""What a task is: spaces, horizon, how a team return is formed, and the fixed references that
scores are measured against.

A task knows two equal programs: a batched array environment (`Task.arrays`, E episodes in
lockstep), which the suite runs,
and a PettingZoo ParallelEnv (`Task.parallel_env`), which anyone else's code runs. A test holds the
two equal step by step.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from benchmark.errors import UserError

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

Array = np.ndarray
REFERENCES = Path(__file__).parent / "references"


@dataclass(frozen=True)
class Group:
    """A run of consecutive agents with equal spaces, stored together on disk."""

    name: str
    n_agents: int
    obs_dim: int
    act_dim: int = 0


@dataclass(frozen=True)
class TaskSpec:
    """All that an algorithm may know of a task. Agents of different widths are zero-padded to
    `obs_dim` and `act_dim`.
    """

    id: str  # namespace/name-vN; N changes whenever a return could
    groups: tuple[Group, ...]
    horizon: int  # steps in an episode, at most
    n_actions: int | None = None  # discrete: number of actions; None: Box[-1, 1]^act_dim
    n_obs: int | None = (
        None  # finite: an observation is one integer in [0, n_obs), stored with D = 1
    )
    team_return: str = (
        "mean"  # how per-agent returns become one number: mean, sum, or an agent's name
    )
    exchangeable: bool = False
    metric: Literal["return", "exploitability", "margin"] = "return"
    deterministic_eval: bool = (
        True  # False: the reported return is that of the sampled policy (mean-field games)
    )
    can_die: bool = False
    outcomes: tuple[str, ...] = ()  # what `Step.outcome` measures, such as ("margin", "win")
    packages: tuple[str, ...] = ()  # distributions whose version could change a return

    @property
    def n_agents(self) -> int:
        return sum(group.n_agents for group in self.groups)

    @property
    def obs_dim(self) -> int:
        return max(group.obs_dim for group in self.groups)

    @property
    def act_dim(self) -> int:
        """Width A of a continuous action; 0 where actions are discrete."""
        return max(group.act_dim for group in self.groups)

    @property
    def discrete(self) -> bool:
        return self.n_actions is not None

    @property
    def finite(self) -> bool:
        return self.n_obs is not None and self.n_actions is not None

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def agents(self) -> list[str]:
        return [f"agent_{i}" for i in range(self.n_agents)]

    def team(self, returns: Array) -> Array:
        """Team return from per-agent returns: [..., N] -> [...]."""
        if self.team_return == "mean":
            return returns.mean(-1)
        if self.team_return == "sum":
            return returns.sum(-1)
        return returns[..., int(self.team_return.rsplit("_", 1)[1])]

    def by_group(self, returns: Array) -> Array:
        """Means over the agents of each group, from per-agent returns: [..., N] -> [..., G]."""
        ends = np.cumsum([0] + [part.n_agents for part in self.groups])
        return np.stack([returns[..., a:b].mean(-1) for a, b in itertools.pairwise(ends)], -1)

    def properties(self) -> frozenset[str]:
        """What `Algorithm.requires` is compared with."""
        names = {"discrete" if self.discrete else "continuous"}
        if self.finite:
            names.add("finite")
        if self.exchangeable:
            names.add("exchangeable")
        return frozenset(names)


@dataclass
class Step:
    """Result of one lockstep step of E episodes."""

    obs: Array  # [E, N, D] float32, or int64 with D = 1 where the task is finite
    rew: Array  # [E, N] float64
    terminated: Array  # [E] bool: the state is final, do not bootstrap
    truncated: Array  # [E] bool: the time limit cut the episode
    alive: Array | None = None  # [E, N] bool; None: all alive
    mask: Array | None = None  # [E, N, n_actions] bool of allowed actions; None: all allowed
    active: Array | None = None  # [E, N] bool: whose action of this step counted; None: everyone's
    outcome: dict[str, Array] | None = None  # [E] each, of the episode so far; see `TaskSpec`


class ArrayEnv(Protocol):
    """E episodes in lockstep. Episode e depends on its own seed and actions only, never on E or its
    neighbours.
    """

    def reset(self, seeds: Sequence[int]) -> Array:
        """One episode per seed: obs [E, N, D]."""
        ...

    def step(self, act: Array) -> Step:
        """act: [E, N, A] float in [-1, 1] (clipped), or [E, N] int."""
        ...


class GameModel(Protocol):
    """The exact mean-field limit of a finite game. xi[o, a] = mu[o] pi[a | o] is the population's
    joint distribution.
    """

    n_obs: int
    n_actions: int
    horizon: int
    mu0: Array  # [O]

    def kernel(self, t: int, xi: Array) -> Array:
        """P[o, a, o'] of a tagged agent, given xi [O, A]."""
        ...

    def reward(self, t: int, xi: Array) -> Array:
        """Expected reward [O, A] of a tagged agent, given xi [O, A]."""
        ...

    def solve(self) -> Array:
        """Reference policy pi[h, o, a]: the equilibrium, or the optimum where cooperative."""
        ...


@runtime_checkable
class TurnsModel(GameModel, Protocol):
    """The limit of a game in which B of the N agents act at a step, rho = B / N: `kernel` is
    rho P + (1 - rho) P0, and `reward` is the same average times the discount of its step,
    discount^(t rho). The parts depend on the population through mu [..., O] alone.
    """

    steps_per_round: int  # 1 / rho; the steps of a round share one table of a policy
    discount: float  # per round

    def active_kernel(self, mu: Array) -> Array:
        """P [..., O, A, O] of an agent who acts."""
        ...

    def passive_kernel(self, mu: Array) -> Array:
        """P0 [..., O, O] of an agent who waits."""
        ...

    def active_reward(self, mu: Array) -> Array:
        """Reward [..., O, A] of one step, before the discount."""
        ...

    def passive_reward(self, mu: Array) -> Array:
        """Reward [..., O] of one step, before the discount."""
        ...


@dataclass(frozen=True)
class Reference:
    """Fixed ends of the normalised scale, measured once by `make reference` and committed; never
    typed, never pooled.
    """

    task: str
    random: float  # mean team return of uniform play; mean margin where that is the metric
    random_sem: float
    expert: float  # the same of the committed expert, or of the computed optimum
    expert_sem: float
    episodes: int
    first_seed: int
    recipe: str
    uniform_exploitability: float = 0.0  # 0: no exact exploitability
    lines: dict[str, float] = field(
        default_factory=dict
    )  # further reference returns, drawn as lines: controllers, equilibria
    packages: dict[str, str] = field(default_factory=dict)

    def score(self, metric: str, value: float | Array) -> float | Array:
        """Normalised score, 0 = random and 100 = expert (or equilibrium)."""
        if metric == "exploitability":
            return 100.0 * (1.0 - value / self.uniform_exploitability)
        return 100.0 * (value - self.random) / (self.expert - self.random)

    def check(self) -> None:
        gap = self.expert - self.random
        if self.uniform_exploitability:
            return  # both ends of the scale are exact; uniform play may well earn more
        if not gap > 1e-6:
            raise UserError(
                f"reference of {self.task}: expert {self.expert:.4g} is not above random"
                f" {self.random:.4g}."
            )
        worst = max(self.random_sem, self.expert_sem)
        if worst > 0.01 * gap:
            raise UserError(
                f"reference of {self.task}: a standard error of {worst:.3g} exceeds 1% of the gap"
                f" {gap:.4g}; measure more episodes."
            )


@dataclass(frozen=True)
class Family:
    """Names -> tasks. Every file under `benchmark/envs` that holds tasks exports one as FAMILY."""

    pattern: (
        str  # regular expression of the whole task id, e.g. r"meanfield/squeeze-n(?P<n>\d+)-v1"
    )
    examples: tuple[str, ...]  # the members that boards, checks and near-match errors know
    build: Callable[[re.Match[str]], Task]


def reference_path(task_id: str) -> Path:
    return REFERENCES / f"{task_id.replace('/', '--')}.toml"


class Task(ABC):
    """One environment with its contract. Families live in `benchmark/envs`, one file each, and
    resolve names to tasks.
    """

    spec: TaskSpec

    @abstractmethod
    def arrays(self, n_envs: int) -> ArrayEnv:
        """The batched environment."""

    @abstractmethod
    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """The PettingZoo environment."""

    def model(self) -> GameModel | None:
        """The exact mean-field model, where the game is finite."""
        return None

    def expert(self) -> Any:
        """Policy that defines 100, as an object with `begin` and `act`; see
        `benchmark.evaluate.Policy`.
        """
        raise UserError(f"task {self.spec.id} has no expert to compute a reference from.")

    def reference_lines(self) -> dict[str, Any]:
        """Further policies whose returns `Reference.lines` records, by name: scripted controllers,
        equilibria.
        """
        return {}

    def reference(self) -> Reference | None:
        """The committed reference of this task; None where none was computed (`make reference
        TASK=...`).
        """
        path = reference_path(self.spec.id)
        if not path.exists():
            return None
        values = tomllib.loads(path.read_text())
        reference = Reference(**values)
        reference.check()
        return reference


def reference_toml(reference: Reference) -> str:
    import tomli_w

    return tomli_w.dumps(asdict(reference))
