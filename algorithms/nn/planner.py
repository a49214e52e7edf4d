"""Plans of populations from a trained denoiser: windows from given states, whole episodes, actions.

(1) cfg: x0 = x0() + g (x0(target) - x0());  (2) classifier: x0 <- x0 + g (1 - abar) grad J(x_k, k)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.diffusion import alpha_bar
from algorithms.nn.hierarchy import sample, schedule, stratified_states
from algorithms.nn.particles import Particles
from algorithms.nn.planning import InverseDynamics
from algorithms.nn.sets import CHUNK, SetDenoiser
from benchmark.batch import Batch

TOGETHER = 131_072  # particles that are planned at once, at most, where populations are smaller
SEVERAL = 2 * CHUNK  # particles that are denoised at once then


class Judge(nn.Module):
    """J(x_k, k), what a noisy particle will earn: [B, M, H, D] at times [B] -> [B, M]."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        inputs = shape[0] * shape[1] + 1
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        time = k[:, None, None].expand(*x.shape[:2], 1)
        value: Tensor = self.layers(torch.cat([x.flatten(2), time], -1)).squeeze(-1)
        return value


class Inverse(nn.Module):
    """a(s, s', t): logits [B, M, A] of what was done between states [B, M, D], at steps [B]."""

    def __init__(self, code: Particles, horizon: int, width: int, seed: int) -> None:
        super().__init__()
        self.code, self.horizon = code, horizon
        self.body = InverseDynamics(seed, 1, code.states + 1, width, code.n_actions)

    def forward(self, obs: Tensor, after: Tensor, step: Tensor) -> Tensor:
        time = (step / self.horizon)[:, None, None].expand(*obs.shape[:2], 1)
        now, then = (torch.cat([self.code.features(x), time], -1) for x in (obs, after))
        logits: Tensor = self.body(now.unsqueeze(-2), then.unsqueeze(-2)).squeeze(-2)
        return logits

    def loss(self, batch: Batch, weight: Tensor) -> Tensor:
        """Cross-entropy of first actions of windows; weight [B, M], 0 where no state follows."""
        logits = self(batch.obs[:, 0], batch.obs[:, 1], batch.step)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.act[:, 0].flatten(), reduction="none")
        return (loss * weight.flatten()).sum() / weight.sum().clamp(min=1e-6)


