"""Rewards and moves of a finite game, learned from a buffer as functions of the population.

    (1) kernel   P(o' | o, a, nu, t) = softmax(log P~(o' | o, a) + f(o, a, nu, t)), cross-entropy
    (2) reward   r(o, a, nu, t) = r~(o, a) + spread g(o, a, nu, t), squared error

P~ and r~ are counted in the data, f and g perceptrons that start at 0; nu is the population's
distribution over observations and, beside it, that of the actions. Passivity is an action of its
own. An ensemble of them, each on its own share of the episodes, is averaged; how far its members
are apart is what they do not know.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.game import Logged, Parts
from algorithms.nn.stacked import StackedMLP, generators
from benchmark.batch import Batch, Dataset
from benchmark.task import Array, TaskSpec

SHARE = 0.8  # of the episodes that a member sees
UNSEEN = 0.02  # pseudo-count of every outcome of (o, a)


class LearnedGame(nn.Module):
    """Keeps the protocol `algorithms.nn.game.Game` once `prepare` and updates are done."""

    counted: Tensor
    paid: Tensor
    spread: Tensor

    def __init__(
        self, spec: TaskSpec, members: int, width: int, seed: int, pessimism: float
    ) -> None:
        super().__init__()
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        self.n_obs, self.n_actions, self.horizon = spec.n_obs, spec.n_actions, spec.horizon
        self.pessimism, self.members, self.seed = pessimism, members, seed
        cells = (self.n_obs, self.n_actions + 1)
        inputs = self.n_obs + self.n_actions + 1 + self.n_obs + self.n_actions + 1
        sizes = (inputs, width, width, self.n_obs + 1)
        self.body = StackedMLP(generators((seed,)), (members,), sizes, F.silu)
        for parameter in self.body.linears[-1].parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("counted", torch.zeros(*cells, self.n_obs))  # log P~
        self.register_buffer("paid", torch.zeros(cells))  # r~
        self.register_buffer("spread", torch.ones(()))
        self.sees = torch.ones(members, 1)  # [M, E] 1: the member trains on the episode

    def prepare(self, data: Dataset, known: Logged) -> None:
        """Count P~ and r~, and deal the episodes out."""
        n_obs, n_all = self.n_obs, self.n_actions + 1
        cells, active = n_obs * n_all, data.active
        moves, visits, paid, square = np.zeros(cells * n_obs), np.zeros(cells), np.zeros(cells), 0.0
        last = np.zeros(data.n_steps, bool)
        last[data.starts[1:] - 1] = True  # what follows a last step is not in `obs`
        for first in range(0, data.n_steps, 1000):
            rows = slice(first, min(first + 1000, data.n_steps))
            obs, act = np.asarray(data.obs[rows])[..., 0], np.asarray(data.act[rows])
            cell = obs * n_all + (act if active is None else np.where(active[rows], act, n_all - 1))
            rew = np.asarray(data.rew[rows], np.float64)
            visits += np.bincount(cell.ravel(), minlength=cells)
            paid += np.bincount(cell.ravel(), rew.ravel(), minlength=cells)
            square += float(np.square(rew).sum())
            after = np.asarray(data.obs[rows.start + 1 : rows.stop + 1])[..., 0]
            inside = np.flatnonzero(~last[rows])
            pairs = cell[inside] * n_obs + after[inside]
            moves += np.bincount(pairs.ravel(), minlength=len(moves))
        seen = moves.reshape(n_obs, n_all, n_obs) + UNSEEN / n_obs
        mean = paid.sum() / visits.sum()
        reward = np.where(visits > 0, paid / np.maximum(visits, 1), mean)
        self.spread.fill_(max((square / visits.sum() - mean**2) ** 0.5, 1e-6))
        self.counted.copy_(torch.as_tensor(np.log(seen / seen.sum(-1, keepdims=True))))
        self.paid.copy_(torch.as_tensor(reward.reshape(n_obs, n_all)))
        drawn = np.random.default_rng([self.seed, 7]).random((self.members, data.n_episodes))
        self.sees = torch.as_tensor(drawn < SHARE).float()

    def _features(self, obs: Tensor, act: Tensor, nu: Tensor, time: Tensor) -> Tensor:
        """obs, act [R] int64, nu [R, O + A], time [R] -> [R, F]."""
        one_hot = F.one_hot(obs, self.n_obs), F.one_hot(act, self.n_actions + 1)
        return torch.cat([*one_hot, nu, time.unsqueeze(-1) / self.horizon], -1).float()

    def _outputs(self, obs: Tensor, act: Tensor, nu: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [M, R, O] and rewards [M, R] of every member."""
        x = self._features(obs, act, nu, time)
        y = self.body(x.expand(1, self.members, *x.shape))[0]
        logp = (self.counted[obs, act] + y[..., :-1]).log_softmax(-1)
        return logp, self.paid[obs, act] + self.spread * y[..., -1]

    def losses(self, batch: Batch, nu: Tensor) -> tuple[Tensor, Tensor]:
        """(1) and (2), the sums over members: transitions [B, 1, n], nu [B, O + A]."""
        assert batch.next_obs is not None
        obs, act, after = batch.obs[:, 0, :, 0], batch.act[:, 0], batch.next_obs[:, 0, :, 0]
        if batch.active is not None:
            act = torch.where(batch.active[:, 0], act, self.n_actions)
        n = obs.shape[1]
        context = nu.unsqueeze(1).expand(-1, n, -1).flatten(0, 1)
        time = batch.step.unsqueeze(1).expand(-1, n).flatten()
        logp, reward = self._outputs(obs.flatten(), act.flatten(), context, time)
        error = (reward - batch.rew[:, 0].flatten()) / self.spread
        taken = -logp.gather(-1, after.flatten().expand(self.members, -1).unsqueeze(-1)).squeeze(-1)
        weight = self.sees[:, batch.episode].repeat_interleave(n, 1)  # [M, R]
        total = weight.sum(1).clamp(min=1)
        kernel = ((taken * weight).sum(1) / total).sum()
        return kernel, ((error.square() * weight).sum(1) / total).sum()

    @torch.no_grad()
    def parts(self, t: int, xi: Array) -> Parts:
        """Means over members; of rewards less `pessimism` standard deviations."""
        n_obs, n_all = self.n_obs, self.n_actions + 1
        obs, act = torch.arange(n_obs * n_all) // n_all, torch.arange(n_obs * n_all) % n_all
        nu = torch.as_tensor(np.concatenate([xi.sum(1), xi.sum(0)]), dtype=torch.float32)
        time = torch.full((n_obs * n_all,), float(t))
        logp, rewards = self._outputs(obs, act, nu.expand(len(obs), -1), time)
        laws = logp.double().exp()
        law, reward = laws.mean(0), rewards.double().mean(0)
        apart = (rewards.double() - reward).square().mean(0).sqrt()
        doubt = apart / self.spread + 0.5 * (laws - law).abs().sum(-1).mean(0)
        shape = (n_obs, n_all)
        kernel = (law / law.sum(-1, keepdim=True)).view(*shape, n_obs)
        paid = (reward - self.pessimism * apart).view(shape)
        return Parts(paid.numpy(), kernel.numpy(), doubt.view(shape).numpy())
