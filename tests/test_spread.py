"""`mpe/spread-v1`: the simulator equals mpe2 bit by bit; recipe and behaviours keep their word."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import checkpoint, registry
from benchmark.envs.actor import load_actor
from benchmark.envs.mpe.spread import BEHAVIOURS, HORIZON, RADIUS, Controller, Spread
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.protocol import EVALUATION_SEEDS, RECIPE_SEEDS
from benchmark.reference import UniformPolicy
from datasets.recipes import mpe as recipe
from datasets.recipes.train_mpe import Mappo, MappoLearner
from datasets.recipes.train_mpe_replay import Matd3, Matd3Learner

TASK = registry.task("mpe/spread-v1")
GOLDEN_SEEDS = range(10_000, 10_064)
CONTROLLER = -6.565556547447666  # mean over the golden seeds


def greedy_to_origin(obs: np.ndarray) -> np.ndarray:
    """Pulls all agents to one point, so that they keep colliding."""
    return np.clip(-5 * obs[..., 2:4] - obs[..., 0:2], -1, 1)


def play(seeds: list[int], act: Any) -> tuple[list[np.ndarray], list[Any], list[np.ndarray]]:
    """One batched episode: observations (T + 1), steps (T) and the actions (T) of `act(obs, t)`."""
    env = TASK.arrays(len(seeds))
    observations, steps, actions = [env.reset(seeds)], [], []
    for t in range(HORIZON):
        actions.append(act(observations[-1], t))
        steps.append(env.step(actions[-1]))
        observations.append(steps[-1].obs)
    return observations, steps, actions


def policies() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    controller = Controller()
    return {
        # Half of these actions lie outside the box, so clipping is compared as well.
        "random": lambda obs, t: rng.uniform(-2, 2, (*obs.shape[:2], 2)).astype(np.float32),
        "controller": lambda obs, t: controller.act(obs, None, None, t, True),
        "crowd": lambda obs, t: greedy_to_origin(obs),
    }


@pytest.mark.parametrize("name", policies())
def test_equals_mpe2_to_the_last_bit(name: str) -> None:
    seeds = [*range(10_000, 10_012), 0, 2**40 + 7, 2**63 - 1]
    observations, steps, actions = play(seeds, policies()[name])
    env = TASK.parallel_env()
    collisions = 0
    for e, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        for t in range(HORIZON + 1):
            stacked = np.stack([obs[agent] for agent in TASK.spec.agents()])
            assert stacked.dtype == observations[t].dtype == np.float32
            np.testing.assert_array_equal(stacked, observations[t][e])
            if t == HORIZON:
                break
            moves = dict(zip(env.agents, actions[t][e], strict=True))
            obs, rew, terminated, truncated, _ = env.step(moves)
            np.testing.assert_array_equal(list(rew.values()), steps[t].rew[e])
            assert not any(terminated.values())
            assert not steps[t].terminated[e]
            assert list(truncated.values()) == [t == HORIZON - 1] * 3 == [steps[t].truncated[e]] * 3
            gaps = np.linalg.norm(stacked[:, None, 2:4] - stacked[None, :, 2:4], axis=-1)
            collisions += int((gaps[np.triu_indices(3, 1)] < 2 * RADIUS).sum())
        assert env.agents == []
    assert collisions > (100 if name == "crowd" else 5)


@pytest.mark.parametrize("n_agents", [2, 6])
def test_teams_of_other_sizes_equal_mpe2(n_agents: int) -> None:
    task, seeds = Spread(n_agents), [10_000, 10_001]
    arrays, env = task.arrays(len(seeds)), task.parallel_env()
    together = [arrays.reset(seeds)]
    moves, steps = [], []
    for t in range(HORIZON):
        drift = Controller(n_agents).act(together[-1], None, None, t, True)
        moves.append(
            np.where(np.arange(n_agents)[:, None] % 2, drift, greedy_to_origin(together[-1]))
        )
        steps.append(arrays.step(moves[-1]))
        together.append(steps[-1].obs)
    for e, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        for t in range(HORIZON):
            np.testing.assert_array_equal([obs[a] for a in task.spec.agents()], together[t][e])
            obs, rew, *_ = env.step(
                dict(zip(task.spec.agents(), moves[t][e].astype(np.float32), strict=True))
            )
            np.testing.assert_array_equal(list(rew.values()), steps[t].rew[e])
    assert task.spec.id == f"mpe/spread-n{n_agents}-v1"
    with pytest.raises(UserError, match="has no expert"):
        task.expert()


def test_episode_depends_on_its_own_seed_and_actions_only() -> None:
    seeds = list(range(20_000, 20_037))
    _, together, _ = play(seeds, lambda obs, t: greedy_to_origin(obs))
    _, alone, _ = play(seeds[5:6], lambda obs, t: greedy_to_origin(obs))
    for t in range(HORIZON):
        np.testing.assert_array_equal(together[t].obs[5], alone[t].obs[0])
        np.testing.assert_array_equal(together[t].rew[5], alone[t].rew[0])


def test_steps_do_not_write_into_what_was_returned() -> None:
    observations, steps, _ = play([1, 2], policies()["crowd"])
    kept = [
        (obs.copy(), step.rew.copy()) for obs, step in zip(observations[1:], steps, strict=True)
    ]
    env = TASK.arrays(2)
    env.reset([1, 2])
    env.step(np.ones((2, 3, 2)))
    for (obs, rew), step in zip(kept, steps, strict=True):
        np.testing.assert_array_equal(obs, step.obs)
        np.testing.assert_array_equal(rew, step.rew)
    assert not np.array_equal(observations[0], observations[1])


def test_force_moves_the_agent_along_its_axes() -> None:
    env = TASK.arrays(1)
    start = env.reset([3])
    push = np.zeros((1, 3, 2))
    push[0, 0], push[0, 1] = (1, 0), (0, -1)
    env.step(push)
    moved = env.step(np.zeros((1, 3, 2))).obs[0, :, 2:4] - start[0, :, 2:4]
    expected = np.array([[0.05, 0], [0, -0.05], [0, 0]])
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_pettingzoo_contract() -> None:
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(TASK.parallel_env(), num_cycles=60)
    parallel_seed_test(TASK.parallel_env)


def test_controller_has_its_golden_return() -> None:
    returns = rollout(TASK, Controller(), GOLDEN_SEEDS)  # [E, N]
    assert returns.mean() == pytest.approx(CONTROLLER, abs=1e-4)


def test_random_play_has_the_published_level() -> None:
    # The mean of 4,000 episodes played in mpe2 itself, with an error of 0.12.
    returns = rollout(TASK, UniformPolicy(TASK.spec), range(30_000, 31_000))
    assert returns.mean() == pytest.approx(-26.16, abs=4 * 0.25)


def test_expert_is_the_committed_actor_and_acts_by_its_mean() -> None:
    obs = TASK.arrays(3).reset([1, 2, 3])
    expert = TASK.expert()
    expert.begin(3, 0)
    first = expert.act(obs, None, None, 0, True)
    assert first.shape == (3, 3, 2)
    np.testing.assert_array_equal(first, expert.act(obs, None, None, 1, True))
    assert not np.array_equal(first, expert.act(obs, None, None, 1, False))
    # Local: what agent 1 sees does not change what agents 0 and 2 do.
    obs[:, 1] += 1
    np.testing.assert_allclose(
        expert.act(obs, None, None, 0, True)[:, ::2], first[:, ::2], atol=1e-6
    )


def test_missing_behaviour_names_the_file() -> None:
    with pytest.raises(UserError, match=r"nobody\.safetensors is missing"):
        load_actor(BEHAVIOURS / "nobody.safetensors")


def curve(name: str) -> list[dict[str, str]]:
    with open(BEHAVIOURS / name) as handle:
        return list(csv.DictReader(handle))


def test_learning_curve_orders_the_behaviours() -> None:
    named = {row["name"]: row for row in curve("mappo.csv") if row["name"]}
    random, medium, expert = (named[name] for name in ("random", "medium", "expert"))
    assert float(expert["return"]) > float(medium["return"]) > float(random["return"])
    gap = float(expert["return"]) - float(random["return"])
    share = (float(medium["sampled_return"]) - float(random["return"])) / gap
    assert 1 / 3 <= share <= 1 / 2
    steps = [int(row["env_steps"]) for row in curve("mappo.csv")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("name", ["medium", "expert"])
def test_committed_weights_earn_what_their_curve_says(name: str) -> None:
    row = next(row for row in curve("mappo.csv") if row["name"] == name)
    returns = rollout(
        TASK, load_actor(BEHAVIOURS / f"{name}.safetensors"), range(2**42, 2**42 + 500)
    )
    error = np.hypot(float(row["sem"]), returns.mean(1).std() / 500**0.5)
    assert abs(returns.mean() - float(row["return"])) < 4 * error


class Collected:
    """Stands in for a dataset writer and keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[dict[str, np.ndarray]] = []

    def append(self, **chunk: np.ndarray) -> None:
        self.chunks.append(chunk)

    def all(self, name: str) -> np.ndarray:
        return np.concatenate([chunk[name] for chunk in self.chunks])


