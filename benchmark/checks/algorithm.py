"""What every algorithm must keep. For each check, tests/test_algorithms.py has one that breaks it.

A user checks an algorithm of their own so:

    from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
    for result in check_algorithm(AlgorithmSubject("mine", Mine)):
        print(result.line())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint
from benchmark.algorithm import Algorithm, PerSeed, Variant, build_group
from benchmark.checks import CheckFailed, Result, run_checks, source
from benchmark.checks.fixtures import TOYS, ToyDataset, toy_dataset
from benchmark.rng import seed_all
from benchmark.task import Array, GameModel, TaskSpec

SEEDS = (3, 11, 4)  # a group; not in order, so that nothing can mistake an index for a seed
UPDATES = 20
LEARNING_UPDATES = 120
ENVS = 5


@dataclass(frozen=True)
class AlgorithmSubject:
    """An algorithm, and the small problems that it is checked on.

    `config` overrides fields of its Config, to make a large network small. An algorithm that needs
    a GameModel brings a finite task's `spec` and `model`.
    """

    name: str
    cls: type[Algorithm]
    variant: str = "default"
    config: Mapping[str, Any] = field(default_factory=dict)
    specs: tuple[TaskSpec, ...] = TOYS
    model: GameModel | None = None

    @property
    def row(self) -> Variant:
        return self.cls.variants[self.variant]

    @property
    def trains(self) -> bool:
        return any(self.row.steps.values())

    def obstacle(self, data: ToyDataset) -> str:
        """Why the algorithm cannot run on a data set; empty if it can."""
        have = data.spec.properties() | ({"logp"} if data.logp is not None else set())
        if missing := self.cls.requires - have:
            return f"{data.spec.id} is not {sorted(missing)[0]}"
        if self.row.track in ("online", "o2o"):
            return "it needs a simulator"
        if self.row.track in ("model", "oracle") and self.model is None:
            return "it needs a game model, and the subject brings none"
        return ""

    def datasets(self) -> list[ToyDataset]:
        """The toy problems that the algorithm is able to run on."""
        found = [toy_dataset(spec) for spec in self.specs]
        return [data for data in found if not self.obstacle(data)]

    def config_for(self, spec: TaskSpec) -> Any:
        values = self.row.resolve(spec.id, "smoke")[0] | dict(self.config)
        if "compile" in {f.name for f in dataclasses.fields(self.cls.Config)}:
            values.setdefault("compile", "off")
        return self.cls.Config(**values)


def check_algorithm(
    subject: AlgorithmSubject, expected: Mapping[str, str] | None = None
) -> list[Result]:
    """Run all of CHECKS; `expected`: names of checks that must fail -> the reason."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # bits are promised for one thread
    try:
        return run_checks(CHECKS, subject, expected)
    finally:
        torch.set_num_threads(threads)


# -------------------------------------------------------------------------------------- helpers
def build(
    subject: AlgorithmSubject, data: ToyDataset, seeds: tuple[int, ...], steps: int = UPDATES
) -> Algorithm:
    """A group, prepared for `steps` updates."""
    group = build_group(subject.cls, subject.config_for(data.spec), data.spec, seeds)
    group.prepare(data, steps, [np.random.default_rng([seed, 1]) for seed in seeds], subject.model)
    return group


def generators(seeds: tuple[int, ...]) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, 0]) for seed in seeds]


def train(group: Algorithm, data: ToyDataset, rngs: Any, updates: int) -> list[dict[str, Array]]:
    """Losses of every update."""
    losses = []
    for _ in range(updates):
        loss = group.update(group.sample(data, rngs))
        losses.append({name: value.detach().cpu().numpy().copy() for name, value in loss.items()})
    return losses


def trained(
    subject: AlgorithmSubject, data: ToyDataset, seeds: tuple[int, ...], updates: int = UPDATES
) -> tuple[Algorithm, list[dict[str, Array]]]:
    group = build(subject, data, seeds, updates)
    losses = train(group, data, generators(seeds), updates if subject.trains else 0)
    group.finish()
    return group, losses


def observations(data: ToyDataset, n_envs: int, n_seeds: int, first: int = 0) -> Array:
    """The same observations [K, E, N, D] for every seed."""
    obs = data.obs[first + np.arange(n_envs)]
    if data.spec.n_obs is not None:
        obs = obs.astype(np.int64)  # as an environment gives them
    return np.broadcast_to(obs, (n_seeds, *obs.shape)).copy()


def play(
    group: Algorithm, obs: Array, seed: int = 7, deterministic: bool = False, steps: int = 2
) -> Array:
    """Actions [steps, K, E, N, ...] of the first steps of an episode in which nothing changes."""
    group.begin(obs.shape[1], seed)
    return np.stack([group.act(obs.copy(), None, None, t, deterministic) for t in range(steps)])


