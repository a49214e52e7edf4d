"""Adam and Polyak averaging for a group of seeds; both are elementwise, so seeds never meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (arXiv:1412.6980): the fused kernel in eager mode, the same formula in a compiled graph.

    It takes gradients as an argument instead of reading `.grad`, so that loss, gradients and step
    can be one graph.
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
        beta1, beta2 = self.betas
        torch._foreach_add_(self.steps, 1)
        if torch.compiler.is_compiling():  # the fused kernel cannot be traced
            state = zip(self.parameters, gradients, self.mean, self.square, strict=True)
            for p, g, m, v in state:
                t = self.steps[0]
                m.lerp_(g, 1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                scale = (v / (1 - beta2**t)).sqrt() + self.eps
                p.sub_(self.lr * (m / (1 - beta1**t)) / scale)
            return
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self.mean,
            self.square,
            [],
            self.steps,
            lr=self.lr,
            beta1=beta1,
            beta2=beta2,
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
