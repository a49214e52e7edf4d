"""A submission: a flat folder of data, leaderboard/submissions/<id>/, and how it is read.

    submission.json                      who, what, and the sha256 of every other file
    record-<run>-seed<seed>.json         one a training seed; <run>: first 12 digits of the run key
    checkpoint-<run>.safetensors         one a group of seeds that trained together
    trace-<run>-seed<seed>.safetensors   actions of the first evaluation episodes, benchmark.trace
    report.md, plot.png                  for readers; nothing is concluded from them
    verification.json                    what `make verify` found, see leaderboard.verification

An id is <algorithm>-v<N>. A submission never changes: a change is the next version. Nothing in the
folder is ever imported or executed, and no byte is read before its file's kind and size are known.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark import files, record, strict
from benchmark.errors import UserError
from benchmark.record import Record

SCHEMA = 1
MANIFEST, VERIFICATION = "submission.json", "verification.json"
RUN = r"(?P<run>[0-9a-f]{12})"
SEED = r"-seed(?P<seed>0|[1-9][0-9]{0,8})"

# ---------------------------------------------------------------------------------------- limits
KB, MB = 2**10, 2**20
KINDS = {  # name -> bytes at most
    re.compile(r"submission\.json"): 256 * KB,
    re.compile(rf"record-{RUN}{SEED}\.json"): record.MAX_BYTES,
    re.compile(rf"checkpoint-{RUN}\.safetensors"): 64 * MB,
    re.compile(rf"trace-{RUN}{SEED}\.safetensors"): 4 * MB,
    re.compile(r"report\.md"): 256 * KB,
    re.compile(r"plot\.png"): 2 * MB,
    re.compile(r"verification\.json"): 16 * MB,
}
MAX_FILES, MAX_TOTAL = 1_000, 512 * MB
MAX_HEADER, MAX_TENSORS = 1 * MB, 4_096  # of a safetensors file
MAX_TEXT = 500  # characters of any text in a manifest or a record
ID = re.compile(r"(?P<algo>[a-z][a-z0-9_]{0,47})-v(?P<version>[1-9][0-9]{0,3})")
DATASET = re.compile(r"[a-z0-9-]{1,60}/[a-z0-9-]{1,60}/[a-z0-9-]{1,60}-v[0-9]{1,4}")
ROW = re.compile(r"[a-z][a-z0-9_]{0,63}(\.[a-z0-9_]{1,63})?")


@dataclass(frozen=True)
class File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Ends:
    """The fixed ends of a task's scale that the report was made with; they must be the suite's."""

    random: float
    expert: float
    uniform_exploitability: float


@dataclass(frozen=True)
class Manifest:
    id: str
    author: str  # a name, or "" to stay unnamed
    code: str  # https address of the algorithm's code, or ""
    protocol: str
    created: str  # UTC, ISO 8601
    references: dict[str, Ends]  # task -> ends
    files: dict[str, File]
    schema: int = SCHEMA

    @property
    def algo(self) -> str:
        return self.id.rpartition("-v")[0]


@dataclass
class Submission:
    """What a folder holds, hashes checked. Blobs are read when they are asked for."""

    folder: Path
    manifest: Manifest
    records: dict[str, Record] = field(default_factory=dict)  # file name -> record

    @property
    def sha256(self) -> str:
        """Names the submission's content: the manifest lists the hashes of the other files."""
        return files.sha256(read_bytes(self.folder, MANIFEST))

    def blob(self, name: str) -> bytes:
        """Bytes of a listed file, which must be those that the manifest names."""
        if name not in self.manifest.files:
            raise UserError(f"{self.folder / name} is missing: {MANIFEST} does not list it.")
        data = read_bytes(self.folder, name)
        found, listed = files.sha256(data), self.manifest.files[name].sha256
        if found != listed:
            raise UserError(
                f"{self.folder / name} is not the file that {MANIFEST} lists: its sha256 is"
                f" {found[:12]}..., expected {listed[:12]}...; a change needs a new version."
            )
        return data


@functools.cache
def _adapter() -> Any:
    return strict.strictly(Manifest, File, Ends)


def record_name(item: Record) -> str:
    return f"record-{item.key[:12]}-seed{item.seed}.json"


def trace_name(item: Record) -> str:
    return f"trace-{item.key[:12]}-seed{item.seed}.safetensors"


def checkpoint_name(item: Record) -> str:
    return f"checkpoint-{item.key[:12]}.safetensors"


def limit(name: str) -> int | None:
    """Bytes that a file of this name may have; None where no submission holds such a file."""
    return next((size for kind, size in KINDS.items() if kind.fullmatch(name)), None)


def folders(root: Path) -> list[Path]:
    """The submissions under a root, sorted by name and version."""
    if not root.is_dir():
        return []
    found = [
        path
        for path in root.iterdir()
        if path.name != "README.md" and not path.name.startswith(files.TEMPORARY)
    ]

    def order(path: Path) -> tuple[str, int]:
        match = ID.fullmatch(path.name)
        return (match["algo"], int(match["version"])) if match else (path.name, 0)

    return sorted(found, key=order)


