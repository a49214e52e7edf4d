"""Every algorithm keeps the contract; each check is red on one that breaks just its rule."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.bc import BC
from algorithms.matd3bc import MATD3BC
from algorithms.random import Random
from benchmark.algorithm import Algorithm, Variant, build_group
from benchmark.checks import run_check, training
from benchmark.checks.algorithm import CHECKS, AlgorithmSubject, check_algorithm
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM, toy_dataset
from benchmark.errors import UserError

BY_NAME = {check.__name__: check for check in CHECKS}
SMALL = {"width": 32, "batch_size": 64}
SHIPPED = [
    AlgorithmSubject("random", Random),
    AlgorithmSubject("bc", BC, config=SMALL),
    AlgorithmSubject("matd3bc", MATD3BC, config=SMALL),
    AlgorithmSubject("matd3bc-joint", MATD3BC, config=SMALL | {"critic": "joint"}),
    AlgorithmSubject(
        "matd3bc-smoothed", MATD3BC, config=SMALL | {"target_noise": 0.2, "layer_norm": True}
    ),
]


@pytest.mark.parametrize("subject", SHIPPED, ids=lambda subject: subject.name)
def test_shipped_algorithms_pass_every_check(subject):
    results = check_algorithm(subject)
    assert [result.line() for result in results if not result.ok] == []
    assert len(results) == len(CHECKS)


def test_a_check_says_why_it_was_not_run():
    subject = AlgorithmSubject("matd3bc", MATD3BC, specs=(POPULATION,))
    assert (
        run_check(training.check_group, subject).message
        == "not run: toy/population-v1 is not continuous"
    )


# ------------------------------------------------------------------------------- a toy, whole...
@dataclass(frozen=True)
class ToyConfig:
    lr: float = 0.05  # Adam step size
    batch_size: int = 32  # transitions


class Toy(Algorithm):
    """Behaviour cloning of one finite population by a plain torch table, seed by seed."""

    Config = ToyConfig
    paper = "none"
    variants: ClassVar = {"default": Variant(steps={"smoke": 9, "quick": 99, "full": 999})}
    requires = frozenset({"finite", "exchangeable"})

    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        shape = (spec.horizon, spec.n_obs, spec.n_actions)
        gen = torch.Generator().manual_seed(seeds[0])
        self.logits = nn.Parameter(torch.randn(shape, generator=gen))
        self.optimiser = torch.optim.Adam([self.logits], config.lr)
        self.begin(1, 0)

    def update(self, batch):
        logits = self.logits[batch.step[:, None], batch.obs[:, 0, :, 0]]  # [B, N, A]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.act[:, 0].flatten())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach()}

    def begin(self, n_envs, seed):
        self.rng = np.random.default_rng((seed, self.seeds[0]))

    def probabilities(self, obs, t):
        return self.policy_table()[t][obs[..., 0]]

    def act(self, obs, alive, mask, t, deterministic):
        p = self.probabilities(obs, t)
        if mask is not None:
            p = np.where(mask, p, 0.0)
        u = self.rng.random((*p.shape[:-1], 1)) * p.sum(-1, keepdims=True)
        return (u >= p.cumsum(-1)).sum(-1)

    def policy_table(self):
        return self.logits.detach().double().softmax(-1).numpy()

    def state_dict(self):
        return {"logits": self.logits.detach(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimiser.load_state_dict(state["optimiser"])


def test_a_plain_algorithm_for_one_seed_passes_every_check():
    results = check_algorithm(AlgorithmSubject("toy", Toy))
    assert [result.line() for result in results if not result.ok] == []


# ------------------------------------------------------------------------ ... and broken, by rule
@dataclass
class Thawed(ToyConfig.__base__):
    lr: float = 0.05  # Adam step size


@dataclass(frozen=True)
class Silent:
    lr: float = 0.05
    batch_size: int = 32  # transitions


@dataclass(frozen=True)
class NoDefault:
    lr: float  # Adam step size


@dataclass(frozen=True)
class NotPlain:
    lr: float = float("inf")  # Adam step size


def with_config(config):
    return type("Broken", (Toy,), {"Config": config})


class NoPaper(Toy):
    paper = ""


class UnknownRequirement(Toy):
    requires = frozenset({"gpu"})


class NoDefaultVariant(Toy):
    variants: ClassVar = {"fast": Toy.variants["default"]}


def with_variant(**changes):
    variant = dataclasses.replace(Toy.variants["default"], **changes)
    return type("Broken", (Toy,), {"variants": {"default": variant}})


class UnseededWeights(Toy):
    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        with torch.no_grad():
            self.logits += torch.randn(self.logits.shape, generator=ENTROPY)


ENTROPY = torch.Generator().manual_seed(0)


class EqualWeights(Toy):
    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        nn.init.zeros_(self.logits)


class Lazy(Toy):
    def update(self, batch):
        return {"loss": torch.zeros(())}


class Wordless(Toy):
    def update(self, batch):
        super().update(batch)
        return {}


class HostLoss(Toy):
    def update(self, batch):
        return {"loss": super().update(batch)["loss"].item()}


class WideLoss(Toy):
    def update(self, batch):
        return {"loss": super().update(batch)["loss"].expand(7)}


class InfiniteLoss(Toy):
    def update(self, batch):
        return {"loss": super().update(batch)["loss"] / 0}


class GraphLoss(Toy):
    def update(self, batch):
        super().update(batch)
        return {"loss": self.logits.sum()}


class Ascent(Toy):
    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        self.optimiser.param_groups[0]["maximize"] = True


class Hidden(Toy):
    """Keeps something out of its state."""

    def state_dict(self):
        return {"logits": self.logits.detach()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.logits.copy_(state["logits"])


class HiddenTemperature(Toy):
    """Uses a number of prepare() that its state lacks."""

    scale = 5.0

    def prepare(self, data, steps, rngs, model=None):
        self.scale = 1.0

    def policy_table(self):
        return (self.logits.detach() * self.scale).double().softmax(-1).numpy()


class ObjectState(Toy):
    def state_dict(self):
        return super().state_dict() | {"config": self.config}


class WrongShape(Toy):
    def act(self, *args):
        return super().act(*args)[..., None]


class WrongType(Toy):
    def act(self, *args):
        return super().act(*args).astype(float)


class WrongRange(Toy):
    def act(self, *args):
        return super().act(*args) + 1


class Maskless(Toy):
    def act(self, obs, alive, mask, t, deterministic):
        return super().act(obs, alive, None, t, deterministic)


class Scribbler(Toy):
    def act(self, obs, *args):
        act = super().act(obs, *args)
        obs += 1
        return act


class Unseeded(Toy):
    def begin(self, n_envs, seed):
        if not hasattr(self, "rng"):
            super().begin(n_envs, seed)


class Peeking(Toy):
    """Plays by its neighbour's observation."""

    def probabilities(self, obs, t):
        return super().probabilities(np.roll(obs, 1, axis=-2), t)