def tensors(group: Algorithm) -> dict[str, torch.Tensor]:
    """Every tensor of the state, by its path."""
    members = group.members if isinstance(group, PerSeed) else [group]
    return checkpoint.flatten([member.state_dict() for member in members])[1]


def different(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        name
        for name in sorted({*a, *b})
        if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]


Problem = Callable[[AlgorithmSubject, ToyDataset], None]


def on_every_problem(check: Problem) -> Callable[[AlgorithmSubject], str]:
    """Run a check on all toy problems that fit; where none does, the note says why."""

    def run(subject: AlgorithmSubject) -> str:
        fitting = subject.datasets()
        for data in fitting:
            try:
                check(subject, data)
            except CheckFailed as error:
                raise CheckFailed(f"on {data.spec.id}: {error}") from error
        if fitting:
            return "on " + ", ".join(data.spec.id for data in fitting)
        reasons = dict.fromkeys(subject.obstacle(toy_dataset(spec)) for spec in subject.specs)
        return "not run: " + ", ".join(reasons)

    run.__name__ = check.__name__
    run.__doc__ = check.__doc__
    return run


# --------------------------------------------------------------------------------------- source
def check_config(subject: AlgorithmSubject) -> None:
    """Config is a frozen dataclass with plain, explained defaults."""
    source.config_errors(subject.cls)


def check_class(subject: AlgorithmSubject) -> None:
    """paper, requires and variants are well formed."""
    source.class_errors(subject.cls)


def check_imports(subject: AlgorithmSubject) -> None:
    """The file imports no environment."""
    source.import_errors(subject.cls)


