"""Losses and their gradients as one graph: `compile = auto | on | off`.

Adam and Polyak averaging stay outside: they are one fused kernel each, and graphs that change
weights in place fail to compile for some shapes (torch 2.13, inductor's outer-loop fusion).
Measured on one core, per update and seed: MA-TD3+BC is 1.7 to 1.9 times faster, MADiff 1.5, BC 1.2
to 1.5, MF-Diffuser 1.3 to 1.4, for 10 to 40 s of warm-up. So `auto` compiles long runs only, and
short ones have the same bits with and without a C++ compiler. The decision is taken once, in
`prepare`, and is in the checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch

from benchmark.errors import UserError

CompileMode = Literal["auto", "on", "off"]
MINIMUM_STEPS = 20_000  # `auto`: below this the warm-up costs more than the graph saves


def _obstacle() -> str:
    """Why nothing can be compiled here; empty if it can."""
    import torch._dynamo.config

    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        return "this torch cannot trace gradients"
    if not shutil.which(os.environ.get("CXX", "g++")):
        return "no C++ compiler was found"
    return ""


def resolve_compile(mode: str, steps: int) -> bool:
    """Whether to compile a run of that many updates. Raises UserError where `on` cannot be kept."""
    if mode not in ("auto", "on", "off"):
        raise UserError(f"--config.compile is {mode!r}, expected auto, on or off.")
    if mode == "off" or (mode == "auto" and steps < MINIMUM_STEPS):
        return False
    obstacle = _obstacle()
    if obstacle and mode == "on":
        raise UserError(
            f"--config.compile is 'on', but {obstacle}; expected one, or compile = off."
        )
    return not obstacle


def compile_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one graph. It may call torch.autograd.grad, and changes no tensor in place."""
    graph = torch.compile(function, dynamic=False, fullgraph=True)

    def run(*args: Any) -> Any:
        import torch._dynamo.config

        with torch._dynamo.config.patch(trace_autograd_ops=True):
            return graph(*args)

    return run
