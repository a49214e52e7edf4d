"""The dataset file: guards against malformed files, writer, hash, cards, linter, recorder."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.errors import UserError
from benchmark.task import Group, TaskSpec
from datasets.open import h5py, open_hdf5, stored
from datasets.schema import content_sha256
from datasets.writer import Writer

SPEC = TaskSpec(id="toy/pair-v1", groups=(Group("agents", 2, obs_dim=3, act_dim=2),), horizon=5)
ROOT = Path(__file__).parents[1]


def episodes(
    spec: TaskSpec, n: int = 4, length: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Random arguments of Writer.append."""
    rng = np.random.default_rng(seed)
    t = length or spec.horizon
    shape = (n, t + 1, spec.n_agents)
    if spec.n_obs is not None:
        obs = rng.integers(spec.n_obs, size=(*shape, 1))
    else:
        widths = np.repeat([g.obs_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        obs = rng.normal(size=(*shape, spec.obs_dim)) * (np.arange(spec.obs_dim) < widths[:, None])
    steps = (n, t, spec.n_agents)
    if spec.n_actions is not None:
        act = rng.integers(spec.n_actions, size=steps)
    else:
        widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        act = rng.uniform(-1, 1, (*steps, spec.act_dim)) * (
            np.arange(spec.act_dim) < widths[:, None]
        )
    return {
        "obs": obs[:, :-1],
        "act": act,
        "rew": rng.normal(size=steps),
        "final_obs": obs[:, -1],
        "terminated": np.arange(n) % 2 == 0 if t < spec.horizon else np.zeros(n, bool),
        "seeds": np.arange(n),
        "policy": np.arange(n) % 3,
    }


def write(path: Path, spec: TaskSpec = SPEC, **options: Any) -> Path:
    with Writer(path, spec, id="toy/pair/medium-v1", **options) as writer:
        writer.append(**episodes(spec))
        writer.append(**episodes(spec, 3, 1, seed=1) | {"terminated": np.ones(3, bool)})
    return path


def edit(path: Path, change: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def set_meta(path: Path, **changes: Any) -> None:
    """Rewrite fields of the description; dotted names reach into the spec."""

    def change(file: h5py.File) -> None:
        meta = json.loads(bytes(file.attrs["meta"]))
        for name, value in changes.items():
            (meta["spec"] if name in meta["spec"] else meta)[name] = value
        file.attrs["meta"] = np.bytes_(json.dumps(meta).encode())

    edit(path, change)


def rehash(path: Path) -> None:
    with h5py.File(path, "r") as file:
        spec = json.loads(bytes(file.attrs["meta"]))["spec"]
        content = content_sha256(spec["id"], stored(file))
    set_meta(path, content_sha256=content)


def recreate(name: str, **options: Any) -> Callable[[h5py.File], None]:
    """Store an array again with other options, such as a chunk shape or a filter."""

    def change(file: h5py.File) -> None:
        data = options.pop("data", None)
        values = file[name][()] if data is None else data
        del file[name]
        file.create_dataset(name, data=values, **options)

    return change


# ---------------------------------------------------------------------------- malformed files
REW = "steps/agents/rew"


def external_storage(file: h5py.File) -> None:
    del file[REW]
    file.create_dataset(REW, (23, 2), "<f4", external=[("/etc/passwd", 0, 184)])


def virtual(file: h5py.File) -> None:
    del file[REW]
    layout = h5py.VirtualLayout((23, 2), "<f4")
    layout[:] = h5py.VirtualSource("/tmp/none.hdf5", "x", (23, 2))
    file.create_virtual_dataset(REW, layout)


def soft_link(file: h5py.File) -> None:
    del file[REW]
    file[REW] = h5py.SoftLink("/steps/agents/obs")


def external_link(file: h5py.File) -> None:
    del file["steps/agents"]
    file["steps/agents"] = h5py.ExternalLink("/tmp/other.hdf5", "/steps/agents")


def alias(file: h5py.File) -> None:
    values = file["final/agents/obs"]
    del file[REW]
    file[REW] = values


def cycle(file: h5py.File) -> None:
    file["steps/again"] = file["steps"]


def bomb(file: h5py.File) -> None:
    """A chunk that inflates far past its declared size."""
    del file[REW]
    made = file.create_dataset(REW, (23, 2), "<f4", chunks=(23, 2), compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(200_000), 9)[:230])


def inflating(file: h5py.File) -> None:
    del file[REW]
    made = file.create_dataset(REW, (23, 2), "<f4", chunks=(23, 2), compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(20_000), 9))


def oversized_chunk(file: h5py.File) -> None:
    del file[REW]
    made = file.create_dataset(REW, (23, 2), "<f4", chunks=(23, 2))
    made.id.write_direct_chunk((0, 0), bytes(5_000))


def some_logp(file: h5py.File) -> None:
    """Two groups, one of which logs probabilities."""
    file.create_dataset("steps/agents/logp", data=np.zeros((23, 2), "<f4"))
    meta = json.loads(bytes(file.attrs["meta"]))
    meta["spec"]["groups"].append({**meta["spec"]["groups"][0], "name": "others"})
    file.attrs["meta"] = np.bytes_(json.dumps(meta).encode())
    file.copy("steps/agents", "steps/others")
    del file["steps/others/logp"]
    file.copy("final/agents", "final/others")
    del file["index/return"]
    file.create_dataset("index/return", data=np.zeros((7, 2)))


def missing_chunks(file: h5py.File) -> None:
    del file[REW]
    file.create_dataset(REW, (23, 2), "<f4", chunks=(4, 2))


def many_objects(file: h5py.File) -> None:
    for i in range(600):
        file.create_group(f"steps/agents/{i}")


def deep(file: h5py.File) -> None:
    file.create_group("/".join("abcdefgh"))


def typed(kind: Any, values: Any = None) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[REW]
        if values is None:
            file.create_dataset(REW, (23, 2), kind)
        else:
            file.create_dataset(REW, data=values, dtype=kind)

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


EDITS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external storage": (external_storage, "another file"),
    "virtual dataset": (virtual, "virtual"),
    "soft link": (soft_link, "link"),
    "external link": (external_link, "link"),
    "alias": (alias, "second name"),
    "cycle": (cycle, "second name"),
    "damaged chunk": (bomb, "chunk"),
    "inflating chunk": (inflating, "inflates"),
    "oversized chunk": (oversized_chunk, "larger than it declares"),
    "logp of one group": (some_logp, "some groups only"),
    "null space": (
        lambda file: file.create_dataset("steps/agents/x", data=h5py.Empty("<f4")),
        "is no array",
    ),
    "many attributes": (
        lambda file: [file.attrs.__setitem__(f"a{i}", i) for i in range(80)],
        "82 attributes",
    ),
    "meta a number": (attribute("meta", 3), "'meta' is missing"),
    "missing chunks": (missing_chunks, "lacks chunks"),
    "unwritten": (typed("<f4"), "does not hold"),
    "lzf filter": (recreate(REW, chunks=(4, 2), compression="lzf"), "filter"),
    "scale-offset filter": (recreate(REW, chunks=(4, 2), scaleoffset=3), "filter"),
    "huge chunk": (
        recreate(REW, data=np.zeros((9_000_000, 2), "<f4"), chunks=(9_000_000, 2)),
        "ch",
    ),
    "huge shape": (
        lambda file: file.create_dataset("steps/agents/x", (2**50,), "<f4", chunks=(1024,)),
        "declares",
    ),
    "many objects": (many_objects, "objects"),
    "deep groups": (deep, "nested"),
    "big-endian": (typed(">f4", np.zeros((23, 2))), "type"),
    "half": (typed("<f2", np.zeros((23, 2))), "type"),
    "double": (typed("<f8", np.zeros((23, 2))), "float64"),
    "complex": (typed("<c8", np.zeros((23, 2), "<c8")), "plain numbers"),
    "text array": (typed(h5py.string_dtype(), [["a", "b"]] * 23), "plain numbers"),
    "compound": (typed(np.dtype([("a", "<f4")]), np.zeros((23, 2), [("a", "<f4")])), "plain"),
    "opaque": (typed(np.dtype("V8"), np.zeros((23, 2), "V8")), "plain numbers"),
    "enum": (typed(h5py.enum_dtype({"a": 1}, "<i4"), np.ones((23, 2), "<i4")), "type"),
    "unknown name": (lambda file: file.create_dataset("extra", data=np.ones(3)), "/extra"),
    "missing array": (lambda file: file.__delitem__(REW), "missing"),
    "wrong length": (recreate(REW, data=np.zeros((22, 2), "<f4")), "shape"),
    "wrong agents": (recreate(REW, data=np.zeros((23, 3), "<f4")), "shape"),
    "no episode": (recreate("index/start", data=np.zeros(1, "<i8")), "no episode"),
    "start falls": (
        lambda file: file["index/start"].__setitem__(1, 23),
        "rise strictly",
    ),
    "start past the end": (lambda file: file["index/start"].__setitem__(-1, 99), "rise strictly"),
    "flag of 7": (lambda file: file["index/terminated"].__setitem__(0, 7), "expected 0 or 1"),
    "other format": (attribute("format", np.bytes_("d4rl")), "another kind"),
    "no meta": (lambda file: file.attrs.__delitem__("meta"), "meta"),
    "meta no JSON": (attribute("meta", np.bytes_("{")), "meta"),
    "meta nested": (attribute("meta", np.bytes_("[" * 30_000)), "meta"),
    "meta a list": (attribute("meta", np.bytes_("[1]")), "meta"),
    "variable-length text": (attribute("meta", "{}"), "attribute"),
    "reference attribute": (
        lambda file: file.attrs.__setitem__("ref", file["steps"].ref),
        "attribute",
    ),
    "changed value": (lambda file: file[REW].__setitem__((3, 1), 9.0), "damaged"),
    "named type": (lambda file: file.__setitem__("kind", np.dtype("<f4")), "neither"),
}
GROUP = {"name": "agents", "n_agents": 2, "obs_dim": 3, "act_dim": 2}
META_EDITS = {
    "no groups": {"groups": []},
    "two groups of one name": {"groups": [GROUP, GROUP]},
    "no action width": {"groups": [{**GROUP, "act_dim": 0}]},
    "wide finite observations": {"n_obs": 4},
    "hash a number": {"content_sha256": 7},
    "negative agents": {"groups": [{"name": "agents", "n_agents": -1, "obs_dim": 3, "act_dim": 2}]},
    "text as a number": {"horizon": "5"},
    "huge observation space": {"n_obs": 2**40},
    "path as a group": {"groups": [{"name": "../x", "n_agents": 2, "obs_dim": 3, "act_dim": 2}]},
    "unknown field": {"loader": "os.system"},
    "bad task": {"id": "../../etc"},
}