# ------------------------------------------------------------------------------------- training
@on_every_problem
def check_seeds(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """The same seed gives the same weights, another seed others."""
    seed_all(0)
    first = tensors(build(subject, data, (5,)))
    seed_all(1)  # weights from the global generators would now be others
    if names := different(first, tensors(build(subject, data, (5,)))):
        raise CheckFailed(f"seed 5 twice gives different {names[0]}; draw it from `seeds` alone")
    if subject.trains and not different(first, tensors(build(subject, data, (6,)))):
        raise CheckFailed("seeds 5 and 6 give equal weights; use `seeds` for the initial weights")


@on_every_problem
def check_update(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """An update changes weights and returns finite losses, one a seed, as tensors."""
    if not subject.trains:
        return
    group = build(subject, data, SEEDS)
    before, rngs = tensors(group), generators(SEEDS)
    for _ in range(UPDATES):
        batch: Any = group.sample(data, rngs)
        if isinstance(group, PerSeed):  # what the algorithm itself returns, before it is stacked
            _check_losses(group.members[0].update(batch[0]), ((),))
        else:
            _check_losses(group.update(batch), ((), (len(SEEDS),)))
    after = tensors(group)
    weights = [name for name in different(before, after) if after[name].is_floating_point()]
    if not weights:
        raise CheckFailed("no tensor of state_dict() changes in an update; is a part left out?")


def _check_losses(losses: Mapping[str, Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    if not losses:
        raise CheckFailed("update returns no loss; return a dict of named tensors")
    for name, value in losses.items():
        if not isinstance(value, torch.Tensor):
            raise CheckFailed(
                f"loss {name!r} is a {type(value).__name__}; return the tensor itself, without"
                " .item(): it would stop the device at every step"
            )
        if value.requires_grad:
            raise CheckFailed(f"loss {name!r} holds its graph; detach it")
        if tuple(value.shape) not in shapes:
            raise CheckFailed(
                f"loss {name!r} has shape {tuple(value.shape)}; return a scalar, or with"
                " stacks_seeds one number per seed"
            )
        if not torch.isfinite(value).all():
            raise CheckFailed(f"loss {name!r} is not finite on ordinary data; find out why")


@on_every_problem
def check_learning(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """At least one of its losses falls on a problem that can be learned."""
    if not subject.trains:
        return
    _, losses = trained(subject, data, (0,), LEARNING_UPDATES)
    names = {name for loss in losses for name in loss}
    curves = {n: np.array([loss[n].mean() for loss in losses if n in loss]) for n in sorted(names)}
    ends = {name: (curve[:10].mean(), curve[-30:].mean()) for name, curve in curves.items()}
    if not any(last < first - 0.02 * abs(first) for first, last in ends.values()):
        shown = ", ".join(f"{name} {a:.3g} -> {b:.3g}" for name, (a, b) in ends.items())
        raise CheckFailed(f"no loss falls in {LEARNING_UPDATES} updates ({shown}); check its sign")


@on_every_problem
def check_group(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """A seed trained in a group has the losses and actions of the same seed alone, bit for bit."""
    group, losses = trained(subject, data, SEEDS)
    obs = observations(data, ENVS, len(SEEDS))
    act = play(group, obs)
    for k, seed in enumerate(SEEDS):
        alone, own = trained(subject, data, (seed,))
        for step, (together, single) in enumerate(zip(losses, own, strict=True)):
            for name, value in together.items():
                if value.shape and not np.array_equal(value[k], single[name].reshape(())):
                    raise CheckFailed(
                        f"loss {name!r} of seed {seed} at update {step} is {value[k]!r} in a group"
                        f" and {single[name].reshape(())!r} alone; keep seeds apart: no mean over"
                        " K, a generator per seed, batches in multiples of 16"
                    )
        if not np.array_equal(act[:, k], play(alone, obs[k : k + 1])[:, 0]):
            raise CheckFailed(
                f"seed {seed} acts differently in a group; give each seed its own noise in begin()"
            )


@on_every_problem
def check_state(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """state_dict() holds tensors and plain values; a resumed run ends with the same bits."""
    group = build(subject, data, SEEDS, 2 * UPDATES)
    updates = UPDATES if subject.trains else 0
    rngs = generators(SEEDS)
    train(group, data, rngs, updates)
    tree, flat = checkpoint.flatten(group.state_dict())  # refuses what a checkpoint cannot hold
    stored = [rng.bit_generator.state for rng in rngs]
    losses = train(group, data, rngs, updates)
    resumed = build(subject, data, SEEDS, 2 * UPDATES)
    resumed.load_state_dict(checkpoint.unflatten(tree, flat))
    for rng, state in zip(rngs, stored, strict=True):
        rng.bit_generator.state = state
    again = train(resumed, data, rngs, updates)
    for step, (a, b) in enumerate(zip(losses, again, strict=True)):
        for name in a:
            if not np.array_equal(a[name], b[name]):
                raise CheckFailed(
                    f"loss {name!r} differs {step + 1} updates after a resume; store all of it:"
                    " optimiser, targets, averages, generators, step counter"
                )
    if names := different(tensors(group), tensors(resumed)):
        raise CheckFailed(f"{names[0]} differs after a resume; store and restore it")
    group.finish()
    resumed.finish()
    obs = observations(data, ENVS, len(SEEDS))
    if not np.array_equal(play(group, obs), play(resumed, obs)):
        raise CheckFailed("a resumed run acts differently; store what act() uses, normalisers too")
    # Re-evaluation of a checkpoint builds the group without data.
    loaded = build_group(subject.cls, subject.config_for(data.spec), data.spec, SEEDS)
    loaded.load_state_dict(checkpoint.unflatten(*checkpoint.flatten(group.state_dict())))
    if not np.array_equal(play(group, obs), play(loaded, obs)):
        raise CheckFailed(
            "a loaded group that was never prepared acts differently; put what prepare() makes"
            " (normalisers) and what finish() makes into state_dict()"
        )


# --------------------------------------------------------------------------------------- acting
@on_every_problem
def check_actions(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """Actions have the task's shape, type and range, and obey `mask`."""
    spec = data.spec
    group, _ = trained(subject, data, SEEDS[:2], 1)
    for n_envs in (1, ENVS):
        obs = observations(data, n_envs, 2)
        everyone = np.ones(obs.shape[:3], bool)
        for alive in (None, everyone, np.arange(spec.n_agents) % 2 * everyone == 0):
            for mask in _masks(spec, obs.shape[:3]):
                group.begin(n_envs, 7)
                given = obs.copy()
                act = np.asarray(group.act(given, alive, mask, 0, False))
                if not np.array_equal(given, obs):
                    raise CheckFailed("act changes the observations it is given; copy them first")
                _check_action(act, spec, obs.shape[:3], mask)


def _masks(spec: TaskSpec, shape: tuple[int, ...]) -> Iterator[Array | None]:
    yield None
    if spec.n_actions is not None:
        rng = np.random.default_rng(0)
        for _ in range(10):
            mask = rng.random((*shape, spec.n_actions)) < 0.3
            mask[..., rng.integers(spec.n_actions)] = True
            yield mask


def _check_action(act: Array, spec: TaskSpec, lead: tuple[int, ...], mask: Array | None) -> None:
    wanted = lead if spec.discrete else (*lead, spec.act_dim)
    if act.shape != wanted:
        raise CheckFailed(f"act returns shape {act.shape}, expected {wanted} = [K, E, N, ...]")
    kind = np.integer if spec.discrete else np.floating
    if not np.issubdtype(act.dtype, kind):
        raise CheckFailed(f"act returns {act.dtype}, expected {kind.__name__}")
    if not spec.discrete:
        if not (np.abs(act) <= 1).all():
            raise CheckFailed("act returns values outside [-1, 1]; squash or clip them")
        return
    if act.min() < 0 or act.max() >= (spec.n_actions or 0):
        raise CheckFailed(f"act returns values outside 0 ... {(spec.n_actions or 0) - 1}")
    if mask is not None and not np.take_along_axis(mask, act[..., None], -1).all():
        raise CheckFailed("act picks an action that `mask` forbids; mask before drawing")


@on_every_problem
def check_begin(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """begin() with the same seed gives the same actions, whatever was played before."""
    group, _ = trained(subject, data, SEEDS[:2], 1)
    obs = observations(data, ENVS, 2)
    first = play(group, obs, seed=7)
    play(group, observations(data, 2 * ENVS, 2, first=9), seed=8)
    if not np.array_equal(first, play(group, obs, seed=7)):
        raise CheckFailed(
            "the same begin(n_envs, seed) gives other actions; seed noise and reset all state there"
        )


@on_every_problem
def check_execution(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """What an agent's action may depend on: local, its own observation; mean-field, mu as well."""
    spec, execution = data.spec, subject.row.execution
    if execution == "joint" or (execution == "mean-field" and not spec.exchangeable):
        return
    group, _ = trained(subject, data, SEEDS[:2])
    obs = observations(data, ENVS, 2)
    rest = observations(data, ENVS, 2, first=spec.horizon + 1)
    before = play(group, obs)  # [steps, K, E, N, ...]
    for i in range(spec.n_agents):
        changed = rest.copy() if execution == "local" else obs.copy()
        if execution == "mean-field":
            others = np.delete(np.arange(spec.n_agents), i)
            changed[:, :, others] = obs[:, :, np.roll(others, 1)]
        changed[:, :, i] = obs[:, :, i]
        after = play(group, changed)
        if not np.allclose(before[:, :, :, i], after[:, :, :, i], rtol=0, atol=1e-4):
            what = "change" if execution == "local" else "swap their observations"
            raise CheckFailed(
                f"agent {i} acts differently when the others {what}, under the same noise; declare"
                " a wider `execution`, or let the policy see less"
            )


@on_every_problem
def check_policy_table(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """policy_table() is the policy that act() plays: rows sum to 1, frequencies agree."""
    spec = data.spec
    if not (spec.finite and spec.exchangeable):
        return
    group, _ = trained(subject, data, SEEDS[:2])
    try:
        table = np.asarray(group.policy_table())
    except NotImplementedError:
        return
    assert spec.n_obs is not None
    assert spec.n_actions is not None
    shape = (2, spec.horizon, spec.n_obs, spec.n_actions)
    if table.shape != shape:
        raise CheckFailed(f"policy_table has shape {table.shape}, expected {shape} = [K, H, O, A]")
    if table.min() < 0 or not np.allclose(table.sum(-1), 1, rtol=0, atol=1e-6):
        raise CheckFailed("a row of policy_table is no distribution; normalise over actions")
    if subject.row.execution == "mean-field":
        return  # its table is that along its own flow, and another population gets other actions
    n_envs = 1_000
    agents = np.arange(n_envs * spec.n_agents) % spec.n_obs
    obs = np.broadcast_to(
        agents.reshape(1, n_envs, spec.n_agents, 1), (2, n_envs, spec.n_agents, 1)
    )
    group.begin(n_envs, 7)
    for t in range(spec.horizon):
        act = group.act(obs.copy(), None, None, t, False)
        for o in range(spec.n_obs):
            at = obs[0, ..., 0] == o  # [E, N]
            counts = np.stack(
                [(act[:, at] == a).mean(-1) for a in range(spec.n_actions)], -1
            )  # [K, A]
            p = table[:, t, o]
            error = 5 * np.sqrt(p * (1 - p) / at.sum()) + 1e-6  # 5 standard errors
            if (np.abs(counts - p) > error).any():
                raise CheckFailed(
                    f"at step {t}, observation {o}, act plays {counts[0].round(3)} and"
                    f" policy_table says {p[0].round(3)}; sample from the table itself"
                )


CHECKS = (
    check_config,
    check_class,
    check_imports,
    check_seeds,
    check_update,
    check_learning,
    check_group,
    check_state,
    check_actions,
    check_begin,
    check_execution,
    check_policy_table,
)
