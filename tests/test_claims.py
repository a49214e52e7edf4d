"""Claims: verdicts are computed from records and studies, by tests that can fail."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import cli
from benchmark.errors import UserError
from leaderboard import claims, claims_table
from leaderboard.claims import Card, Finding
from leaderboard.measures import Evidence
from leaderboard.summarise import summarise
from tests.conftest import ROOT
from tests.records import DATASET, TASK, runs, scale

EXPERT = "mpe/spread/expert-v1"
HEAD = """
title = "A beats B"
method = "A"
paper = "arXiv:2305.17330"
says = "A is better."
where = "abstract"
protocol = "ours"
"""
DIFFERENCE = f"""
[[test]]
measure = "contrast"
terms = [{{ row = "omar", datasets = ["{DATASET}"] }},
         {{ row = "td3bc", datasets = ["{DATASET}"], weight = -1.0 }}]
"""
ABOVE = DIFFERENCE + "above = 0.0\n"
EQUAL = DIFFERENCE + "within = [-5.0, 5.0]\n"


def card(tmp_path: Path, tests: str, head: str = "") -> Card:
    path = tmp_path / "a-beats-b.toml"
    path.write_text(HEAD + head + tests)
    return claims.read(path)


def evidence(records: list, studies: Any = None, obstacle: str = "") -> Evidence:
    return Evidence(summarise(records, {}, scale), studies or {}, lambda row, board: obstacle)


def judge(card: Card, records: list, published: bool = False, **changes: Any) -> Finding:
    return claims.judge(card, evidence(records, **changes), lambda dataset: published)


def teams(omar: float, td3bc: float, n: int = 5, spread: float = 1.0, **changes: Any) -> list:
    noise = np.linspace(-spread, spread, n)
    return [
        *runs("omar", list(omar + noise), **changes),
        *runs("td3bc", list(td3bc + noise), **changes),
    ]


# ----------------------------------------------------------------------------------------- verdicts
@pytest.mark.parametrize(
    ("records", "verdict", "why"),
    [
        (teams(80, 70), "supported", "above 0 (5 of the 10 seeds wanted)"),
        (teams(70, 80), "not supported", "the interval is not above 0"),
        (teams(71, 70, spread=9), "not supported", "the interval is not above 0"),
        (teams(80, 70, n=3), "not yet measured", "3 seeds; a verdict wants 5"),
        (runs("omar", [80] * 5), "not yet measured", "no quick records of td3bc on " + DATASET),
        (teams(80, 70, protocol_name="smoke"), "not yet measured", "no quick records of omar"),
        (teams(80, 70, rankable=False), "not yet measured", "not the listed content"),
        (teams(80, 70)[1:], "not yet measured", "also wants training seed 0"),
    ],
)
def test_a_difference_is_judged_by_its_whole_interval(
    tmp_path: Path, records: list, verdict: str, why: str
) -> None:
    found = judge(card(tmp_path, ABOVE), records)
    assert found.verdict == verdict
    assert why in found.reason


def test_no_difference_is_an_equivalence_test_that_a_wide_interval_fails(tmp_path: Path) -> None:
    equal = card(tmp_path, EQUAL)
    assert judge(equal, teams(71, 70)).verdict == "supported"
    assert judge(equal, teams(71, 70, spread=20)).verdict == "not supported"
    assert judge(equal, teams(80, 70)).verdict == "not supported"


def test_a_failed_seed_counts(tmp_path: Path) -> None:
    records = teams(71, 70, spread=0.1)
    assert judge(card(tmp_path, ABOVE), records).verdict == "supported"
    records[0] = replace(
        records[0], status="failed", reason="x", returns=[], team_returns=[], curve={}
    )
    assert judge(card(tmp_path, ABOVE), records).verdict == "not supported"


@pytest.mark.parametrize(
    ("changes", "head", "published", "word"),
    [
        ({}, 'published_rows = ["omar"]\n', True, "reproduced"),
        ({}, "", True, "supported"),
        ({}, 'published_rows = ["omar"]\n', False, "supported"),
        ({}, 'published_rows = ["omar.paper"]\n', True, "supported"),
        ({"protocol_name": "quick"}, 'published_rows = ["omar"]\n', True, "supported"),
        ({"paper": "x (reconstruction)"}, 'published_rows = ["omar"]\n', True, "supported"),
    ],
)
def test_reproduced_is_for_the_published_method_budget_and_data(
    tmp_path: Path, changes: dict, head: str, published: bool, word: str
) -> None:
    changes = {"protocol_name": "full"} | changes
    better, worse = teams(80, 70, n=10, **changes), teams(70, 80, n=10, **changes)
    own = card(tmp_path, ABOVE, head)
    assert judge(own, better, published).verdict == word
    assert judge(own, worse, published).verdict == f"not {word}"


def test_what_the_suite_lacks_cannot_be_tested_and_says_so(tmp_path: Path) -> None:
    found = judge(card(tmp_path, ABOVE), teams(80, 70), obstacle="the suite has no such task")
    assert (found.verdict, found.reason) == ("cannot be tested", "the suite has no such task")


def test_one_failed_test_fails_the_claim_and_one_open_test_leaves_it_open(tmp_path: Path) -> None:
    other = ABOVE.replace('"td3bc"', '"nobody"')
    assert judge(card(tmp_path, ABOVE + other), teams(80, 70)).verdict == "not yet measured"
    assert judge(card(tmp_path, ABOVE + other), teams(70, 80)).verdict == "not supported"


def test_two_versions_of_an_algorithm_are_never_mixed_in_one_test(tmp_path: Path) -> None:
    """The newest version that has all records counts, even where an older one has better scores."""
    test = f"""measure = "contrast"
