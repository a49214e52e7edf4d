"""Layers with a leading stack axis (seeds x agents x heads): one batched matmul for all.

Entry k of every stack is bit for bit what it would be in a stack of another size: its weights come
from its own generator, and only operations whose results do not depend on neighbours are used.
Measured on a CPU with one thread:
 - `bmm` is one, except for outputs of width 1 and for rows that do not fill a cache line; both are
   dealt with below;
 - `relu` and reductions over inner axes are;
 - what runs in vector registers (`tanh`, `silu`, losses, fused Adam) is where a seed's share is a
   multiple of 16 numbers, because the rest of an array is computed in another way. So batches and
   hidden widths are multiples of 16, and biases are padded to one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LINE = 16  # float32 numbers in a cache line and in the widest vector register


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed of a group. Layers draw from them in turn."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniform(gens: Sequence[torch.Generator], shape: Sequence[int], bound: float) -> Tensor:
    """[K, *shape], uniform in (-bound, bound); slice k is drawn from generator k."""
    return torch.stack([torch.rand(*shape, generator=gen) for gen in gens]).mul_(2).sub_(1) * bound


def select(parameter: Tensor, head: int | None) -> Tensor:
    """One entry of the last stack axis of [K, *stack, in, out]; None: the whole stack."""
    return parameter if head is None else parameter.select(-3, head)


class StackedLinear(nn.Module):
    """Affine maps over a stack: [K, *stack, B, in] -> [K, *stack, B, out]; torch's default init."""

    def __init__(
        self, gens: Sequence[torch.Generator], stack: tuple[int, ...], n_in: int, n_out: int
    ) -> None:
        super().__init__()
        bound = n_in**-0.5
        self.weight = nn.Parameter(uniform(gens, (*stack, n_in, n_out), bound))
        bias = uniform(gens, (*stack, 1, n_out), bound)
        self.bias = nn.Parameter(F.pad(bias, (0, -n_out % LINE)))

    def forward(self, x: Tensor, head: int | None = None) -> Tensor:
        weight = select(self.weight, head)
        bias = select(self.bias, head)[..., : weight.shape[-1]]
        if weight.shape[-1] == 1:
            # A matrix times a vector: bmm takes another path for a stack of one (other last bits),
            # and is three times slower than this.
            return (x * weight.transpose(-1, -2)).sum(-1, keepdim=True) + bias
        y = torch.baddbmm(bias.flatten(0, -3), x.flatten(0, -3), weight.flatten(0, -3))
        return y.unflatten(0, weight.shape[:-2])


class StackedNorm(nn.Module):
    """Layer norm over the last axis with a gain and bias for each network of the stack."""

    def __init__(self, n_seeds: int, stack: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_seeds, *stack, 1, width))
        self.bias = nn.Parameter(torch.zeros(n_seeds, *stack, 1, width))

    def forward(self, x: Tensor, head: int | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * select(self.gain, head) + select(self.bias, head)


class StackedMLP(nn.Module):
    """K x *stack perceptrons of widths `sizes`: [K, *stack, B, sizes[0]] -> [..., sizes[-1]].

    `layer_norm` puts a norm before each activation; `output` is applied to the last layer.
    """

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        stack: tuple[int, ...],
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu,
        layer_norm: bool = False,
        output: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.output = activation, output
        self.linears = nn.ModuleList(
            StackedLinear(gens, stack, n_in, n_out) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(
            StackedNorm(len(gens), stack, width) for width in sizes[1:-1] if layer_norm
        )

    def forward(self, x: Tensor, head: int | None = None) -> Tensor:
        """With `head`, only that entry of the last stack axis is run, and x lacks this axis."""
        rows = x.shape[-2]
        if rows % LINE:
            x = F.pad(x, (0, 0, 0, -rows % LINE))
        for i, linear in enumerate(self.linears[:-1]):
            x = linear(x, head)
            x = self.activation(self.norms[i](x, head) if self.norms else x)
        x = self.linears[-1](x, head)
        return (self.output(x) if self.output else x)[..., :rows, :]


def parameters_per_seed(*modules: nn.Module) -> int:
    """Number of weights of one seed of a group, without padding."""
    padding = sum(
        layer.bias[0].numel() * (1 - layer.weight.shape[-1] / layer.bias.shape[-1])
        for module in modules
        for layer in module.modules()
        if isinstance(layer, StackedLinear)
    )
    return sum(p[0].numel() for module in modules for p in module.parameters()) - round(padding)
