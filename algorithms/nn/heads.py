"""Stochastic policies of a team: tanh-Gaussian for continuous actions, categorical for discrete.

Both give the log-probability of logged actions, which in-sample methods weight and maximise.

The Gaussian's spread is a function of the observation, or with `shared_std` one number for each
action dimension. Where the likelihood of logged actions is maximised, the first learns the mean
badly: it declares hard observations uncertain, and their errors then hardly count. On expert data
of mpe/spread, 2,000 steps of imitation (width 128, lr 3e-3) scored 42 with it and 75 with a shared
spread; by squared error, 79 (one seed, 100 episodes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.nn import categorical
from algorithms.nn.encode import action_mask, feature_width, n_networks
from algorithms.nn.stacked import LINE, StackedMLP
from benchmark.task import Array, TaskSpec

LOG_STD = (-5.0, 2.0)  # bounds of the Gaussian's log standard deviation
# Logged actions are taken this far inside the box, where atanh is finite. A ninth of the actions of
# the MPE experts lie on its edge; the same imitation as above scored 66 with 1e-4 and 75 with 1e-2.
EDGE = 1e-2


class StochasticPolicy(nn.Module):
    """One policy a network of the stack: rows of features [K, M, R, F] -> distributions."""

    mask: Tensor

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        spec: TaskSpec,
        hidden: Sequence[int],
        layer_norm: bool = False,
        shared_std: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.log_std: nn.Parameter | None = None
        if shared_std and not spec.discrete:
            width = spec.act_dim + -spec.act_dim % LINE
            self.log_std = nn.Parameter(torch.zeros(len(gens), n_networks(spec), 1, width))
        outputs = spec.n_actions or spec.act_dim * (1 if shared_std else 2)
        sizes = (feature_width(spec), *hidden, outputs)
        self.body = StackedMLP(gens, (n_networks(spec),), sizes, layer_norm=layer_norm)
        self.register_buffer("mask", action_mask(spec), persistent=False)  # [M, 1, A]

    def log_prob(self, features: Tensor, act: Tensor) -> Tensor:
        """Log-probability (continuous: density over the agent's own dimensions): [K, M, R]."""
        output = self.body(features)
        if self.spec.discrete:
            return output.log_softmax(-1).gather(-1, act.unsqueeze(-1)).squeeze(-1)
        mean, log_std = self._gaussian(output)
        inner = act.clamp(EDGE - 1, 1 - EDGE)
        noise = (torch.atanh(inner) - mean) * (-log_std).exp()
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        density = density - torch.log1p(-inner.square())  # the derivative of tanh
        return (density * self.mask).sum(-1)

    def sample(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Continuous only: reparametrised actions [K, M, R, A] and their log-density [K, M, R]."""
        mean, log_std = self._gaussian(self.body(features))
        before = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2), in a form that does not underflow
        density = density - 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
        return torch.tanh(before) * self.mask, (density * self.mask).sum(-1)

    def mode(self, features: Tensor) -> Tensor:
        """Most likely discrete action [K, M, R], or tanh of the Gaussian's mean [K, M, R, A]."""
        output = self.body(features)
        if self.spec.discrete:
            return output.argmax(-1)
        return torch.tanh(self._gaussian(output)[0]) * self.mask

    def probabilities(self, features: Tensor) -> Tensor:
        """Discrete only: [K, M, R, n_actions], float64."""
        return self.body(features).double().softmax(-1)

    def _gaussian(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before tanh, each [K, M, R, A]."""
        if self.log_std is None:
            mean, log_std = output.chunk(2, -1)
        else:
            mean, log_std = output, self.log_std[..., : output.shape[-1]].expand_as(output)
        return mean, log_std.clamp(*LOG_STD)


def choose(probabilities: Tensor, mask: Array | None, rngs: Sequence[np.random.Generator]) -> Array:
    """Draw discrete actions [K, E, N] from [K, E, N, n_actions], of the allowed ones only."""
    allowed = categorical.allow(probabilities.cpu().numpy(), mask)
    u = np.stack([rng.random(allowed.shape[1:3]) for rng in rngs])  # [K, E, N]
    return categorical.draw(allowed, u)
