"""One's own data as a dataset file: arrays that exist already, or roll-outs of a PettingZoo env.

    with Recorder("mine.hdf5", spec, id="my/game/medium-v1") as recorder:
        recorder.rollout(env, policy, episodes=100, seed=0)      # or
        recorder.episode(obs=obs, act=act, rew=rew, final_obs=last, terminated=False, seed=0)

`spec` is a task's (`registry.task("mpe/spread-v1").spec`) or a `TaskSpec` of one's own. The file
and its card (`mine.toml` beside it) appear when the block is left without an error, and not before
the linter has found the file clean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.task import Array, TaskSpec
from datasets import cardfile
from datasets.linter import lint
from datasets.open import open_dataset, stored
from datasets.writer import Writer

Act = Callable[[dict[str, Array]], Mapping[str, Any]]  # observations by agent -> actions by agent


class Recorder:
    """Context manager; see the module's text."""

    def __init__(
        self,
        path: Path | str,
        spec: TaskSpec,
        *,
        id: str,
        perm_seed: int = 0,
        licence: str = "CC-BY-4.0",
        source: str = "recorded",
        allow: tuple[str, ...] = (),
    ) -> None:
        """allow: kinds of findings of the linter that are meant to be there, such as "horizon"."""
        self.path, self.spec, self.allow = Path(path), spec, allow
        self._outer = atomic_path(self.path)
        self._options: dict[str, Any] = {
            "id": id,
            "perm_seed": perm_seed,
            "licence": licence,
            "source": source,
        }

    def __enter__(self) -> Recorder:
        self.temporary = self._outer.__enter__()
        self.writer = Writer(self.temporary, self.spec, **self._options)
        self.writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self.writer.__exit__(kind, error, tb)
            if kind is None:
                self._check()
                card = self._card()
        except BaseException as failure:
            self._outer.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._outer.__exit__(kind, error, tb)
        if kind is None:
            cardfile.write_card(self.path.with_suffix(".toml"), card)

    def _check(self) -> None:
        findings = [text for text in lint(self.temporary) if text.split(":")[0] not in self.allow]
        self.temporary.with_name(f".{self.temporary.stem}.verified.json").unlink(missing_ok=True)
        if findings:
            raise UserError(
                f"{self.path} was not written, the recorded data have {len(findings)} faults,"
                f" first: {findings[0]}"
            )

    def _card(self) -> dict[str, Any]:
        file, meta = open_dataset(self.temporary)
        try:
            return cardfile.make_card(meta, stored(file))
        finally:
            file.close()

    def episode(
        self,
        *,
        obs: Array,
        act: Array,
        rew: Array,
        final_obs: Array,
        terminated: bool,
        seed: int = 0,
        policy: int = 0,
        logp: Array | None = None,
    ) -> None:
        """One episode: obs [T, N, D], act [T, N, A] or [T, N], rew [T, N], final_obs [N, D]."""
        self.writer.append(
            obs=np.asarray(obs)[None],
            act=np.asarray(act)[None],
            rew=np.asarray(rew)[None],
            final_obs=np.asarray(final_obs)[None],
            terminated=np.array([terminated]),
            seeds=np.array([seed]),
            policy=np.array([policy]),
            logp=None if logp is None else np.asarray(logp)[None],
        )

    def rollout(
        self, env: Any, policy: Act, episodes: int, seed: int = 0, policy_id: int = 0
    ) -> None:
        """Play a PettingZoo ParallelEnv whose agents are the spec's, in its order of agents.

        policy maps observations by agent to actions by agent. Episode k is reset with seed + k; it
        ends when all agents are terminated or truncated.
        """
        agents = list(env.possible_agents)
        if len(agents) != self.spec.n_agents:
            raise UserError(
                f"the environment has {len(agents)} agents, the spec {self.spec.id} has"
                f" {self.spec.n_agents}."
            )
        for k in range(episodes):
            now, _ = env.reset(seed=seed + k)
            steps: dict[str, list[Array]] = {"obs": [], "act": [], "rew": []}
            terminated = False
            while env.agents:
                if len(env.agents) != len(agents):
                    raise UserError(
                        "an agent left the environment before the episode's end; record such data"
                        " with Writer.append and its `alive`."
                    )
                actions = policy(now)
                steps["obs"].append(self._observations(now, agents))
                steps["act"].append(self._joint([actions[a] for a in agents], self.spec.act_dim))
                now, rewards, ends, _, _ = env.step(dict(actions))
                steps["rew"].append(np.array([float(rewards[agent]) for agent in agents]))
                terminated = all(ends.values())
            self.episode(
                **{name: np.stack(rows) for name, rows in steps.items()},
                final_obs=self._observations(now, agents),
                terminated=terminated,
                seed=seed + k,
                policy=policy_id,
            )

    def _observations(self, now: Mapping[str, Any], agents: list[str]) -> Array:
        return self._joint([np.atleast_1d(now[agent]) for agent in agents], self.spec.obs_dim)

    def _joint(self, values: list[Any], width: int) -> Array:
        """One row per agent, zero-padded to `width`; numbers stay numbers."""
        if np.ndim(values[0]) == 0:
            return np.array(values)
        return np.stack([np.pad(value, (0, width - len(value))) for value in values])