@pytest.mark.parametrize("case", EDITS)
def test_a_malformed_file_is_refused_with_one_sentence(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    change, words = EDITS[case]
    edit(path, change)
    with pytest.raises(UserError, match=words) as caught:
        datasets.load_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["big-endian", "half", "enum"])
def test_the_guard_refuses_odd_types_before_any_schema(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    edit(path, EDITS[case][0])
    with pytest.raises(UserError, match="which the format does not use"):
        open_hdf5(path)


def test_a_dataset_id_must_be_one(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.hdf5", SPEC, id="../../etc") as writer:
        writer.append(**episodes(SPEC))
    with pytest.raises(UserError, match="namespace/name/tier-vN"):
        datasets.load_file(tmp_path / "a.hdf5")


@pytest.mark.parametrize("case", META_EDITS)
def test_a_description_never_gets_past_its_checks(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    set_meta(path, **META_EDITS[case])
    with pytest.raises(UserError, match="meta"):
        datasets.load_file(path)


NOT_HDF5 = {
    "empty": (b"", "empty"),
    "gzip": (gzip.compress(b"x" * 100), "gzip"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip"),
    "html": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "LFS"),
    "text": (b"obs,act,rew\n1,2,3\n", "text"),
    "noise": (bytes(range(256)), "no known kind"),
    "header only": (b"\x89HDF\r\n\x1a\n", "damaged"),
    "header and zeros": (b"\x89HDF\r\n\x1a\n" + bytes(500), "damaged"),
}


@pytest.mark.parametrize("case", NOT_HDF5)
def test_what_is_no_hdf5_file_is_named(case: str, tmp_path: Path) -> None:
    content, words = NOT_HDF5[case]
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_hdf5(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    real = write(tmp_path / "a.hdf5")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(real)
    for name in ("fifo", "link", ".", "absent"):
        with pytest.raises(UserError):
            open_hdf5(tmp_path / name)
    with pytest.raises(UserError, match="regular"):
        open_hdf5("/dev/zero")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "a.hdf5").read_bytes()
    for size in np.linspace(1, len(content) - 1, 40).astype(int):
        (tmp_path / "b.hdf5").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut short|damaged|no known kind"):
            datasets.load_file(tmp_path / "b.hdf5")
    with pytest.raises(UserError, match="cut short"):
        datasets.load_file(tmp_path / "b.hdf5")


def test_flipped_bits_never_load_as_other_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    content, good = path.read_bytes(), datasets.load_file(path)
    obs, rew = good.obs.copy(), good.rew.copy()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            data = datasets.load_file(path)
        except UserError:
            refused += 1
            continue
        assert data.content_sha256 == good.content_sha256
        assert np.array_equal(data.obs, obs)
        assert np.array_equal(data.rew, rew)
    assert refused > 30  # most of the other bits lie in unused space


# -------------------------------------------------------------------------------- good files
@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (4, 2)},
        {"chunks": (23, 2), "compression": "gzip"},
        {"chunks": (5, 1), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (8, 2), "fletcher32": True},
    ],
    ids=["chunked", "gzip", "shuffle-gzip-fletcher", "fletcher"],
)
def test_shipping_variants_hold_the_same_data(options: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    before = datasets.load_file(path)
    rew = before.rew.copy()
    edit(path, recreate(REW, **options))
    after = datasets.load_file(path)
    assert after.content_sha256 == before.content_sha256
    assert np.array_equal(after.rew, rew)