class PeekingMeanField(Peeking):
    variants: ClassVar = {
        "default": dataclasses.replace(Toy.variants["default"], execution="mean-field")
    }


class Unnormalised(Toy):
    def policy_table(self):
        return self.logits.detach().double().exp().numpy()


class FlatTable(Toy):
    def policy_table(self):
        return super().policy_table()[0]

    def probabilities(self, obs, t):
        return Toy.policy_table(self)[t][obs[..., 0]]


class OtherTable(Toy):
    """Plays something else than its table says."""

    def probabilities(self, obs, t):
        return super().probabilities(obs, t) * 0.5 + 0.5 / self.spec.n_actions


class Mixing(BC):
    """A stacked algorithm in which the seeds of a group meet."""

    def update(self, batch):
        loss = super().update(batch)["loss"]
        with torch.no_grad():
            for p in self.policy.parameters():
                p.copy_(0.9 * p + 0.1 * p.mean(0))
        return {"loss": loss}


class SharedNoise(BC):
    """A stacked algorithm whose acting noise depends on the group."""

    def begin(self, n_envs, seed):
        super().begin(n_envs, seed)
        self.rngs = [np.random.default_rng((seed, k)) for k in range(len(self.seeds))]


class Outside(BC):
    def act(self, *args):
        return super().act(*args) + 2


