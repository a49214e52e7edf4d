"""What every task must keep. For each check, tests/test_check_task.py has a task that breaks it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from benchmark.checks import CheckFailed, Result, run_checks
from benchmark.checks.play import compare, record, released_test, replay
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.envs.meanfield.solve import exploitability, flow, policy_value, uniform_policy
from benchmark.errors import UserError
from benchmark.reference import UniformPolicy, values
from benchmark.task import Array, Reference, Task, reference_path

FEW, MANY = 16, 20_000  # agents of the family's members that dictionaries and limits are checked on
SEEDS = (11, 12, 13)
ID = re.compile(r"[a-z0-9-]+/[a-z0-9-]+-v\d+")


def few(task: Task) -> Task:
    """The task, or the member of its family with FEW agents where it has more."""
    return task if task.spec.n_agents <= FEW else member(task, FEW)


def many(task: Task) -> Task:
    """The task, or the member of its family with MANY agents where it is far from that."""
    return task if 5_000 <= task.spec.n_agents <= 50_000 else member(task, MANY)


def member(task: Task, n_agents: int) -> Task:
    """The same game with another N, by its name: ...-n1000-v1 -> ...-n16-v1; itself where none.

    Where B of N agents act at a step, B / N stays: ...-n256-b32-v1 -> ...-n16-b2-v1.
    """
    from benchmark import registry

    def resized(match: re.Match[str]) -> str:
        active = f"-b{int(match[2]) * n_agents // int(match[1])}" if match[2] else ""
        return f"-n{n_agents}{active}"

    name = re.sub(r"-n(\d+)(?:-b(\d+))?(?=-)", resized, task.spec.id, count=1)
    if name != task.spec.id:
        with contextlib.suppress(UserError):
            return registry.task(name)
    return task


def check_task(task: Task, expected: Mapping[str, str] | None = None) -> list[Result]:
    """Run all of CHECKS on a task; `expected`: names of checks that must fail -> the reason."""
    return run_checks(CHECKS, task, expected)


# ------------------------------------------------------------------------------------ interface
def check_spec(task: Task) -> None:
    spec = task.spec
    if not ID.fullmatch(spec.id):
        raise CheckFailed(f"id {spec.id!r} is not namespace/name-vN; rename the task")
    if spec.horizon < 1 or spec.n_agents < 1:
        raise CheckFailed(
            f"horizon is {spec.horizon} and n_agents is {spec.n_agents}; set both to 1 or more"
        )
    for group in spec.groups:
        if group.n_agents < 1 or group.obs_dim < 1:
            raise CheckFailed(f"group {group.name!r} lacks agents or an observation; mend Group")
        if (group.act_dim > 0) == spec.discrete:
            raise CheckFailed(
                f"group {group.name!r} has act_dim {group.act_dim} while n_actions is"
                f" {spec.n_actions}; set act_dim for continuous actions, n_actions for discrete"
            )
    if spec.n_obs is not None and spec.obs_dim != 1:
        raise CheckFailed(f"n_obs is set but obs_dim is {spec.obs_dim}; a finite task has 1")
    if spec.team_return not in ("mean", "sum", *spec.agents()):
        raise CheckFailed(
            f"team_return is {spec.team_return!r}; use mean, sum or one of agent_0 to"
            f" agent_{spec.n_agents - 1}"
        )
    if spec.metric == "exploitability" and task.model() is None:
        raise CheckFailed("metric is exploitability but model() is None; return a GameModel")


def check_arrays(task: Task) -> None:
    """obs [E, N, D] and rewards [E, N] of the promised types and ranges."""
    spec, trace = task.spec, record(task, SEEDS[:2])
    for obs in trace.obs:
        shape = (2, spec.n_agents, spec.obs_dim)
        kind = np.dtype(np.int64 if spec.finite else np.float32)
        if obs.shape != shape or obs.dtype != kind:
            raise CheckFailed(
                f"observations are {obs.dtype} {obs.shape}; return {kind} {shape} = [E, N, D]"
            )
        if not np.isfinite(obs).all():
            raise CheckFailed("an observation is not finite; mend reset or step")
        if spec.n_obs is not None and (obs.min() < 0 or obs.max() >= spec.n_obs):
            raise CheckFailed(
                f"observations reach from {obs.min()} to {obs.max()}; keep them in 0 to"
                f" {spec.n_obs - 1}, or raise n_obs"
            )
    for rew in trace.rew:
        if rew.shape != (2, spec.n_agents) or rew.dtype != np.float64:
            raise CheckFailed(
                f"rewards are {rew.dtype} {rew.shape}; return float64 {(2, spec.n_agents)} = [E, N]"
            )
        if not np.isfinite(rew).all():
            raise CheckFailed("a reward is not finite; mend step")


def check_pettingzoo_api(task: Task) -> str:
    """PettingZoo's own parallel_api_test; its warnings are failures here."""
    task = few(task)
    released_test("parallel_api_test", task.parallel_env())
    return _where(task)


