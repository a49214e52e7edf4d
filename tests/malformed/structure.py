"""Malformed contents: types, names, shapes, attributes, and addresses that lead astray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.open import h5py, stored
from tests.dataset_files import recreate

REW = "steps/agents/rew"
ROWS = (23, 2)

Edit = Callable[[h5py.File], Any]


# ------------------------------------------------------------------------------------ addresses
def repack(path: Path, libver: str, **options: Any) -> None:
    """The same content in another version of the HDF5 format, or stored with other options."""
    other = path.with_name(path.name + ".repacked")
    with h5py.File(path, "r") as old, h5py.File(other, "w", libver=libver) as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name, array in stored(old).items():
            new.create_dataset(name, data=array[()], **options)
    other.replace(path)


def _redirect(path: Path, old: int, new: int) -> None:
    """Replace an address in the metadata, which the oldest version of HDF5 keeps unchecked."""
    content = path.read_bytes()
    assert content.count(old.to_bytes(8, "little")) == 1
    path.write_bytes(content.replace(old.to_bytes(8, "little"), new.to_bytes(8, "little")))


def _offset(path: Path, name: str) -> int:
    with h5py.File(path, "r") as file:
        return file[name].id.get_offset()


def overlapping_arrays(path: Path) -> None:
    repack(path, "earliest")
    _redirect(path, _offset(path, REW), _offset(path, "steps/agents/obs") + 64)


def array_beyond_the_end(path: Path) -> None:
    repack(path, "earliest")
    _redirect(path, _offset(path, REW), path.stat().st_size - 100)


def chunk_beyond_the_end(path: Path) -> None:
    repack(path, "earliest")
    with h5py.File(path, "a") as file:
        recreate(REW, chunks=ROWS)(file)
    with h5py.File(path, "r") as file:
        offset = file[REW].id.get_chunk_info(0).byte_offset
    _redirect(path, offset, path.stat().st_size - 100)


def compact_array(file: h5py.File) -> None:
    """Values inside the description of the array, whose size HDF5 takes on trust."""
    values = file["index/seed"][()]
    del file["index/seed"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(values.shape)
    array = h5py.h5d.create(file["index"].id, b"seed", h5py.h5t.STD_I64LE, space, plist)
    array.write(h5py.h5s.ALL, h5py.h5s.ALL, values)


# ---------------------------------------------------------------------------------------- edits
def typed(kind: Any, values: Any) -> Edit:
    """REW with values of another type."""

    def change(file: h5py.File) -> None:
        del file[REW]
        file.create_dataset(REW, data=values, dtype=kind)

    return change


def low_level(kind: Any) -> Edit:
    """An array of a type that NumPy has no name for."""

    def change(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple(ROWS)
        h5py.h5d.create(file["steps/agents"].id, b"x", kind(), space, plist)

    return change


def _odd_float() -> Any:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 24, 7, 0, 24)
    kind.set_ebias(63)
    return kind


def some_logp(file: h5py.File) -> None:
    """Two groups, one of which logs probabilities."""
    file.create_dataset("steps/agents/logp", data=np.zeros(ROWS, "<f4"))
    meta = json.loads(bytes(file.attrs["meta"]))
    meta["spec"]["groups"].append({**meta["spec"]["groups"][0], "name": "others"})
    file.attrs["meta"] = np.bytes_(json.dumps(meta).encode())
    file.copy("steps/agents", "steps/others")
    del file["steps/others/logp"]
    file.copy("final/agents", "final/others")
    del file["index/return"]
    file.create_dataset("index/return", data=np.zeros((7, 2)))


def many_objects(file: h5py.File) -> None:
    for i in range(600):
        file.create_group(f"steps/agents/{i}")


def index(name: str, where: Any, value: Any) -> Edit:
    return lambda file: file[f"index/{name}"].__setitem__(where, value)


ZEROS = np.zeros(ROWS)
COMPOUND = np.dtype([("a", "<f4")])
EDITS: dict[str, tuple[Edit, str]] = {
    # types
    "half": (typed("<f2", ZEROS), "float16, which the format does not use"),
    "double": (typed("<f8", ZEROS), "type float64"),
    "unsigned": (typed("<u8", ZEROS), "uint64, which the format does not use"),
    "big-endian floats": (typed(">f4", ZEROS), "which the format does not use"),
    "big-endian integers": (typed(">i4", ZEROS), "which the format does not use"),
    "floats of another layout": (low_level(_odd_float), "which the format does not use"),
    "bits": (low_level(h5py.h5t.STD_B8LE.copy), "plain numbers"),
    "truth values": (typed("?", ZEROS > 0), "type bool"),
    "enumeration": (typed(h5py.enum_dtype({"a": 1}, "<i4"), np.ones(ROWS, "<i4")), "does not use"),
    "complex": (typed("<c8", ZEROS.astype("<c8")), "plain numbers"),
    "text": (typed(h5py.string_dtype(), [["a", "b"]] * 23), "plain numbers"),
    "fixed text": (typed("S5", np.full(ROWS, b"a")), "plain numbers"),
    "lists": (
        lambda file: file.create_dataset("steps/agents/x", ROWS, h5py.vlen_dtype("<i4")),
        "plain numbers",
    ),
    "compound": (typed(COMPOUND, np.zeros(ROWS, COMPOUND)), "plain numbers"),
    "opaque": (typed(np.dtype("V8"), np.zeros(ROWS, "V8")), "plain numbers"),
    "array type": (low_level(lambda: h5py.h5t.array_create(h5py.h5t.IEEE_F32LE, (2,))), "plain"),
    "references": (
        lambda file: file.create_dataset("steps/agents/x", ROWS, h5py.ref_dtype),
        "plain numbers",
    ),
    "named type": (lambda file: file.__setitem__("kind", np.dtype("<f4")), "neither a group nor"),
    "null space": (
        lambda file: file.create_dataset("steps/agents/x", data=h5py.Empty("<f4")),
        "is no array",
    ),
    "scalar": (lambda file: file.create_dataset("steps/agents/x", data=np.float32(1)), "no array"),
    # structure
    "unknown name": (lambda file: file.create_dataset("extra", data=np.ones(3)), "/extra"),
    "missing array": (lambda file: file.__delitem__(REW), "missing"),
    "missing group": (lambda file: file.__delitem__("final"), "missing"),
    "wrong length": (recreate(REW, data=np.zeros((22, 2), "<f4")), "shape"),
    "wrong agents": (recreate(REW, data=np.zeros((23, 3), "<f4")), "shape"),
    "wrong rank": (recreate(REW, data=np.zeros(46, "<f4")), "shape"),
    "no episode": (recreate("index/start", data=np.zeros(1, "<i8")), "no episode"),
    "logp of one group": (some_logp, "some groups only"),
    "many objects": (many_objects, "more than 512 objects"),
    "deep groups": (lambda file: file.create_group("/".join("abcdefgh")), "nested deeper than"),
    "start falls": (index("start", 1, 23), "rise strictly"),
    "start past the end": (index("start", -1, 99), "rise strictly"),
    "start below zero": (index("start", 0, -1), "rise strictly"),
    "start stands still": (index("start", 2, 5), "rise strictly"),
    "flag of 7": (index("terminated", 0, 7), "expected 0 or 1"),
    "truncated of 255": (index("truncated", 6, 255), "expected 0 or 1"),
    "changed value": (lambda file: file[REW].__setitem__((3, 1), 9.0), "damaged: its values"),
    "changed seed": (index("seed", 2, 8), "damaged: its values"),
    "added array": (
        lambda file: file.create_dataset("steps/agents/logp", data=ZEROS.astype("<f4")),
        "damaged: its values",
    ),
}
