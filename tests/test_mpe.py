"""Tag, world and OMAR's spread: simulators equal to their games; prey, behaviours and recipes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.actor import load_actor
from benchmark.envs.mpe import tag, world
from benchmark.envs.mpe.omar import OmarSpreadArrays
from benchmark.envs.mpe.prey import flee
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.reference import UniformPolicy
from benchmark.task import Array
from datasets.recipes import mpe as recipe
from datasets.recipes.mpe_learning import folder
from datasets.recipes.train_mpe import Mappo, MappoLearner
from tests.test_spread import Collected

TAG, WORLD = "mpe/tag-flee-v1", "mpe/world-flee-v1"
OMAR = "mpe-omar/spread-v1"
HORIZON = 25
PUBLISHED_RANDOM = 159.8  # OMAR (arXiv:2111.11188), spread
GOLDEN = {TAG: 37.34375, WORLD: 14.118547, OMAR: 627.888424}  # mean of seeds 10,000 to 10,063
TAG_PREY = [[-1, -0.9809011], [0.0503265, 1], [0.5635528, -1], [-1, -0.3519195]]
WORLD_PREY = [[1, -0.3687852], [0.2813855, -1], [-1, 0.1983273], [0.8399141, -1]]


def chase(task_id: str) -> Any:
    return next(iter(registry.task(task_id).reference_lines().values()))


def policies(task_id: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    width = registry.task(task_id).spec.act_dim
    hunter = chase(task_id)

    def random(obs: Array, t: int) -> Array:
        # Half of these actions lie outside the box, so clipping is compared as well.
        return rng.uniform(-2, 2, (*obs.shape[:2], width)).astype(np.float32)

    return {"random": random, "chase": lambda obs, t: hunter.act(obs, None, None, t, True)}


# ---------------------------------------------------------------------------------- mpe2's games
@pytest.mark.parametrize("name", ["random", "chase"])
@pytest.mark.parametrize("task_id", [TAG, WORLD])
def test_equals_mpe2_to_the_last_bit(task_id: str, name: str) -> None:
    task, act = registry.task(task_id), policies(task_id)[name]
    seeds = [*range(10_000, 10_010), 0, 2**40 + 7, 2**63 - 1]
    batch, env = task.arrays(len(seeds)), task.parallel_env()
    widths = [group.act_dim for group in task.spec.groups for _ in range(group.n_agents)]
    observations, steps, actions = [batch.reset(seeds)], [], []
    for t in range(HORIZON):
        actions.append(act(observations[-1], t))
        steps.append(batch.step(actions[-1]))
        observations.append(steps[-1].obs)
    for e, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        for t in range(HORIZON + 1):
            stacked = np.stack([obs[agent] for agent in env.possible_agents])
            assert stacked.dtype == observations[t].dtype == np.float32
            np.testing.assert_array_equal(stacked, observations[t][e])
            if t == HORIZON:
                break
            moves = {
                agent: actions[t][e, i, : widths[i]] for i, agent in enumerate(env.possible_agents)
            }
            obs, rew, terminated, truncated, _ = env.step(moves)
            np.testing.assert_array_equal(list(rew.values()), steps[t].rew[e])
            assert not any(terminated.values())
            assert not steps[t].terminated[e]
            assert list(truncated.values()) == [t == HORIZON - 1] * 3 == [steps[t].truncated[e]] * 3
        assert env.agents == []
    if name == "chase":
        assert np.sum([step.rew > 1 for step in steps]) > 30  # contacts with the prey


def test_what_is_compared_with_mpe2_includes_forests_walls_and_speed_limits() -> None:
    """The comparison above would be empty if nothing of this happened in its episodes."""
    task, act = registry.task(WORLD), policies(WORLD)["chase"]
    env: Any = task.arrays(13)
    obs, hidden, fastest, bumps = env.reset(range(10_000, 10_013)), 0, 0.0, 0
    for t in range(HORIZON):
        obs = env.step(act(obs, t)).obs
        hidden += int((obs[:, 1:, 18:20] == 0).all(-1).sum())
        assert obs[:, 0, 18:20].any(-1).all()  # nothing is hidden from the leader
        fastest = max(fastest, float(np.linalg.norm(obs[..., 0:2], axis=-1).max()))
        bumps += int(env.world.hit[env.world.pair(0, 4)].sum())
    assert hidden > 20
    assert bumps > 0
    assert fastest == pytest.approx(world.PREDATOR.max_speed, abs=1e-6)


def test_the_leaders_message_reaches_all_predators_a_step_later() -> None:
    env = registry.task(WORLD).arrays(1)
    assert not env.reset([3])[0, :, 24:].any()
    act = np.zeros((1, 3, 6))
    act[0, 0, 2:] = (-1, 0, 0.5, 3)  # the last is clipped
    act[0, 1:, 2:] = 1  # padding: the others cannot speak
    obs = env.step(act).obs
    np.testing.assert_allclose(obs[0, :, 24:], [[0, 0.5, 0.75, 1]] * 3)


@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_episode_depends_on_its_own_seed_and_actions_only(task_id: str) -> None:
    task, acts = registry.task(task_id), np.random.default_rng(1).uniform(-1, 1, (25, 9, 3, 6))
    acts = acts[..., : task.spec.act_dim]
    many, one = task.arrays(9), task.arrays(1)
    np.testing.assert_array_equal(many.reset(range(20, 29))[5:6], one.reset([25]))
    for t in range(HORIZON):
        first, second = many.step(acts[t]), one.step(acts[t, 5:6])
        np.testing.assert_array_equal(first.obs[5:6], second.obs)
        np.testing.assert_array_equal(first.rew[5:6], second.rew)


@pytest.mark.parametrize("name", ["tag-v1", "world-v1", "tag-random-v1"])
def test_a_task_without_its_prey_is_refused_with_the_nearest_name(name: str) -> None:
    nearest = f"mpe/{name.split('-')[0]}-flee-v1"
    with pytest.raises(UserError, match=rf"'mpe/{name}'; did you mean '{nearest}'\? The prey's"):
        registry.task(f"mpe/{name}")


# ------------------------------------------------------------------------------------------ prey
def test_prey_flees_the_nearer_hunter_keeps_inside_and_takes_no_notice_of_the_unseen() -> None:
    here, unseen = np.zeros(2, np.float32), np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(flee(here, unseen), [0, 0])
    hunters = np.array([[0.5, 0], [-1, 0], [0, 0]], np.float32)  # pulls: -2, +1, none
    np.testing.assert_array_equal(flee(here, hunters), [-1, 0])
    np.testing.assert_allclose(flee(here, np.array([[0.2, 0.1]], np.float32)), [-1, -0.5])
    out = np.array([1.0, -0.5], np.float32)  # 0.1 beyond the edge: pulled back by 10
    np.testing.assert_allclose(flee(out, np.array([[0, 0.1]], np.float32)), [-1, -1], atol=1e-5)
    goal = np.array([0, 3], np.float32)
    np.testing.assert_allclose(flee(here, hunters, goal), [-1 / 3, 1], atol=1e-6)


def test_prey_of_each_task_is_pinned() -> None:
    """Another number here is another game: rename the task instead."""
    obs = np.random.default_rng(5).uniform(-1, 1, (4, 22)).astype(np.float32)
    np.testing.assert_allclose(tag.prey(obs[:, :14]), TAG_PREY, atol=1e-6)
    np.testing.assert_allclose(world.prey(obs), WORLD_PREY, atol=1e-6)
    env: Any = registry.task(TAG).arrays(2)
    seen = env.reset([8, 9])
    np.testing.assert_allclose(env.prey_obs[:, 2:4], seen[:, 0, 2:4] + seen[:, 0, 12:14], atol=1e-6)


# ------------------------------------------------------------------------------- OMAR's variant
def test_random_play_earns_the_published_return_on_omars_spread() -> None:
    task = registry.task(OMAR)
    returns = task.spec.team(rollout(task, UniformPolicy(task.spec), range(30_000, 34_000)))
    error = returns.std(ddof=1) / len(returns) ** 0.5
    assert error < 1.1
    assert returns.mean() == pytest.approx(PUBLISHED_RANDOM, abs=3 * error)


def test_omars_spread_equals_a_plain_program_of_it() -> None:
    """One episode by loops over agents, in which they collide: forces, integrator and reward."""
    env = OmarSpreadArrays(1)
    rng = np.random.default_rng(2)
    x, marks, v = rng.uniform(-0.4, 0.4, (3, 2)), rng.uniform(-1, 1, (3, 2)), np.zeros((3, 2))
    env.place(x[None], marks[None])
    touched = 0
    for _ in range(HORIZON):
        act = np.clip(-4 * x - v, -1, 1).astype(np.float32)
        force = 5.0 * act.astype(np.float64)
        for i in range(3):
            for j in range(3):
                if i != j:
                    gap = np.linalg.norm(x[i] - x[j])
                    depth = 1e-3 * np.log1p(np.exp(-(gap - 0.3) / 1e-3))
                    force[i] += 100 * (x[i] - x[j]) / gap * depth
        v = 0.75 * v + 0.1 * force
        x = x + 0.1 * v
        step = env.step(act[None])
        covered = 0.0
        for mark in marks:
            covered += min(1 / min(float(np.linalg.norm(y - mark)) for y in x), 10)
        for i in range(3):
            hits = sum(i != j and bool(np.linalg.norm(x[i] - x[j]) < 0.3) for j in range(3))
            touched += hits
            assert step.rew[0, i] == pytest.approx(covered - 5 * hits)
        np.testing.assert_allclose(step.obs[0, :, 0:2], v, atol=1e-5)
        np.testing.assert_allclose(step.obs[0, :, 2:4], x, atol=1e-5)
    assert touched > 20


# ---------------------------------------------------------------------- controllers, references
@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_scripted_controllers_have_their_golden_returns(task_id: str) -> None:
    returns = rollout(registry.task(task_id), chase(task_id), range(10_000, 10_064))  # [E, N]
    assert returns.mean() == pytest.approx(GOLDEN[task_id], abs=1e-4)


def test_predators_who_hear_catch_more_than_the_deaf() -> None:
    task = registry.task(WORLD)

    class Deaf(world.RadioChase):
        def act(self, obs: Array, *rest: Any) -> Array:
            return super().act(np.concatenate([obs[..., :24], 0 * obs[..., 24:]], -1), *rest)

    seeds = range(10_000, 11_000)
    heard, deaf = (rollout(task, policy, seeds).mean() for policy in (chase(WORLD), Deaf()))
    assert heard > deaf + 0.5


@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_reference_ranks_random_and_expert(task_id: str) -> None:
    reference = registry.task(task_id).reference()
    assert reference is not None
    assert reference.expert > reference.random
    assert set(reference.lines) == set(registry.task(task_id).reference_lines())


# ------------------------------------------------------------------------ behaviours and recipes
def curve(task_id: str) -> list[dict[str, str]]:
    with open(folder(task_id) / "mappo.csv") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_learning_curve_orders_the_behaviours(task_id: str) -> None:
    named = {row["name"]: row for row in curve(task_id) if row["name"]}
    random, medium, expert = (named[name] for name in ("random", "medium", "expert"))
    gap = float(expert["return"]) - float(random["return"])
    assert 1 / 3 <= (float(medium["sampled_return"]) - float(random["return"])) / gap <= 1 / 2


@pytest.mark.parametrize("name", ["medium", "expert"])
@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_committed_weights_earn_what_their_curve_says(task_id: str, name: str) -> None:
    row = next(row for row in curve(task_id) if row["name"] == name)
    task, actor = registry.task(task_id), load_actor(folder(task_id) / f"{name}.safetensors")
    returns = task.spec.team(rollout(task, actor, range(2**42, 2**42 + 500)))
    error = np.hypot(float(row["sem"]), returns.std() / 500**0.5)
    assert abs(returns.mean() - float(row["return"])) < 4 * error


def test_expert_of_omars_spread_is_near_the_published_one() -> None:
    expert = next(row for row in curve(OMAR) if row["name"] == "expert")
    assert float(expert["return"]) == pytest.approx(516.8, abs=10)


@pytest.mark.parametrize("tier", recipe.TIERS)
@pytest.mark.parametrize("task_id", [TAG, WORLD, OMAR])
def test_collected_episodes_are_those_of_the_task(
    monkeypatch: pytest.MonkeyPatch, task_id: str, tier: str
) -> None:
    monkeypatch.setitem(recipe.SIZES, tier, 40)
    task, data = registry.task(task_id), Collected()
    done: list[int] = []
    recipe.collect(task, tier, data, done.append)
    assert done[-1] == 40
    obs, act, rew = data.all("obs"), data.all("act"), data.all("rew")
    assert act.shape == (40, HORIZON, 3, task.spec.act_dim)
    assert act.std() > 0.1
    assert len(np.unique(data.all("policy"))) == {"medium-replay": 40, "mixed": 2}.get(tier, 1)
    env = task.arrays(40)
    now = env.reset([int(seed) for seed in data.all("seeds")])
    for t in range(HORIZON):
        np.testing.assert_array_equal(now, obs[:, t])
        step = env.step(act[:, t])
        np.testing.assert_array_equal(step.rew, rew[:, t])
        now = step.obs
    np.testing.assert_array_equal(now, data.all("final_obs"))


def test_no_two_tasks_or_tiers_share_a_recipe_seed() -> None:
    tasks = [registry.task(task_id) for task_id in recipe.SEEDS]
    seeds = [recipe.seeds(task, tier, 1_000) for task in tasks for tier in recipe.TIERS]
    assert len(np.unique(np.concatenate(seeds))) == len(seeds) * 1_000 == 20_000


# --------------------------------------------------------------------------------------- trainer
def test_the_learner_gives_no_credit_to_padding(tmp_path: Path) -> None:
    learner = MappoLearner(Mappo(WORLD, tmp_path, n_envs=4, width=8))
    obs, act, _ = learner.collect()
    mean, other = learner.actor(obs), act.clone()
    other[..., 1:, 2:] += 1
    assert (learner.log_prob(mean, act) == learner.log_prob(mean, other)).all()
    other[..., 0, 2:] += 1
    assert (learner.log_prob(mean, act)[..., 0] != learner.log_prob(mean, other)[..., 0]).all()


def test_the_learner_of_tag_is_paid_for_coming_nearer_and_its_curve_is_not(tmp_path: Path) -> None:
    paid, plain = (MappoLearner(Mappo(TAG, tmp_path, n_envs=4, width=8)) for _ in range(2))
    plain.setting = replace(plain.setting, approach=0)
    (obs, _, more), (same, _, rew) = paid.collect(), plain.collect()
    np.testing.assert_array_equal(obs, same)
    distance = obs[..., 12:14].norm(dim=-1).sum(-1)  # [T, E]
    np.testing.assert_allclose((more - rew)[:-1], 10 * (distance[:-1] - distance[1:]), atol=1e-4)
    assert not set(np.unique(rew)) - {0, 10, 20, 30}


def test_a_task_without_a_setting_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mpe/tag-flee-v1'"):
        MappoLearner(Mappo("mpe/tag-fle-v1", tmp_path))
