"""The dataset file: guards against malformed files, writer, hash, cards, linter, recorder."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.checks.dataset import CHECKS, check_dataset
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM
from benchmark.errors import UserError
from benchmark.task import Group, TaskSpec
from datasets.cardfile import measure, mismatch
from datasets.open import h5py, open_dataset, open_hdf5, stored
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


@pytest.mark.parametrize("spec", [SPEC, TEAM, CHOICE, POPULATION], ids=lambda spec: spec.id)
def test_what_is_written_is_read_back(spec: TaskSpec, tmp_path: Path) -> None:
    given = episodes(spec, 6)
    with Writer(tmp_path / "a.hdf5", spec, id="toy/pair/medium-v1") as writer:
        writer.append(**given)
    data = datasets.load_file(tmp_path / "a.hdf5")
    assert (data.n_episodes, data.n_steps) == (6, 6 * spec.horizon)
    assert np.allclose(data.spec.team(data.returns), spec.team(given["rew"].sum(1)), atol=1e-5)
    if not spec.exchangeable:
        assert np.array_equal(data.obs, given["obs"].reshape(data.obs.shape).astype(data.obs.dtype))
        assert np.array_equal(data.act, given["act"].reshape(data.act.shape).astype(data.act.dtype))
    assert not data.obs.flags.writeable
    failed = [result.line() for result in check_dataset(data) if not result.ok]
    assert not failed


def test_arrays_are_contiguous_unfiltered_and_aligned(tmp_path: Path) -> None:
    file, _ = open_dataset(write(tmp_path / "a.hdf5"))
    with file:
        for name, array in stored(file).items():
            assert array.chunks is None, name
            assert array.id.get_offset() % 64 == 0, name


def test_exchangeable_agents_are_stored_in_a_fresh_order_in_each_episode(tmp_path: Path) -> None:
    spec = replace(POPULATION, groups=(Group("agent", 50, obs_dim=1),), n_obs=50)
    given = episodes(spec, 8)
    given["obs"][:] = np.arange(50)[:, None]  # each agent shows its own number
    orders = []
    for chunks in ([8], [3, 5]):
        with Writer(tmp_path / "a.hdf5", spec, id="toy/pair/medium-v1", perm_seed=7) as writer:
            begin = 0
            for size in chunks:
                part = {name: value[begin : begin + size] for name, value in given.items()}
                writer.append(**part)
                begin += size
        data = datasets.load_file(tmp_path / "a.hdf5")
        orders.append(np.array(data.obs[data.starts[:-1], :, 0]))
    assert np.array_equal(orders[0], orders[1])  # the order does not depend on the chunks
    assert (np.sort(orders[0], 1) == np.arange(50)).all()
    assert len(np.unique(orders[0], axis=0)) == 8
    reward = np.take_along_axis(given["rew"].sum(1), orders[0], 1)  # rewards moved with the agents
    assert np.allclose(data.returns, reward, atol=1e-5)


def test_known_sizes_give_the_same_content_as_unknown_ones(tmp_path: Path) -> None:
    one = datasets.load_file(write(tmp_path / "a.hdf5"))
    two = datasets.load_file(write(tmp_path / "b.hdf5", n_steps=23, n_episodes=7))
    assert one.content_sha256 == two.content_sha256
    for sizes in ({"n_steps": 24, "n_episodes": 7}, {"n_steps": 22, "n_episodes": 7}):
        with pytest.raises(UserError, match="promised"):
            write(tmp_path / "c.hdf5", **sizes)
    assert not (tmp_path / "c.hdf5").exists()


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"act": np.zeros((4, 5, 2, 3))},
        {"rew": np.zeros((4, 5, 3))},
        {"final_obs": np.zeros((4, 2, 4))},
        {"seeds": np.full(4, 0.5)},
        {"obs": np.full((4, 5, 2, 3), "a")},
        {"logp": np.zeros((4, 5))},
    ]
    for change in bad:
        with pytest.raises(UserError), Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1") as writer:
            writer.append(**episodes(SPEC) | change)
    with (
        pytest.raises(UserError, match=r"\[0, 5\)"),
        Writer(tmp_path / "a.hdf5", POPULATION, id="a/b/c-v1") as writer,
    ):
        writer.append(**episodes(POPULATION) | {"final_obs": np.full((4, 8, 1), 5)})
    with (
        pytest.raises(UserError, match="no episode"),
        Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_writer_wants_logp_with_all_chunks_or_none_and_bounds_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed() -> None:
        with Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1") as writer:
            writer.append(**episodes(SPEC))
            writer.append(**episodes(SPEC), logp=np.zeros((4, 5, 2)))

    with pytest.raises(UserError, match="all chunks or none"):
        mixed()
    monkeypatch.setattr("datasets.writer.MAX_WAITING", 1_000)
    with pytest.raises(UserError, match="n_steps and n_episodes"):
        write(tmp_path / "a.hdf5")
    write(tmp_path / "a.hdf5", n_steps=23, n_episodes=7)


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from benchmark.task import Group, TaskSpec
from datasets.writer import Writer
spec = TaskSpec(id="toy/pair-v1", groups=(Group("agents", 2, obs_dim=3, act_dim=2),), horizon=5)
zeros = np.zeros((50, 5, 2, 3))
none = zeros[:, 0, 0, 0]
with Writer(sys.argv[1], spec, id="a/b/c-v1", n_steps=10**7, n_episodes=10**6) as writer:
    while True:
        writer.append(obs=zeros, act=zeros[..., :2], rew=zeros[..., 0], final_obs=zeros[:, 0],
                      terminated=none, seeds=none, policy=none)
        print("x", flush=True)
"""
    path = tmp_path / "a.hdf5"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(ROOT)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1  # the unfinished file, under a temporary name
    write(path)
    assert datasets.load_file(path).n_episodes == 7