terms = [{{ row = "omar", datasets = ["{DATASET}", "{EXPERT}"] }}]"""

    def version(code: str, mean: float, *datasets: str) -> list:
        made = [r for d in datasets for r in runs("omar", [mean] * 5, dataset=d, code_sha256=code)]
        finished = f"2026-0{len(code)}-01T00:00:00Z"
        return [
            replace(r, key=code * 9, provenance=replace(r.provenance, finished=finished))
            for r in made
        ]

    old = version("a", 90, DATASET, EXPERT)
    assert value(tmp_path, test, [*old, *version("bb", 50, DATASET)]) == pytest.approx(90)
    assert value(tmp_path, test, [*old, *version("bb", 50, DATASET, EXPERT)]) == pytest.approx(50)
    (part,) = judge(
        card(tmp_path, "[[test]]\n" + test + "\nabove = 0.0\n"),
        [*version("a", 90, EXPERT), *version("bb", 50, DATASET)],
    ).parts
    assert part.outcome == "missing"


def test_protocols_are_never_mixed_and_the_full_one_counts_once_it_is_whole(tmp_path: Path) -> None:
    quick = teams(80, 70)
    full = teams(50, 70, n=10, protocol_name="full")
    first = [record for record in full if record.seed == 0]
    of_one_row = [record for record in full if record.algo == "omar"]
    for begun in ([], first, of_one_row):
        assert judge(card(tmp_path, ABOVE), [*quick, *begun]).verdict == "supported"
    assert judge(card(tmp_path, ABOVE), [*quick, *full]).verdict == "not supported"
    found = judge(card(tmp_path, ABOVE), first)
    assert found.verdict == "not yet measured"
    assert found.reason.startswith("there are no quick records of omar on ")


def test_a_gain_of_gains_is_one_contrast(tmp_path: Path) -> None:
    both = ABOVE.replace(
        "above",
        f'''
[[test]]
measure = "contrast"
terms = [{{ row = "omar", datasets = ["{DATASET}"] }},
         {{ row = "td3bc", datasets = ["{DATASET}"], weight = -1.0 }},
         {{ row = "omar", datasets = ["{EXPERT}"], weight = -1.0 }},
         {{ row = "td3bc", datasets = ["{EXPERT}"] }}]
above''',
    ).split("[[test]]", 2)[2]
    records = [*teams(80, 70), *teams(96, 95, dataset=EXPERT)]
    (part,) = judge(card(tmp_path, "[[test]]" + both), records).parts
    assert part.found[0].estimate.value == pytest.approx(9, abs=1e-4)
    assert part.outcome == "holds"


# ----------------------------------------------------------------------------------------- measures
def value(tmp_path: Path, test: str, records: list, **changes: Any) -> float:
    (part,) = judge(
        card(tmp_path, "[[test]]\n" + test + "\nabove = 0.0\n"), records, **changes
    ).parts
    assert part.found, part.reason
    return part.found[0].estimate.value


def test_relative_improvement_is_over_the_best_of_the_others_by_its_mean(tmp_path: Path) -> None:
    records = [*teams(60, 50), *teams(90, 70, dataset=EXPERT), *runs("icq", [1] * 5)]
    records += runs("icq", [99] * 5, dataset=EXPERT)  # mean 50, td3bc has 60
    test = f"""measure = "relative"\nrow = "omar"\nothers = ["td3bc", "icq"]