BROKEN = [
    ("config", with_config(Thawed), "no frozen dataclass"),
    ("config", with_config(Silent), "lr is not explained"),
    ("config", with_config(NoDefault), "give every field a default"),
    ("config", with_config(NotPlain), "JSON cannot hold"),
    ("class", NoPaper, "paper is empty"),
    ("class", UnknownRequirement, r"requires names \['gpu'\]"),
    ("class", NoDefaultVariant, "lacks 'default'"),
    ("class", with_variant(steps={"smoke": 1}), "exactly the keys"),
    ("class", with_variant(config={"rate": 1}), r"sets \['rate'\], which Config lacks"),
    ("class", with_variant(families={"mpe/": {"rate": 1}}), "which Config lacks"),
    ("class", with_variant(track="offroad"), "track 'offroad'"),
    ("class", with_variant(execution="remote"), "execution 'remote'"),
    ("seeds", UnseededWeights, "seed 5 twice"),
    ("seeds", EqualWeights, "seeds 5 and 6"),
    ("update", Lazy, "no tensor of state_dict"),
    ("update", Wordless, "returns no loss"),
    ("update", HostLoss, "is a float"),
    ("update", WideLoss, r"has shape \(7,\)"),
    ("update", InfiniteLoss, "not finite"),
    ("update", GraphLoss, "detach it"),
    ("learning", Ascent, "no loss falls"),
    ("group", Mixing, "loss 'loss' of seed"),
    ("group", SharedNoise, "acts differently in a group"),
    ("state", Hidden, "updates after a resume"),
    ("state", HiddenTemperature, "never prepared"),
    ("state", ObjectState, "config, a ToyConfig"),
    ("actions", WrongShape, "returns shape"),
    ("actions", WrongType, "returns float64"),
    ("actions", WrongRange, r"outside 0 ... 2"),
    ("actions", Maskless, "`mask` forbids"),
    ("actions", Scribbler, "changes the observations"),
    ("actions", Outside, "outside"),
    ("begin", Unseeded, "gives other actions"),
    ("execution", Peeking, "when the others change"),
    ("execution", PeekingMeanField, "when the others swap"),
    ("policy_table", Unnormalised, "no distribution"),
    ("policy_table", FlatTable, "has shape"),
    ("policy_table", OtherTable, "sample from the table"),
]


@pytest.mark.parametrize(
    ("name", "cls", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", x)
)
def test_each_check_is_red_on_what_breaks_its_rule(name, cls, message):
    result = run_check(BY_NAME[f"check_{name}"], AlgorithmSubject("broken", cls))
    assert not result.ok, f"{cls.__name__} passes {name}"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.message)


def test_every_check_has_something_that_breaks_it():
    assert {name for name, *_ in BROKEN} | {"imports"} == {c.__name__[6:] for c in CHECKS}


def test_an_import_of_an_environment_is_found_inside_a_function(tmp_path, monkeypatch):
    import importlib.util
    import sys

    path = tmp_path / "sneaky.py"
    path.write_text(
        "from tests.test_algorithms import Toy\n\n\nclass Sneaky(Toy):\n"
        "    def finish(self):\n        from mpe2 import simple_spread_v3\n"
    )
    found = importlib.util.spec_from_file_location("sneaky", path)
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "sneaky", module)
    found.loader.exec_module(module)
    result = run_check(BY_NAME["check_imports"], AlgorithmSubject("sneaky", module.Sneaky))
    assert not result.ok
    assert "imports mpe2" in result.message


# -------------------------------------------------------------------------------------- learning
def fit(cls, spec, steps, seeds=(0,), data=None, **config):
    data = data or toy_dataset(spec)
    algorithm = build_group(cls, cls.Config(**config), spec, seeds)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    algorithm.prepare(data, steps, rngs)
    for _ in range(steps):
        algorithm.update(algorithm.sample(data, rngs))
    return algorithm


def test_bc_recovers_the_behaviour_of_a_population():
    data = toy_dataset(POPULATION, n_episodes=400)
    table = fit(BC, POPULATION, 300, data=data, batch_size=64, width=32).policy_table()[0]
    truth = np.full(table.shape, 0.2 / 3)  # [H, O, A]
    for o in range(5):
        truth[:, o, o % 3] += 0.8
    assert np.abs(table - truth).max() < 0.1


def test_bc_samples_in_a_discrete_task_and_is_greedy_on_demand():
    data = toy_dataset(CHOICE, n_episodes=400)
    bc = fit(BC, CHOICE, 300, data=data, width=64)
    obs = data.obs[None, :2_000]
    bc.begin(2_000, 0)
    greedy = bc.act(obs, None, None, 0, True)[0]
    sampled = bc.act(obs, None, None, 0, False)[0]
    wanted = np.floor(obs[0].sum(-1)).astype(int) % 3
    assert (greedy == wanted).mean() > 0.6 > (sampled == wanted).mean() > 0.4


