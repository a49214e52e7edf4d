"""Reading npy files of other people: plain numbers, of exactly the size that the header declares.

A pickled array (object type) is refused before anything of it is read.
"""

from __future__ import annotations

import ast
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.open import open_regular

MAX_HEADER = 10_000  # bytes
MAGIC = b"\x93NUMPY"
FAULTS = (
    LookupError,
    TypeError,
    ValueError,
    SyntaxError,
    MemoryError,
    RecursionError,
    struct.error,
)


def read(path: Path, ndim: Sequence[int] | None = None) -> Array:
    """A float, integer or boolean array of one of the given numbers of axes, in memory.

    Floating-point numbers of any width come as float32, which is how this suite stores them.
    Raises UserError where the file is not there, not npy, pickled, cut short or too long.
    """
    with os.fdopen(open_regular(path), "rb") as handle:
        dtype, fortran, shape = _header(handle, path)
        if dtype.hasobject:
            raise UserError(f"{path} holds Python objects (a pickle), expected plain numbers.")
        if dtype.kind not in "fiub" or not dtype.isnative or dtype.itemsize > 8:
            raise UserError(f"{path} has the type {dtype}, expected plain native numbers.")
        declared = dtype.itemsize * math.prod(shape)
        stored = os.fstat(handle.fileno()).st_size - handle.tell()
        if declared != stored:
            raise UserError(
                f"{path} declares {declared} bytes of numbers {shape}, the file holds {stored};"
                " copy it again."
            )
        if ndim is not None and len(shape) not in ndim:
            expected = " or ".join(str(n) for n in ndim)
            raise UserError(f"{path} has the shape {shape}, expected {expected} axes.")
        flat = np.fromfile(handle, dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return single(array)


def single(array: Array) -> Array:
    """Floating-point numbers as float32; one that is too large becomes infinite, and is found."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32) if array.dtype.kind == "f" else array


def _header(handle: BinaryIO, path: Path) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Type, order and shape: a literal of Python, which is parsed and not run."""
    head = handle.read(len(MAGIC) + 2)
    if not head.startswith(MAGIC):
        what = "an empty file" if not head else "another kind of file"
        raise UserError(f"{path} is not an npy file: it is {what}.")
    try:
        size = struct.unpack({1: "<H", 2: "<I"}[head[6]], handle.read(2 * head[6]))[0]
        if size > MAX_HEADER:
            raise ValueError("it is too long")
        value = ast.literal_eval(handle.read(size).decode("latin1"))
        shape, fortran = value["shape"], value["fortran_order"]
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not whole or not isinstance(fortran, bool):
            raise ValueError("shape or order")
        return np.dtype(value["descr"]), fortran, shape
    except FAULTS as error:
        raise UserError(f"{path} has a damaged npy header ({type(error).__name__}).") from error


def rows(array: Array, n_rows: int, path: Path, against: Path) -> Array:
    """The array, where it has as many rows as another file's."""
    if len(array) != n_rows:
        raise UserError(f"{path} has {len(array)} rows, {against.name} has {n_rows}.")
    return array
