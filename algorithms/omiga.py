"""OMIGA: in-sample learning whose global regularisation is one of each agent's own.

Paper: Wang et al., "Offline Multi-Agent Reinforcement Learning with Implicit Global-to-Local Value
Regularization", arXiv:2307.11620.

    (1) mixture  Q_tot(s, a) = sum_i w_i(s) Q_i(o_i, a_i) + b(s),  V_tot(s) = sum_i w_i V_i + b
    (2) critic   L_Q = E (r + gamma (1 - terminated) V'_tot(s') - Q_tot(s, a))^2
    (3) value    z_i = w'_i(s) (Q'_i(o_i, a_i) - V_i(o_i)) / alpha,
                 L_V = sum_i E [ exp(z_i) + w'_i(s) V_i(o_i) / alpha ]
    (4) policy   L_pi = - sum_i E [ exp(z_i) log pi_i(a_i | o_i) ]
    (5) targets  theta' <- (1 - tau) theta' + tau theta, of Q, V, w and b

(3) is least where E_{a ~ data} exp(z_i) = 1, so that exp(z_i) in (4) is the ratio of the improved
policy to the data's. alpha in units of the reward's standard deviation: large is imitation.

Differences from the paper
 1. Each agent has its own networks; the code shares one and tells agents apart by a one-hot. [OUR
    CHOICE]
 2. exp(z) goes on as its tangent above `clip` in (3), and stays at exp(clip) in (4). The code cuts
    z off at 10 in both: above, (3) then pushes V down, which raises z further. `cut_gradient`
    brings that back. [CODE]
 3. (3) is scaled by exp(-max z) of its batch, where max z is taken as at least -1. [CODE]
 4. Rewards are the team's and divided by their standard deviation in the data, and observations are
    normalised, so that one alpha serves a family of tasks; the code has alpha = 10 on MuJoCo's own
    rewards. Gradients are not clipped, since Adam's steps hardly depend on their size. [OUR CHOICE]
 5. Width 128, lr 1e-3 and tau 0.01 for short runs; the code has 256, 5e-4 and 0.005. [OUR CHOICE]
 6. The spread of a continuous policy is one number for each action dimension; the code's is a
    function of the observation (`std = state`), which learns the mean far slower, see `nn.heads`.
    [OUR CHOICE]
 7. The agents of an exchangeable population are teams of one: w = 1, b = 0. Dead agents stay in
    (1) to (3) and leave (4). [OUR CHOICE]

What reproduces (spread, development data of leaderboard/tuning, two seeds, 5,000 updates): the gain
over imitation on mixed behaviour, 54 on medium data where BC has 38, and no loss on
expert data, 93 (BC 95). alpha = 0.5 has 55 and 89; 0.3 loses 23 points to 1 on expert data after
2,000 updates, where weights are ratios of noise in Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.mixer import InSampleTeam, check_config, exp_tangent, same
from algorithms.nn.team import Rows, sample_rows
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec


@dataclass(frozen=True)
class OMIGAConfig:
    batch_size: int = 256  # transitions per update; the code's is 128
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 128  # units of a hidden layer
    depth: int = 2  # hidden layers of policies, Q and V
    mixer_width: int = 64  # units of the mixer's hidden layer, the code's
    std: Literal["shared", "state"] = "shared"  # spread of a continuous policy: one, or by obs.
    lr: float = 1e-3  # Adam step size
    gamma: float = 0.99  # discount, the code's
    tau: float = 0.01  # rate of (5)
    alpha: float = 1.0  # weight of the regularisation, in standard deviations of the reward
    clip: float = 5.0  # greatest z of (4); the code's is 10
    cut_gradient: bool = False  # z of (3) cut off at `clip`, the code's form
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class OMIGA(Algorithm):
    Config = OMIGAConfig
    paper = "arXiv:2307.11620"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 50, "quick": 5_000, "full": 1_000_000},
            families={
                "mpe/": {"lr": 3e-3},  # the search of leaderboard/tuning/omiga.json
                "meanfield/": {"batch_size": 32},
            },
            tuning={"mpe/": Tuning(configs_tried=4, online_episodes=2_700)},
        )
    }
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "mixer_width": 16, "batch_size": 64}

    def __init__(
        self, config: OMIGAConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_config(config, {"alpha": (1e-6, 1e6), "clip": (0.0, 20.0)})
        self.team = InSampleTeam(config, spec, seeds, device, with_v=True)
        self._set_compiled(False)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._loss = (compile_graph if compiled else same)(self._gradients)

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.team.prepare(data)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return sample_rows(data, rngs, self.spec, self.config.batch_size, self.config.agents)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses, gradients = self._loss(self.team.rows(batch))
        self.team.step(gradients)  # and (5)
        return losses

    def _gradients(self, rows: Rows) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses [K] and the gradients of their sum."""
        team, config = self.team, self.config
        features = team.encoder(rows.obs, rows.step)
        v = team.values.v(features)  # [K, M, R]
        with torch.no_grad():
            after = team.slow.v_total(team.encoder(rows.next_obs, rows.step + 1))
            target = rows.rew + config.gamma * (1 - rows.ended) * after
            q = team.slow.q(features, rows.act)
            w, _ = team.slow.mixer(features)
        error = team.values.q_total(features, rows.act) - target
        z = w * (q - v) / config.alpha
        losses = {
            "critic_loss": error.square().mean(-1),  # (2)
            "value_loss": self._value_loss(z, w * v / config.alpha),
            "policy_loss": team.likelihood_loss(  # (4)
                features, rows, z.detach().clamp(-config.clip, config.clip).exp()
            ),
        }
        return team.gradients(losses)

    def _value_loss(self, z: Tensor, level: Tensor) -> Tensor:
        """(3), `level` being w V / alpha: [K, M]."""
        bound = self.config.clip
        if self.config.cut_gradient:
            z = z.clamp(-bound, bound)
        scale = z.detach().clamp(max=bound).amax((1, 2), keepdim=True).clamp(min=-1.0)  # [K, 1, 1]
        return ((exp_tangent(z, bound) + level) * (-scale).exp()).mean(-1)

    def begin(self, n_envs: int, seed: int) -> None:
        self.team.begin(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self.team.act(obs, mask, t, deterministic)

    def policy_table(self) -> Array:
        return self.team.policy_table()

    def state_dict(self) -> dict[str, Any]:
        return self.team.parts.state_dict() | {"compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.team.parts.load_state_dict(state)
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        return {"parameters": self.team.parameters(), "sampler_steps": 1}
