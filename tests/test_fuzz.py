"""Damaged dataset files: nothing but a UserError, and never other data.

`pytest tests/test_fuzz.py` tries a few hundred mutants, flips, tails and truncations, its slow part
a thousand flips. `OFFLINE_MARL_FUZZ=100000 pytest -s tests/test_fuzz.py` tries that many of each of
the two layouts (about half an hour a core). Every mutant comes from its number alone.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import datasets
from benchmark.errors import UserError
from benchmark.task import Group, TaskSpec
from datasets import library
from datasets.open import h5py, open_dataset, stored
from datasets.writer import Writer
from tests.dataset_files import episodes
from tests.malformed.structure import repack

COUNT = int(os.environ.get("OFFLINE_MARL_FUZZ", "250"))  # mutants of each layout
SECONDS = 2.0  # that no mutant may take, of processor time
SPEC = TaskSpec(
    "toy/fuzz-v1", (Group("big", 2, obs_dim=3, act_dim=2), Group("small", 1, 2, 1)), horizon=5
)
PACKED = {"compression": "gzip", "shuffle": True, "fletcher32": True}
INTERESTING = np.array([0, 1, 0x7F, 0x80, 0xFF], np.uint8)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_layouts(tmp_path_factory.mktemp("fuzz"))


def make_layouts(folder: Path) -> dict[str, Path]:
    """The working layout as the writer leaves it, and a shipping file in HDF5's oldest version,
    whose metadata have no checksums.
    """
    made = {name: folder / f"{name}.hdf5" for name in ("working", "shipping")}
    for path in made.values():
        with Writer(path, SPEC, id="toy/fuzz/medium-v1") as writer:
            writer.append(**episodes(SPEC, 12), logp=np.zeros((12, 5, 3)))
    repack(made["shipping"], "earliest", **PACKED)
    return made


def mutant(content: bytes, number: int) -> bytes:
    """One to eight changes: bits, bytes, words, blocks moved, bytes cut out or put in."""
    rng = np.random.default_rng([number, len(content)])
    data = np.frombuffer(content, np.uint8).copy()
    used = np.flatnonzero(data)  # half of the changes fall where something is written
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.choice(used) if rng.random() < 0.5 else rng.integers(len(data)))
        at = min(at, len(data) - 1)
        kind = rng.integers(7)
        if kind == 0:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[at] = rng.choice(INTERESTING)
        elif kind == 2:
            data[at : at + 8] = rng.choice(INTERESTING)
        elif kind == 3:
            data[at : at + 4] = rng.integers(256, size=len(data[at : at + 4]))
        elif kind == 4:
            size = int(rng.integers(1, 64))
            source = int(rng.integers(max(1, len(data) - size)))
            part = data[source : source + len(data[at : at + size])].copy()
            data[at : at + len(part)] = part
        elif kind == 5:
            data = np.delete(data, slice(at, at + int(rng.integers(1, 16))))
        else:
            more = rng.integers(256, size=int(rng.integers(1, 16))).astype(np.uint8)
            data = np.insert(data, at, more)
        if not len(data):
            break
    return data.tobytes()


class Trial:
    """Loads files in place of a sound one and counts what happens."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.counts = path, path.read_bytes(), Counter[str]()
        self.other = path.with_suffix(".mutant.hdf5")
        sound = datasets.load_file(path, "ram")
        self.sha256 = sound.content_sha256
        self.values = {name: np.array(array) for name, array in sound.arrays.items()}
        file, self.meta = open_dataset(path)
        file.close()
        self.slowest = 0.0

    def described_alike(self) -> bool:
        """Id, task and order of agents too; HDF5's oldest version keeps no checksum of those."""
        file, meta = open_dataset(self.other)
        file.close()
        return meta == self.meta or self.path.stem == "shipping"

    def load(self, content: bytes, what: str) -> str:
        """What comes of one file: refused, same or other; an error that is no UserError fails."""
        self.other.write_bytes(content)
        begun = time.process_time()
        try:
            data = datasets.load_file(self.other, "ram")
            same = data.content_sha256 == self.sha256 and all(
                np.array_equal(np.array(data.arrays[name]), values)
                for name, values in self.values.items()
            )
            outcome = "same" if same and self.described_alike() else "other"
        except UserError as error:
            outcome = "refused" if "\n" not in str(error) else "refused at length"
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        self.slowest = max(self.slowest, time.process_time() - begun)
        self.counts[outcome] += 1
        return outcome


@pytest.fixture(params=["working", "shipping"])
def trial(request: pytest.FixtureRequest, layouts: dict[str, Path]) -> Iterator[Trial]:
    found = Trial(layouts[request.param])
    yield found
    print(f"\n{request.node.name}: {dict(found.counts)}, slowest {found.slowest:.2f} s")
    assert found.slowest < SECONDS


def test_no_mutant_raises_another_error_or_loads_as_other_data(trial: Trial) -> None:
    for number in range(COUNT):
        outcome = trial.load(mutant(trial.content, number), f"mutant {number}")
        assert outcome in ("refused", "same"), (
            f"mutant {number} of {trial.path.name} gives: {outcome}"
        )
    assert trial.counts["refused"] > 0.6 * COUNT


def test_tails_and_truncations_are_refused(trial: Trial) -> None:
    rng = np.random.default_rng(0)
    for k in range(100):
        tail = rng.bytes(int(rng.integers(1, 5_000))) if k % 2 else bytes(k + 1)
        assert trial.load(trial.content + tail, f"tail {k}") == "refused"
        length = int(rng.integers(len(trial.content)))
        assert trial.load(trial.content[:length], f"{length} bytes") == "refused"


def extents(path: Path) -> list[tuple[int, int]]:
    """Where the values of each array stand in a file, first byte and number of bytes."""
    extents = []
    with h5py.File(path, "r") as file:
        for array in stored(file).values():
            if array.chunks is None:
                extents.append((array.id.get_offset(), array.nbytes))
            else:
                chunks = [array.id.get_chunk_info(i) for i in range(array.id.get_num_chunks())]
                extents += [(chunk.byte_offset, chunk.size) for chunk in chunks]
    return extents


@pytest.mark.parametrize("flips", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_the_values_is_refused(flips: int, trial: Trial) -> None:
    """Every array in turn; of compressed chunks, the stored bytes."""
    rng = np.random.default_rng(1)
    places = extents(trial.path)
    for k in range(flips):
        first, size = places[k % len(places)]
        data = bytearray(trial.content)
        data[first + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        assert trial.load(bytes(data), f"flip {k}") == "refused"


def test_without_the_hash_a_flipped_bit_of_the_values_would_load(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the tests above: they would notice."""
    trial = Trial(layouts["working"])
    monkeypatch.setattr(library, "_verify", lambda *_: None)
    for first, _ in extents(trial.path)[-3:]:  # observations, actions and rewards
        data = bytearray(trial.content)
        data[first] ^= 1
        assert trial.load(bytes(data), f"flip at {first}") == "other"


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(trial: Trial) -> None:
    """Bytes that no array and no description uses may differ: they are not the data."""
    rng = np.random.default_rng(2)
    for k in range(100):
        data = bytearray(trial.content)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        assert trial.load(bytes(data), f"flip {k}") in ("refused", "same")
    assert trial.counts["refused"] > 5