def check_pettingzoo_seed(task: Task) -> str:
    """PettingZoo's own parallel_seed_test; it looks at one step, `check_determinism` at all."""
    task = few(task)
    released_test("parallel_seed_test", task.parallel_env)
    return _where(task)


def check_determinism(task: Task) -> str:
    """Whole episodes repeat under the same seed, whatever was played before in the same object."""
    task = few(task)
    acts = record(task, SEEDS).act
    env, again = task.parallel_env(), task.parallel_env()
    first = {seed: replay(task, env, seed, [a[e] for a in acts]) for e, seed in enumerate(SEEDS)}
    for e, seed in reversed(list(enumerate(SEEDS))):
        compare(
            replay(task, again, seed, [a[e] for a in acts]),
            first[seed],
            f"seed {seed} played twice",
            "draw every random number of an episode from a generator that reset(seed) makes",
        )
    return _where(task)


def check_parallel_equals_arrays(task: Task) -> str:
    """The PettingZoo and the array environment are one game: same seeds and actions, same steps."""
    task = few(task)
    trace = record(task, SEEDS)
    for e, seed in enumerate(SEEDS):
        compare(
            replay(task, task.parallel_env(), seed, [a[e] for a in trace.act]),
            trace.episode(e),
            f"seed {seed} in parallel_env() and in arrays()",
            "make both the same game, or build parallel_env from benchmark.envs.parallel",
        )
    return _where(task)


def check_independence(task: Task) -> str:
    """An episode is the same alone and among others, in any order."""
    task = few(task)
    trace = record(task, SEEDS)
    backwards = record(task, SEEDS[::-1], [a[::-1] for a in trace.act])
    advice = "give each episode its own generator, and never mix episodes in one computation"
    for e, seed in enumerate(SEEDS):
        alone = record(task, [seed], [a[e : e + 1] for a in trace.act]).episode(0)
        what = f"the episode of seed {seed} alone and"
        compare(alone, trace.episode(e), f"{what} among others", advice)
        turned = backwards.episode(len(SEEDS) - 1 - e)
        compare(alone, turned, f"{what} among others in reverse order", advice)
    return _where(task)


def check_horizon(task: Task) -> None:
    """The time limit is spec.horizon, and it truncates rather than terminates."""
    horizon, trace = task.spec.horizon, record(task, SEEDS[:2])
    terminated, truncated = np.array(trace.terminated), np.array(trace.truncated)  # [T, E]
    for e in range(2):
        if truncated[:-1, e].any() or (len(truncated) < horizon and truncated[-1, e]):
            step = int(truncated[:, e].argmax()) + 1
            raise CheckFailed(f"truncated after {step} steps; make that {horizon} = spec.horizon")
        if terminated[: horizon - 1, e].any():
            continue
        if not truncated[-1, e] and not terminated[-1, e]:
            raise CheckFailed(f"still running after {horizon} steps; truncate at spec.horizon")
    ended_at_limit = terminated[-1].all() and not terminated[:-1].any()
    # A game of a single decision may terminate there: nothing follows to bootstrap from.
    if horizon > 1 and len(truncated) == horizon and ended_at_limit:
        raise CheckFailed(
            f"terminated at step {horizon} = spec.horizon; report a time limit as truncated"
        )


