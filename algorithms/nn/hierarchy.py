"""Coarse-to-fine sampling of a population: few particles are denoised first, then each branches.

The population grows geometrically, N_{k+1} = b N_k (MF-CDM, arXiv:2406.05396: subdivision of
chaotic entropy, particle branching). A child takes its parent's clean estimate and draws fresh
noise of the current level, so that the noise level is right and siblings differ. What siblings
share is the estimate: after a late branching, Var(population mean) is near sigma^2 / N_0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.nn.diffusion import add_noise, amplitudes, ddim_step, time_grid

FIRST_SHARE = {"off": 1.0, "late": 0.75, "early": 0.25}  # of the steps, before the first branching
GOLDEN = 0.6180339887498949
CANDIDATES = 256  # parents that a vector is compared with
CHUNK = 65_536  # vectors compared at once


@dataclass(frozen=True)
class Level:
    particles: int
    steps: int


def schedule(
    hierarchy: str, particles: int, steps: int, first_level: int, branch: int
) -> tuple[Level, ...]:
    """Levels first_level, b first_level, ... up to `particles`; hierarchy: "off", "late", "early".

    FIRST_SHARE of the steps come before the first branching, the others are spread evenly over
    the later levels, at least one each. A population of first_level or fewer is flat.
    """
    if hierarchy == "off" or particles <= first_level:
        return (Level(particles, steps),)
    sizes = [first_level]
    while sizes[-1] < particles:
        sizes.append(min(sizes[-1] * branch, particles))
    later = len(sizes) - 1
    first = min(max(1, round(steps * FIRST_SHARE[hierarchy])), steps - later)
    if first < 1:
        raise ValueError(f"{steps} steps are too few for the {len(sizes)} levels {sizes}")
    rest = [(steps - first) * (i + 1) // later - (steps - first) * i // later for i in range(later)]
    return tuple(Level(n, s) for n, s in zip(sizes, [first, *rest], strict=True))


def cost_ratio(levels: tuple[Level, ...]) -> float:
    """Network evaluations of particles, relative to denoising the full population at every step."""
    total = sum(level.steps for level in levels)
    return sum(level.particles * level.steps for level in levels) / (total * levels[-1].particles)


def stratified_states(law: Tensor, particles: int, generator: torch.Generator) -> Tensor:
    """Initial states [particles] with law [O]. A Weyl sequence: every prefix is stratified too."""
    start = torch.rand((), generator=generator, device=law.device, dtype=torch.float64)
    index = torch.arange(particles, device=law.device, dtype=torch.float64)
    points = (start + GOLDEN * index) % 1.0
    return torch.searchsorted(law.cumsum(0)[:-1].contiguous(), points, right=True)


def parents(state: Tensor, known: int, generator: torch.Generator) -> Tensor:
    """Parents of the particles after the first `known`, [P, n - known] indices below `known`.

    state [P, n] integers: uniform among those of equal state, or among all if there is none.
    state [P, n, D] vectors: the nearest of up to CANDIDATES, so that the cost stays linear in n.
    """
    if state.ndim == 3:
        pick = torch.randperm(known, generator=generator, device=state.device)[:CANDIDATES]
        return pick[_nearest(state[:, known:], state[:, pick])]
    populations, kinds = len(state), int(state.max()) + 1
    own = state + kinds * torch.arange(populations, device=state.device)[:, None]
    old, new = own[:, :known].flatten(), own[:, known:]
    order = old.argsort(stable=True)
    count = torch.bincount(old, minlength=populations * kinds)
    start = count.cumsum(0) - count
    draw = torch.rand(new.shape, generator=generator, device=state.device, dtype=torch.float64)
    place = (start[new] + (draw * count[new]).long()).clamp(max=len(order) - 1)
    return torch.where(count[new] > 0, order[place] % known, (draw * known).long())


def _nearest(x: Tensor, y: Tensor) -> Tensor:
    """Index of the nearest of y [P, C, D] for each of x [P, n, D]."""
    found = [torch.cdist(part, y).argmin(-1) for part in x.split(CHUNK, 1)]
    return torch.cat(found, 1)


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    clamp: Callable[[Tensor], Tensor],
    state: Tensor,
    shape: tuple[int, ...],
    levels: tuple[Level, ...],
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    """Clean particles [P, N, *shape] from noise, by DDIM through the levels.

    denoise: (x [P, n, *shape], k []) -> x0 of that shape. clamp: writes what is given of the first
    n particles into x, in place. state: [P, N] or [P, N, D] initial states. temperature: spread of
    the noise; at 0 a particle is a function of what is given of it.
    """
    device, populations = state.device, len(state)
    times = time_grid(sum(level.steps for level in levels), device)
    amplitude = amplitudes(times)

    def noise(n: int) -> Tensor:
        return temperature * torch.randn(populations, n, *shape, generator=generator, device=device)

    x = clamp(noise(levels[0].particles))  # [P, n, *shape]
    x0, i = x, 0
    for level in levels:
        known = x.shape[1]
        if level.particles > known:
            parent = parents(state[:, : level.particles], known, generator)  # [P, new]
            line = torch.arange(populations, device=device)[:, None]
            child = add_noise(x0[line, parent], noise(parent.shape[1]), times[i])
            x = clamp(torch.cat([x, child], 1))
        for _ in range(level.steps):
            x0 = clamp(denoise(x, times[i]).clamp_(-1, 1))
            x = clamp(ddim_step(x, x0, amplitude[i], amplitude[i + 1]))
            i += 1
    return x0
