"""Roll-outs: lockstep equals the plain PettingZoo loop, dead agents and ends are the harness's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.meanfield import solve
from benchmark.envs.mpe.spread import Controller
from benchmark.errors import UserError
from benchmark.evaluate import check_actions, exact, rollout, rollout_group, team_values
from benchmark.protocol import EVALUATION_SEEDS, POPULATION_SEEDS, REFERENCE_SEEDS
from benchmark.task import Group, Step, Task, TaskSpec
from tests.perf.bench_evaluate import plain_loop


def test_lockstep_equals_the_plain_pettingzoo_loop() -> None:
    task = registry.task("mpe/spread-v1")
    seeds = range(10_000, 10_005)
    lockstep = rollout(task, Controller(), seeds)  # [E, N]
    np.testing.assert_allclose(lockstep, plain_loop(task, Controller(), seeds), atol=1e-9)
    assert len(np.unique(lockstep)) > 5


def test_a_group_is_rolled_out_as_its_seeds_one_by_one() -> None:
    task = registry.task("mpe/spread-v1")

    class Scaled:
        """The controller, its force scaled by the seed's index."""

        def __init__(self, scales: np.ndarray) -> None:
            self.scales = scales

        def begin(self, n_envs: int, seed: int) -> None:
            pass

        def act(self, obs, alive, mask, t, deterministic):
            act = Controller().act(obs.reshape(-1, *obs.shape[-2:]), None, None, t, True)
            act = act.reshape(*obs.shape[:-1], 2)
            return act * self.scales.reshape(-1, *[1] * (act.ndim - 1))

    group = rollout_group(task, Scaled(np.array([1.0, 0.5])), 2, range(10_000, 10_004))
    assert group.returns.shape == (2, 4, 3)
    assert group.joint_actions == 2 * 4 * 25
    alone = rollout(task, Scaled(np.array([0.5])), range(10_000, 10_004))
    np.testing.assert_array_equal(group.returns[1], alone)


class Mortal(Task):
    """Reward 1 a step; agent 1 dies at step 1; episode e ends after e + 1 steps."""

    spec = TaskSpec("toy/mortal-v1", (Group("agent", 2, 1, 1),), horizon=4, can_die=True)
    spec = replace(spec, metric="margin", outcomes=("margin",))

    def parallel_env(self, render_mode: str | None = None) -> Any:
        raise NotImplementedError

    def arrays(self, n_envs: int) -> Any:
        return MortalArrays(n_envs)


class MortalArrays:
    def __init__(self, n_envs: int) -> None:
        self.n = n_envs

    def reset(self, seeds: Any) -> np.ndarray:
        self.t, self.last = 0, np.arange(self.n)
        return np.zeros((self.n, 2, 1), np.float32)

    def step(self, act: np.ndarray) -> Step:
        ended = self.last <= self.t
        self.t += 1
        alive = np.tile([True, False], (self.n, 1))
        zeros = np.zeros(self.n, bool)
        obs = np.zeros((self.n, 2, 1), np.float32)
        margin = {"margin": np.full(self.n, self.t / 10)}
        return Step(obs, np.ones((self.n, 2)), ended, zeros, alive, outcome=margin)


class Still:
    def begin(self, n_envs: int, seed: int) -> None:
        pass

    def act(self, obs, alive, mask, t, deterministic):
        return np.zeros((*obs.shape[:-1], 1))


def test_the_dead_earn_nothing_and_nothing_counts_after_the_end() -> None:
    returns = rollout(Mortal(), Still(), range(3))
    np.testing.assert_array_equal(returns, [[1, 1], [2, 1], [3, 1]])


def test_an_episodes_outcome_is_that_of_its_own_end() -> None:
    np.testing.assert_array_equal(team_values(Mortal(), Still(), range(3)), [0.1, 0.2, 0.3])
    group = rollout_group(Mortal(), Still(), 1, range(2))
    np.testing.assert_array_equal(group.outcomes["margin"], [[0.1, 0.2]])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\), expected \(2, 2, 1\)"),
        (np.full((2, 2, 1), np.nan), "NaN or infinity"),
        (np.zeros((2, 2, 1), int), "int64, expected floats"),
    ],
)
def test_wrong_actions_are_refused_in_one_sentence(act: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_actions(act, (2, 2, 1), Mortal.spec)


def test_actions_beyond_the_box_are_clipped() -> None:
    clipped = check_actions(np.full((2, 2, 1), 3.0), (2, 2, 1), Mortal.spec)
    assert clipped.max() == 1.0


# ---------------------------------------------------------------------------------- exact metrics
def exact_of_uniform(name: str) -> dict[str, float]:
    task = registry.task(f"meanfield/{name}-v1")
    model = task.model()
    assert model is not None
    return exact(task, solve.uniform_policy(model))


def test_a_population_error_is_that_of_its_agents_and_falls_with_the_root_of_n() -> None:
    few, many = exact_of_uniform("beach-bar-n16"), exact_of_uniform("beach-bar-n1024")
    assert few["value"] == many["value"]  # of the limit, whatever N is
    assert 6 < few["population_error"] / many["population_error"] < 10  # 8
    assert exact_of_uniform("beach-bar-n16") == few
    task = registry.task("meanfield/beach-bar-n16-v1")
    model, env = task.model(), task.arrays(50)
    assert model is not None
    obs, worst = env.reset(range(50)), np.zeros(50)
    mu, rng = solve.flow(model, solve.uniform_policy(model)), np.random.default_rng(0)
    for t in range(model.horizon):
        share = (obs == np.arange(model.n_obs)).mean(1)  # [E, O]
        worst = np.maximum(worst, np.abs(share - mu[t]).sum(-1))
        obs = env.step(rng.integers(0, model.n_actions, obs.shape[:2])).obs
    assert few["population_error"] == pytest.approx(worst.mean(), abs=0.06)


def test_games_of_one_step_have_no_population_error() -> None:
    assert set(exact_of_uniform("squeeze-n100")) == {"value"}
    assert set(exact_of_uniform("rps-n256")) == {"value", "exploitability"}


def test_populations_are_measured_on_seeds_of_their_own() -> None:
    assert not {*EVALUATION_SEEDS, *REFERENCE_SEEDS} & {*POPULATION_SEEDS}
