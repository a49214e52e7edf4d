"""MAMuJoCo: the simulators in lockstep equal gymnasium-robotics; recipe and behaviours keep their
word.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import datasets
from benchmark import registry
from benchmark.envs.actor import BEHAVIOURS, load_actor
from benchmark.envs.mamujoco.bodies import PARTITIONS
from benchmark.envs.mamujoco.simulator import HORIZON
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.protocol import VERIFICATION_SEEDS
from benchmark.reference import UniformPolicy
from benchmark.task import Array, Step, Task
from datasets import cardfile
from datasets.linter import lint
from datasets.recipes import mamujoco as recipe

FALLING = ("hopper-3x1", "walker2d-2x3", "ant-2x4", "ant-4x2")
WIDTHS = {  # observations and actions of each agent, from the environments' documentation
    "halfcheetah-2x3": ([12, 12], [3, 3]),
    "halfcheetah-6x1": ([9, 9, 8, 9, 9, 8], [1] * 6),
    "hopper-3x1": ([8, 9, 8], [1] * 3),
    "ant-2x4": ([63, 63], [4, 4]),
    "ant-4x2": ([42] * 4, [2] * 4),
    "walker2d-2x3": ([12, 12], [3, 3]),
    "swimmer-2x1": ([6, 6], [1, 1]),
}
TRAINED = sorted(path.parent.name for path in BEHAVIOURS.glob("mamujoco-*/expert.safetensors"))


def task(name: str) -> Task:
    return registry.task(f"mamujoco/{name}-v1")


def play(name: str, seeds: list[int], acts: Array) -> tuple[Array, list[Step]]:
    """First observations and the steps of actions [T, E, N, A]; stops when all have ended."""
    env = task(name).arrays(len(seeds))
    first, steps = env.reset(seeds), []
    for act in acts:
        steps.append(env.step(act))
        if (steps[-1].terminated | steps[-1].truncated).all():
            break
    return first, steps


def torques(name: str, steps: int, n_envs: int, scale: float = 1.5) -> Array:
    spec = task(name).spec
    shape = (steps, n_envs, spec.n_agents, spec.act_dim)
    return np.random.default_rng(1).uniform(-scale, scale, shape).astype(np.float32)


# ------------------------------------------------------------------------------------------ game
@pytest.mark.parametrize("name", PARTITIONS)
def test_equals_gymnasium_robotics_step_by_step(name: str) -> None:
    seeds = [10_000, 0, 2**40 + 7]
    acts = torques(name, 60, len(seeds))  # a third of them outside the box, so clipping is compared
    first, steps = play(name, seeds, acts)
    env, spec = task(name).parallel_env(), task(name).spec
    obs_widths, act_widths = WIDTHS[name]
    for e, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        ours = first[e]
        for t, step in enumerate([*steps, None]):
            assert [len(obs[agent]) for agent in spec.agents()] == obs_widths
            for i, agent in enumerate(spec.agents()):
                assert obs[agent].dtype == ours.dtype == np.float32
                np.testing.assert_array_equal(obs[agent], ours[i, : obs_widths[i]])
                assert not ours[i, obs_widths[i] :].any()
            if step is None or not env.agents:
                break
            actions = {a: acts[t, e, i, : act_widths[i]] for i, a in enumerate(spec.agents())}
            obs, rew, terminated, truncated, _ = env.step(actions)
            ours = step.obs[e]
            np.testing.assert_allclose(list(rew.values()), step.rew[e], rtol=0, atol=1e-12)
            assert set(terminated.values()) == {bool(step.terminated[e])}
            assert set(truncated.values()) == {bool(step.truncated[e])} == {False}


@pytest.mark.parametrize("name", FALLING)
def test_a_fallen_body_stands_still_and_the_others_go_on(name: str) -> None:
    _, steps = play(name, [1, 2, 3, 4], torques(name, 300, 4))
    over = np.array([step.terminated for step in steps])  # [T, E]
    fallen = over.any(0).nonzero()[0]
    assert len({over[:, e].argmax() for e in fallen}) > 1
    for e in fallen:
        end = over[:, e].argmax()
        assert over[end:, e].all()
        for step in steps[end + 1 :]:
            assert not step.rew[e].any()
            np.testing.assert_array_equal(step.obs[e], steps[end].obs[e])


def test_episode_depends_on_its_own_seed_and_actions_only() -> None:
    acts = torques("hopper-3x1", 40, 5)
    _, together = play("hopper-3x1", [5, 6, 7, 8, 9], acts)
    _, alone = play("hopper-3x1", [7], acts[:, 2:3])
    for one, many in zip(alone, together, strict=False):
        np.testing.assert_array_equal(one.obs[0], many.obs[2])
        np.testing.assert_array_equal(one.rew[0], many.rew[2])


def test_restart_begins_some_episodes_and_leaves_the_others() -> None:
    acts = torques("halfcheetah-2x3", 20, 3)
    env, still = (task("halfcheetah-2x3").arrays(3) for _ in range(2))
    fresh = env.reset([1, 2, 3])
    still.reset([1, 2, 3])
    for act in acts[:10]:
        env.step(act)
        still.step(act)
    np.testing.assert_array_equal(env.restart(np.array([1]), [2]), fresh[1:2])
    _, again = play("halfcheetah-2x3", [2], acts[10:, 1:2])
    for t, act in enumerate(acts[10:]):
        one, other = env.step(act), still.step(act)
        np.testing.assert_array_equal(one.obs[[0, 2]], other.obs[[0, 2]])
        np.testing.assert_array_equal(one.rew[[0, 2]], other.rew[[0, 2]])
        np.testing.assert_array_equal(one.obs[1], again[t].obs[0])
        np.testing.assert_array_equal(one.rew[1], again[t].rew[0])


def test_the_time_limit_truncates_and_then_a_step_is_refused() -> None:
    env = task("swimmer-2x1").arrays(2)
    env.reset([1, 2])
    for t in range(HORIZON):
        step = env.step(np.zeros((2, 2, 1)))
        assert not step.terminated.any()
        assert step.truncated.tolist() == [t == HORIZON - 1] * 2
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((2, 2, 1)))


def test_equal_agents_form_groups() -> None:
    groups = task("halfcheetah-6x1").spec.groups
    assert [(group.n_agents, group.obs_dim) for group in groups] == [(2, 9), (1, 8), (2, 9), (1, 8)]
    assert [group.name for group in task("ant-4x2").spec.groups] == ["agents"]


@pytest.mark.parametrize("package", ["mujoco", "gymnasium_robotics"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'offline-marl-bench\[mamujoco\]'"):
        task("swimmer-2x1").parallel_env()


def test_nothing_is_printed_and_the_table_of_tasks_loads_no_simulator() -> None:
    code = (
        "import sys; from benchmark import registry; t = registry.task('mamujoco/swimmer-2x1-v1');"
        "assert not {'mujoco', 'gymnasium_robotics', 'torch'} & set(sys.modules);"
        "t.arrays(1).reset([0]); t.parallel_env().reset(seed=0)"
    )
    root = Path(__file__).parents[1]
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ------------------------------------------------------------------------- behaviours and recipe
def test_halfcheetah_and_hopper_are_trained() -> None:
    assert {"mamujoco-halfcheetah-2x3", "mamujoco-hopper-3x1"} <= set(TRAINED)


@pytest.mark.parametrize("folder", TRAINED)
def test_behaviours_are_in_order_and_as_good_as_their_curve_says(folder: str) -> None:
    game = task(folder.removeprefix("mamujoco-"))
    lines = (BEHAVIOURS / folder / "mappo.csv").read_text().splitlines()
    rows = {row["name"]: row for row in csv.DictReader(lines)}
    policies = {"random": UniformPolicy(game.spec)}
    policies |= {
        n: load_actor(BEHAVIOURS / folder / f"{n}.safetensors") for n in ("medium", "expert")
    }
    seeds = VERIFICATION_SEEDS[:3]
    reached = {
        name: game.spec.team(rollout(game, policy, seeds, deterministic=False)).mean()
        for name, policy in policies.items()
    }
    assert reached["random"] < reached["medium"] < reached["expert"]
    zero, hundred = (float(rows[name]["return"]) for name in ("random", "expert"))
    share = (float(rows["medium"]["sampled_return"]) - zero) / (hundred - zero)
    assert 1 / 3 <= share <= 1 / 2
    assert max(p.stat().st_size for p in (BEHAVIOURS / folder).iterdir()) < 2**20


def test_files_differ_by_task_and_tier() -> None:
    paths = recipe.task_files(task("hopper-3x1"), "mixed")
    assert [path.name for path in paths] == ["medium.safetensors", "expert.safetensors"]
    assert {path.parent.name for path in paths} == {"mamujoco-hopper-3x1"}
    assert recipe.task_files(task("hopper-3x1"), "random") == []


@pytest.mark.parametrize("tier", recipe.TIERS)
def test_a_small_dataset_of_every_tier_is_clean_and_can_be_replayed(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(recipe, "size", lambda task, tier: 4)
    path = datasets.make_dataset(f"mamujoco/hopper-3x1/{tier}-v1", progress=False)
    assert lint(path) == []
    data = datasets.load(f"mamujoco/hopper-3x1/{tier}-v1")
    assert data.n_episodes == 4
    assert len(np.unique(data.policy)) == {"medium-replay": 4, "mixed": 2}.get(tier, 1)
    with h5py.File(path) as file:
        seed, terminated = int(file["index/seed"][0]), bool(file["index/terminated"][0])
    assert seed >= recipe.FIRST_SEED
    length = int(data.starts[1])
    first, steps = play("hopper-3x1", [seed], np.asarray(data.act[:length])[:, None])
    assert len(steps) == length
    assert bool(steps[-1].terminated[0]) == terminated
    np.testing.assert_array_equal(data.obs[:length], [first[0], *(s.obs[0] for s in steps[:-1])])
    np.testing.assert_allclose(data.rew[:length], [s.rew[0] for s in steps], rtol=1e-6)
