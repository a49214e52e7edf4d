"""Mean flow: one-step generation by learning the average velocity of a flow (arXiv:2505.13447).

Time runs from data, t = 0, to noise, t = 1. An average velocity u(z, r, t) is what a network gives.

    (M1) z_t = (1 - t) x + t e,  v = e - x,  e ~ N(0, I)
    (M2) u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,  r <= t
    (M3) u = v - (t - r) d/dt u(z_t, r, t),  where d/dt u = v . grad_z u + du/dt: what is regressed
    (M4) x_r = z_t - (t - r) u(z_t, r, t), in particular x = e - u(e, 0, 1)

Everything is elementwise over rows [..., A] and times [..., 1], for a stack of any shape.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from algorithms.nn.team import uniforms
from benchmark.device import sent

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # u(z [..., A], r [..., 1], t [..., 1])
Estimator = Literal["fd", "jvp", "vjac", "zero"]
TimeLaw = Literal["logit_normal", "uniform", "exp", "beta"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
TIME_LAWS: tuple[str, ...] = get_args(TimeLaw)
LOGIT_MEAN, LOGIT_STD = -0.4, 1.0  # arXiv:2505.13447, table 1
EXP_SCALE = 0.2  # mean distance of t from 1 and of r from 0, before clipping
BETA = 2.0  # both parameters of the symmetric beta law


def interpolate(x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(M1): z_t and v."""
    return torch.lerp(x, e, t), e - x


def draw_times(
    gens: list[torch.Generator], shape: tuple[int, ...], law: str, rho: float, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Times r <= t, [K, *shape] each; with probability rho r = t, which is plain flow matching.

    Two draws of the law, sorted. "exp" draws one near 1 and one near 0, the pair of one-step
    sampling.
    """
    if law == "logit_normal":
        draws = [torch.randn((2, *shape), generator=gen) for gen in gens]
        a, b = torch.sigmoid(torch.stack(draws, 1) * LOGIT_STD + LOGIT_MEAN)
    elif law == "beta":
        ones = torch.full((2, 2, *shape), BETA)
        draws = [torch._standard_gamma(ones, gen) for gen in gens]
        gamma = torch.stack(draws, 2)  # [2, 2, K, *shape]
        a, b = gamma[0] / gamma.sum(0)
    else:
        a, b = uniforms(gens, (2, *shape), "cpu").unbind(1)
        if law == "exp":
            a = (1 + EXP_SCALE * torch.log1p(-a)).clamp(min=0)
            b = (-EXP_SCALE * torch.log1p(-b)).clamp(max=1)
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    same = uniforms(gens, shape, "cpu") < rho
    return sent(torch.where(same, t, r), device), sent(t, device)


def time_derivative(
    u: Velocity, z: Tensor, r: Tensor, t: Tensor, v: Tensor, value: Tensor, how: str, delta: float
) -> Tensor:
    """d/dt u(z_t, r, t) along the path, without a gradient; `value` is u(z, r, t).

    fd: backward difference of width `delta`, one more forward pass (t >= delta is up to the
    caller). jvp: forward mode, exact. vjac: the Jacobian of each row by A reverse passes, exact.
    zero: 0, which turns (M3) into flow matching.
    """
    if how == "zero":
        return torch.zeros_like(value)
    if how == "fd":
        with torch.no_grad():
            return (value - u(z - delta * v, r, t - delta)) / delta
    if how == "jvp":
        if not torch.compiler.is_compiling():
            _load_forward_mode()
        with torch.no_grad():
            return torch.func.jvp(lambda z, t: u(z, r, t), (z, t), (v, torch.ones_like(t)))[1]
    with torch.enable_grad():
        z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
        parts = []
        for column in u(z, r, t).unbind(-1):
            row_z, row_t = torch.autograd.grad(column.sum(), (z, t), retain_graph=True)
            parts.append((row_z * v).sum(-1) + row_t.squeeze(-1))
    return torch.stack(parts, -1).detach()


@functools.cache
def _load_forward_mode() -> None:
    """torch's forward mode warns of its own use of torch.jit when it is first used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401


def average_target(v: Tensor, r: Tensor, t: Tensor, derivative: Tensor) -> Tensor:
    """(M3): the regression target of u(z_t, r, t)."""
    return v - (t - r) * derivative


def generate(u: Velocity, e: Tensor, n_steps: int = 1) -> Tensor:
    """(M4): noise e -> sample, in n_steps equal jumps from t = 1 to 0."""
    x, one = e, torch.ones_like(e[..., :1])
    for k in range(n_steps, 0, -1):
        t, r = one * (k / n_steps), one * ((k - 1) / n_steps)
        x = x - (t - r) * u(x, r, t)
    return x
