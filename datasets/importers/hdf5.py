"""Reading HDF5 files of other projects: only what is asked for by name is looked at, and each group
on the way and each array passes the guards of `datasets.open` first.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers.npy import single
from datasets.open import damaged, h5py, open_unread

MAX_ARRAY = 16 << 30  # bytes of one array
MAX_NAMES = 1 << 20  # of a group


class Foreign:
    """Context manager over one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file, self.guard = open_unread(path)

    def __enter__(self) -> Foreign:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.file.close()

    def names(self, group: str = "") -> list[str]:
        """Names in a group, in the order of the file."""
        with damaged(self.path):
            parent = self._find(group)
            if not isinstance(parent, h5py.h5g.GroupID):
                raise UserError(f"{self.path}: /{group} is an array, expected a group.")
            if parent.get_num_objs() > MAX_NAMES:
                raise UserError(f"{self.path}: /{group} holds more than {MAX_NAMES} objects.")
            return [name.decode(errors="replace") for name in parent]

    def has(self, name: str) -> bool:
        group, _, last = name.rpartition("/")
        return last in self.names(group)

    def read(self, name: str, ndim: tuple[int, ...] | None = None) -> Array:
        """The values of an array; float64 comes as float32, which is how this suite stores it.

        Raises UserError where it is missing, or is no plain array of one of the given numbers of
        axes.
        """
        with damaged(self.path):
            item = self._find(name)
            if not isinstance(item, h5py.h5d.DatasetID):
                raise UserError(f"{self.path}: /{name} is a group, expected an array.")
            self.guard.dataset(item, f"/{name}")
            dataset = h5py.Dataset(item)
            if dataset.nbytes > MAX_ARRAY:
                raise UserError(f"{self.path}: /{name} declares {dataset.nbytes} bytes.")
            if ndim is not None and dataset.ndim not in ndim:
                expected = " or ".join(str(n) for n in ndim)
                raise UserError(
                    f"{self.path}: /{name} has the shape {dataset.shape}, expected {expected} axes."
                )
            array = np.asarray(dataset[()])
        return single(array)

    def number(self, group: str, attribute: str) -> int | None:
        """An integer attribute of a group; None where there is none or it is something else."""
        with damaged(self.path):
            item = self._find(group)
            name = attribute.encode()
            if not h5py.h5a.exists(item, name):
                return None
            found = h5py.h5a.open(item, name)
            if not isinstance(found.get_type(), h5py.h5t.TypeIntegerID) or found.shape != ():
                return None
            value = np.empty((), found.dtype)
            found.read(value)
            return int(value)

    def _find(self, name: str) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        """The object of a path, through hard links only."""
        item, shown = h5py.h5g.open(self.file.id, b"/"), ""
        for part in filter(None, name.split("/")):
            shown += f"/{part}"
            raw = part.encode()
            if not isinstance(item, h5py.h5g.GroupID) or not item.links.exists(raw):
                raise UserError(f"{self.path}: {shown} is missing.")
            if item.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise self.guard.refuse(shown, "is a soft or external link")
            kind = h5py.h5g.get_objinfo(item, raw).type
            if kind == h5py.h5g.GROUP:
                item = h5py.h5g.open(item, raw)
            elif kind == h5py.h5g.DATASET:
                item = h5py.h5d.open(item, raw)
            else:
                raise self.guard.refuse(shown, "is neither a group nor an array")
        return item
