"""Checkpoints: one safetensors file that holds the tensors and, in its header, the plain values as
JSON. No code in it.

A file is written whole under a temporary name; the previous one is deleted only after the new one
has been read back.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import files
from benchmark.errors import UserError

TIMES = ("train_seconds", "env_seconds")  # what differs from run to run
_TENSOR = "__tensor__"
_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")


def flatten(state: Any, prefix: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Split nested dicts and lists into a JSON tree and named tensors. Raises UserError for any
    other object.
    """
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(state, torch.Tensor):
        tensors[prefix] = state.detach().cpu().contiguous().clone()
        return {_TENSOR: prefix}, tensors
    if isinstance(state, np.ndarray):
        return flatten(torch.from_numpy(np.ascontiguousarray(state)), prefix)
    if isinstance(state, dict):
        tree: Any = {}
        for key, value in state.items():
            # Optimisers key their state by integers: JSON would turn them into strings.
            name = f"int:{key}" if isinstance(key, int) else str(key)
            tree[name], more = flatten(value, f"{prefix}/{name}" if prefix else name)
            tensors |= more
        return tree, tensors
    if isinstance(state, (list, tuple)):
        tree = []
        for i, value in enumerate(state):
            item, more = flatten(value, f"{prefix}/{i}")
            tree.append(item)
            tensors |= more
        return tree, tensors
    if state is None or isinstance(state, (bool, int, float, str)):
        return state, tensors
    raise UserError(
        f"the state holds {prefix or 'itself'}, a {type(state).__name__}; state_dict is expected to"
        " return nested dicts of tensors and JSON values."
    )


def unflatten(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        return {
            int(key[4:]) if key.startswith("int:") else key: unflatten(value, tensors)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [unflatten(value, tensors) for value in tree]
    return tree


def save(path: Path, state: dict[str, Any]) -> str:
    """Write nested dicts of tensors and JSON values to `path`; returns the file's sha256."""
    from safetensors.torch import save as to_bytes

    tree, tensors = flatten(state)
    text = json.dumps(tree)
    data = to_bytes(tensors, metadata={"state": text, "sha256": _digest(text, tensors)})
    files.write_bytes(path, data)
    return files.sha256(data)


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of the plain values and the tensors; safetensors itself notices no flipped bit."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():  # no bytes of what is empty can be seen through a view
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file; UserError where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} is not there; expected a .safetensors file.")
    try:
        with safe_open(str(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(metadata["state"], tensors):
            raise ValueError("its content does not match its hash")
        state: dict[str, Any] = unflatten(json.loads(metadata["state"]), tensors)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(
            f"checkpoint {path} is damaged or not one of this suite's ({type(error).__name__}:"
            f" {error}); delete it to start again."
        ) from error
    return state


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two states differ, bit by bit; times apart."""
    if isinstance(a, dict) and isinstance(b, dict) and set(a) == set(b):
        keys = [key for key in a if key not in TIMES]
        return [p for key in keys for p in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [p for i in range(len(a)) for p in differences(a[i], b[i], f"{path}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    return [] if a == b else [path]


def path_of(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:09d}.safetensors"


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.stem.rpartition("-")[2])


def latest(folder: Path) -> Path | None:
    """The checkpoint with the highest step in a run's folder."""
    found = [path for path in folder.glob("checkpoint-*.safetensors") if _NAME.fullmatch(path.name)]
    return max(found, key=lambda path: path.name, default=None)


def save_step(folder: Path, step: int, state: dict[str, Any]) -> str:
    """Checkpoint of a step in a run's folder; older ones go once this one reads back equal."""
    path = path_of(folder, step)
    digest = save(path, state)
    if files.sha256_file(path) != digest:
        raise UserError(f"checkpoint {path} does not read back as written; is the disk sound?")
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name < path.name:
            old.unlink(missing_ok=True)
    return digest