@dataclass
class Planner:
    """Denoises populations of particles. `config` has the settings of a sampler, see MFDiffuser."""

    config: Any
    code: Particles
    net: SetDenoiser
    horizon: int
    judge: Judge | None  # with classifier guidance
    inverse: Inverse | None  # where particles have no actions

    @property
    def window(self) -> int:
        return self.code.shape[0]

    def plan(
        self,
        obs: Tensor,
        step: int,
        generator: torch.Generator,
        alive: Tensor | None = None,
        hierarchy: str | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Particles [P, N, H, D] from states [P, N, D_obs] at a step on.

        alive [P, N] bool: the dead are planned as nothing. hierarchy: "off", "late", "early" or
        None, as configured. temperature: spread of the noise that a plan starts from.
        """
        several, found = max(1, TOGETHER // obs.shape[1]), []  # populations at once
        for i in range(0, len(obs), several):
            living = None if alive is None else alive[i : i + several]
            part = (obs[i : i + several], step, generator, living, hierarchy, temperature)
            found.append(self._plan(*part))
        return _joined(found, 0)

    @torch.no_grad()
    def _plan(
        self,
        obs: Tensor,
        step: int,
        generator: torch.Generator,
        alive: Tensor | None,
        hierarchy: str | None,
        temperature: float,
    ) -> Tensor:
        config, code, (populations, agents) = self.config, self.code, obs.shape[:2]
        kind = hierarchy or config.hierarchy
        levels = schedule(kind, agents, config.sampler_steps, config.first_level, config.branch)
        state = code.features(obs)  # [P, N, S]
        inside = (step + torch.arange(self.window, device=obs.device) < self.horizon)[:, None]
        start = torch.full((populations,), step, device=obs.device)
        told: dict[str, Any] = {"start": start if self.net.start else None}
        if config.see_mu:
            told["seen"] = mean_state(state, alive)

        def clamp(x: Tensor) -> Tensor:
            n = x.shape[1]
            x[:, :, 0, : code.states] = state[:, :n]
            return x.mul_(inside if alive is None else inside & alive[:, :n, None, None])

        def denoise(x: Tensor, k: Tensor) -> Tensor:
            level, context, agents = k.expand(len(x)), None, x.shape[1]
            if agents > config.context and config.field != "attention":
                # Drawn where there is no field, too: plans with and without begin with equal noise
                order = torch.randperm(agents, generator=generator, device=x.device)
                context = None if config.field == "none" else x[:, order[: config.context]]
            apart = context is not None or config.field == "none"  # particles do not meet in it
            found = []
            several = max(1, SEVERAL // agents)  # populations at once
            for i in range(0, len(x), several):
                rows = slice(i, i + several)
                subset = None if context is None else context[rows]
                own = {name: None if part is None else part[rows] for name, part in told.items()}
                pieces = x[rows].split(CHUNK if apart else agents, 1)
                clean = [self._guided(piece, level[rows], subset, own) for piece in pieces]
                found.append(_joined(clean, 1))
            return _joined(found, 0)

        near = obs[..., 0] if code.finite else state
        return sample(denoise, clamp, near, code.shape, levels, generator, temperature)

    def _guided(self, x: Tensor, k: Tensor, context: Tensor | None, told: dict[str, Any]) -> Tensor:
        """Clean particles, as the configured guidance wants them, (1) and (2)."""
        config = self.config
        if config.guidance == "cfg":
            asked, free = (
                self.net(x, k, context, asked=row.expand(len(x), 2), **told)
                for row in torch.tensor([[config.target, 1.0], [0.0, 0.0]], device=x.device)
            )
            return free + config.scale * (asked - free)  # type: ignore[no-any-return]
        clean: Tensor = self.net(x, k, context, **told)
        if self.judge is not None:
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                slope = torch.autograd.grad(self.judge(point, k).sum(), point)[0]
            clean = clean + config.scale * (1 - alpha_bar(k[0])) * slope
        return clean

    def generate(
        self,
        law: Tensor,
        populations: int,
        agents: int,
        generator: torch.Generator,
        hierarchy: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States and actions, [populations, T, agents] int64 each, of whole episodes of a finite
        game from initial states of law [O]: every plan starts where the one before it led.
        """
        state = stratified_states(law, agents, generator)  # [agents]
        obs = state[None, :, None].expand(populations, -1, -1)
        states, actions = [], []
        for step in range(0, self.horizon, self.config.execute):
            x = self.plan(obs, step, generator, None, hierarchy)
            for i in range(min(self.config.execute, self.horizon - step)):
                states.append(self.code.state(x[:, :, i])[..., 0])
                actions.append(self.action(x, i, step + i, generator))
            obs = self.code.state(x[:, :, min(self.config.execute, self.window - 1)])
        return torch.stack(states, 1), torch.stack(actions, 1)

    @torch.no_grad()
    def action(
        self,
        x: Tensor,
        i: int,
        step: int,
        generator: torch.Generator,
        mask: Tensor | None = None,
        greedy: bool = False,
    ) -> Tensor:
        """Actions [P, N] of step i of particles [P, N, H, D], the episode's step `step`; mask
        [P, N, A]: the allowed ones. From states alone, by the inverse model: drawn, or its best.
        """
        code = self.code
        if self.inverse is None:
            block = x[:, :, i, code.states :]
            return (block if mask is None else block.masked_fill(~mask, -9.0)).argmax(-1)
        after = x[:, :, min(i + 1, self.window - 1)]  # nothing follows the last step
        at = torch.full((len(x),), step, device=x.device)
        logits = self.inverse(code.state(x[:, :, i]), code.state(after), at)
        logits = logits if mask is None else logits.masked_fill(~mask, -1e9)
        if greedy:
            return logits.argmax(-1)
        law = logits.softmax(-1)
        return law.flatten(0, 1).multinomial(1, generator=generator).view(law.shape[:2])


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def mean_state(x: Tensor, alive: Tensor | None) -> Tensor:
    """Mean over the living agents, [B, M, S] -> [B, S]; alive [B, M]."""
    if alive is None:
        return x.mean(1)
    weight = alive.unsqueeze(-1).float()
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
