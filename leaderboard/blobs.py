"""Level 1 of a record's checkpoint and trace: they are those of its run, and sound.

Nothing is loaded by the say of a header: sizes, counts and names are looked at first.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from benchmark import files, registry, trace
from benchmark.errors import UserError
from benchmark.evaluate import exact
from benchmark.record import NOTED, Record
from benchmark.task import Task
from benchmark.trace import Trace
from leaderboard import submission as form
from leaderboard.soundness import Check, Suite, identity
from leaderboard.submission import Submission

# Of values that are exact in arithmetic, not in rounding: other processors sum in another order
ROUNDING = 1e-12
YOUNGER = {"population_error"}  # exact metrics that records of an older suite do not hold


def header(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header of a safetensors file, tensors by name, and the state of a checkpoint that it tells.

    Nothing is allocated by what the header claims. Raises UserError that names `source`.
    """
    try:
        (size,) = struct.unpack("<Q", data[:8])
        if size > min(form.MAX_HEADER, len(data)):
            raise UserError(f"{source}: its header is {size} bytes long, too much.")
        tensors = json.loads(data[8 : 8 + size])
        metadata = tensors.pop("__metadata__", {})
        if len(tensors) > form.MAX_TENSORS:
            raise UserError(f"{source} holds {len(tensors)} tensors, at most {form.MAX_TENSORS}.")
        state = json.loads(metadata["state"])
        identity = state["identity"]
        if not isinstance(identity, dict) or not isinstance(state["failed"], dict):
            raise ValueError("its identity is no object")
        return tensors, state
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{source} is no checkpoint of this suite ({type(error).__name__}: {error})."
        ) from error


def check_checkpoint(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """The checkpoint is that of the record: same hash, same run, finished, finite."""
    name = form.checkpoint_name(item)
    data = submission.blob(name)
    if files.sha256(data) != item.checkpoint_sha256:
        yield f"checkpoint_sha256 is {item.checkpoint_sha256[:12]}..., and not that of {name}."
    _, state = header(data, name)
    found = state["identity"]
    said = dict.fromkeys(NOTED) | identity(item)  # which only some runs have
    for key, value in said.items():
        if found.get(key) != value:
            yield f"{name} is of a run with {key} {found.get(key)!r}, the record says {value!r}."
    if files.sha256(json.dumps(found, sort_keys=True).encode()) != item.key:
        yield f"key is {item.key[:12]}..., and not that of the run in {name}."
    if state.get("finished") is not True:
        yield f"{name} is of a run that is not finished."
    reason = state["failed"].get(str(item.seed))
    if reason is not None and reason != item.reason:
        yield f"{name} says that seed {item.seed} failed: {reason}."
    if not item.failed:
        curves = state.get("curves")
        place = item.group.index(item.seed)
        if not isinstance(curves, list) or curves[place:][:1] != [item.curve]:
            yield f"curve is not the one in {name}."
    if not state["failed"]:
        yield from _not_finite(data, name)


def _not_finite(data: bytes, name: str) -> Iterator[str]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        yield f"{name} is damaged ({type(error).__name__}: {error})."
        return
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            yield f"{name}: {key} is not finite."


def load_trace(submission: Submission, item: Record) -> Trace | None:
    """The trace of a record, None where the seed failed or no episode fits in one."""
    spec = registry.task(item.task).spec
    episodes = trace.length(spec, len(item.team_returns))
    name = form.trace_name(item)
    if not episodes:
        return None
    return trace.unpack(submission.blob(name), spec, episodes, name)


def check_trace(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """A trace of as many episodes as fit; exact metrics follow from the policy table in it. Where
    none fits, they wait for the replay of the checkpoint.
    """
    task = registry.task(item.task)
    found = load_trace(submission, item)
    if found is None:
        if form.trace_name(item) in submission.manifest.files:
            yield f"{form.trace_name(item)} belongs to no episode."
        if item.failed:
            yield from exact_faults(task, item, {})
        return
    if found.table is not None and task.model() is None:
        yield f"{form.trace_name(item)} holds a policy table, and {item.task} has no model."
        return
    yield from exact_faults(task, item, {} if found.table is None else exact(task, found.table))


def exact_faults(
    task: Task, item: Record, found: Mapping[str, float], tolerance: float = ROUNDING
) -> Iterator[str]:
    """Exact metrics of a record against those that were computed here."""
    found = {name: x for name, x in found.items() if name in item.exact or name not in YOUNGER}
    if set(item.exact) != set(found):
        yield f"exact holds {sorted(item.exact)}, its policy table gives {sorted(found)}."
        return
    reference = task.reference()
    scale = 0.0 if reference is None else reference.uniform_exploitability
    for name, value in found.items():
        off = abs(item.exact[name] - value)
        if not off <= tolerance * max(scale, abs(value), 1e-3):
            yield f"exact.{name} is {item.exact[name]!r}, its policy table gives {value!r}."


BLOB_CHECKS: tuple[Check, ...] = (check_checkpoint, check_trace)
