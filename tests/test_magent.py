"""Battles of magent2: array path against dictionaries, features against the view, policies."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmark import registry
from benchmark.checks import play
from benchmark.envs.battle import magent
from benchmark.envs.battle.magent import HORIZONS, Battle, army
from benchmark.envs.battle.magent_policies import ATTACKS, MOVES, NAMES, STAY, fighter
from benchmark.errors import UserError

SEEDS = [3, 4, 5]


class Noisy:
    """Rush with much noise, which visits deaths and crowds."""

    def begin(self, n_envs, seed):
        self.script = fighter("rush", 0.3)
        self.script.begin(n_envs, seed)

    def act(self, obs, alive, mask, t, deterministic):
        return self.script.act(obs, alive, mask, t, deterministic)


@pytest.mark.parametrize("map_size", [16, 40])
def test_dictionaries_and_arrays_are_one_game(map_size: int) -> None:
    task = registry.task(f"battle/magent-map{map_size}-rush-v1")
    seeds = SEEDS if map_size == 16 else SEEDS[:1]
    trace = play.record(task, seeds, policy=Noisy())
    env = task.parallel_env()
    for e, seed in enumerate(seeds):
        own = trace.episode(e)
        there = play.replay(task, env, seed, [act[0] for act in own.act])
        play.compare(own, there, f"seed {seed}", "")
        assert len(own.act) > 10
        assert np.isnan(there.rew[-1]).any()  # somebody died and left the dictionaries


def test_magent2_alone_gives_blue_reds_first_actions() -> None:
    """The fault that `DictBattle.reset` mends; where this test fails, magent2 was mended too."""
    outer = magent.make_battle(16)
    outer.reset()
    before = outer.env.get_pos(outer.handles[1])
    outer.step({agent: 7 if agent.startswith("blue") else STAY for agent in outer.agents})
    np.testing.assert_array_equal(outer.env.get_pos(outer.handles[1]), before)


def test_an_army_is_as_large_as_the_engine_says() -> None:
    for map_size in HORIZONS:
        engine = magent.make_battle(map_size)
        assert engine.team_sizes == [army(map_size)] * 2
    assert [army(m) for m in (16, 40, 160)] == [6, 64, 1024]


def test_features_are_what_the_view_shows() -> None:
    battle, rng = Battle(40), np.random.default_rng(0)
    battle.reset(1)
    seen_blocked = seen_enemy = 0
    for _ in range(25):
        for k in (0, 1):
            obs = battle.observe(k)
            view, _ = battle.engine.get_observation(battle.handles[k])
            place = battle.engine.get_pos(battle.handles[k])
            foes = battle.engine.get_pos(battle.handles[1 - k]).tolist()
            living = set(battle.members[k].tolist())
            for row, i in enumerate(battle.members[k].tolist()):
                x, y = place[row].tolist()
                mine = obs[i]
                assert mine[:2] == pytest.approx([2 * x / 39 - 1, 2 * y / 39 - 1])
                assert mine[2] == view[row, 6, 6, 2]
                near = {
                    (a - x, b - y): view[row, b - y + 6, a - x + 6, 4]
                    for a, b in foes
                    if max(abs(a - x), abs(b - y)) <= 6 and view[row, b - y + 6, a - x + 6, 3]
                }
                assert mine[8] * 64 == pytest.approx(len(near), abs=1e-4)
                assert len(near) == view[row, ..., 3].sum()
                assert mine[9] * 64 == pytest.approx(view[row, ..., 1].sum(), abs=1e-4)
                if near:
                    best = min(dx * dx + dy * dy for dx, dy in near)
                    dx, dy = (mine[6:8] * 6).round().astype(int).tolist()
                    assert (dx, dy) in near
                    assert dx * dx + dy * dy == best
                else:
                    assert not mine[6:8].any()
                centre = (np.mean(foes, axis=0) - place[row]) / 40
                assert mine[10:12] == pytest.approx(centre, abs=1e-6)
                for j, (dx, dy) in enumerate(ATTACKS.tolist()):
                    assert mine[24 + j] == near.get((dx, dy), 0)
                seen_enemy += mine[24:].any()
                seen_blocked += (mine[12:24] == 0).any()
            assert not obs[[i for i in range(64) if i not in living]].any()
        acts = [fighter("rush").choose(battle.observe(k), rng.random(64)) for k in (0, 1)]
        battle.step(acts)
    assert seen_enemy > 50
    assert seen_blocked > 50
    assert len(battle.members[0]) < 64


def test_actions_move_and_attack_as_their_tables_say() -> None:
    battle = Battle(16)
    stay = np.full(6, STAY)
    for action, (dx, dy) in enumerate(MOVES.tolist()):
        battle.reset(1)
        before = battle.engine.get_pos(battle.handles[0])
        obs = battle.observe(0)
        acts = stay.copy()
        acts[5] = action
        battle.step((acts, stay))
        moved = battle.engine.get_pos(battle.handles[0]) - before
        if action != STAY:
            free = obs[5, 12 + action - (action > STAY)]
            assert moved[5].tolist() == ([dx, dy] if free else [0, 0])
        assert not moved[:5].any()
    base, table = battle.engine.get_view2attack(battle.handles[0])
    assert base == len(MOVES)
    for action, (dx, dy) in enumerate(ATTACKS.tolist()):
        assert table[dy + 6, dx + 6] == action


def test_an_attack_hurts_the_enemy_that_the_features_show() -> None:
    battle = Battle(16)
    battle.reset(1)
    stay = np.full(6, STAY)
    for _ in range(12):
        attack = fighter("rush", 0.0).choose(battle.observe(0), np.ones(6))
        hits = np.flatnonzero(attack > STAY + 6)
        if len(hits):
            break
        battle.step((attack, stay))
    i, action = hits[0], attack[hits[0]]
    shown = battle.observe(0)[i, 24 + action - 13]
    acts = stay.copy()
    acts[i] = action
    rew = battle.step((acts, stay))
    assert shown == 1
    assert battle.observe(0)[i, 24 + action - 13] == pytest.approx(0.81)  # 10 - 2 + 0.1
    assert rew[i] == pytest.approx(-0.005 - 0.1 + 0.2)


def test_the_engine_shuffles_blows_by_its_seed_alone() -> None:
    """Why a battle seeds its engine at every reset: it would go on shuffling from the last one."""
    battle, script = Battle(40), fighter("rush", 0.0)

    def rewards(seed: int) -> list[float]:
        battle.reset(seed)
        found = []
        for _ in range(20):
            acts = [script.choose(battle.observe(k), np.ones(64)) for k in (0, 1)]
            found += battle.step(acts).tolist()
        return found

    first, second, again = rewards(1), rewards(2), rewards(1)
    assert first == again
    assert first != second


def test_episodes_of_different_seeds_differ() -> None:
    task = registry.task("battle/magent-map16-rush-v1")
    env = task.arrays(2)
    env.reset([1, 2])
    for _ in range(8):
        step = env.step(np.full((2, 6), STAY))
    assert (step.obs[0] != step.obs[1]).any()


def test_the_dead_see_and_earn_nothing_and_outcomes_count_the_living() -> None:
    task = registry.task("battle/magent-map16-rush-v1")
    env, policy = task.arrays(3), Noisy()
    obs, before = env.reset(SEEDS), np.ones((3, 6), bool)
    policy.begin(3, 0)
    over = np.zeros(3, bool)
    for t in range(task.spec.horizon):
        step = env.step(policy.act(obs, before, None, t, False))
        assert not step.rew[~before].any()
        assert not step.obs[~step.alive].any()
        assert not (step.alive & ~before).any()
        enemy = np.array([battle.share(1) for battle in env.battles])
        np.testing.assert_array_equal(step.outcome["margin"], step.alive.mean(1) - enemy)
        obs, before = step.obs, step.alive
        over |= step.terminated
        if over.all():
            break
    assert over.all()
    assert not before.all()


@pytest.mark.parametrize("name", NAMES)
def test_scripts_kill_random_play(name: str) -> None:
    task = registry.task(f"battle/magent-map16-{name}-v1")
    env, policy = task.arrays(8), fighter("focus", 0.0)
    obs = env.reset(list(range(8)))
    policy.begin(8, 0)
    for t in range(60):
        step = env.step(policy.act(obs, None, None, t, True))
        obs = step.obs
    expected = {"random": (1, 1), "rush": (-0.9, 0.9), "focus": (-0.9, 0.9)}[name]
    assert expected[0] <= step.outcome["margin"].mean() <= expected[1]


def test_focus_attacks_the_weakest_and_rush_the_first() -> None:
    obs = np.zeros((2, magent.OBS_DIM), np.float32)
    obs[:, 12:24] = 1
    obs[0, [26, 29]] = 0.8, 0.4
    obs[1, 10:12] = 0.3, 0.1  # nobody in view: towards the enemies' mean
    one = np.ones(2, np.float32)
    assert fighter("rush", 0.0).choose(obs, one).tolist() == [13 + 2, 8]
    assert fighter("focus", 0.0).choose(obs, one).tolist() == [13 + 5, 8]
    obs[1, 12 + 7] = 0  # two to the right is taken
    assert fighter("rush", 0.0).choose(obs, one).tolist()[1] == 11


def test_without_magent2_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magent2.environments", None)
    task = registry.task("battle/magent-map16-rush-v1")
    with pytest.raises(UserError, match=r"offline-marl-bench\[battle\]"):
        task.arrays(1).reset([1])
    with pytest.raises(UserError, match=r"offline-marl-bench\[battle\]"):
        task.parallel_env().reset(seed=1)
