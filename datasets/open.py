"""The one way in which this suite opens an HDF5 file: guarded, read-only, following nothing.

HDF5 files can point out of themselves (external storage, external and soft links, virtual
datasets), load filter libraries, and declare any size. Other people's files come through here, so
everything that the format `offmarl/1` does not need is refused before a byte of data is read. The
malformed files that it was tried on are built by `tests/malformed`.

Working files are contiguous; files for shipping may be chunked, with gzip, shuffle and fletcher32.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
import zlib
from pathlib import Path
from typing import Any

# An unknown filter id makes HDF5 load any library on its plug-in path; "::", set before HDF5
# starts, switches that off.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py
import numpy as np

from benchmark.errors import UserError
from datasets.schema import FORMAT, Meta, check_arrays, parse_meta, slabs

MAX_OBJECTS = 512  # groups and arrays in a file
MAX_DEPTH = 4
MAX_ATTRIBUTE = 1 << 16  # bytes
MAX_CHUNK = 32 << 20  # bytes of one chunk once inflated
MAX_CHUNKS = 1 << 15  # of one array
MAX_RATIO = 100  # bytes of all chunked arrays to bytes of the file; real data compress up to 15
FREE_BYTES = 64 << 20  # of chunked arrays, which any file may declare
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
DTYPES = {"<f4", "<f8", "<i2", "<i4", "<i8", "|u1", "|i1", "|b1"}
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FAULTS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


def open_hdf5(path: Path | str) -> h5py.File:
    """A read-only h5py file that has passed the guards; UserError says in one sentence why one was
    refused.
    """
    file, guard = open_unread(path)
    try:
        with damaged(path):
            if more := guard.size - _declared_end(file):
                raise UserError(f"{path} has {more} bytes after its end; copy or make it again.")
            guard.group(file.id, "", depth=1)
            guard.attributes(file.id, "")
    except BaseException:
        file.close()
        raise
    return file


def open_unread(path: Path | str) -> tuple[h5py.File, Guard]:
    """A file of which nothing was looked at yet, and the guard that each object must pass before it
    is used. For files of other projects, of which only some objects are read.
    """
    path = Path(path)
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        _recognise(path, os.pread(descriptor, 512, 0))
        name = f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else str(path)
        try:
            return h5py.File(name, "r", locking=False), Guard(path, size)
        except _FAULTS as error:
            if "truncated" in str(error):
                raise UserError(
                    f"{path} is cut short ({size} bytes are there, the file declares more);"
                    " copy or make it again."
                ) from error
            raise UserError(f"{path} is a damaged HDF5 file ({_brief(error)}).") from error
    finally:
        os.close(descriptor)


def open_dataset(path: Path | str) -> tuple[h5py.File, Meta]:
    """`open_hdf5`, plus the check that names, types and shapes are those of `offmarl/1`."""
    file = open_hdf5(path)
    try:
        with damaged(path):
            kind = file.attrs.get("format")
            if not isinstance(kind, bytes) or kind != FORMAT.encode():
                found = "no format" if kind is None else repr(kind)[:60]
                raise UserError(
                    f"{path} is an HDF5 file of another kind: expected the attribute"
                    f" format = {FORMAT!r}, found {found}."
                )
            text = file.attrs.get("meta")
            if not isinstance(text, bytes):
                raise UserError(f"{path}: the attribute 'meta' is missing.")
            meta = parse_meta(text, str(path))
            check_arrays(meta.spec, stored(file), str(path))
    except BaseException:
        file.close()
        raise
    return file, meta


def stored(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every array of an opened file by its path; the guards have bounded how many there are."""
    found: dict[str, h5py.Dataset] = {}

    def collect(group: h5py.Group, prefix: str) -> None:
        for name, item in group.items():
            if isinstance(item, h5py.Group):
                collect(item, f"{prefix}{name}/")
            else:
                found[prefix + name] = item

    collect(file, "")
    return found


def memory_map(file: h5py.File) -> mmap.mmap:
    """The whole file as read-only memory; stays valid after the file is closed or replaced."""
    return mmap.mmap(file.id.get_vfd_handle(), 0, prot=mmap.PROT_READ)