datasets = ["{DATASET}", "{EXPERT}"]"""
    assert value(tmp_path, test, records) == pytest.approx(25, abs=1e-3)
    share = value(tmp_path, test.replace("relative", "share"), records)
    assert share == 0.5  # icq has the expert data


def test_a_trend_is_the_slope_per_decade(tmp_path: Path) -> None:
    names = [f"mpe/spread/n{n}-v1" for n in (10, 100, 1000)]
    records = [
        r for i, name in enumerate(names) for r in runs("omar", [50 + 3 * i] * 5, dataset=name)
    ]
    test = f"""measure = "trend"\nrow = "omar"\nsizes = [10, 100, 1000]\ndatasets = {names}"""
    assert value(tmp_path, test, records) == pytest.approx(3, abs=1e-3)


def test_a_speed_up_is_in_environment_steps_to_the_rivals_last_return(tmp_path: Path) -> None:
    steps = [100.0, 200.0, 300.0, 400.0]

    def played(algo: str, returns: list[float]) -> list:
        curve = {"step": steps, "env_steps": steps, "return": returns}
        return runs(algo, [50] * 5, curve=curve, track="online", dataset="")

    test = f"""measure = "speed-up"\nrow = "omad"\nothers = ["masac", "matd3"]\ntask = "{TASK}\""""
    rivals = [*played("masac", [0, 1, 2, 3.0]), *played("matd3", [0, 0, 0, 1.0])]
    assert value(tmp_path, test, [*played("omad", [1, 3, 3, 3.0]), *rivals]) == 2.0
    assert value(tmp_path, test, [*played("omad", [1, 2, 2, 2.0]), *rivals]) == 0.0


STUDY = {"slopes": {"rows": [
    {"game": "a", "slope": -0.5, "low": -0.55, "high": -0.45, "x": {"seeds": [1, 1.1, 0.9, 1, 1]}},
    {"game": "b", "slope": -0.5, "low": -0.70, "high": -0.30, "x": {"seeds": [5, 1.1, 0.9, 1, 1]}},
]}}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "verdict"),
    [
        ('{ game = "a" }', "supported"),
        ('{ game = ["a", "b"] }', "not supported"),
        ('{ game = "c" }', "not yet measured"),
    ],
)
def test_every_cell_of_a_study_must_keep_the_bound(
    tmp_path: Path, where: str, verdict: str
) -> None:
    test = f"""[[test]]\nmeasure = "study"\nstudy = "slopes"\nwhere = {where}\nvalue = "slope"
within = [-0.6, -0.4]\n"""
    assert judge(card(tmp_path, test), [], studies=STUDY).verdict == verdict


