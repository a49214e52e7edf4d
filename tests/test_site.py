"""The page: same bytes in any order, nothing from outside, nothing that a record can inject."""

import base64
import hashlib
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmark.cli import main
from benchmark.record import Record
from leaderboard import published
from leaderboard.claims import Card, Finding, judge_all, load
from leaderboard.measures import Evidence
from leaderboard.rows import Row
from leaderboard.site import build
from leaderboard.summarise import summarise
from tests.records import DATASET, record, runs, scale

OMAR = "mpe-omar/spread-v1"
HOSTILE = "<script>alert(1)</script>\"' onload=alert(1) </style> javascript:alert(1) {{ 7*7 }}"


def page(records: Sequence[Record]) -> str:
    return build(records, summarise(records, {DATASET: 45.0}, scale))


def example() -> list[Record]:
    return [
        *runs("bc", [50, 52, 47]),
        *runs("omar", [80, 83, 79], level=2),
        record("madiff", 0, 60, paper="arXiv:2305.17330 (reconstruction)", execution="joint"),
        record("madiff", 1, failed=True, execution="joint"),
        record("madiff", 2, 90, execution="joint"),
    ]


def unpacked(text: str) -> str:
    """What the page's script adds: configurations, seeds and losses of the runs of all boards."""
    found = re.search(r'id="packed" value="([^"]+)"', text)
    assert found
    return zlib.decompress(base64.b64decode(found[1])).decode().replace("\0", "")


class Elements(HTMLParser):
    """Every element with its attributes, the texts, and the text of style and script; packed ones
    as well.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.words: list[str] = []
        self.code: dict[str, str] = {"style": "", "script": ""}
        self.feed(text + unpacked(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.code:
            self.code[self.inside] += data
        else:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_is_the_same_bytes_in_any_order_of_records() -> None:
    records = example()
    expected = page(records)
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert page(records) == expected


def test_the_page_shows_boards_floors_badges_costs_and_the_command() -> None:
    text = " ".join(" ".join(Elements(page(example())).words).split())
    for words in (
        "Offline multi-agent RL leaderboard",
        DATASET,
        "random play (0) to the expert (100)",
        "dataset mean 45.0",
        "reconstruction",
        "re-evaluated",
        "75.5 to 85.8",
        "2/3, 1 failed",
        "failed: the loss became non-finite at step 400",
        "ms/action",
        f"make bench ALGO=omar DATASET={DATASET} PROTOCOL=quick",
        "conditional on the collected dataset",
        "torch 2.13.0",
    ):
        assert words in text


def test_the_policy_admits_the_one_style_and_script_and_the_page_has_no_other() -> None:
    elements = Elements(page(example()))
    policy = elements.all("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        assert len(elements.all(kind)) == 1
        digest = hashlib.sha256(elements.code[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    for _, attributes in elements.found:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)


def test_nothing_is_loaded_from_anywhere() -> None:
    elements = Elements(page(example()))
    for tag, attributes in elements.found:
        assert "src" not in attributes
        target = attributes.get("href") or "#"
        allowed = target.startswith("#") or (tag, target) == ("link", "data:,")
        assert allowed or re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", target)
    assert "@import" not in elements.code["style"]
    assert "url(" not in elements.code["style"]


@pytest.mark.parametrize("field", ["algo", "paper", "dataset", "reason", "checkpoint_sha256"])
def test_a_record_cannot_inject_markup(field: str) -> None:
    ordinary = Elements(page([record("omar")]))
    elements = Elements(page([record(**({"algo": "omar", "status": "failed"} | {field: HOSTILE}))]))
    assert len(elements.all("script")) == len(elements.all("style")) == 1
    assert elements.code == ordinary.code
    known = {name for _, attributes in ordinary.found for name in attributes}
    assert {name for _, a in elements.found for name in a} <= known | {"hidden"}


def test_configuration_and_curve_names_are_escaped() -> None:
    curve = {"step": [0.0, 1.0], HOSTILE: [1.0, 0.5]}
    elements = Elements(page([record(config={HOSTILE: HOSTILE}, curve=curve)]))
    assert len(elements.all("script")) == 1


def test_self_reported_rows_are_hidden_only_where_there_are_verified_ones() -> None:
    def chosen(records: Sequence[Record]) -> str | None:
        options = Elements(page(records)).all("option")
        return next(o["value"] for o in options if "selected" in o)

    assert chosen(runs("omar", [80, 83, 79])) == "0"
    assert chosen(example()) == "1"


def test_hundreds_of_records_stay_under_a_megabyte() -> None:
    curve = {"step": [float(s) for s in range(100)]}
    curve |= {f"loss {i}": [s * 0.37 % 1 for s in range(100)] for i in range(6)}
    records = [
        item
        for algo in range(30)
        for item in runs(f"algorithm_{algo}", [50.0 + algo + s for s in range(10)], curve=curve)
    ]
    assert len(records) == 300
    assert len(page(records).encode()) < 1_000_000


def test_a_page_without_records_says_so() -> None:
    elements = Elements(page([]))
    assert "hidden" not in next(a for a in elements.all("p") if a.get("id") == "none")


# ------------------------------------------------------------------------ claims, published numbers
def claimed() -> list[Finding]:
    """Cards of the suite, held against the made-up rows: only one has its records."""
    rows = summarise(example(), {DATASET: 45.0}, scale)
    test = {"measure": "contrast", "above": 10.0, "terms": [{"row": "omar", "datasets": [DATASET]}]}
    card = Card("OMAR helps", "OMAR", "arXiv:2111.11188", "It says so.", "p. 1", "We try.", [test])
    cards = [replace(card, name="omar-helps"), *load()[:2]]
    return judge_all(cards, Evidence(rows, {}, lambda row, board: ""), lambda dataset: False)


def omar() -> list[Record]:
    """Records on OMAR's variant of spread, of which papers have numbers."""
    made = [*runs("omar", [30, 31, 35]), *runs("bc", [20, 22, 24])]
    return [replace(item, task=OMAR, dataset="mpe-omar/spread/medium-v1") for item in made]