def mapped(dataset: h5py.Dataset, memory: mmap.mmap) -> np.ndarray | None:
    """A read-only view of a contiguous array; None where it is chunked."""
    offset = dataset.id.get_offset()
    if dataset.chunks is not None or offset is None:
        return None
    count = int(np.prod(dataset.shape, dtype=np.int64))
    return np.frombuffer(memory, dataset.dtype, count, offset).reshape(dataset.shape)


# ------------------------------------------------------------------------------------------ guards
def open_regular(path: Path) -> int:
    """A descriptor of a file that is no link, pipe or device; UserError where it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except OSError as error:
        what = "a symbolic link" if path.is_symlink() else (error.strerror or str(error))
        raise UserError(f"cannot read {path}: {what}; expected a regular file.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"cannot read {path}: it is not a regular file.")
    return descriptor


def _recognise(path: Path, head: bytes) -> None:
    """Name what people most often have in place of the data."""
    if head.startswith(SIGNATURE):
        return
    text = head.lstrip().lower()
    if not head:
        what = "an empty file"
    elif head.startswith(b"\x1f\x8b"):
        what = "a gzip file; unpack it first"
    elif head.startswith(b"PK\x03\x04"):
        what = "a zip file; unpack it first"
    elif text.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the data; run `git lfs pull`"
    elif text.startswith((b"<!doctype html", b"<html")):
        what = "a web page, probably an error page saved by a download"
    elif all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        what = "a text file"
    else:
        what = "of no known kind"
    raise UserError(f"{path} is not an HDF5 file: it is {what}.")


def _declared_end(file: h5py.File) -> int:
    """Size of a file by its own header, versions 0 to 3 with offsets of 8 bytes."""
    head = os.pread(file.id.get_vfd_handle(), 512, 0)
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[len(SIGNATURE)], 0)
    return int.from_bytes(head[at : at + 8], "little") if at else 0


def _brief(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


@contextlib.contextmanager
def damaged(path: Path | str) -> Any:
    """Whatever the HDF5 library raises on a damaged file, as one sentence."""
    try:
        yield
    except UserError:
        raise
    except _FAULTS as error:
        raise UserError(f"{path} is a damaged HDF5 file ({_brief(error)}).") from error


class Guard:
    """Goes through a file once and refuses what could reach out of it or blow up."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.seen: set[tuple[int, int]] = set()
        self.extents: list[tuple[int, int]] = []  # where contiguous arrays lie
        self.chunked = 0  # bytes that chunked arrays declare

    def refuse(self, name: str, what: str) -> UserError:
        return UserError(f"{self.path}: {name or '/'} {what}; refused.")

    def group(self, group: Any, prefix: str, depth: int) -> None:
        count = group.get_num_objs() if hasattr(group, "get_num_objs") else len(group)
        if len(self.seen) + count > MAX_OBJECTS:
            raise self.refuse(prefix, f"makes more than {MAX_OBJECTS} objects")
        for raw in list(group):
            shown = f"{prefix}/{raw.decode(errors='replace')[:80]}"
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise self.refuse(shown, "is a soft or external link")
            info = h5py.h5g.get_objinfo(group, raw)
            if info.objno in self.seen:
                raise self.refuse(shown, "is a second name of another object")
            self.seen.add(info.objno)
            if info.type == h5py.h5g.GROUP and depth < MAX_DEPTH:
                child = h5py.h5g.open(group, raw)
                self.attributes(child, shown)
                self.group(child, shown, depth + 1)
            elif info.type == h5py.h5g.GROUP:
                raise self.refuse(shown, f"is nested deeper than {MAX_DEPTH} groups")
            elif info.type == h5py.h5g.DATASET:
                child = h5py.h5d.open(group, raw)
                self.attributes(child, shown)
                self.dataset(child, shown)
            else:
                raise self.refuse(shown, "is neither a group nor an array")

    def attributes(self, item: Any, name: str) -> None:
        count = h5py.h5a.get_num_attrs(item)
        if count > 64:
            raise self.refuse(name, f"has {count} attributes, at most 64 are allowed")
        for index in range(count):
            attribute = h5py.h5a.open(item, index=index)
            kind = attribute.get_type()
            if kind.get_class() not in (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT) or (
                isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
            ):
                raise self.refuse(name, "has an attribute that is no number or fixed-length text")
            if attribute.get_storage_size() > MAX_ATTRIBUTE:
                raise self.refuse(name, f"has an attribute above {MAX_ATTRIBUTE} bytes")

    def dataset(self, item: Any, name: str) -> None:
        kind = item.get_type()
        if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM):
            raise self.refuse(name, "holds something other than plain numbers")
        dtype = kind.dtype
        if dtype.str not in DTYPES or dtype.metadata or h5py.h5t.py_create(dtype) != kind:
            raise self.refuse(name, f"has the type {dtype}, which the format does not use")
        space = item.get_space()
        if space.get_simple_extent_type() != h5py.h5s.SIMPLE:
            raise self.refuse(name, "is no array")
        shape = space.get_simple_extent_dims()
        declared = math.prod(shape) * dtype.itemsize
        properties = item.get_create_plist()
        if properties.get_external_count():
            raise self.refuse(name, "stores its values in another file")
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            raise self.refuse(name, "is a virtual dataset")
        if layout == h5py.h5d.CONTIGUOUS:
            offset = item.get_offset()
            if declared and (offset is None or offset + declared > self.size):
                raise self.refuse(name, f"declares {declared} bytes that the file does not hold")
            if any(first < offset + declared and offset < last for first, last in self.extents):
                raise self.refuse(name, "overlaps another array")
            self.extents.append((offset, offset + declared))
        elif layout == h5py.h5d.CHUNKED:
            self.chunked += declared
            if self.chunked > max(MAX_RATIO * self.size, FREE_BYTES):
                raise self.refuse(name, f"declares {declared} bytes in a file of {self.size}")
            self.chunks(item, name, properties, dtype.itemsize, shape)
        else:
            raise self.refuse(name, "is in compact storage, which the format does not use")

    def chunks(
        self, item: Any, name: str, plist: Any, itemsize: int, shape: tuple[int, ...]
    ) -> None:
        """Filters, and every stored chunk, whose size once inflated must be the declared one; no
        more than that is inflated.
        """
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if not set(filters) <= FILTERS or len(set(filters)) != len(filters):
            raise self.refuse(name, f"uses the filters {filters}, of which one is not allowed")
        chunk, expected = plist.get_chunk(), 1
        nominal = math.prod(chunk) * itemsize
        if nominal > MAX_CHUNK:
            raise self.refuse(name, f"has chunks of {nominal} bytes, at most {MAX_CHUNK}")
        for axis, part in zip(shape, chunk, strict=True):
            expected *= -(-axis // part)
        if expected > MAX_CHUNKS:
            raise self.refuse(name, f"has {expected} chunks, at most {MAX_CHUNKS} are allowed")
        stored: list[Any] = []
        item.chunk_iter(stored.append)
        if len(stored) != expected:
            raise self.refuse(name, f"lacks chunks ({len(stored)} of {expected})")
        deflate, checksum = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
        compressed = deflate in filters
        plain = nominal  # bytes before compression
        if checksum in filters and not (
            compressed and filters.index(deflate) < filters.index(checksum)
        ):
            plain += 4
        for info in stored:
            if info.filter_mask:
                raise self.refuse(name, "has a chunk that skips a filter")
            if info.byte_offset is None or info.byte_offset + info.size > self.size:
                raise self.refuse(name, "has a chunk beyond the end of the file")
            if not compressed and info.size != plain:
                raise self.refuse(name, f"has a chunk of {info.size} bytes, expected {plain}")
            if compressed and info.size > nominal * 1.01 + 64:
                raise self.refuse(name, "has a chunk larger than it declares")
            if compressed:
                _, raw = item.read_direct_chunk(info.chunk_offset)
                try:
                    inflated = len(zlib.decompressobj().decompress(raw, plain + 1))
                except zlib.error as error:
                    raise self.refuse(name, f"has a damaged chunk ({error})") from error
                if inflated != plain:
                    more = "more than" if inflated > plain else f"{inflated} bytes instead of"
                    raise self.refuse(name, f"has a chunk that inflates to {more} {plain}")
        if checksum in filters:  # wrong ones show in reading only
            array = h5py.Dataset(item)
            for rows in slabs(array):
                array[rows]