def test_seeds_of_a_study_are_resampled_and_ratios_take_the_widest_interval(tmp_path: Path) -> None:
    test = """measure = "study"\nstudy = "slopes"\nwhere = { game = "b" }\nvalue = "x.seeds\""""
    (part,) = judge(card(tmp_path, f"[[test]]\n{test}\nabove = 1.5\n"), [], studies=STUDY).parts
    assert part.outcome == "fails"
    assert part.found[0].estimate.value == pytest.approx(1.8)
    study = {"s": {"rows": [{"n": "k", "ms": 10.0, "ms_low": 9.0, "ms_high": 12.0}, {
        "n": "one", "ms": 2.0, "ms_low": 1.5, "ms_high": 3.0}]}}  # fmt: skip
    minus = '[[test]]\nmeasure = "study"\nstudy = "slopes"\nwhere = { game = "b" }\n'
    minus += 'value = "x.seeds"\nminus = "x.seeds"\nwithin = [-9.0, 9.0]\n'
    (part,) = judge(card(tmp_path, minus), [], studies=STUDY).parts
    assert part.found[0].estimate.value == 0.0
    assert part.found[0].estimate.low < 0 < part.found[0].estimate.high
    ratio = """[[test]]\nmeasure = "study-ratio"\nstudy = "s"\ntop = { n = "k" }
bottom = { n = "one" }\nvalue = "ms"\nabove = 3.0\n"""
    (part,) = judge(card(tmp_path, ratio), [], studies=study).parts
    found = part.found[0].estimate
    assert (found.value, found.low, found.high) == (5.0, 3.0, 8.0)


# ---------------------------------------------------------------------------------------- the cards
CARDS = claims.load()


def test_the_headline_claims_of_the_six_papers_have_cards() -> None:
    wanted = {
        "mfdiffuser": 6, "om2p": 3, "omsd": 1, "omad": 1, "madiff": 2, "tmfpg": 3,
    }  # fmt: skip
    for name, least in wanted.items():
        assert sum(card.name.startswith(name) for card in CARDS) >= least
    assert {test.paper for card in CARDS for test in card.test} >= {10.8, 3.8, 26.3, 2.5, -0.5}


def test_no_card_holds_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="verdict: unexpected keyword argument"):
        card(tmp_path, ABOVE, 'verdict = "supported"\n')


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("", "test: field required|has no"),
        (DIFFERENCE, r"test\.0 has no bound"),
        (ABOVE.replace("contrast", "contrasts"), "contrasts"),
        (ABOVE.replace("datasets", "dataset", 1), "datasets|dataset"),
        (ABOVE.replace("0.0", '"zero"'), "above"),
        ("[[test", "cannot read claim"),
    ],
)
def test_a_malformed_card_is_named(tmp_path: Path, tests: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        card(tmp_path, tests)
    assert "a-beats-b.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_verdicts_do_not_depend_on_the_order_of_records(tmp_path: Path) -> None:
    records = [*teams(80, 70), *teams(60, 61, dataset=EXPERT)]
    cards = [card(tmp_path, ABOVE), card(tmp_path, EQUAL)]
    expected = [claims.flat(judge(one, records)) for one in cards]
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert [claims.flat(judge(one, records)) for one in cards] == expected


@pytest.mark.parametrize("kind", claims_table.FORMATS)
def test_every_format_has_the_paper_the_measurement_and_the_verdict(
    tmp_path: Path, kind: str
) -> None:
    found = [judge(card(tmp_path, ABOVE), teams(80, 70))]
    text = " ".join(re.sub(r"\\", "", claims_table.render(found, kind)).split())
    for words in ("A is better.", "10.0 [", "(5 seeds)", "supported", "abstract"):
        assert words.lower() in text.lower()
    assert claims_table.tally(found) == "1 claim: 1 supported"


def test_the_command_prints_chosen_claims_as_json_and_names_the_known_ones(capsys) -> None:
    few = str(ROOT / "leaderboard" / "results" / "probe" / "bandit" / "two-mode-v1" / "bc")
    assert cli.run(cli.parse(["claims", "omsd-b", "--format", "json", "--records", few])) == 0
    found = {item["claim"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(found) == {"omsd-bandit", "omsd-bandit-ctde"}
    assert {item["verdict"] for item in found.values()} <= set(claims.VERDICTS)
    assert found["omsd-bandit"]["tests"][0]["values"][0]["seeds"] == 10
    with pytest.raises(UserError, match="begins with osmd; known claims: cfcql-agents, madiff-"):
        cli.run(cli.parse(["claims", "osmd", "--records", few]))