def all_rows() -> list[Row]:
    rows = summarise([*example(), *omar()], {}, scale)
    return published.beside(rows, published.load(), scale)


def full_page() -> str:
    """A page with everything on it: two boards, claims, published numbers."""
    return build([*example(), *omar()], all_rows(), claimed())


def test_a_claim_is_shown_with_what_the_paper_says_and_the_runs_that_it_was_held_against() -> None:
    elements = Elements(full_page())
    text = " ".join(" ".join(elements.words).split())
    for words in (
        "OMAR helps",
        "It says so.",
        "(p. 1)",
        "We try.",
        "not yet measured",
        "3 claims:",
    ):
        assert words in text
    rows = {a["id"] for a in elements.all("tr") if a.get("class") == "claim"}
    assert "claim-omar-helps" in rows
    assert len(rows) == 3
    ids = {a["id"] for _, a in elements.found if "id" in a}
    links = {str(a["href"])[1:] for a in elements.all("a") if str(a["href"]).startswith("#")}
    assert links <= ids
    assert {f"#{name}" for name in rows} <= {a["href"] for a in elements.all("a")}


def test_published_numbers_stand_beside_ours_with_the_computed_flag() -> None:
    text = " ".join(" ".join(Elements(full_page()).words).split())
    found = [row for row in all_rows() if row.printed and row.printed.comparable != "no"]
    assert f"{len(found)} published numbers beside ours" in text
    assert "OMAR, MADiff 47.90" in text
    assert "scale only" in text
    assert "47.90 score omar" in text


def test_a_card_cannot_inject_markup() -> None:
    ordinary = Elements(full_page())
    finding = claimed()[0]
    card = replace(finding.card, title=HOSTILE, says=HOSTILE, where=HOSTILE, paper=HOSTILE)
    hostile = replace(finding, card=card, reason=HOSTILE)
    elements = Elements(build(example(), summarise(example(), {}, scale), [hostile]))
    assert len(elements.all("script")) == len(elements.all("style")) == 1
    known = {name for _, attributes in ordinary.found for name in attributes}
    assert {name for _, a in elements.found for name in a} <= known | {"hidden"}


def test_the_page_of_the_committed_records_is_under_a_megabyte(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    assert main(["site", "--out", str(page)]) == 0
    assert page.stat().st_size < 1_000_000
    assert 'id="claims"' in page.read_text()
