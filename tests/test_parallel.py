"""The PettingZoo view of array environments: mean-field games, deaths, masks, unequal widths."""

import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from benchmark import registry
from benchmark.checks.play import compare, record, released_test, replay
from benchmark.envs.parallel import ArrayParallelEnv
from benchmark.errors import UserError
from benchmark.task import Group, Step, Task, TaskSpec

GAMES = ["meanfield/squeeze-n16-v1", "meanfield/beach-bar-n16-v1"]


class DriftArrays:
    """Agents drift by their action; each dies once its first coordinate passes 1.5."""

    spec: TaskSpec

    def __init__(self, spec):
        self.spec = spec

    def reset(self, seeds):
        shape = (self.spec.n_agents, self.spec.obs_dim)
        self.x = np.stack([np.random.default_rng(s).uniform(0, 1, shape) for s in seeds])
        self.x[:, 2:, 1:] = 0  # padding of the narrow group
        self.alive, self.t = np.ones(self.x.shape[:2], bool), 0
        return self.x.astype(np.float32)

    def step(self, act):
        self.x[..., 0] += np.clip(act[..., 0], -1, 1) * self.alive
        self.alive &= self.x[..., 0] < 1.5
        self.t += 1
        over = np.full(len(self.x), self.t == self.spec.horizon)
        dead = ~self.alive.any(1)
        obs = self.x.astype(np.float32)
        return Step(obs, self.x[..., 0].copy(), dead, over & ~dead, self.alive.copy())


class Drift(Task):
    spec = TaskSpec(
        id="test/drift-v1",
        groups=(Group("wide", 2, obs_dim=3, act_dim=2), Group("narrow", 1, obs_dim=1, act_dim=1)),
        horizon=6,
        can_die=True,
    )

    def arrays(self, n_envs):
        return DriftArrays(self.spec)

    def parallel_env(self, render_mode=None):
        return ArrayParallelEnv(self, render_mode)


class MaskedArrays(DriftArrays):
    """Three actions, of which t mod 3 is forbidden."""

    def reset(self, seeds):
        self.t = 0
        return np.zeros((len(seeds), self.spec.n_agents, 1), np.float32)

    def step(self, act):
        self.t += 1
        n_envs = len(act)
        mask = np.ones((*act.shape, 3), bool)
        mask[..., self.t % 3] = False
        obs = np.full((*act.shape, 1), self.t, np.float32)
        over = np.full(n_envs, self.t == self.spec.horizon)
        return Step(obs, act.astype(float), np.zeros(n_envs, bool), over, None, mask)


class Masked(Drift):
    spec = TaskSpec(id="test/masked-v1", groups=(Group("all", 2, 1),), horizon=4, n_actions=3)

    def arrays(self, n_envs):
        return MaskedArrays(self.spec)


# --------------------------------------------------------------------------------- conformance
@pytest.mark.parametrize("task", [*map(registry.task, GAMES), Drift(), Masked()])
def test_it_passes_the_released_tests_of_pettingzoo(task):
    released_test("parallel_api_test", task.parallel_env())
    released_test("parallel_seed_test", task.parallel_env)


@pytest.mark.parametrize("task", [*map(registry.task, GAMES), Drift(), Masked()])
def test_whole_episodes_equal_the_array_environment(task):
    trace = record(task, [3, 4])
    for e, seed in enumerate([3, 4]):
        played = replay(task, task.parallel_env(), seed, [a[e] for a in trace.act])
        compare(played, trace.episode(e), f"seed {seed}", "mend parallel.py")


def test_it_runs_as_a_turn_based_environment_too():
    from pettingzoo.utils.conversions import parallel_to_aec

    env = parallel_to_aec(registry.task("meanfield/beach-bar-n3-v1").parallel_env())
    env.reset(seed=0)
    rewards = dict.fromkeys(env.possible_agents, 0.0)
    for agent in env.agent_iter():
        _, reward, terminated, truncated, _ = env.last()
        rewards[agent] += reward
        env.step(None if terminated or truncated else 1)
    assert min(rewards.values()) > 10  # ten steps, each paying at least -log mu


# -------------------------------------------------------------------------------------- spaces
def test_spaces_of_a_finite_game_are_discrete():
    env = registry.task("meanfield/beach-bar-n16-v1").parallel_env()
    assert env.observation_space("agent_0") == Discrete(10)
    assert env.action_space("agent_15") == Discrete(3)
    obs, _ = env.reset(seed=0)
    assert all(env.observation_space(agent).contains(x) for agent, x in obs.items())


def test_spaces_of_a_continuous_task_have_each_groups_true_width():
    env = Drift().parallel_env()
    assert env.observation_space("agent_0").shape == (3,)
    assert env.action_space("agent_2") == Box(-1, 1, (1,), np.float32)
    obs, _ = env.reset(seed=0)
    assert [len(x) for x in obs.values()] == [3, 3, 1]