def check_actions_out_of_range(task: Task) -> str:
    """Discrete: refused with a sentence that names the agent and the value. Continuous: clipped."""
    task = few(task)
    act = record(task, SEEDS[:1]).act[0]  # [1, N] or [1, N, A]
    agent = task.spec.n_agents - 1
    if not task.spec.discrete:
        far, near = np.full_like(act, 1.7), np.ones_like(act)
        advice = "clip actions to [-1, 1] in step"
        one, two = (record(task, SEEDS[:1], [x]).episode(0) for x in (far, near))
        compare(one, two, "actions of 1.7 and of 1 in arrays()", advice)
        one, two = (replay(task, task.parallel_env(), SEEDS[0], [x[0]]) for x in (far, near))
        compare(one, two, "actions of 1.7 and of 1 in parallel_env()", advice)
        return _where(task)
    env = task.parallel_env()
    plays: dict[str, Callable[[Array], object]] = {
        "arrays()": lambda x: record(task, SEEDS[:1], [x]),
        "parallel_env()": lambda x: replay(task, env, SEEDS[0], [x[0]]),
    }
    for value in (-1, task.spec.n_actions or 0):
        wrong = act.copy()
        wrong[0, agent] = value
        for name, play in plays.items():
            try:
                play(wrong)
            except UserError as error:
                if f"agent_{agent}" in str(error) and str(value) in str(error):
                    continue
                found = f"says {str(error)!r}"
            except Exception as error:
                found = f"raises {type(error).__name__}"
            else:
                found = "accepts it"
            raise CheckFailed(
                f"agent_{agent} plays {value} and {name} {found}; raise a UserError with both"
            )
    return _where(task)


# ---------------------------------------------------------------------------------- references
def check_reference(task: Task) -> None:
    """A committed reference with a gap that its standard errors resolve."""
    reference = _reference(task)
    if reference.task != task.spec.id:
        raise CheckFailed(
            f"{reference_path(task.spec.id)} is that of {reference.task}; measure it again"
        )
    reference.check()
    model = task.model()
    if task.spec.metric == "exploitability" and model is not None:
        exact = exploitability(model, uniform_policy(model))
        if not np.isclose(reference.uniform_exploitability, exact, rtol=1e-6):
            raise CheckFailed(
                f"uniform_exploitability is {reference.uniform_exploitability:.6g}, the model says"
                f" {exact:.6g}; measure the reference again (and raise the task's version)"
            )


def check_reference_repeats(task: Task) -> None:
    """Uniform play and the expert still earn what the reference says: nothing changed since."""
    reference = _reference(task)
    seeds = range(1_000_000, 1_000_020)
    ends = (
        ("random", UniformPolicy(task.spec), reference.random, reference.random_sem),
        ("expert", task.expert(), reference.expert, reference.expert_sem),
    )
    for name, policy, value, sem in ends:
        returns = values(task, policy, seeds)
        # A rare reward may be missing from 20 episodes: the reference then knows the spread.
        spread = max(returns.std(ddof=1), sem * np.sqrt(reference.episodes))
        error = np.hypot(spread / np.sqrt(len(returns)), sem)
        tolerance = 5 * error + 0.01 * abs(reference.expert - reference.random)
        if abs(returns.mean() - value) > tolerance:
            raise CheckFailed(
                f"{name} earns {returns.mean():.5g} over 20 episodes, the reference says"
                f" {value:.5g} (tolerance {tolerance:.2g}); the game changed: raise the"
                " task's version and measure its reference"
            )


