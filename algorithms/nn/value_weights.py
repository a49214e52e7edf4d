"""What the particles of a plan are worth: weights on the loss of a generative model, of mean 1.

(1) return   w = exp(beta z(G)), G the return from the particle's first step on, z standardised
             over the particles of the same step
(2) rank     w = exp(-c (1 - quantile(G)))
(3) mirror   theta_0 = log pi_b; theta <- theta + rate A(mu), mu the flow of softmax(theta):
             mirror descent in a game, from the behaviour on; w(h, s, a) = pi / pi_b of the
             particle's first decision. One large step of it is advantage weighting
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from algorithms.nn.game import ExactGame, Game, Logged, course, values
from algorithms.nn.learned_game import LearnedGame
from algorithms.nn.planning import returns_to_go
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.task import Array, GameModel, TaskSpec

LIMITS = (-8.0, 3.0)  # of log pi / pi_b
POPULATIONS, AGENTS, LR, WIDTH = 128, 8, 3e-3, 64  # of the learned game's training, as in TMF-PG


def value_weights(
    returns: Array, kind: str, beta: float, rank_c: float, w_max: float, competitive: bool
) -> Array:
    """Weights [E, N] of mean 1 from returns [E, N] of the agents of E populations; kind: "none",
    "return" (beta) or "rank" (rank_c).

    competitive: agents are compared within their population; else populations with each other.
    """
    team = returns.mean(1, keepdims=True)
    signal = returns - team if competitive else np.broadcast_to(team, returns.shape)
    if kind == "none":
        log_weight = np.zeros_like(returns)
    elif kind == "rank":
        ordered = np.sort(signal, axis=None)
        below = np.searchsorted(ordered, signal, "left") + np.searchsorted(ordered, signal, "right")
        log_weight = -rank_c * (1 - below / (2 * ordered.size))
    else:
        scale = signal.std()
        flat = scale <= 1e-9 * max(1.0, np.abs(returns).max())  # all equal up to rounding
        log_weight = np.zeros_like(returns) if flat else beta * (signal - signal.mean()) / scale
    weight = np.exp(log_weight - log_weight.max())
    weight = np.minimum(weight / weight.mean(), w_max)
    return weight / weight.mean()


def weights_by_step(
    data: Dataset, kind: str, beta: float, rank_c: float, w_max: float, competitive: bool
) -> Array:
    """`value_weights` of the returns to go of each step, [S, N] float32."""
    togo, lengths = returns_to_go(data, 1.0), np.diff(data.starts)
    found = np.empty(togo.shape, np.float32)
    for t in range(int(lengths.max())):
        rows = data.starts[:-1][lengths > t] + t
        found[rows] = value_weights(togo[rows], kind, beta, rank_c, w_max, competitive)
    return found


def mirror(
    game: Game,
    mu0: Array,
    behaviour: Array,
    horizon: int,
    rho: float,
    rate: float,
    steps: int,
    budget: float,
) -> Array:
    """(3): log pi / pi_b, [horizon, O, A] within LIMITS, after `steps` steps, or before the game
    doubts the policy's course `budget` times as much as the behaviour's.

    behaviour [rounds, O, A]: a round is 1 / rho steps that share a table. steps = 1: `rate` is in
    units of the standard deviation of A, advantage weighting.
    """
    start, doubt = np.log(behaviour), 0.0
    before = start
    theta, rounds = start.copy(), np.arange(horizon) // max(1, round(1 / rho))
    for _ in range(steps):
        pi = np.exp(theta - theta.max(-1, keepdims=True))
        pi = (pi / pi.sum(-1, keepdims=True))[rounds]  # [H, O, A]
        now = course(game, mu0, pi, rho)
        doubt = doubt or now.doubt  # of the behaviour
        if now.doubt > budget * doubt:
            theta = before
            break
        before = theta.copy()
        q, _ = values(now.reward, now.kernel, pi, rho, chain=False)
        gain = q - (pi * q).sum(-1, keepdims=True)
        if steps == 1:
            chance = now.mu[:-1, :, None] * pi
            gain = gain / max(float((chance * gain**2).sum() / chance.sum()) ** 0.5, 1e-9)
        np.add.at(theta, rounds, rate * rho * gain)
    log_pi = theta - np.logaddexp.reduce(theta, -1, keepdims=True)
    return np.clip(log_pi - start, *LIMITS)[rounds]


class DecisionWeights:
    """(3) for a buffer: fit the game, or take the known one; then weigh each first decision.

    `learned` and `fitter` belong into a checkpoint, and so does what `solve` returns. The game is
    fitted on the device; the recursions of mirror descent are tables on the host.
    """

    def __init__(self, spec: TaskSpec, members: int, seed: int, device: str) -> None:
        self.spec, self.device = spec, device
        self.learned = LearnedGame(spec, members, WIDTH, seed, 0.0).to(device)
        self.fitter = torch.optim.Adam(self.learned.parameters(), LR)

    def prepare(self, data: Dataset, known: Logged, model: GameModel | None) -> None:
        """`known` are the buffer's counts; model: of the track of known games, else None."""
        self.known, device = known, self.device
        self.starts = torch.as_tensor(np.array(data.starts), device=device)
        context = np.concatenate([known.populations, known.choices], 1)
        self.context = torch.as_tensor(context, device=device)
        self.game: Game | None = ExactGame(model) if model else None
        if model is None:
            self.learned.prepare(data, known)
            self.learned.sees = self.learned.sees.to(device)

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return data.transitions(rngs, POPULATIONS, agents=min(AGENTS, self.spec.n_agents))

    def fit(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of the learned game."""
        row = self.starts[batch.episode] + batch.step
        kernel, reward = self.learned.losses(batch, self.context[row])
        self.fitter.zero_grad()
        (kernel + reward).backward()
        self.fitter.step()
        return {"kernel_loss": kernel.detach(), "reward_loss": reward.detach()}

    def solve(self, rate: float, steps: int, budget: float) -> Tensor:
        """log pi / pi_b [T, O, A], see `mirror`."""
        known, game = self.known, self.game or self.learned.to("cpu")  # fitted by now
        size = (self.spec.horizon, known.rho)
        found = mirror(game, known.mu0, known.behaviour, *size, rate, steps, budget)
        return torch.as_tensor(found, dtype=torch.float32)
