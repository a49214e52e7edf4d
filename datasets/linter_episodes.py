"""Findings on episodes as a whole: how they end, what they return, whether they are copies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmark.task import Array
from datasets.linter_values import place
from datasets.loader import Dataset
from datasets.schema import SLAB_BYTES, slabs

RETURN_TOLERANCE = 1e-4  # relative, declared against measured: rewards are stored as float32
LOGGED = ("obs", "act", "rew", "logp", "active")  # what makes two episodes the same


def ends(data: Dataset) -> Iterator[str]:
    terminated, truncated = data.terminated > 0, data.truncated > 0
    lengths, horizon = data.index.lengths, data.spec.horizon
    both = terminated == truncated
    if both.any():
        e = int(both.argmax())
        state = "both terminated and truncated" if terminated[e] else "neither"
        yield (
            f"done flags: /index/terminated at ({e}) and /index/truncated: episode {e} is {state}"
            f" ({int(both.sum())} such episodes); set exactly one, truncated for a time limit."
        )
    at_limit = terminated & ~truncated & (lengths == horizon)
    # One episode in ten thousand may end in its last step, but where nothing ever ends earlier,
    # the flag is the time limit's. A one-step game does end.
    if horizon > 1 and at_limit.any() and not (terminated & (lengths < horizon)).any():
        e = int(at_limit.argmax())
        yield (
            f"done flags: /index/terminated at ({e}): {int(at_limit.sum())} episodes are terminated"
            f" exactly at the time limit {horizon} and none before it; mark them truncated."
        )
    if (lengths > horizon).any():
        e = int((lengths > horizon).argmax())
        yield (
            f"horizon: /index/start at ({e}): episode {e} has {lengths[e]} steps, the task has at"
            f" most {horizon}; split it where it ended, or correct the spec's horizon."
        )
    early = truncated & ~terminated & (lengths < horizon)
    if early.any():
        e = int(early.argmax())
        cut = np.unique(lengths[truncated])
        every = f", as all truncated ones; is {cut[0]} the horizon?" if len(cut) == 1 else ";"
        yield (
            f"horizon: /index/truncated at ({e}): {int(early.sum())} episodes are truncated before"
            f" the time limit {horizon}, episode {e} after {lengths[e]} steps{every} mark what"
            " ended by itself terminated, and leave out what was cut by a crash."
        )


def returns(data: Dataset) -> Iterator[str]:
    """Declared against measured returns of each group."""
    declared = data.arrays["index/return"]
    for g, group in enumerate(data.spec.groups):
        rew, paid = data.arrays[f"steps/{group.name}/rew"], np.zeros(data.n_steps)
        for rows in slabs(rew):
            paid[rows] = rew[rows].sum(1, dtype=np.float64)
        measured = np.add.reduceat(paid, data.starts[:-1]) / group.n_agents
        # NaN compares false: it has a finding of its own
        bad = np.abs(measured - declared[:, g]) > RETURN_TOLERANCE * (1 + np.abs(measured))
        if bad.any():
            e = int(bad.argmax())
            yield (
                f"returns: {place('index/return', (e, g))} is {declared[e, g]:.6g}, the rewards"
                f" of group {group.name} add up to {measured[e]:.6g} ({int(bad.sum())} such"
                " episodes); store undiscounted sums of rewards, the mean over the group's agents."
            )


def duplicates(data: Dataset) -> Iterator[str]:
    """Episodes that are equal to an earlier one, agents in any order.

    An episode of one step may well be drawn twice; there only an equal seed makes it a copy.
    """
    keys = _fingerprints(data)
    if data.spec.horizon == 1:
        keys = _mixed(keys) + data.seeds.astype(np.uint64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(keys)))
    if len(copies):
        e, original = int(copies[0]), int(first[inverse[copies[0]]])
        yield (
            f"duplicates: /index/start at ({e}): episode {e} equals episode {original}"
            f" ({len(copies)} episodes repeat an earlier one); leave the copies out."
        )


def _fingerprints(data: Dataset) -> Array:
    """A 64-bit hash of each episode's content that ignores the order of agents: uint64 [E]."""
    rng = np.random.default_rng(0)
    widest = 1 + max(max(group.obs_dim, group.act_dim) for group in data.spec.groups)
    steps = rng.integers(2**64, size=int(data.index.lengths.max()), dtype=np.uint64)
    columns = rng.integers(2**64, size=(len(LOGGED), widest), dtype=np.uint64) | np.uint64(1)
    found = _mixed(data.index.lengths.astype(np.uint64))  # [E]
    rows = max(1, SLAB_BYTES // (8 * data.spec.n_agents * widest))
    block = max(1, rows // data.spec.horizon)  # episodes at a time, rows of them at a time
    for first in range(0, data.n_episodes, block):
        starts = data.starts[first : first + block + 1]
        episode = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        step = np.arange(starts[0], starts[-1]) - starts[episode]
        for g, group in enumerate(data.spec.groups):
            whole = np.zeros((len(starts) - 1, group.n_agents), np.uint64)  # [E, n]
            for begin in range(0, len(step), rows):
                part = slice(begin, min(begin + rows, len(step)))
                stored = slice(int(starts[0]) + part.start, int(starts[0]) + part.stop)
                words = np.zeros((part.stop - part.start, group.n_agents), np.uint64)
                for name, weights in zip(LOGGED, columns, strict=True):
                    if (array := data.arrays.get(f"steps/{group.name}/{name}")) is not None:
                        values = array[stored]
                        bits = values if values.dtype == np.uint8 else values.view(np.uint32)
                        bits = bits.reshape(*words.shape, -1)
                        words += (bits * weights[: bits.shape[2]]).sum(-1, dtype=np.uint64)
                words = _mixed(words) * (steps[step[part], None] | np.uint64(1))
                firsts = np.flatnonzero(np.diff(episode[part], prepend=-1))
                whole[episode[part][firsts]] += np.add.reduceat(words, firsts, axis=0)
            agents = _mixed(whole).sum(1, dtype=np.uint64)
            found[first : first + block] += agents * (steps[0] + np.uint64(2 * g + 1))
    return found


def _mixed(words: Array) -> Array:
    """Every bit spread over the word, so that sums of words tell their parts: uint64 -> uint64."""
    words = (words ^ (words >> np.uint64(31))) * np.uint64(0x7FB5D329728EA185)
    return (words ^ (words >> np.uint64(27))) * np.uint64(0x81DADEF4BC2DD44D)
