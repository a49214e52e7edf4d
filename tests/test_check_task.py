"""Task checks: green on the shipped tasks, and each one red on a task that breaks just its rule."""

import dataclasses

import numpy as np
import pytest

from benchmark import registry
from benchmark.checks import CheckFailed, name_of, run_check, run_checks
from benchmark.checks import task as task_checks
from benchmark.checks.task import CHECKS, check_task, few, many
from benchmark.envs.meanfield.beach_bar import BeachBarModel
from benchmark.envs.meanfield.game import MeanFieldTask, PopulationEnv
from benchmark.envs.parallel import ArrayParallelEnv
from benchmark.errors import UserError
from benchmark.task import Group, Step, Task, TaskSpec


@pytest.mark.parametrize("name", [n for n in registry.task_ids() if n.startswith("meanfield/")])
def test_shipped_mean_field_tasks_pass_every_check(name):
    results = check_task(registry.task(name))
    assert [result.line() for result in results if not result.ok] == []
    assert len(results) == len(CHECKS)


# --------------------------------------------------------------------------------- broken tasks
class Beach(MeanFieldTask):
    """Beach bar with parts replaced: `env` builds arrays, `view` the PettingZoo environment."""

    def __init__(self, n_agents=16, model=None, env=PopulationEnv, view=ArrayParallelEnv, **spec):
        super().__init__(
            f"meanfield/beach-bar-n{n_agents}-v1",
            n_agents,
            model or BeachBarModel(),
            metric="exploitability",
        )
        self.spec = dataclasses.replace(self.spec, **spec)
        self.env, self.view = env, view

    def arrays(self, n_envs):
        return self.env(self.spec, self._model)

    def parallel_env(self, render_mode=None):
        return self.view(self, render_mode)


def game(step=None, reset=None):
    """PopulationEnv whose Step or first observations pass through a function."""

    class Broken(PopulationEnv):
        def reset(self, seeds):
            obs = super().reset(seeds)
            return reset(self, obs) if reset else obs

        def step(self, act):
            result = super().step(act)
            return step(self, result) if step else result

    return Broken


class ListObs(ArrayParallelEnv):
    def _observations(self, agents):
        return list(super()._observations(agents).items())


class GlobalNoise(ArrayParallelEnv):
    noise = np.random.default_rng()

    def step(self, actions):
        obs, rew, *rest = super().step(actions)
        return obs, {agent: r + self.noise.random() for agent, r in rew.items()}, *rest


class LateNoise(ArrayParallelEnv):
    """Forgets its seed after the first step, which the released seed test cannot see."""

    noise = np.random.default_rng(0)

    def reset(self, seed=None, options=None):
        self.steps = 0
        return super().reset(seed, options)

    def step(self, actions):
        obs, rew, *rest = super().step(actions)
        self.steps += 1
        shift = self.noise.random() if self.steps > 1 else 0.0
        return obs, {agent: r + shift for agent, r in rew.items()}, *rest


class Doubled(ArrayParallelEnv):
    def step(self, actions):
        obs, rew, *rest = super().step(actions)
        return obs, {agent: 2 * r for agent, r in rew.items()}, *rest


def neighbours(env, step):
    step.rew = step.rew + step.rew.mean(0)
    return step


def generous(env, step):
    step.rew = 1.1 * step.rew
    return step


def late(env, step):
    step.truncated[:] = False
    return step


def terminates(env, step):
    step.terminated, step.truncated = step.truncated, step.terminated
    return step


class Lenient(PopulationEnv):
    def step(self, act):
        return super().step(np.clip(act, 0, self.model.n_actions - 1))


class Leaky(BeachBarModel):
    def kernel(self, t, xi):
        return 0.9 * self._kernel


class Unsolved(BeachBarModel):
    def solve(self):
        return np.full((self.horizon, self.n_obs, self.n_actions), 1 / self.n_actions)


class Biased(BeachBarModel):
    """A model that forgets the noise, while the game keeps it."""

    def __init__(self):
        super().__init__()
        self._kernel = np.zeros_like(self._kernel)
        for a, move in enumerate((-1, 0, 1)):
            place = np.arange(self.n_obs)
            self._kernel[place, a, (place + move) % self.n_obs] = 1


class OtherModel(Beach):
    """The game of one model, described by another."""

    def model(self):
        return Biased()


class Poorer(Beach):
    """Another reward than that of the committed reference."""

    def __init__(self):
        def less(env, step):
            step.rew = step.rew - 1
            return step

        super().__init__(n_agents=256, env=game(less))


class Unlike(Beach):
    def reference(self):
        reference = registry.task("meanfield/beach-bar-n256-v1").reference()
        return dataclasses.replace(reference, task=self.spec.id, uniform_exploitability=1.0)


class Unclipped:
    """Continuous actions that are not clipped."""

    def __init__(self, spec):
        self.spec = spec

    def reset(self, seeds):
        self.x, self.t = np.zeros((len(seeds), 2, 1), np.float32), 0
        return self.x

    def step(self, act):
        self.x, self.t = self.x + act.astype(np.float32), self.t + 1
        over = np.full(len(act), self.t == 3)
        return Step(self.x, self.x[..., 0].astype(float), np.zeros(len(act), bool), over)


