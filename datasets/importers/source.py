"""What an importer hands over: flat rows of every agent, and where episodes end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array


@dataclass(frozen=True)
class Options:
    """What a user may say of an import; the command's options."""

    id: str = ""  # dataset id; default: from the names of the source
    task: str = ""  # the suite's task whose data these are
    out: Path | None = None  # file; default: where the suite looks for the id
    licence: str = "unknown"
    horizon: int = 0  # steps of an episode at most; 0: what the format says
    last_row: Literal["drop", "keep"] = "drop"  # of episodes whose next observation is unknown
    agent_id: Literal["strip", "keep"] = "strip"  # one-hot agent ids in front of observations
    clip: bool = False  # clip actions into [-1, 1]
    prey: Path | None = None  # OMAR's frozen prey network
    allow: tuple[str, ...] = ()  # kinds of the linter's findings that are accepted
    force: bool = False  # replace a file that is there


@dataclass
class Source:
    """Rows of S steps, episode after episode; agent i has its own widths."""

    where: Path  # what errors name
    name: str  # of the scenario, as the source writes it
    tier: str
    obs: list[Array]  # per agent [S, D_i], or [S, 1] integers where finite
    act: list[Array]  # per agent [S, A_i], or [S] integers
    rew: Array  # [S, N]
    lengths: Array  # [E] steps of each episode
    terminated: Array  # [E] bool; the other episodes were cut by the time limit
    final: list[Array]  # per agent [E, D_i], observation after each episode's last step
    horizon: int
    files: list[Path]  # all that was read
    n_actions: int | None = None
    n_obs: int | None = None
    logp: Array | None = None  # [S, N]
    seeds: Array | None = None  # [E]
    policy: Array | None = None  # [E]
    team_return: str = "mean"
    tasks: tuple[str, ...] | None = None  # the suite's tasks that run this program; None: unknown
    obs_transform: str = "none"
    notes: list[str] = field(default_factory=list)
    allow: tuple[str, ...] = ()  # kinds of findings that the format makes unavoidable

    @property
    def n_agents(self) -> int:
        return len(self.obs)

    def check(self) -> None:
        """Shapes, finite values and the range of actions; UserError names agent and row."""
        if not len(self.lengths):
            raise UserError(f"{self.where} holds no whole episode; expected at least one.")
        n_steps = int(self.lengths.sum())
        for i, (obs, act) in enumerate(zip(self.obs, self.act, strict=True)):
            for name, array in (("observations", obs), ("actions", act)):
                if len(array) != n_steps:
                    raise UserError(
                        f"{self.where}: the {name} of agent {i} have {len(array)} rows, its"
                        f" episodes {n_steps}."
                    )
                self._finite(f"the {name} of agent {i}", array)
            self._finite(f"the observation after an episode of agent {i}", self.final[i])
            self._actions(i, act)
            if self.n_obs is not None and (obs.min() < 0 or obs.max() >= self.n_obs):
                raise UserError(
                    f"{self.where}: the observations of agent {i} are {obs.min()} to {obs.max()},"
                    f" expected integers from 0 to {self.n_obs - 1}."
                )
        if self.rew.shape != (n_steps, self.n_agents):
            raise UserError(
                f"{self.where}: the rewards have the shape {self.rew.shape}, expected"
                f" {(n_steps, self.n_agents)}."
            )
        self._finite("the rewards", self.rew)
        if self.logp is not None:
            self._finite("the log-probabilities", self.logp)

    def _finite(self, what: str, array: Array) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise UserError(
                f"{self.where}: {what} hold {array[row]} at {row}, expected finite numbers."
            )

    def _actions(self, i: int, act: Array) -> None:
        low, high = (-1.0, 1.0) if self.n_actions is None else (0, self.n_actions - 1)
        outside = (act < low) | (act > high)
        if outside.any():
            row = tuple(int(k) for k in np.argwhere(outside)[0])
            hint = "; --clip cuts them" if self.n_actions is None else ""
            raise UserError(
                f"{self.where}: the actions of agent {i} hold {act[row]} at {row}, expected"
                f" {low:g} to {high:g}{hint}."
            )

    def clip_actions(self) -> None:
        """Cut continuous actions into [-1, 1], and say how many were cut."""
        if self.n_actions is not None:
            return
        count = sum(int((np.abs(act) > 1).sum()) for act in self.act)
        self.act = [np.clip(act, -1, 1) for act in self.act]
        self.notes.append(f"{count} action values were clipped into [-1, 1]")


@dataclass
class Closed:
    """Episodes of a source that stores no next observations, see `without_next`."""

    keep: Array  # [S] bool, rows that stay
    stay: Array  # [E] bool, episodes that stay
    lengths: Array  # of those
    final: list[Array]  # per agent, of those
    notes: list[str]


def without_next(obs: Sequence[Array], lengths: Array, terminated: Array, last_row: str) -> Closed:
    """Final observations where the source has none.

    A terminated episode keeps its last row; what follows is never looked at, and the row is copied.
    One that was cut gives up its last row, whose observation is then the final one ("drop"), or
    keeps it, with a copy as its final observation ("keep").
    """
    last = np.cumsum(lengths) - 1
    dropped = ~terminated if last_row == "drop" else np.zeros(len(lengths), bool)
    keep = np.ones(int(lengths.sum()), bool)
    keep[last[dropped]] = False
    stay = lengths > dropped
    said = "no next observations:"
    notes = []
    if dropped.any():
        notes.append(
            f"{said} the last row of {int(dropped.sum())} episodes that were cut became their"
            " final observation"
        )
    if not dropped.all():
        notes.append(
            f"{said} {int((~dropped).sum())} episodes repeat their last row as the final one"
        )
    final = [array[last[stay]] for array in obs]
    return Closed(keep, stay, (lengths - dropped)[stay], final, notes)


def lengths_of(ends: Array, n_rows: int) -> tuple[Array, int]:
    """Lengths of the episodes whose last rows are marked in `ends` [S] bool, and how many rows
    follow the last of them.
    """
    last = np.flatnonzero(ends)
    lengths = np.diff(last, prepend=-1)
    return lengths, n_rows - int(lengths.sum())


def flags(array: Array, what: str, n_rows: int, n_agents: int = 1) -> Array:
    """Done flags of the shapes (S,), (S, 1), (S, N) or (S, N, 1), equal for all agents -> [S] bool.

    `what` names file and field in errors.
    """
    if not n_rows:
        raise UserError(f"{what} holds no rows, expected at least one.")
    if array.shape not in {
        (n_rows,),
        (n_rows, 1),
        (n_rows, n_agents),
        (n_rows, n_agents, 1),
    }:
        raise UserError(
            f"{what} has the shape {array.shape}, expected one flag a row: {(n_rows,)} or"
            f" {(n_rows, n_agents)}."
        )
    values = array.reshape(n_rows, -1)
    if not np.isin(values, (0, 1)).all():
        row = int(np.argmax(~np.isin(values, (0, 1)).all(1)))
        raise UserError(f"{what} holds {values[row].tolist()} at row {row}, expected 0 or 1.")
    if (values != values[:, :1]).any():
        row = int(np.argmax((values != values[:, :1]).any(1)))
        raise UserError(f"{what}: agents disagree at row {row}; expected all to end together.")
    return values[:, 0] == 1