# ---------------------------------------------------------------------- task, hash, card
def test_a_file_of_another_version_of_a_known_task_is_refused(tmp_path: Path) -> None:
    spec = replace(POPULATION, id="meanfield/beach-bar-n8-v1")
    with Writer(tmp_path / "a.hdf5", spec, id="meanfield/beach-bar-n8/own-v1") as writer:
        writer.append(**episodes(spec))
    with pytest.raises(UserError, match="another version of the task"):
        datasets.load_file(tmp_path / "a.hdf5")


def test_verification_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.hdf5")
    remembered = tmp_path / ".a.verified.json"
    datasets.load_file(path)
    assert not remembered.exists()  # a change in the same tick of the clock would go unseen
    os.utime(path, (1, 1))
    datasets.load_file(path)
    assert remembered.exists()
    monkeypatch.setattr("datasets.library.content_sha256", None)  # not called again
    datasets.load_file(path)
    monkeypatch.undo()
    edit(path, lambda file: file[REW].__setitem__((0, 0), 5.0))
    with pytest.raises(UserError, match="damaged") as caught:
        datasets.load_file(path)
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", str(caught.value)))) == 2


def test_content_and_not_file_bytes_decide_the_hash(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.hdf5"), write(tmp_path / "b.hdf5", source="other")
    assert one.read_bytes() != two.read_bytes()
    assert datasets.load_file(one).content_sha256 == datasets.load_file(two).content_sha256


def test_a_card_of_other_data_is_an_error_that_names_both_hashes(tmp_path: Path) -> None:
    data = datasets.load_file(write(tmp_path / "a.hdf5"))
    found = measure(data.spec, data.arrays)
    card = {"recipe_sha256": "r", "content_sha256": ["f" * 64], **found}
    with pytest.raises(UserError, match=f"{data.content_sha256}.*{'f' * 64}"):
        datasets.load_file(tmp_path / "a.hdf5", card=card)
    card["content_sha256"] = [data.content_sha256]
    assert datasets.load_file(tmp_path / "a.hdf5", card=card).card == card


def test_data_of_a_recipe_match_within_three_standard_errors() -> None:
    rng = np.random.default_rng(0)

    def found(returns: np.ndarray) -> dict[str, Any]:
        levels = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
        return {
            "counts": {"episodes": len(returns), "agents": 2},
            "statistics": {
                "return_mean": float(returns.mean()),
                "return_sd": float(returns.std(ddof=1)),
                "return_levels": levels,
                "return_quantiles": np.quantile(returns, levels).tolist(),
            },
        }

    card = {"recipe_sha256": "r", **found(rng.normal(size=1000))}
    agree = [not mismatch(card, "r", found(rng.normal(size=1000))) for _ in range(50)]
    assert np.mean(agree) > 0.9
    assert "recipe" in mismatch(card, "s", found(rng.normal(size=1000)))
    assert "mean" in mismatch(card, "r", found(rng.normal(0.3, size=1000)))
    assert "quantile" in mismatch(card, "r", found(rng.normal(0, 1.6, size=1000)))
    assert "episodes" in mismatch(card, "r", found(rng.normal(size=900)))


# ---------------------------------------------------------------------------- linter, checks
def lint_edit(**changes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for name, (index, value) in changes.items():
            file[name.replace("__", "/")][index] = value

    return change


def copy_episode(file: h5py.File) -> None:
    for name in ("obs", "act", "rew"):
        array = file[f"steps/agents/{name}"]
        array[5:10] = array[0:5]


def copy_final(file: h5py.File) -> None:
    last = file["index/start"][1:] - 1
    file["final/agents/obs"][:] = file["steps/agents/obs"][()][last]


LINTS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "neither": (lint_edit(index__truncated=(1, 0)), "done flags: 1 .* episode 1 is neither"),
    "both": (lint_edit(index__terminated=(2, 1)), "done flags: .* both"),
    "cut early": (
        lint_edit(index__terminated=(5, 0), index__truncated=(5, 1)),
        "horizon: 1 .* episode 5 after 1 steps",
    ),
    "NaN": (lint_edit(steps__agents__rew=((7, 1), np.nan)), r"NaN or infinity: .* \(7, 1\) is nan"),
    "infinity": (
        lint_edit(final__agents__obs=((2, 1, 0), np.inf)),
        r"NaN or infinity: .* \(2, 1, 0\) is inf",
    ),
    "action": (lint_edit(steps__agents__act=((9, 0, 1), 1.5)), r"range: .* \(9, 0, 1\) is 1.5"),
    "dead action": (lint_edit(steps__agents__act=((), 0.5)), "dead actions"),
    "return": (lint_edit(index__return=((3, 0), 99.0)), "returns: episode 3 .* declares 99"),
    "duplicate": (copy_episode, "duplicates: 1 .* episode 1 equals episode 0"),
    "next obs": (copy_final, "next observations"),
    "dead agent": (lint_edit(steps__agents__obs=((slice(None), 1), 0.25)), "dead agents: agent_1"),
}


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    assert datasets.lint(write(tmp_path / "a.hdf5")) == []


@pytest.mark.parametrize("case", LINTS)
def test_the_linter_finds(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    change, words = LINTS[case]
    edit(path, change)
    rehash(path)
    findings = datasets.lint(path)
    assert any(re.match(words, finding) for finding in findings), findings


def test_the_linter_finds_a_wrong_horizon_and_a_wrong_population(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    set_meta(path, horizon=3)
    assert "horizon: episode 0 has 5 steps" in datasets.lint(path)[0]
    path = write(tmp_path / "b.hdf5", POPULATION)
    edit(path, lint_edit(population__mu=((0, 0), 0.9), steps__agent__obs=((3, 2, 0), 7)))
    rehash(path)
    findings = " ".join(datasets.lint(path))
    assert "population" in findings
    assert "(3, 2, 0) is 7" in findings


def test_the_linter_reports_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("hello")
    assert "text file" in datasets.lint(tmp_path / "a.hdf5")[0]


class Broken:
    """A dataset with one method or attribute replaced."""

    def __init__(self, data: Any, **changes: Any) -> None:
        self._data, self._changes = data, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._data, name)


def spoil(method: Any, **changes: Callable[[Any], Any]) -> Any:
    """The same method with fields of its batches changed."""

    def call(*args: Any, **kwargs: Any) -> Any:
        batch = method(*args, **kwargs)
        return replace(batch, **{name: f(getattr(batch, name)) for name, f in changes.items()})

    return call


def test_each_check_fails_on_a_dataset_that_breaks_it(tmp_path: Path) -> None:
    data = datasets.load_file(write(tmp_path / "a.hdf5"))
    crowd = datasets.load_file(write(tmp_path / "b.hdf5", POPULATION))
    card = {"task": "toy/other-v1"}
    act = np.array(data.act)
    act[0] = 7
    broken = {
        "index": Broken(data, starts=data.starts[::-1]),
        "shapes": Broken(data, rew=data.rew[:, :1]),
        "values": Broken(data, act=act),
        "returns": Broken(data, returns=data.returns + 1),
        "card": Broken(data, card=card),
        "transitions": Broken(data, transitions=spoil(data.transitions, rew=lambda x: x + 1)),
        "ends": Broken(data, transitions=spoil(data.transitions, terminated=lambda x: x + 1)),
        "windows": Broken(data, windows=spoil(data.windows, obs=lambda x: x + 1)),
        "seeds": Broken(
            data, transitions=lambda rngs, n: data.transitions([rngs[0]] * len(rngs), n)
        ),
        "agents": Broken(crowd, transitions=spoil(crowd.transitions, agent=lambda x: (x + 1) % 4)),
    }
    assert set(broken) == {check.__name__.removeprefix("check_") for check in CHECKS}
    for name, subject in broken.items():
        results = {result.name: result.ok for result in check_dataset(subject)}
        assert not results[name], name


# ------------------------------------------------------------------------------------ recorder
def test_a_recorder_makes_a_dataset_of_ones_own_arrays(tmp_path: Path) -> None:
    given = episodes(SPEC, 3)
    with datasets.Recorder(tmp_path / "a.hdf5", SPEC, id="my/game/best-v1") as recorder:
        for e in range(3):
            recorder.episode(
                **{name: given[name][e] for name in ("obs", "act", "rew", "final_obs")},
                terminated=False,
                seed=e,
            )
    data = datasets.load_file(tmp_path / "a.hdf5")
    assert data.card["counts"]["episodes"] == 3
    assert data.card["content_sha256"] == [data.content_sha256]
    assert not datasets.rankable(data)
    assert datasets.lint(tmp_path / "a.hdf5") == []


def test_a_recorder_refuses_faulty_data_and_leaves_nothing(tmp_path: Path) -> None:
    given = episodes(SPEC, 2)
    given["rew"][1, 2, 0] = np.nan
    with (
        pytest.raises(UserError, match="NaN"),
        datasets.Recorder(tmp_path / "a.hdf5", SPEC, id="my/game/best-v1") as recorder,
    ):
        recorder.writer.append(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_plays_a_pettingzoo_environment(tmp_path: Path) -> None:
    from benchmark import registry

    task = registry.task("meanfield/beach-bar-n8-v1")
    rng = np.random.default_rng(0)

    def policy(obs: dict[str, Any]) -> dict[str, int]:
        return {agent: int(rng.integers(3)) for agent in obs}

    path = tmp_path / "a.hdf5"
    with datasets.Recorder(path, task.spec, id="meanfield/beach-bar-n8/own-v1") as recorder:
        recorder.rollout(task.parallel_env(), policy, episodes=5, seed=3)
    data = datasets.load_file(path)
    assert (data.n_episodes, data.n_steps) == (5, 50)
    assert data.seeds.tolist() == [3, 4, 5, 6, 7]
    assert data.truncated.all()
    assert all(result.ok for result in check_dataset(data))
