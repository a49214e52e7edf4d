"""Reading npy files of other people: plain numbers, of exactly the size that the header declares.

A pickled array (object type) is refused before anything of it is read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.open import open_regular

MAX_HEADER = 10_000  # bytes
MAGIC = b"\x93NUMPY"


def read(path: Path, ndim: Sequence[int] | None = None) -> Array:
    """A float, integer or boolean array of one of the given numbers of axes, in memory.

    Floating-point numbers of any width come as float32, which is how this suite stores them.
    Raises UserError where the file is not there, not npy, pickled, cut short or too long.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as handle:
        head = handle.read(len(MAGIC))
        if head != MAGIC:
            what = "an empty file" if not head else "another kind of file"
            raise UserError(f"{path} is not an npy file: it is {what}.")
        handle.seek(0)
        try:
            version = np.lib.format.read_magic(handle)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = reader(handle, max_header_size=MAX_HEADER)
        except (ValueError, KeyError, TypeError, SyntaxError, EOFError, RecursionError) as error:
            raise UserError(f"{path} has a damaged npy header ({type(error).__name__}).") from error
        if dtype.hasobject:
            raise UserError(f"{path} holds Python objects (a pickle), expected plain numbers.")
        if dtype.kind not in "fiub" or not dtype.isnative or dtype.itemsize > 8 or dtype.subdtype:
            raise UserError(f"{path} has the type {dtype}, expected plain native numbers.")
        if any(axis < 0 for axis in shape):
            raise UserError(f"{path} declares the shape {shape}, expected no negative axis.")
        declared, offset = dtype.itemsize, handle.tell()
        for axis in shape:
            declared *= axis
        stored = os.fstat(handle.fileno()).st_size - offset
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
    return array.astype(np.float32) if dtype.kind == "f" else array


def rows(array: Array, n_rows: int, path: Path, against: Path) -> Array:
    """The array, where it has as many rows as another file's."""
    if len(array) != n_rows:
        raise UserError(f"{path} has {len(array)} rows, {against.name} has {n_rows}.")
    return array
