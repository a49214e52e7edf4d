"""Skirmish against Lanchester's law, against a plain loop, and by its rules."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.battle import skirmish
from benchmark.envs.battle.fighter import pick, softmax
from benchmark.envs.battle.skirmish import Melee, Rules, nearest
from benchmark.envs.battle.skirmish_policies import (
    ATTACK,
    DOWN,
    LEFT,
    NAMES,
    RIGHT,
    STAY,
    UP,
    Network,
    fighter,
)
from benchmark.errors import UserError
from benchmark.evaluate import rollout

MOVES = {STAY: (0, 0), LEFT: (-1, 0), RIGHT: (1, 0), DOWN: (0, -1), UP: (0, 1), ATTACK: (0, 0)}


def play(task_id, policy, seeds, steps=skirmish.HORIZON):
    """All steps of E episodes, and the observations before each of them."""
    env = registry.task(task_id).arrays(len(seeds))
    obs, found = env.reset(seeds), []
    policy.begin(len(seeds), 1)
    for t in range(steps):
        step = env.step(policy.act(obs, None, None, t, False))
        found.append((obs, step))
        obs = step.obs
    return env, found


# --------------------------------------------------------------------------------- ground truth
def test_one_cell_and_one_life_is_lanchesters_law_of_aimed_fire() -> None:
    strength, steps, battles = 0.05, 12, 30
    own, enemy = 12_000.0, 20_000.0
    for _ in range(steps):
        own, enemy = (
            own * np.exp(-strength * enemy / own),
            enemy * np.exp(-strength * own / enemy),
        )
    assert (own, enemy) == pytest.approx((2162, 15722), abs=1)
    melee, rng = Melee((12_000, 20_000), Rules(1, 1, strength)), np.random.default_rng(0)
    left = np.zeros((battles, 2))
    for e in range(battles):
        cells = [np.zeros((1, n), int) for n in melee.sizes]
        melee.place(cells)
        for _ in range(steps):
            noise = [rng.random((1, n), np.float32) for n in melee.sizes]
            melee.step([cell + ATTACK for cell in cells], noise)
        left[e] = [alive.sum() for alive in melee.alive]
    # The prototype of the specification measured 2157 +- 17 and 15698 +- 13.
    sem = left.std(0, ddof=1) / np.sqrt(battles)
    assert (sem < 25).all()
    assert left.mean(0) == pytest.approx([own, enemy], abs=60)


# ----------------------------------------------------------------------------------- plain loop
class Loop:
    """The same rules, agent by agent."""

    def __init__(self, positions, rules):
        self.rules = rules
        self.place = [list(team) for team in positions]  # [(x, y), ...] of each team
        self.lives = [[rules.lives] * len(team) for team in positions]

    def reach(self, x, y):
        top = self.rules.side - 1
        cells = [(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        return [(a, b) for a, b in cells if 0 <= a <= top and 0 <= b <= top]

    def living(self, k, cell):
        return sum(p == cell and h > 0 for p, h in zip(self.place[k], self.lives[k], strict=True))

    def targets(self, k, cell):
        return sum(self.living(1 - k, near) for near in self.reach(*cell))

    def step(self, act, noise):
        """Rewards of team 0 without the margin."""
        top = self.rules.side - 1
        before = [[h > 0 for h in team] for team in self.lives]
        for k in (0, 1):
            for i, (x, y) in enumerate(self.place[k]):
                if before[k][i]:
                    dx, dy = MOVES[act[k][i]]
                    self.place[k][i] = (min(max(x + dx, 0), top), min(max(y + dy, 0), top))
        hazard = [{}, {}]
        for k in (0, 1):
            for i, cell in enumerate(self.place[k]):
                if before[k][i] and act[k][i] == ATTACK and self.targets(k, cell):
                    for near in self.reach(*cell):
                        share = self.rules.strength / self.targets(k, cell)
                        hazard[1 - k][near] = hazard[1 - k].get(near, 0.0) + share
        rewards = []
        for i, cell in enumerate(self.place[0]):
            hit = 0.2 * self.rules.strength if self.targets(0, cell) else -0.1
            rewards.append(before[0][i] * (-0.005 + (hit if act[0][i] == ATTACK else 0.0)))
        for k in (0, 1):
            for i, cell in enumerate(self.place[k]):
                mean, level, term = hazard[k].get(cell, 0.0), 0.0, np.exp(-hazard[k].get(cell, 0.0))
                for hits in range(self.rules.lives):
                    level += term
                    term *= mean / (hits + 1)
                    if before[k][i] and mean and noise[k][i] >= level:
                        self.lives[k][i] = max(self.lives[k][i] - 1, 0)
        for i, was in enumerate(before[0]):
            rewards[i] -= 0.1 * (was and self.lives[0][i] == 0)
        return rewards

    def observe(self, k, over):
        side, n = self.rules.side, [len(team) for team in self.place]

        def mine(cell):
            return cell if k == 0 else (side - 1 - cell[0], cell[1])

        shares = [np.mean([h > 0 for h in team]) for team in self.lives]
        foes = {mine(p) for p, h in zip(self.place[1 - k], self.lives[1 - k], strict=True) if h > 0}
        rows = np.zeros((n[k], skirmish.OBS_DIM))
        for i, cell in enumerate(self.place[k]):
            if not self.lives[k][i]:
                continue
            x, y = mine(cell)
            rows[i, :6] = 2 * x / (side - 1) - 1, 2 * y / (side - 1) - 1, 0, over, 0, 0
            rows[i, 2] = self.lives[k][i] / self.rules.lives
            rows[i, 4:6] = shares[k], shares[1 - k]
            if foes:
                a, b = min(foes, key=lambda foe: (abs(foe[0] - x) + abs(foe[1] - y), *foe))
                rows[i, 6:8] = (a - x) / side, (b - y) / side
            for j, near in enumerate([(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]):
                rows[i, 8 + j] = self.living(k, mine(near)) * 64 / n[k]
                rows[i, 13 + j] = self.living(1 - k, mine(near)) * 64 / n[1 - k]
        return rows


@pytest.mark.parametrize("side", [3, 6])
def test_a_plain_loop_over_agents_plays_the_same_game(side: int) -> None:
    rules, sizes, battles, rng = Rules(side=side), (9, 7), 4, np.random.default_rng(side)
    melee = Melee(sizes, rules)
    cells = [rng.integers(side**2, size=(battles, n)) for n in sizes]
    melee.place(cells)
    loops = [
        Loop([[divmod(int(c), side) for c in cell[e]] for cell in cells], rules)
        for e in range(battles)
    ]
    for t in range(25):
        for k in (0, 1):
            seen = melee.observe(k, t / 25)
            for e, loop in enumerate(loops):
                np.testing.assert_allclose(seen[e], loop.observe(k, t / 25), atol=1e-6)
        act = [rng.choice(6, (battles, n), p=[0.1, 0.1, 0.1, 0.1, 0.1, 0.5]) for n in sizes]
        noise = [rng.random((battles, n), np.float32) for n in sizes]
        melee.step(act, noise)
        for e, loop in enumerate(loops):
            loop.step([a[e] for a in act], [u[e] for u in noise])
            for k in (0, 1):
                assert melee.lives[k][e].tolist() == loop.lives[k]
    assert min(min(lives) for loop in loops for lives in loop.lives) == 0  # there was a fight


def test_rewards_are_those_of_the_plain_loop_and_the_margin_at_the_end() -> None:
    task, rng = registry.task("battle/skirmish-n16-random-v1"), np.random.default_rng(0)
    env = task.arrays(2)
    env.reset([4, 5])
    melee = env.melee
    middle = [rng.integers(6, 10, (2, 2, 16)) for _ in (0, 1)]  # [xy, E, N]: in contact at once
    melee.place([x * 16 + y for x, y in middle])
    loops = [
        Loop([list(zip(m[0, e].tolist(), m[1, e].tolist(), strict=True)) for m in middle], Rules())
        for e in (0, 1)
    ]
    draws = [([], []), ([], [])]  # of each team: actions, noise

    def spy(act, noise):
        for k in (0, 1):
            draws[k][0].append(act[k])
            draws[k][1].append(noise[k])
        original(act, noise)

    original, melee.step = melee.step, spy
    for t in range(skirmish.HORIZON):
        alive = melee.alive[0].copy()
        step = env.step(rng.choice([STAY, ATTACK], (2, 16)))
        ended = step.terminated | step.truncated
        for e, loop in enumerate(loops):
            expected = loop.step([d[0][-1][e] for d in draws], [d[1][-1][e] for d in draws])
            end = step.outcome["margin"][e] * alive[e] * ended[e]
            np.testing.assert_allclose(step.rew[e], np.array(expected) + end, atol=1e-12)
        if ended.any():
            assert t > 5
            return
    raise AssertionError("the episode never ended")


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_the_nearest_cell_is_found_ties_by_x_then_y(side: int) -> None:
    rng = np.random.default_rng(side)
    occupied = rng.random((8, side, side)) < np.linspace(0, 0.3, 8)[:, None, None]
    dx, dy = nearest(occupied)
    for e, x, y in np.ndindex(occupied.shape):
        there = [(int(a), int(b)) for a, b in np.argwhere(occupied[e])]
        expected = (x, y)
        if there:
            expected = min(there, key=lambda c: (abs(c[0] - x) + abs(c[1] - y), *c))
        assert (x + dx[e, x, y], y + dy[e, x, y]) == expected


# ---------------------------------------------------------------------------------------- rules
@pytest.mark.parametrize("opponent", NAMES)
def test_the_dead_see_and_earn_nothing_and_stay_dead(opponent: str) -> None:
    _, found = play(f"battle/skirmish-n64-{opponent}-v1", fighter("rush"), [1, 2, 3])
    before = np.ones((3, 64), bool)
    for obs, step in found:
        assert not step.rew[~before].any()
        assert not obs[~before].any()
        assert not (step.alive & ~before).any()
        before = step.alive
    assert not before.all()


def test_margin_and_win_are_of_the_shares_alive() -> None:
    env, found = play("battle/skirmish-n16-rush-v1", fighter("rush"), list(range(40)))
    for _, step in found:
        own, enemy = (alive.mean(1) for alive in env.melee.alive)
        margin, win = step.outcome["margin"], step.outcome["win"]
        np.testing.assert_array_equal(win, 0.5 + 0.5 * np.sign(margin))
    np.testing.assert_array_equal(margin, own - enemy)
    assert {0.0, 1.0} <= set(win.tolist())
    over = step.terminated
    assert over.any()
    assert ((own == 0) | (enemy == 0))[over].all()
    assert (step.truncated == ~over).all()


def test_an_ended_battle_keeps_its_outcome() -> None:
    _, found = play("battle/skirmish-n16-random-v1", fighter("rush"), list(range(8)))
    first = {}
    for _, step in found:
        for e in np.flatnonzero(step.terminated):
            assert first.setdefault(e, step.outcome["margin"][e]) == step.outcome["margin"][e]
    assert first


def test_episodes_depend_on_their_own_seed_only() -> None:
    task = "battle/skirmish-n64-expert-v1"
    _, many = play(task, fighter("rush"), [7, 8, 9])
    _, one = play(task, fighter("rush"), [8])
    for (obs, step), (own_obs, own_step) in zip(many, one, strict=True):
        np.testing.assert_array_equal(obs[1], own_obs[0])
        np.testing.assert_array_equal(step.rew[1], own_step.rew[0])
    assert (many[0][0][0] != many[0][0][1]).any()


def test_the_right_team_sees_the_mirror_image() -> None:
    melee, rng = Melee((20, 20), Rules()), np.random.default_rng(0)
    x, y = rng.integers(16, size=(2, 3, 20))
    u, v = rng.integers(16, size=(2, 3, 20))
    melee.place((x * 16 + y, u * 16 + v))
    right = melee.observe(1, 0.5)
    melee.place(((15 - u) * 16 + v, (15 - x) * 16 + y))
    np.testing.assert_array_equal(right, melee.observe(0, 0.5))


def test_equal_policies_draw_on_average() -> None:
    _, found = play("battle/skirmish-n64-rush-v1", fighter("rush"), list(range(100)))
    margin = found[-1][1].outcome["margin"]
    assert abs(margin.mean()) < 4 * margin.std() / np.sqrt(100)


# ------------------------------------------------------------------------------------- policies
@pytest.mark.parametrize("n_agents", [64, 1024])
@pytest.mark.parametrize("opponent", ["random", "hold", "rush"])
def test_the_expert_beats_every_script_at_any_size(opponent: str, n_agents: int) -> None:
    seeds = list(range(12 if n_agents == 64 else 2))
    _, found = play(f"battle/skirmish-n{n_agents}-{opponent}-v1", fighter("expert"), seeds)
    assert found[-1][1].outcome["margin"].mean() > 0.4


def test_hold_and_rush_attack_what_is_in_reach() -> None:
    obs = np.zeros((4, skirmish.OBS_DIM), np.float32)
    obs[0, 15] = 1  # an enemy to the right
    obs[1, 6:8] = 0.25, -0.125
    obs[2, 6:8] = 0.125, -0.25
    noise = np.zeros(4, np.float32)
    assert fighter("hold").choose(obs, noise).tolist() == [ATTACK, STAY, STAY, STAY]
    assert fighter("rush").choose(obs, noise).tolist() == [ATTACK, RIGHT, DOWN, STAY]


def test_a_network_plays_its_softmax() -> None:
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((18, 6)), "b0": np.zeros(6)}
    network, obs = Network(weights), rng.standard_normal((1, 18)).astype(np.float32)
    many = np.repeat(obs, 40_000, 0)
    acts = network.choose(many, rng.random(40_000, np.float32))
    shares = np.bincount(acts, minlength=6) / 40_000
    assert shares == pytest.approx(softmax(obs @ weights["w0"])[0], abs=0.01)
    best = network.act(many[None], None, None, 0, deterministic=True)
    assert (best == shares.argmax()).all()


def test_sampling_by_inversion_never_leaves_the_actions() -> None:
    p = np.full((3, 6), 1 / 6, np.float32)
    assert pick(p, np.array([0.0, 0.5, np.nextafter(np.float32(1), 0)])).tolist() == [0, 3, 5]


# ------------------------------------------------------------------------------------------ task
def test_any_number_of_agents_has_a_task() -> None:
    task = registry.task("battle/skirmish-n1000000-hold-v1")
    assert task.spec.n_agents == 1_000_000
    with pytest.raises(UserError, match="did you mean 'battle/skirmish-n64-rush-v1'"):
        registry.task("battle/skirmish-n64-rash-v1")


def test_stepping_past_the_end_is_refused() -> None:
    task = registry.task("battle/skirmish-n16-hold-v1")
    env = task.arrays(1)
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((1, 16), int))
    env.reset([1])
    for _ in range(skirmish.HORIZON):
        env.step(np.zeros((1, 16), int))
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((1, 16), int))


def test_returns_count_what_the_living_earn() -> None:
    task = registry.task("battle/skirmish-n64-rush-v1")
    returns = rollout(task, fighter("hold"), [3, 4])
    assert returns.shape == (2, 64)
    assert returns.min() > -0.005 * 50 - 0.1 * 51 - 1
