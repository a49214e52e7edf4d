"""Goals of training: stacked seeds, optimiser, U-Net, one step against many, updates and floors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.madiff import MADiffConfig
from algorithms.matd3bc import MATD3BC, MATD3BCConfig
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.unet import TeamUNet
from benchmark.checks.fixtures import toy_dataset
from benchmark.profile import products
from benchmark.task import Group, TaskSpec
from tests.perf import bench_om2p, bench_team, plain
from tests.perf.race import Row, faster, race

SEEDS = (0, 1, 2, 3, 4)
WALKER = TaskSpec("toy/walker-v1", (Group("walker", 1, obs_dim=17, act_dim=6),), horizon=25)
SIZES = {(64, 32): 6.0, (64, 256): 2.5, (256, 256): 1.2}  # width, batch -> goal
CHAINS = {5: 1.7, 10: 3.0, 20: 5.0}  # steps of a diffusion chain -> goal of training
LONG_CHAINS = {50: 12.0, 200: 45.0}
ACTING = (
    "a chain of one step of diffusion takes as long as the one step of mean flow, so that the chain"
    " is ahead by what both do once: normalising, noise, and agents to rows and back. That is a"
    " fifth to a quarter of the one step with 300 rows, and more than half with 3"
)
UPDATES = (
    "matrix products are less than half of an update, of mean flow as of a chain, and of the"
    " products alone the ratios are little above the goals"
)
STACKED = (
    "our matrix products alone are most of the compiled update, and the floor, which is their"
    " ratio, little above the goal: at this width little is left to save"
)
PROCESSOR = (
    "a floor near the goal or below it says that this processor runs the library's convolutions"
    " faster than its matrix products, which our U-Nets are made of; where the goal was set it is"
    " the other way"
)
COMPACT = (
    "half of an update is products of narrow matrices, and the rest activations, norms and copies;"
    " where the library's convolutions are faster than matrix products the counterpart gains, ours"
    " does not"
)
MEMORY = {10: 3.8, 20: 7.0}


def seeds(full: bool) -> Iterator[Row]:
    """Five seeds of TD3+BC in one compiled update, against five eager runs."""
    for (width, size), goal in SIZES.items():
        config = MATD3BCConfig(width=width, batch_size=size, gamma=0.95, alpha=2.5, compile="on")
        data, rngs = toy_dataset(WALKER, 100), [np.random.default_rng(seed) for seed in SEEDS]
        group = MATD3BC(config, WALKER, SEEDS)
        group.prepare(data, 100, rngs)
        batch = group.sample(data, rngs)
        rows = [batch.seed(k) for k in range(len(SEEDS))]
        single = [plain.PlainTD3BC(17, 6, width) for _ in SEEDS]
        eager = MATD3BC(MATD3BCConfig(width=width, batch_size=size, compile="off"), WALKER, SEEDS)
        eager.prepare(data, 100, rngs)

        def twice(update: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:  # the actor learns at every second update
                update()
                update()

            return run

        def plainly(single: list[Any] = single, rows: list[Any] = rows) -> None:
            for run, row in zip(single, rows, strict=True):
                assert row.next_obs is not None
                run.update(
                    row.obs[:, 0, 0], row.act[:, 0, 0], row.rew[:, 0, 0], row.next_obs[:, 0, 0],
                    row.terminated[:, 0],
                )  # fmt: skip

        floor, _ = products(twice(lambda eager=eager, batch=batch: eager.update(batch)))
        times = race(
            {
                "plain": twice(plainly),
                "ours": twice(lambda group=group, batch=batch: group.update(batch)),
                "floor": floor,
            },
            warm=4,
        )
        name = f"5 seeds in one compiled update, {width} wide, batch {size}: 5 runs"
        yield faster(name, goal, times, why=STACKED)


def optimiser(full: bool) -> Iterator[Row]:
    """Fused Adam and Polyak averaging by one kernel, against the library's defaults."""
    net = plain.mlp(64, 256, 256, 256, 64)
    weights = list(net.parameters())
    gradients = [torch.randn_like(p) for p in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    default = torch.optim.Adam(weights, 1e-4, foreach=False, fused=False)
    ours = Adam([p.detach().clone() for p in weights], 1e-4)
    flat = torch.zeros(7 * sum(p.numel() for p in weights) // 2)  # 4 reads and 3 writes
    other = torch.zeros_like(flat)
    times = race(
        {
            "plain": default.step,
            "ours": lambda: ours.step(gradients),
            "floor": lambda: other.copy_(flat),
        }
    )
    yield faster("fused Adam: a loop over tensors", 3.0, times)
    target = copy.deepcopy(net)
    half = flat[: 3 * len(flat) // 7]
    times = race(
        {
            "plain": lambda: plain.polyak(target, net, 0.01),
            "ours": lambda: polyak(target, net, 0.01),
            "floor": lambda: other[: len(half)].copy_(half),
        }
    )
    yield faster("Polyak averaging in one call: a loop over tensors", 3.0, times)


def has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def unet(full: bool) -> Iterator[Row]:
    """The U-Net of MADiff's released size, 24 steps and 3 agents, against the library's
    convolutions; one guided step of its sampler in one environment; and the compact U-Net that is
    our default on the same windows. Of the last nothing is said here but its time: boards compare
    returns.
    """
    torch.manual_seed(0)
    small = MADiffConfig()
    compact = TeamUNet(18, small.dim, small.widen, small.depth, 4 * small.dim)
    ours = TeamUNet(18, dim=128, widen=4, depth=3, embedding=128)
    other = plain.PlainUNet(ours)
    size = 32 if full else 8
    x, embedding = torch.randn(size, 3, 24, 18), torch.randn(size, 3, 128)
    with torch.no_grad():
        apart = float((ours(x[:2], embedding[:2]) - other(x[:2], embedding[:2])).abs().max())
    yield Row("U-Net: largest difference to the library's", "<=", 1e-5, apart, unit="")

    def step(net: torch.nn.Module) -> None:
        net(x, embedding).square().mean().backward()

    def bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = ours(x, embedding).float().square().mean()
        loss.backward()

    floor, _ = products(lambda: step(ours))
    variants = {"plain": lambda: step(other), "ours": lambda: step(ours), "floor": floor}
    variants["compact"] = lambda: step(compact)
    variants["compact floor"], _ = products(variants["compact"])
    if has_bf16():
        variants["bf16"] = bf16
    times = race(variants, rounds=3, seconds=0.0)
    yield faster(f"U-Net update, {size} windows, float32: nn.Conv1d", 1.25, times, why=PROCESSOR)
    name = f"U-Net update, {size} windows, bfloat16: nn.Conv1d in float32"
    if has_bf16():
        lower = {"plain": times["plain"], "ours": times["bf16"]}
        yield faster(name, 2.0, lower, why=PROCESSOR)
    else:
        yield Row(name, ">=", 2.0, None, note="this processor has no avx512_bf16")
    own = {"ours": times["compact"], "floor": times["compact floor"]}
    name = f"compact U-Net update, {size} windows: MADiff's size by nn.Conv1d"
    yield faster(name, 30.0, {"plain": times["plain"]} | own, why=COMPACT)
    one, told = torch.randn(1, 3, 24, 18), torch.randn(1, 3, 128)
    both, tells = torch.cat([one, one]), torch.cat([told, told])

    @torch.no_grad()
    def two_calls() -> None:
        other(one, told)
        other(one, told)

    @torch.no_grad()
    def one_call() -> None:
        ours(both, tells)

    floor, _ = products(one_call)
    times = race({"plain": two_calls, "ours": one_call, "floor": floor}, rounds=5, seconds=0.0)
    name = "guided sampling, 1 environment, a step: two calls of nn.Conv1d"
    yield faster(name, 2.0, times, why=PROCESSOR)


def one_step(full: bool) -> Iterator[Row]:
    """OM2P, one step, against Diffusion-QL of T steps, with equal networks: acting and training."""
    chains = CHAINS | (LONG_CHAINS if full else {})
    made = {"ours": bench_om2p.updater("om2p")}
    made |= {str(k): bench_om2p.updater("diffusion_ql", denoising_steps=k) for k in sorted(chains)}
    for episodes, share in ((100, 0.95), (1, 0.75)):
        calls = {}
        for name, (algorithm, _) in made.items():
            spec = algorithm.spec
            obs = np.zeros((1, episodes, spec.n_agents, spec.obs_dim), np.float32)
            algorithm.begin(episodes, 0)
            calls[name] = lambda a=algorithm, obs=obs: a.act(obs, None, None, 0, False)
        times = race(calls)
        for k in chains:
            name = f"acting by one step of mean flow, {3 * episodes} rows: {k} of diffusion"
            yield faster(name, share * k, times, plain=str(k), why=ACTING)
    times = race({name: update for name, (_, update) in made.items()}, seconds=2.0)
    for k, goal in chains.items():
        name = f"update of mean flow: with a chain of {k}"
        yield faster(name, goal, times, plain=str(k), why=UPDATES)
    held = {name: saved(algorithm, update) for name, (algorithm, update) in made.items()}
    for k, goal in MEMORY.items():
        note = f"{held[str(k)]:.1f} MB to {held['ours']:.1f} MB, critics apart"
        value = round(held[str(k)] / held["ours"], 2)
        yield Row(
            f"kept for the gradients of mean flow: of a chain of {k}", ">=", goal, value, note=note
        )


def saved(algorithm: Any, update: Callable[[], Any]) -> float:
    """MB that an update keeps for its gradients, weights and what the critics keep apart."""
    parts = vars(algorithm)["parts"].state_dict()
    weights: set[int] = set()

    def note_weights(value: Any) -> None:
        if isinstance(value, Tensor):
            weights.add(value.untyped_storage().data_ptr())
        elif isinstance(value, dict):
            for item in value.values():
                note_weights(item)

    note_weights(parts)
    held: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if counting[-1] and storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
            kept.append(x.detach())
        return x

    critic, counting = algorithm.critic, [True]
    hooks = [
        critic.register_forward_pre_hook(lambda *_: counting.append(False)),
        critic.register_forward_hook(lambda *_: counting.append(True)),
    ]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        update()
    for hook in hooks:
        hook.remove()
    return sum(held.values()) / 1e6


def floors(full: bool) -> Iterator[Row]:
    """Updates of the team algorithms over their matrix products."""
    for row in ("bc", "matd3bc", "omar", "om2p", "omsd"):
        for width, goal in bench_team.GOALS.items():
            found = bench_team.measure(row, width, rounds=5, seconds=1.0 if full else 0.4)
            note = f"{found['update_ms']} ms to {found['floor_ms']} ms a seed"
            name = f"update of {row}, width {width}: its matrix products alone"
            yield Row(name, "<=", goal, found["ratio"], floor=1.0, note=note)
