"""The page of tasks, docs/tasks.md: prose by hand, its tables from the registry and references."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

from benchmark import registry, render
from benchmark.cli import ROOT
from benchmark.errors import UserError
from benchmark.task import Task

PAGE = ROOT / "docs" / "tasks.md"
FIGURES = "../leaderboard/figures/tasks"
HEAD = ["task", "agents", "observation", "action", "steps", "metric", "random", "expert", "extra"]


def filled() -> str:
    """The page with each `<!-- begin:tasks NAMESPACE -->` block filled with its tasks' table."""
    text = PAGE.read_text()
    blocks = re.compile(r"<!-- begin:tasks (\S+) -->.*?<!-- end:tasks -->", re.S)
    named = set(blocks.findall(text))
    known = {task_id.split("/")[0] for task_id in registry.task_ids()}
    if missing := sorted(known - named):
        raise UserError(
            f"{PAGE.relative_to(ROOT)} has no table for {missing[0]}/ tasks; add the lines"
            f" <!-- begin:tasks {missing[0]} --> and <!-- end:tasks -->."
        )
    return blocks.sub(
        lambda match: f"<!-- begin:tasks {match[1]} -->\n{table(match[1])}\n<!-- end:tasks -->",
        text,
    )


def table(namespace: str) -> str:
    """One row a task, and a row of moving pictures below."""
    names = [name for name in registry.task_ids() if name.startswith(namespace + "/")]
    lines = [_line(HEAD), "|---" * len(HEAD) + "|"]
    lines += [_line(cells(registry.task(name))) for name in names]
    own = [name for name in render.games() if name.startswith(namespace + "/")]
    pictures = [
        f'<img src="{FIGURES}/{name.replace("/", "--")}.gif" width="270" alt="{name}">'
        for name in own
    ]
    return "\n".join([*lines, "", *pictures])


def cells(task: Task) -> tuple[str, ...]:
    spec, reference = task.spec, task.reference()
    if spec.n_obs is not None:
        observation = "none" if spec.n_obs == 1 else f"{spec.n_obs} states"
    else:
        widths = sorted({group.obs_dim for group in spec.groups})
        observation = " or ".join(map(str, widths)) + (" number" if widths == [1] else " numbers")
    if spec.n_actions is not None:
        action = f"{spec.n_actions} choices"
    else:
        action = " or ".join(f"[-1, 1]^{n}" for n in sorted({g.act_dim for g in spec.groups}))
    metric = spec.metric
    random = expert = "not measured"
    if reference is not None and metric == "exploitability":
        random, expert = _number(reference.uniform_exploitability), "0"
    elif reference is not None:
        random, expert = _number(reference.random), _number(reference.expert)
    return (
        f"`{spec.id}`",
        f"{spec.n_agents:,}",
        observation,
        action,
        f"{spec.horizon:,}",
        metric,
        random,
        expert,
        ", ".join(needed(task)),
    )


def needed(task: Task) -> list[str]:
    """Optional extras of the project that install a package of this task."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        extra
        for extra, asked in project["optional-dependencies"].items()
        if {re.split(r"[<>=\[]", line)[0] for line in asked} & set(task.spec.packages)
    ]


def _number(value: float) -> str:
    if abs(value) < 5e-4:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.3f}"


def _line(items: Iterable[str]) -> str:
    return f"| {' | '.join(items)} |"