def collect(monkeypatch: pytest.MonkeyPatch, tier: str, chunk: int = 1_000) -> Collected:
    monkeypatch.setitem(recipe.SIZES, tier, 80)
    monkeypatch.setattr(recipe, "CHUNK", chunk)
    collected = Collected()
    done: list[int] = []
    recipe.collect(TASK, tier, collected, done.append)
    assert done[-1] == 80
    return collected


@pytest.mark.parametrize("tier", recipe.TIERS)
def test_collected_episodes_are_those_of_the_task(
    monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    data = collect(monkeypatch, tier)
    obs, act, rew = data.all("obs"), data.all("act"), data.all("rew")
    assert obs.shape == (80, HORIZON, 3, 18)
    assert obs.dtype == act.dtype == np.float32
    assert act.shape == (80, HORIZON, 3, 2)
    assert np.abs(act).max() <= 1
    assert act.std() > 0.1
    assert not data.all("terminated").any()
    # Replayed from the stored seeds and actions, the task gives the stored rows.
    env = TASK.arrays(80)
    now = env.reset([int(seed) for seed in data.all("seeds")])
    for t in range(HORIZON):
        np.testing.assert_array_equal(now, obs[:, t])
        step = env.step(act[:, t])
        np.testing.assert_array_equal(step.rew, rew[:, t])
        now = step.obs
    np.testing.assert_array_equal(now, data.all("final_obs"))


def test_collection_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = collect(monkeypatch, "expert"), collect(monkeypatch, "expert", chunk=7)
    assert len(parts.chunks) > len(whole.chunks)
    np.testing.assert_array_equal(whole.all("seeds"), parts.all("seeds"))
    np.testing.assert_allclose(whole.all("obs"), parts.all("obs"), atol=1e-3)


def test_replay_is_rolled_from_every_snapshot_in_equal_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = collect(monkeypatch, "medium-replay")
    snapshots, counts = np.unique(data.all("policy"), return_counts=True)
    assert snapshots.tolist() == list(range(40))
    assert set(counts) == {2}
    late, early = data.all("policy") >= 30, data.all("policy") < 10
    returns = data.all("rew").sum(1).mean(-1)  # [E]
    assert returns[late].mean() > returns[early].mean()


def test_recipe_seeds_are_distinct_and_far_from_every_evaluation() -> None:
    sizes = recipe.SIZES
    seeds = np.concatenate([recipe.seeds(TASK, tier, sizes[tier]) for tier in recipe.TIERS])
    assert len(np.unique(seeds)) == len(seeds) == 44_000
    assert seeds.min() >= 2**40 > EVALUATION_SEEDS.stop > RECIPE_SEEDS.stop
    few, many = (recipe.seeds(TASK, "medium", count).tolist() for count in (5, 10_000))
    assert few == many[:5]


@pytest.mark.parametrize("name", ["mappo", "matd3"])
def test_killed_training_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def step(learner: Any) -> None:
        learner.update() if name == "mappo" else learner.run_round()

    def make() -> Any:
        if name == "mappo":
            return MappoLearner(Mappo(TASK.spec.id, tmp_path, n_envs=16, width=8, epochs=1))
        return Matd3Learner(Matd3(TASK.spec.id, tmp_path, n_envs=4, episodes=40, critic_width=8))

    whole = make()
    for _ in range(3):
        step(whole)
    killed = make()
    step(killed)
    checkpoint.save(tmp_path / "killed.safetensors", killed.state_dict())
    resumed = make()
    resumed.load_state_dict(checkpoint.load(tmp_path / "killed.safetensors"))
    step(resumed)
    step(resumed)
    (plain, expected), (also, found) = (
        checkpoint.flatten(learner.state_dict()) for learner in (whole, resumed)
    )
    assert plain == also
    for key, tensor in expected.items():
        np.testing.assert_array_equal(tensor.numpy(), found[key].numpy(), err_msg=key)


def test_reference_ranks_random_expert_and_controller() -> None:
    reference = TASK.reference()
    assert reference is not None
    assert reference.random == pytest.approx(-26.16, abs=0.5)
    assert reference.lines["assignment controller"] > reference.expert > reference.random + 10