# ------------------------------------------------------------------------------- exact model
def check_model(task: Task) -> str | None:
    """Sizes as in the spec; mu0, kernels and the solution are distributions; rewards are finite."""
    spec, model = task.spec, task.model()
    if model is None:
        return "no exact model"
    own = (model.n_obs, model.n_actions, model.horizon)
    if own != (spec.n_obs, spec.n_actions, spec.horizon):
        raise CheckFailed(
            f"model has (n_obs, n_actions, horizon) = {own}, the spec"
            f" {(spec.n_obs, spec.n_actions, spec.horizon)}; make them equal"
        )
    rng = np.random.default_rng(0)
    joint = (model.n_obs, model.n_actions)
    _distribution("mu0", model.mu0, joint[:1])
    _distribution("solve()", model.solve(), (model.horizon, *joint))
    for t in range(model.horizon):
        xi = rng.dirichlet(np.ones(joint[0] * joint[1])).reshape(joint)  # [O, A]
        _distribution(f"kernel at t = {t}", model.kernel(t, xi), (*joint, model.n_obs))
        reward = model.reward(t, xi)
        if reward.shape != joint or not np.isfinite(reward).all():
            raise CheckFailed(f"reward at t = {t} is not a finite {joint} array; mend reward()")
    if spec.metric == "exploitability":
        uniform, solved = uniform_policy(model), model.solve()
        if exploitability(model, solved) > 0.01 * exploitability(model, uniform):
            raise CheckFailed("solve() keeps 1% of uniform's exploitability; iterate for longer")
    return None


def check_limit(task: Task) -> str:
    """With many agents the game is its model: populations near the flow, returns near the value."""
    task = many(task)
    model = task.model()
    if model is None:
        return "no exact model"
    spec, seeds = task.spec, range(SEEDS[0], SEEDS[0] + 4)
    if spec.n_agents < 1_000:
        return f"does not apply: no member of the family has {MANY} agents"
    if getattr(task, "shared_start", False):
        return "does not apply: the agents of an episode share one first observation"
    policies = {"uniform play": uniform_policy(model), "solve()": model.solve()}
    values = {name: policy_value(model, pi) for name, pi in policies.items()}
    tolerance = 0.05 * abs(values["solve()"] - values["uniform play"])
    widest = 5 * np.sqrt(model.n_obs / spec.n_agents)
    for name, pi in policies.items():
        trace, exact = record(task, seeds, policy=TablePolicy(pi)), flow(model, pi)
        for t, obs in enumerate(trace.obs[:-1]):
            counts = np.bincount(obs[0, :, 0], minlength=model.n_obs)
            distance = np.abs(counts / spec.n_agents - exact[t]).sum()
            if distance > widest:
                raise CheckFailed(
                    f"{name}: at t = {t} the population of {spec.n_agents} agents is {distance:.3f}"
                    f" (L1) from the model's, expected {widest:.3f} at most; mend kernel() or step"
                )
        value = spec.team(np.sum(trace.rew, axis=0)).mean()
        if abs(value - values[name]) > tolerance:
            raise CheckFailed(
                f"{name} earns {value:.4f} with {spec.n_agents} agents, the model says"
                f" {values[name]:.4f} (tolerance {tolerance:.2g}); mend reward() or step"
            )
    return _where(task)


def _where(task: Task) -> str:
    return f"on {task.spec.id}"


def _reference(task: Task) -> Reference:
    reference = task.reference()
    if reference is None:
        raise CheckFailed(
            f"no file {reference_path(task.spec.id).name} is committed; run `make reference"
            f" TASK={task.spec.id}`"
        )
    return reference


def _distribution(name: str, table: Array, shape: tuple[int, ...]) -> None:
    if table.shape != shape:
        raise CheckFailed(f"{name} has shape {table.shape}, expected {shape}; mend the model")
    if table.min() < 0 or not np.allclose(table.sum(-1), 1, atol=1e-9):
        worst = table.sum(-1).flat[np.abs(table.sum(-1) - 1).argmax()]
        raise CheckFailed(
            f"{name}: a row sums to {worst:.6g} or has a negative entry; normalise it"
        )


CHECKS = (
    check_spec,
    check_arrays,
    check_pettingzoo_api,
    check_pettingzoo_seed,
    check_determinism,
    check_parallel_equals_arrays,
    check_independence,
    check_horizon,
    check_actions_out_of_range,
    check_reference,
    check_reference_repeats,
    check_model,
    check_limit,
)