class Continuous(Task):
    spec = TaskSpec(id="test/push-v1", groups=(Group("all", 2, 1, 1),), horizon=3)

    def arrays(self, n_envs):
        return Unclipped(self.spec)

    def parallel_env(self, render_mode=None):
        return ArrayParallelEnv(self, render_mode)


BROKEN = {
    "spec": [
        (Beach(team_return="agent_16"), "use mean, sum or one of agent_0 to agent_15"),
        (Beach(id="beach"), "namespace/name-vN"),
        (Beach(groups=(Group("agents", 16, 1, act_dim=2),)), "act_dim 2 while n_actions is 3"),
        (Beach(horizon=0), "horizon is 0"),
    ],
    "arrays": [
        (Beach(env=game(reset=lambda env, obs: obs[..., 0])), r"return int64 \(2, 16, 1\)"),
        (Beach(env=game(reset=lambda env, obs: obs + 1)), "reach from"),
    ],
    "pettingzoo_api": [(Beach(view=ListObs), "parallel_api_test")],
    "pettingzoo_seed": [(Beach(view=GlobalNoise), "Incorrect values for rewards")],
    "determinism": [(Beach(view=LateNoise), "played twice: rewards differ at step 1")],
    "parallel_equals_arrays": [(Beach(view=Doubled), "rewards differ at step 0")],
    "independence": [(Beach(env=game(neighbours)), "alone and among others: rewards differ")],
    "horizon": [
        (Beach(env=game(late)), "still running after 10 steps"),
        (Beach(env=game(terminates)), "report a time limit as truncated"),
        (Beach(horizon=4, env=lambda s, m: PopulationEnv(Beach(horizon=3).spec, m)), "make that 4"),
    ],
    "actions_out_of_range": [
        (Beach(env=Lenient), r"agent_15 plays -1 and arrays\(\) accepts it"),
        (Continuous(), "clip actions"),
    ],
    "reference": [
        (Beach(n_agents=17), "make reference TASK=meanfield/beach-bar-n17-v1"),
        (Unlike(n_agents=256), "uniform_exploitability is 1, the model says 2.85"),
    ],
    "reference_repeats": [(Poorer(), "the game changed")],
    "model": [
        (Beach(model=Leaky()), "kernel at t = 0: a row sums to 0.9"),
        (Beach(model=Unsolved()), "iterate for longer"),
        (Beach(horizon=9), r"spec \(10, 3, 9\)"),
    ],
    "limit": [
        (OtherModel(n_agents=5_000), r"solve\(\)|uniform play"),
        (Beach(n_agents=5_000, env=game(generous)), "earns"),
    ],
}


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [(name, task, message) for name, cases in BROKEN.items() for task, message in cases],
)
def test_a_broken_task_makes_its_check_red(name, task, message):
    check = next(check for check in CHECKS if name_of(check) == name)
    with pytest.raises(CheckFailed, match=message):
        check(task)


def test_every_check_has_a_task_that_breaks_it():
    assert set(BROKEN) == set(map(name_of, CHECKS))


# ------------------------------------------------------------------------------------- subjects
def test_members_with_few_and_many_agents_stand_in_for_a_huge_one():
    task = registry.task("meanfield/squeeze-n1000000-v1")
    assert few(task).spec.id == "meanfield/squeeze-n16-v1"
    assert many(task).spec.id == "meanfield/squeeze-n20000-v1"
    assert task_checks.check_pettingzoo_api(task) == "on meanfield/squeeze-n16-v1"


def test_a_small_task_and_one_without_a_family_are_checked_themselves():
    for task in (registry.task("meanfield/squeeze-n4-v1"), Continuous()):
        assert few(task) is task
    assert many(Continuous()).spec.id == "test/push-v1"


# ------------------------------------------------------------------------------------ framework
def check_always_fails(subject):
    raise CheckFailed("it is wrong; mend it")


def check_passes(subject):
    return "a note"


def check_crashes(subject):
    raise ZeroDivisionError("oops")


def test_a_crash_in_one_check_is_a_failure_that_hides_no_other():
    results = run_checks([check_crashes, check_always_fails, check_passes], None)
    assert [r.ok for r in results] == [False, False, True]
    assert [r.message for r in results] == [
        "ZeroDivisionError was raised: oops",
        "it is wrong; mend it",
        "a note",
    ]


def test_an_expected_failure_is_ok_until_it_passes():
    failing = run_check(check_always_fails, None, "known limit")
    assert failing.ok
    assert "fails as expected (known limit): it is wrong" in failing.message
    passing = run_check(check_passes, None, "known limit")
    assert not passing.ok
    assert "take it off that list" in passing.message


def test_expected_failures_need_a_known_check_and_a_reason():
    with pytest.raises(UserError, match="did you mean 'passes'"):
        run_checks([check_passes], None, {"pases": "x"})
    with pytest.raises(UserError, match="a reason is missing"):
        run_checks([check_passes], None, {"passes": ""})
