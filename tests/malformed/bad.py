"""Builders of malformed files. Each gets the path of a sound file and spoils it in one way; beside
it stand words of the sentence that must come.
"""

from __future__ import annotations

import gzip
import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.open import h5py
from tests.dataset_files import edit, recreate, set_meta, write
from tests.malformed import meta, structure

Build = Callable[[Path], Any]
REW = "steps/agents/rew"
ROWS = (23, 2)  # shape of REW in the sound file


def editing(change: Callable[[h5py.File], Any]) -> Build:
    return lambda path: edit(path, change)


# ------------------------------------------------------------------------ pointers out of the file
def external_storage(file: h5py.File) -> None:
    del file[REW]
    file.create_dataset(REW, ROWS, "<f4", external=[("/etc/passwd", 0, 184)])


def virtual(source: str) -> Build:
    def change(file: h5py.File) -> None:
        del file[REW]
        layout = h5py.VirtualLayout(ROWS, "<f4")
        layout[:] = h5py.VirtualSource(source, "final/agents/obs", ROWS)
        file.create_virtual_dataset(REW, layout)

    return editing(change)


def link(name: str, target: Any) -> Build:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return editing(change)


def alias(file: h5py.File) -> None:
    values = file["final/agents/obs"]
    del file[REW]
    file[REW] = values


POINTERS: dict[str, tuple[Build, str]] = {
    "external storage": (editing(external_storage), "another file"),
    "virtual dataset of another file": (virtual("/tmp/none.hdf5"), "virtual"),
    "virtual dataset of itself": (virtual("."), "virtual"),
    "soft link": (link(REW, h5py.SoftLink("/steps/agents/obs")), "link"),
    "soft link into nothing": (link(REW, h5py.SoftLink("/nowhere")), "link"),
    "soft link of a group": (link("final", h5py.SoftLink("/steps")), "link"),
    "external link": (link(REW, h5py.ExternalLink("/tmp/other.hdf5", "/x")), "link"),
    "external link of a group": (link("steps", h5py.ExternalLink("/tmp/o.hdf5", "/x")), "link"),
    "alias": (editing(alias), "second name"),
    "cycle": (editing(lambda file: file.__setitem__("steps/again", file["steps"])), "second name"),
}


# ------------------------------------------------------------------------------ bombs and filters
def raw_chunk(content: bytes, mask: int = 0, **options: Any) -> Build:
    """REW as one chunk of the given stored bytes."""

    def change(file: h5py.File) -> None:
        del file[REW]
        made = file.create_dataset(REW, ROWS, "<f4", chunks=ROWS, **options)
        made.id.write_direct_chunk((0, 0), content, mask)

    return editing(change)


def gzip_bomb(file: h5py.File) -> None:
    """256 MiB of zeros in about 300 kB, every chunk of which is what it says."""
    made = file.create_dataset("steps/agents/x", (64, 1 << 20), "<f4", chunks=(1, 1 << 20), **GZIP)
    content = zlib.compress(bytes(4 << 20), 9)
    for i in range(64):
        made.id.write_direct_chunk((i, 0), content)


def filtered(*ids: int, optional: bool = True) -> Build:
    """An empty array that declares these filters."""

    def change(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 2))
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        for number in ids:
            if number == h5py.h5z.FILTER_DEFLATE:
                plist.set_deflate(6)
            else:
                plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(ROWS)
        h5py.h5d.create(file["steps/agents"].id, b"x", h5py.h5t.IEEE_F32LE, space, plist)

    return editing(change)


