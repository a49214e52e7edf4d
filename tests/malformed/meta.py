"""Malformed attributes, and descriptions of a dataset that must not get past their checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from datasets.open import h5py

Edit = Callable[[h5py.File], Any]


def attribute(name: str, value: Any) -> Edit:
    return lambda file: file.attrs.__setitem__(name, value)


def dataset_id(value: str) -> Edit:
    """`set_meta` reaches the task's id; this is the dataset's own."""

    def change(file: h5py.File) -> None:
        meta = json.loads(bytes(file.attrs["meta"]))
        file.attrs["meta"] = np.bytes_(json.dumps({**meta, "id": value}).encode())

    return change


EDITS: dict[str, tuple[Edit, str]] = {
    "many attributes": (
        lambda file: [file.attrs.__setitem__(f"a{i}", i) for i in range(80)],
        "82 attributes",
    ),
    "large attribute": (
        lambda file: file["steps"].attrs.create("x", np.zeros(9_000)),
        "attribute above",
    ),
    "attribute of variable length": (attribute("meta", "{}"), "fixed-length text"),
    "reference attribute": (
        lambda file: file.attrs.__setitem__("r", file["steps"].ref),
        "no number",
    ),
    "compound attribute": (
        lambda file: file["index/seed"].attrs.create("x", np.zeros(1, [("a", "<f4")])),
        "no number",
    ),
    "no format": (lambda file: file.attrs.__delitem__("format"), "found no format"),
    "other format": (attribute("format", np.bytes_("d4rl")), "another kind"),
    "format a number": (attribute("format", 1), "another kind"),
    "no meta": (lambda file: file.attrs.__delitem__("meta"), "'meta' is missing"),
    "meta a number": (attribute("meta", 3), "'meta' is missing"),
    "meta no JSON": (attribute("meta", np.bytes_("{")), "description"),
    "meta nested": (attribute("meta", np.bytes_("[" * 30_000)), "description"),
    "meta a list": (attribute("meta", np.bytes_("[1]")), "description"),
    "meta null": (attribute("meta", np.bytes_("null")), "description"),
    "path as a dataset": (dataset_id("../../etc"), "namespace/name/tier-vN"),
    "dataset without a tier": (dataset_id("mpe/spread-v1"), "namespace/name/tier-vN"),
    "meta of bytes": (attribute("meta", np.bytes_(b"\xff\xfe{}")), "description"),
}

GROUP = {"name": "agents", "n_agents": 2, "obs_dim": 3, "act_dim": 2}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no groups": ({"groups": []}, "1 to 64 groups"),
    "many groups": ({"groups": [{**GROUP, "name": f"g{i}"} for i in range(65)]}, "1 to 64 groups"),
    "two groups of one name": ({"groups": [GROUP, GROUP]}, "different names"),
    "path as a group": ({"groups": [{**GROUP, "name": "../x"}]}, "group's name"),
    "negative agents": ({"groups": [{**GROUP, "n_agents": -1}]}, "integers from 1"),
    "fractional agents": ({"groups": [{**GROUP, "n_agents": 2.0}]}, "integers from 1"),
    "true as a number": ({"groups": [{**GROUP, "n_agents": True}]}, "integers from 1"),
    "no action width": ({"groups": [{**GROUP, "act_dim": 0}]}, "act_dim > 0"),
    "group with code": ({"groups": [{**GROUP, "make": "os.system"}]}, "description"),
    "wide finite observations": ({"n_obs": 4}, "obs_dim = 1"),
    "huge observation space": ({"n_obs": 2**40}, "integers from 1"),
    "text as a number": ({"horizon": "5"}, "integers from 1"),
    "no horizon": ({"horizon": 0}, "integers from 1"),
    "unknown field": ({"loader": "os.system"}, "description"),
    "path as a task": ({"id": "../../etc"}, "namespace/name-vN"),
    "hash a number": ({"content_sha256": 7}, "content_sha256"),
    "hash of other data": ({"content_sha256": "0" * 64}, "damaged: its values"),
    "outcome of a reserved name": ({"outcomes": ["seed"]}, "another array"),
    "path as an outcome": ({"outcomes": ["../x"]}, "outcome's name"),
    "outcome that is not stored": ({"outcomes": ["margin"]}, "/index/margin is missing"),
}
