"""Adam and Polyak averaging for a group of seeds; both are elementwise, so seeds never meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (arXiv:1412.6980) by torch's fused kernel, 3 to 5 times the speed of its default.

    It takes gradients as an argument instead of reading `.grad`, so that losses and gradients can
    be one compiled graph that changes nothing in place.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self.mean,
            self.square,
            [],
            self.steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("mean", "square", "steps"):
            for mine, stored in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(stored)


@torch.no_grad()
def polyak(targets: nn.Module, online: nn.Module, tau: float) -> None:
    """targets <- (1 - tau) targets + tau online."""
    torch._foreach_lerp_(list(targets.parameters()), list(online.parameters()), tau)
