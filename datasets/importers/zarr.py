"""The zarr arrays of an OCDBT store, as vaults hold them: metadata and every chunk are checked
before tensorstore decodes anything.
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers.npy import single

DTYPES = {"<f4", "<f8", "<i2", "<i4", "<i8", "|b1", "|i1", "|u1"}
COMPRESSORS = ("gzip", "zlib", "blosc")
MAX_METADATA = 1 << 20  # bytes of a JSON document
MAX_CHUNK = 256 << 20  # bytes of one chunk once inflated
MAX_LEAF = 16 << 30  # values of an array
MAX_ROWS = 1 << 32
FAULTS = (ValueError, RuntimeError, OSError, KeyError, TypeError, IndexError, AttributeError)


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object of bounded size; `where` is what errors name."""
    try:
        if len(text) > MAX_METADATA:
            raise ValueError("it is too long")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON metadata ({error}).") from error
    return value


def _tensorstore() -> ModuleType:
    try:
        import tensorstore
    except ModuleNotFoundError as error:
        raise UserError(
            "vaults need the package tensorstore; install it with"
            " `pip install 'offline-marl-bench[formats]'`."
        ) from error
    return tensorstore


class Store:
    """The zarr arrays of an OCDBT store, each checked before it is decoded."""

    def __init__(self, path: Path) -> None:
        self.path, self.ts = path, _tensorstore()
        base = {"driver": "file", "path": f"{path.resolve()}/"}
        self.spec = {"driver": "ocdbt", "base": base}
        if not (path / "manifest.ocdbt").exists():
            raise UserError(f"{path}: manifest.ocdbt is missing, expected a flashbax vault.")
        try:
            self.store = self.ts.KvStore.open(self.spec).result()
        except FAULTS as error:
            raise self._damaged("manifest.ocdbt", error) from error

    def _damaged(self, name: str, error: BaseException) -> UserError:
        text = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return UserError(f"{self.path}: {name} is damaged ({text}).")

    def _get(self, key: str) -> bytes | None:
        try:
            found = self.store.read(key.encode()).result()
        except FAULTS as error:
            raise self._damaged(key, error) from error
        return bytes(found.value) if found.state == "value" else None

    def metadata(self, name: str) -> tuple[str, dict[str, Any]]:
        """Stored name and checked zarr metadata of a leaf."""
        for stored in (f"{name}.", name):
            text = self._get(f"{stored}/.zarray")
            if text is not None:
                break
        else:
            raise UserError(f"{self.path}: {name} is missing from the store.")
        where = f"{self.path}: {stored}/.zarray"
        found = parse_json(text, where)
        sizes = [found.get("shape"), found.get("chunks")]
        shape, chunks = (s if isinstance(s, list) else [] for s in sizes)
        whole = all(type(n) is int and n > 0 for n in shape + chunks)
        if not shape or len(shape) != len(chunks) or not whole:
            raise UserError(f"{where}: shape {sizes[0]} and chunks {sizes[1]} are no sizes.")
        kind, compressor = found.get("dtype"), found.get("compressor")
        if not isinstance(kind, str) or kind not in DTYPES:
            raise UserError(f"{where}: type {kind!r}, expected one of {sorted(DTYPES)}.")
        if found.get("filters") or found.get("dimension_separator", ".") != ".":
            raise UserError(f"{where}: filters or separators that vaults do not have.")
        named = compressor.get("id") if isinstance(compressor, dict) else compressor
        if named is not None and named not in COMPRESSORS:
            raise UserError(f"{where}: compressor {named!r}, expected one of {COMPRESSORS}.")
        if self._nominal(found) > MAX_CHUNK:
            raise UserError(f"{where}: chunks of {self._nominal(found)} bytes.")
        return stored, found

    @staticmethod
    def _nominal(metadata: dict[str, Any]) -> int:
        size = np.dtype(metadata["dtype"]).itemsize
        for n in metadata["chunks"]:
            size *= n
        return size

    def shape(self, name: str) -> list[int]:
        return self.metadata(name)[1]["shape"]

    def count(self) -> int:
        """Valid rows."""
        found = self._read("vault_index", (slice(0, 1),))
        if found.shape != (1,) or found.dtype.kind not in "iu" or not 0 < found[0] <= MAX_ROWS:
            raise UserError(f"{self.path}: vault_index is {found.tolist()}, expected some rows.")
        return int(found[0])

    def leaf(self, name: str, n_rows: int) -> Array:
        """The valid rows of a leaf [1, S, ...] -> [S, ...]."""
        shape = self.shape(name)
        if len(shape) < 2 or shape[0] != 1 or shape[1] < n_rows:
            raise UserError(
                f"{self.path}: {name} has the shape {shape}, expected [1, {n_rows} or more, ...]."
            )
        if np.prod(shape[2:], dtype=np.float64) * n_rows > MAX_LEAF:
            raise UserError(f"{self.path}: {name} declares {n_rows} rows of {shape[2:]}.")
        return single(self._read(name, (slice(0, 1), slice(0, n_rows)))[0])

    def _read(self, name: str, region: tuple[slice, ...]) -> Array:
        stored, metadata = self.metadata(name)
        sizes = [part.stop for part in region] + metadata["shape"][len(region) :]
        grid = [range(-(-n // c)) for n, c in zip(sizes, metadata["chunks"], strict=True)]
        for index in itertools.product(*grid):
            self._check_chunk(f"{stored}/{'.'.join(map(str, index))}", metadata)
        spec = {"driver": "zarr", "kvstore": {**self.spec, "path": stored}}
        try:
            opened = self.ts.open(spec, open=True, read=True).result()
            return np.asarray(opened[region].read().result())
        except FAULTS as error:
            raise self._damaged(stored, error) from error

    def _check_chunk(self, key: str, metadata: dict[str, Any]) -> None:
        """A chunk is there, and is no larger once inflated than it declares."""
        raw, nominal = self._get(key), self._nominal(metadata)
        if raw is None:
            raise UserError(f"{self.path}: the chunk {key} is missing.")
        kind = (metadata.get("compressor") or {}).get("id")
        try:
            if kind == "blosc":
                size = struct.unpack_from("<I", raw, 4)[0]
            elif kind is None:
                size = len(raw)
            else:
                size = len(zlib.decompressobj(wbits=47).decompress(raw, nominal + 1))
        except (zlib.error, struct.error) as error:
            raise self._damaged(f"the chunk {key}", error) from error
        if size != nominal:
            raise UserError(
                f"{self.path}: the chunk {key} holds {size} bytes or more, expected {nominal}."
            )