def read_bytes(folder: Path, name: str) -> bytes:
    """A file of a submission: regular, no link, of a known kind and within its limit."""
    path, most = folder / name, limit(name)
    if most is None:
        raise UserError(f"{path} is of no kind that a submission holds; take it out.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as handle:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{path} is no regular file; a submission holds nothing else.")
            if found.st_size > most:
                raise UserError(f"{path} is {found.st_size} bytes long, at most {most} may be.")
            return handle.read(most)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error


def names(folder: Path) -> list[str]:
    """Names of a submission's files; UserError for what no submission may hold."""
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected a submission with its {MANIFEST}.")
    if not ID.fullmatch(folder.name):
        raise UserError(
            f"{folder}: a submission's name is <algorithm>-v<N> in lower-case ASCII, found"
            f" {folder.name!a}."
        )
    found = list(os.scandir(folder))
    if len(found) > MAX_FILES:
        raise UserError(f"{folder} holds {len(found)} files, at most {MAX_FILES} may be.")
    total = 0
    for entry in found:
        if not entry.is_file(follow_symlinks=False):
            raise UserError(f"{folder}: {entry.name!a} is no regular file; take it out.")
        most, size = limit(entry.name), entry.stat(follow_symlinks=False).st_size
        if most is None:
            raise UserError(
                f"{folder}: {entry.name!a} is of no kind that a submission holds; take it out."
            )
        if size > most:
            raise UserError(f"{folder / entry.name} is {size} bytes long, at most {most} may be.")
        total += size
    if total > MAX_TOTAL:
        raise UserError(f"{folder} is {total} bytes large, at most {MAX_TOTAL} may be.")
    return sorted(entry.name for entry in found)


def read(folder: Path) -> Submission:
    """Manifest and records of a submission; every listed file is there, no other one is.

    Raises UserError that names the file, the field and the reason. Blobs are not read.
    """
    found = set(names(folder))
    if MANIFEST not in found:
        raise UserError(f"{folder} lacks {MANIFEST}; make submit ALGO=... writes a submission.")
    source = str(folder / MANIFEST)
    manifest: Manifest = strict.parse(
        read_bytes(folder, MANIFEST), _adapter(), source, "manifest", 256 * KB
    )
    if manifest.schema != SCHEMA:
        raise UserError(f"{source} has schema {manifest.schema}, this suite reads {SCHEMA}.")
    if manifest.id != folder.name:
        raise UserError(f"{source}: id is {manifest.id!r}, expected the folder's name.")
    if not (manifest.code == "" or re.fullmatch(r"https://[!-~]+", manifest.code)):
        raise UserError(f"{source}: code is {manifest.code!r}, expected an https address or none.")
    check_texts({"author": manifest.author, "code": manifest.code}, source)
    listed = set(manifest.files)
    if VERIFICATION in listed or MANIFEST in listed:
        raise UserError(f"{source} lists itself or {VERIFICATION}; take it out of files.")
    if odd := sorted((found - {MANIFEST, VERIFICATION}) ^ listed):
        what = "is not listed" if odd[0] in found else "is listed and not there"
        raise UserError(f"{source}: {odd[0]!a} {what}.")
    submission = Submission(folder, manifest)
    for name in sorted(listed):
        if name.startswith("record-"):
            item = record.parse(submission.blob(name), str(folder / name))
            check_texts(asdict(item), str(folder / name))
            submission.records[name] = item
    if not submission.records:
        raise UserError(f"{source} lists no record.")
    return submission


def check_texts(value: Any, source: str) -> None:
    """Every text is short, printable ASCII: no look-alike letters, no turned writing."""
    for text in _texts(value):
        if len(text) > MAX_TEXT or not (text.isascii() and text.isprintable()):
            raise UserError(
                f"{source}: the text {text[:60]!a} is not printable ASCII of at most"
                f" {MAX_TEXT} characters."
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def write(
    root: Path, manifest: Manifest, blobs: dict[str, bytes], check: Callable[[Path], None]
) -> Path:
    """Write a whole submission or nothing; its folder must be new. Returns the folder.

    The manifest's `files` are filled in from `blobs`, name -> bytes. `check` gets the folder before
    it takes its place, and raises where it would not be accepted.
    """
    for name, data in blobs.items():
        most = limit(name)
        assert most is not None, name
        if len(data) > most:
            raise UserError(
                f"{name} of {manifest.id} would be {len(data)} bytes long, and at most {most} may"
                " be submitted."
            )
    total = sum(map(len, blobs.values()))
    if total > MAX_TOTAL or len(blobs) >= MAX_FILES:
        raise UserError(
            f"submission {manifest.id} would hold {len(blobs)} files of {total} bytes, at most"
            f" {MAX_FILES} of {MAX_TOTAL} may be; submit fewer datasets."
        )
    listed = {name: File(len(data), files.sha256(data)) for name, data in sorted(blobs.items())}
    values = asdict(manifest) | {"files": {name: asdict(entry) for name, entry in listed.items()}}
    with files.atomic_folder(root / manifest.id) as folder:
        for name, data in blobs.items():
            files.write_bytes(folder / name, data)
        files.write_json(folder / MANIFEST, values)
        check(folder)
    return root / manifest.id