def empty(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> Build:
    return editing(lambda file: file.create_dataset("steps/agents/x", shape, "<f4", chunks=chunks))


GZIP = {"compression": "gzip"}
NOISE = np.random.default_rng(0).bytes(184)
BOMBS: dict[str, tuple[Build, str]] = {
    "gzip bomb": (editing(gzip_bomb), "declares 268435456 bytes in a file of"),
    "chunk that inflates past its size": (
        raw_chunk(zlib.compress(bytes(20_000), 9), **GZIP),
        "inflates to more than 184",
    ),
    "chunk that inflates to too little": (
        raw_chunk(zlib.compress(bytes(100)), **GZIP),
        "inflates to 100 bytes instead of 184",
    ),
    "chunk cut off": (raw_chunk(zlib.compress(NOISE)[:90], **GZIP), "inflates to"),
    "chunk of noise": (raw_chunk(NOISE, **GZIP), "damaged chunk"),
    "chunk that skips its filter": (raw_chunk(bytes(184), 1, **GZIP), "skips a filter"),
    "large stored chunk": (raw_chunk(bytes(5_000), **GZIP), "larger than it declares"),
    "large plain chunk": (raw_chunk(bytes(5_000)), "chunk of 5000 bytes, expected 184"),
    "small plain chunk": (raw_chunk(bytes(80)), "chunk of 80 bytes, expected 184"),
    "wrong checksum": (raw_chunk(bytes(180) + b"12345678", fletcher32=True), "damaged"),
    "huge chunk": (empty((9_000_000,), (9_000_000,)), "chunks of 36000000 bytes"),
    "many chunks": (empty((40_000,), (1,)), "has 40000 chunks"),
    "chunks that were never written": (empty(ROWS, (4, 2)), "lacks chunks"),
    "chunk beyond the end": (structure.chunk_beyond_the_end, "beyond the end"),
    "shape of 2^60 in chunks": (empty((2**60,), (1024,)), "declares"),
    "shape of 2^38 in chunks": (empty((2**38,), (1 << 20,)), "declares"),
    "shape of 2^38": (empty((2**38,), None), "does not hold"),
    "array never written": (empty(ROWS, None), "does not hold"),
    "array beyond the end": (structure.array_beyond_the_end, "does not hold|damaged"),
    "overlapping arrays": (structure.overlapping_arrays, "overlaps"),
    "compact array": (editing(structure.compact_array), "compact"),
    "lzf": (editing(recreate(REW, chunks=(4, 2), compression="lzf")), "filters"),
    "scale-offset": (editing(recreate(REW, chunks=(4, 2), scaleoffset=3)), "filters"),
    "unknown filter": (filtered(32_015), "filters"),
    "filter of a plug-in": (filtered(307), "filters"),
    "double deflate": (filtered(1, 1), "filters"),
}


# ------------------------------------------------------------------------------ what it is at all
def content(data: bytes | Callable[[bytes], bytes]) -> Build:
    """The file's bytes replaced, or changed."""
    return lambda path: path.write_bytes(
        data if isinstance(data, bytes) else data(path.read_bytes())
    )


def special(make: Callable[[Path], Any]) -> Build:
    def build(path: Path) -> None:
        path.unlink()
        make(path)

    return build


def symlink(path: Path) -> None:
    path.symlink_to(write(path.with_name("real.hdf5")))


def unix_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # a socket's path is limited to about 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(folder)


def flip(data: bytes) -> bytes:
    """One bit of the description, which stands under a checksum."""
    changed = bytearray(data)
    changed[data.index(b"content_sha256")] ^= 1
    return bytes(changed)


SIGNATURE = b"\x89HDF\r\n\x1a\n"
NO_FILE: dict[str, tuple[Build, str]] = {
    "empty": (content(b""), "empty file"),
    "gzip": (content(gzip.compress(b"x" * 100)), "gzip file"),
    "zip": (content(b"PK\x03\x04" + bytes(60)), "zip file"),
    "web page": (content(b"<!DOCTYPE html><html>404</html>"), "web page"),
    "Git LFS pointer": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        "LFS",
    ),
    "text": (content(b"obs,act,rew\n1,2,3\n"), "text file"),
    "noise": (content(bytes(range(256))), "no known kind"),
    "NumPy file": (content(b"\x93NUMPY\x01\x00" + bytes(120)), "no known kind"),
    "data after 512 other bytes": (content(lambda data: bytes(512) + data), "no known kind"),
    "signature only": (content(SIGNATURE), "damaged"),
    "signature and zeros": (content(SIGNATURE + bytes(500)), "damaged"),
    "first half": (content(lambda data: data[: len(data) // 2]), "cut short"),
    "last byte missing": (content(lambda data: data[:-1]), "cut short"),
    "one byte more": (content(lambda data: data + b"\0"), "1 bytes after its end"),
    "another file after it": (content(lambda data: data + data), "bytes after its end"),
    "flipped bit in the header": (
        content(lambda data: data[:20] + bytes([data[20] ^ 4]) + data[21:]),
        "damaged",
    ),
    "flipped bit in the description": (content(flip), "damaged"),
    "fifo": (special(os.mkfifo), "not a regular file"),
    "symbolic link": (special(symlink), "symbolic link"),
    "folder": (special(lambda path: path.mkdir()), "regular file"),
    "socket": (special(unix_socket), "cannot read"),
    "nothing": (special(lambda path: None), "not there"),
}

CASES: dict[str, tuple[Build, str]] = {
    **POINTERS,
    **BOMBS,
    **{name: (editing(change), words) for name, (change, words) in structure.EDITS.items()},
    **{
        name: (lambda path, changes=changes: set_meta(path, **changes), words)
        for name, (changes, words) in meta.CHANGES.items()
    },
    **{name: (editing(change), words) for name, (change, words) in meta.EDITS.items()},
    **NO_FILE,
}