def test_each_agent_has_a_space_object_of_its_own():
    env = registry.task("meanfield/beach-bar-n16-v1").parallel_env()
    assert env.action_space("agent_0") is env.action_space("agent_0")
    assert env.action_space("agent_0") is not env.action_space("agent_1")


# -------------------------------------------------------------------------------------- seeds
def test_resets_without_a_seed_follow_the_last_seed():
    env = registry.task("meanfield/beach-bar-n16-v1").parallel_env()
    runs = []
    for _ in range(2):
        first = env.reset(seed=5)[0]
        second, third = env.reset()[0], env.reset()[0]
        runs.append((first, second, third))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1] != runs[0][2]


# ---------------------------------------------------------------------------------- deaths, masks
def test_a_dead_agent_leaves_and_the_others_play_on():
    env = Drift().parallel_env()
    env.reset(seed=0)
    stay, go = np.zeros(2, np.float32), np.ones(2, np.float32)
    seen = []
    while env.agents:
        acts = {a: go if a == "agent_0" else stay[: 1 if a == "agent_2" else 2] for a in env.agents}
        _, _, terminated, truncated, _ = env.step(acts)
        seen.append((sorted(terminated), terminated.get("agent_0"), any(truncated.values())))
    left = [names for names, _, _ in seen]
    died = next(t for t, (_, gone, _) in enumerate(seen) if gone)
    assert all("agent_0" in names for names in left[: died + 1])
    assert all(names == ["agent_1", "agent_2"] for names in left[died + 1 :])
    assert len(seen) == 6
    assert seen[-1][2]


def test_action_masks_stand_in_infos():
    env = Masked().parallel_env()
    env.reset(seed=0)
    infos = env.step({"agent_0": 0, "agent_1": 2})[4]
    assert infos["agent_1"]["action_mask"].tolist() == [1, 0, 1]


# -------------------------------------------------------------------------- state and rendering
def test_state_is_all_observations():
    env = registry.task("meanfield/beach-bar-n16-v1").parallel_env()
    obs, _ = env.reset(seed=0)
    assert env.state().tolist() == list(obs.values())


def test_rendering_shows_the_present_state():
    task = registry.task("meanfield/beach-bar-n16-v1")
    env = task.parallel_env(render_mode="rgb_array")
    with pytest.raises(UserError, match="call reset first"):
        env.render()
    env.reset(seed=0)
    first, again = env.render(), env.render()
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    env.step(dict.fromkeys(env.agents, 0))
    assert (env.render() != first).any()
    assert task.parallel_env().render() is None


# ------------------------------------------------------------------------------------- mistakes
def test_an_unknown_render_mode_is_refused():
    with pytest.raises(UserError, match="render_mode is 'human', expected None or 'rgb_array'"):
        registry.task("meanfield/beach-bar-n16-v1").parallel_env(render_mode="human")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_3": 3}, "agent_3.* plays 3, expected an integer from 0 to 2"),
        ({"agent_3": 1.0}, "agent_3 plays 1.0, expected an integer"),
        ({"agent_3": None}, "agent_3 plays None, expected an integer"),
        ({"agent_3": "drop"}, "no action for agent_3"),
    ],
)
def test_wrong_discrete_actions_are_refused_by_agent(change, message):
    env = registry.task("meanfield/beach-bar-n16-v1").parallel_env()
    env.reset(seed=0)
    actions = dict.fromkeys(env.agents, 1) | change
    if change["agent_3"] == "drop":
        del actions["agent_3"]
    with pytest.raises(UserError, match=message):
        env.step(actions)


@pytest.mark.parametrize("bad", [np.zeros(1), np.array([np.nan, 0])])
def test_wrong_continuous_actions_are_refused_by_agent(bad):
    env = Drift().parallel_env()
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"agent_1 plays .* expected 2 finite numbers"):
        env.step({"agent_0": np.zeros(2), "agent_1": bad, "agent_2": np.zeros(1)})


def test_a_step_needs_a_reset_and_a_space_needs_an_agent():
    env = registry.task("meanfield/squeeze-n4-v1").parallel_env()
    with pytest.raises(UserError, match="call reset first"):
        env.step({})
    with pytest.raises(UserError, match="no agent is called 'agent_4'"):
        env.action_space("agent_4")


def test_mean_field_tasks_need_pettingzoo_only_when_their_view_is_built():
    code = (
        "import sys; from benchmark.envs.meanfield import beach_bar, squeeze;"
        "import re; f = beach_bar.FAMILY; t = f.build(re.fullmatch(f.pattern, f.examples[0]));"
        "t.arrays(1).reset([0]);"
        "assert not {'pettingzoo', 'gymnasium', 'torch'} & set(sys.modules);"
        "t.parallel_env(); assert 'pettingzoo' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