@pytest.mark.parametrize("critic", ["local", "joint"])
def test_matd3bc_moves_from_the_data_towards_reward(critic):
    """Behaviour is uniform and the reward wants a = 0.6: cloning gives 0, Q moves the policy up."""
    data = toy_dataset(TEAM, n_episodes=200)
    rng = np.random.default_rng(0)
    widths = np.array([[1, 1], [1, 0]])
    data.act = (rng.uniform(-1, 1, data.act.shape) * widths).astype(np.float32)
    data.rew = -((data.act[..., 0] - 0.6) ** 2).astype(np.float32)
    options = {"data": data, "width": 32, "batch_size": 64, "lr": 3e-3}
    obs = data.obs[None, :100]
    cloned = fit(BC, TEAM, 300, **options).act(obs, None, None, 0, True)[0]
    improved = fit(MATD3BC, TEAM, 300, critic=critic, gamma=0.0, **options)
    act = improved.act(obs, None, None, 0, True)[0]
    assert np.abs(cloned[..., 0].mean(0)).max() < 0.1
    assert act[..., 0].mean(0).min() > 0.3
    assert (act[:, 1, 1] == 0).all()  # padding


def test_matd3bc_bootstraps_unless_terminated():
    """Reward 1 at every step, gamma 0.5: values are 2, and 1 where every step is terminal."""
    values = []
    for terminated in (0.0, 1.0):
        data = toy_dataset(TEAM)
        data.rew[:] = 1.0
        rngs = [np.random.default_rng(0)]
        td3 = MATD3BC(
            MATD3BC.Config(width=32, batch_size=64, lr=3e-3, gamma=0.5, tau=0.1, policy_delay=1),
            TEAM,
            (0,),
        )
        td3.prepare(data, 1, rngs)
        for _ in range(150):
            batch = td3.sample(data, rngs)
            td3.update(
                dataclasses.replace(batch, terminated=torch.full_like(batch.terminated, terminated))
            )
        features = torch.randn(1, 2, 16, 5)
        act = torch.zeros(1, 2, 16, 2)
        values.append(td3._values(td3.critic, features, act).mean().item())
    assert values == pytest.approx([2.0, 1.0], abs=0.15)


def test_matd3bc_updates_the_actor_every_second_step():
    data, rngs = toy_dataset(TEAM), [np.random.default_rng(0)]
    td3 = MATD3BC(MATD3BC.Config(width=32), TEAM, (0,))
    td3.prepare(data, 1, rngs)
    moved = []
    for _ in range(4):
        before = copy.deepcopy(td3.actor.state_dict())
        target = copy.deepcopy(td3.target_critic.state_dict())
        losses = td3.update(td3.sample(data, rngs))
        after = td3.actor.state_dict()
        moved.append(any(not torch.equal(before[name], after[name]) for name in after))
        synced = td3.target_critic.state_dict()
        assert moved[-1] == any(not torch.equal(target[name], synced[name]) for name in synced)
        assert moved[-1] == ("actor_loss" in losses)
    assert moved == [False, True, False, True]


def test_a_joint_critic_sees_everybody_and_one_changed_action():
    td3 = MATD3BC(MATD3BC.Config(width=32, critic="joint"), TEAM, (0,))
    features, act, chosen = (
        torch.randn(1, 2, 16, 5),
        torch.randn(1, 2, 16, 2),
        torch.zeros(1, 2, 16, 2),
    )
    values = td3._values(td3.critic, features, act, chosen, head=0)
    for agent in range(2):
        mixed = act.clone()
        mixed[:, agent] = chosen[:, agent]
        alone = td3._values(td3.critic, features, mixed, head=0)
        torch.testing.assert_close(values[:, agent], alone[:, agent])


def test_a_joint_critic_of_exchangeable_agents_is_refused():
    swarm = dataclasses.replace(TEAM, groups=TEAM.groups[:1] * 2, exchangeable=True)
    with pytest.raises(UserError, match="exchangeable"):
        MATD3BC(MATD3BC.Config(critic="joint"), swarm, (0,))


def test_an_exchangeable_team_shares_one_policy():
    swarm = dataclasses.replace(
        TEAM, groups=(dataclasses.replace(TEAM.groups[0], n_agents=8),), exchangeable=True
    )
    for cls in (BC, MATD3BC):
        policy = fit(cls, swarm, 3, agents=4, width=32)
        obs = np.repeat(np.random.default_rng(0).normal(size=(1, 1, 1, 5)), 8, axis=2)
        act = policy.act(obs.astype(np.float32), None, None, 0, True)
        assert act.shape == (1, 1, 8, 2)
        np.testing.assert_allclose(
            act, np.broadcast_to(act[:, :, :1], act.shape), rtol=0, atol=1e-6
        )
