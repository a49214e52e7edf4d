"""Pictures of tasks: every game can be seen, what is drawn is so, equal plays give equal bytes."""

import io
import itertools
import re
import sys
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

import algorithms
from benchmark import checkpoint, record, registry, render, rendering
from benchmark.algorithm import build_group
from benchmark.cli import page
from benchmark.cli.options import Render
from benchmark.cli.render import FIGURES, find, run, stem
from benchmark.errors import UserError
from benchmark.rendering import battle, canvas, mpe, population
from benchmark.rendering.canvas import BLUE, BODY, HEIGHT, TOP, WHITE, WIDTH, Canvas, View, tint
from benchmark.task import Group, Task, TaskSpec

GAMES = render.games()
# One small task of each kind of drawing
KINDS = [
    "battle/skirmish-n16-hold-v1",
    "mamujoco/swimmer-2x1-v1",
    "meanfield/beach-bar-n16-v1",
    "mpe/tag-flee-v1",
    "probe/modes-n3-v1",
]


@pytest.fixture
def few(monkeypatch):
    """Short films."""
    monkeypatch.setattr(render, "FRAMES", 8)


def decoded(gif):
    """A GIF as the player shows it: frames [F, H, W, 3] and milliseconds [F]."""
    with Image.open(io.BytesIO(gif)) as image:
        frames, durations = [], []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


# ------------------------------------------------------------------------------------ every game
@pytest.mark.parametrize("name", GAMES)
def test_every_game_can_be_seen_and_moves(name, few):
    film = render.film(registry.task(name), ["random"])
    assert film.frames.dtype == np.uint8
    assert film.frames.shape[1:] == (HEIGHT, WIDTH, 3)
    assert 2 <= len(film.frames) <= 8
    scenes = film.frames[:, TOP:]  # without the title, whose clock always moves
    assert (scenes != 255).any(-1).mean() > 0.01
    assert (scenes[0] != scenes[-1]).any()
    shown, durations = decoded(film.gif())
    assert len(shown) == len(film.frames)
    assert sum(durations) < 6_000
    wrong = np.abs(shown.astype(int) - film.frames).max(-1) > 48  # a palette has few colours
    assert wrong.mean() < 0.002


def test_every_kind_is_among_the_tested():
    assert {rendering.kind(registry.task(name)) for name in KINDS} == set(rendering.KINDS.values())


@pytest.mark.parametrize("name", KINDS)
def test_equal_episodes_give_equal_bytes(name, few):
    task = registry.task(name)
    first, again = (render.film(task, ["random"]).gif() for _ in range(2))
    assert first == again
    assert first != render.film(task, ["random"], seed=7).gif()


def test_a_long_episode_is_thinned_out_and_keeps_its_end(monkeypatch):
    task = registry.task("battle/skirmish-n16-random-v1")
    whole = render.film(task, ["random"]).frames
    monkeypatch.setattr(render, "FRAMES", 8)
    thin = render.film(task, ["random"]).frames
    assert 4 <= len(thin) <= 8 < len(whole) <= 50
    np.testing.assert_array_equal(thin[0], whole[0])
    np.testing.assert_array_equal(thin[-1], whole[-1])
    assert {frame.tobytes() for frame in thin} <= {frame.tobytes() for frame in whole}


def test_several_policies_share_the_frames():
    film = render.film(registry.task("probe/xor-v1"), ["random", "expert"])
    assert len(film.frames) == render.FRAMES


# --------------------------------------------------------------------------------- what is drawn
def test_bars_are_as_high_as_shares():
    env = registry.task("meanfield/beach-bar-n256-v1").parallel_env(render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    counts = np.bincount(list(obs.values()), minlength=10)
    low = HEIGHT - population.STRIP  # the strip under the bars is blue too
    blue = (env.render()[:low] == BLUE).all(-1)  # [y, x]
    edges = np.linspace(population.LEFT, population.RIGHT, 11).astype(int)
    bars = [blue[60:, left + 8 : right - 8] for left, right in itertools.pairwise(edges)]
    heights = np.array([low - 60 - bar.any(1).argmax() for bar in bars])
    bottom = low - 60 - np.flatnonzero(bars[0].any(1))[-1]
    heights = heights - bottom
    np.testing.assert_allclose(heights / heights.sum(), counts / 256, atol=0.01)


def test_agents_stand_where_the_simulator_has_them():
    task = registry.task("mpe/spread-v1")
    env = task.arrays(1)
    drawing = mpe.Drawing(task, env)
    drawing.see(env.reset([render.SEED])[0], None, None)
    frame = rendering.frame(drawing, "", "")
    view = View(mpe.BOX, (-mpe.ROOM, -mpe.ROOM), (mpe.ROOM, mpe.ROOM))
    for i, (x, y) in enumerate(env.world.position[:, :, 0].T):
        column, row = (round(v) for v in view(x, y))
        assert tuple(frame[row, column]) == tint(canvas.AGENTS[i], BODY)


def test_bodies_are_as_large_as_their_contacts_say():
    task = registry.task("mpe/world-flee-v1")
    env = task.arrays(1)
    env.reset([0])
    radii = mpe.Drawing(task, env)._radii()
    np.testing.assert_allclose(radii, [0.075, 0.075, 0.075, 0.045, 0.2], atol=1e-9)


def test_a_battles_bars_show_who_is_left():
    task = registry.task("battle/skirmish-n16-hold-v1")
    env = task.arrays(1)
    drawing = battle.Drawing(task, env)
    drawing.see(env.reset([0])[0], None, None)
    lengths = []
    for share in (1.0, 0.5):
        drawing.alive[-1] = (share, 1.0)
        frame = rendering.frame(drawing, "", "")
        row = frame[TOP + 12 + 10 + 1]  # just below the upper edge of the first bar
        lengths.append((row == BLUE).all(-1)[battle.FIELD[2] :].sum())
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=1)
    assert drawing.note() == "margin -0.50"


def test_a_canvas_repeats_itself_and_begins_white():
    assert (Canvas().frame() == WHITE).all()
    frames = []
    for _ in range(2):
        sketch = Canvas()
        sketch.title("name", "left", "right")
        sketch.dashes([(10, 100), (90, 130), (90, 200)], BLUE)
        frames.append(sketch.frame())
    np.testing.assert_array_equal(*frames)
    assert (frames[0] != 255).any()


# ---------------------------------------------------------------------------------- other tasks
class Foreign(Task):
    """A stranger's task, with the model of another or none."""

    def __init__(self, model):
        self._model = model
        groups = (Group("agents", 4, 1),)
        self.spec = TaskSpec(id="mine/game-v1", groups=groups, horizon=1, n_actions=10, n_obs=1)

    def arrays(self, n_envs):
        return registry.task("meanfield/squeeze-n4-v1").arrays(n_envs)

    def parallel_env(self, render_mode=None):
        raise NotImplementedError

    def model(self):
        return self._model


def test_a_strangers_game_is_drawn_if_it_has_an_exact_model(few):
    squeeze = registry.task("meanfield/squeeze-n4-v1").model()
    assert len(render.film(Foreign(squeeze), ["random"]).frames) == 8
    with pytest.raises(UserError, match="mine/game-v1 cannot be drawn: drawings exist for battle"):
        render.film(Foreign(None), ["random"])


# --------------------------------------------------------------------------- policies, mistakes
def test_policies_are_found_by_name():
    spread = registry.task("mpe/spread-v1")
    for name in ("random", "expert", "medium", "assignment-controller"):
        assert hasattr(render.policy(spread, name), "act")
    with pytest.raises(UserError, match=r"unknown policy of mpe/spread-v1 'medum'.*'medium'"):
        render.policy(spread, "medum")
    with pytest.raises(UserError, match="known names: expert, random"):
        render.policy(registry.task("meanfield/squeeze-n4-v1"), "zzz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Render(), "option TASK, RUN, --all or --page: expected one"),
        (Render(task="mpe/spread-v1", run="bc-0"), "expected one of them"),
        (Render(run="bc-0"), "unknown run in runs/checkpoints 'bc-0'"),
        (Render(run="none.safetensors"), "checkpoint none.safetensors is not there"),
        (Render(run="none.json"), "cannot read record none.json"),
        (Render(task="mpe/spread-v1", all=True), "expected one of them"),
        (Render(task="mpe/spread-v1", seed=-1), "option --seed is -1, expected 0 or more"),
        (Render(task="mpe/sprad-v1"), "unknown task 'mpe/sprad-v1'; did you mean 'mpe/spread-v1'"),
        (Render(task="probe/xor-v1", policy=("medium",)), "unknown policy of probe/xor-v1"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run(options)


def test_a_missing_extra_leaves_its_games_out(tmp_path, monkeypatch, capsys, few):
    names = ["mamujoco/swimmer-2x1-v1", "probe/xor-v1"]
    monkeypatch.setattr(render, "games", lambda: names)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert run(Render(all=True, out=tmp_path)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("left out mamujoco/swimmer-2x1-v1: ")
    assert "offline-marl-bench[mamujoco]" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "probe--xor-v1.gif"]


# ------------------------------------------------------------------------------- trained policies
@pytest.mark.parametrize("name", KINDS)
def test_the_policy_of_a_checkpoint_can_be_seen_in_every_kind_of_task(name, tmp_path, few):
    task = registry.task(name)
    cls = algorithms.registry().cls("bc")
    seeds, config = (3, 4), cls.Config()
    group = build_group(cls, config, task.spec, seeds)
    identity = {"algo": "bc", "task": name, "seeds": seeds, "config": asdict(config)}
    path = tmp_path / "checkpoint-000000001.safetensors"
    checkpoint.save(path, {"identity": identity, "group": group.state_dict()})
    gifs = []
    for member in (None, 4):
        assert run(Render(run=str(path), member=member, out=tmp_path)) == 0
        gif = tmp_path / f"{stem(name)}-bc-seed-{member or 3}.gif"
        shown, _ = decoded(gif.read_bytes())
        assert (shown[0] != shown[-1]).any()
        gifs.append(gif.read_bytes())
    assert gifs[0] != gifs[1]  # who plays is another one, and is named
    with pytest.raises(UserError, match=r"has no seed 5; it holds \[3, 4\]"):
        run(Render(run=str(path), member=5, out=tmp_path))


def test_a_run_is_found_by_its_record_its_folder_and_its_key(shipped, tmp_path, monkeypatch, few):
    """And from a submission, where record and checkpoint stand side by side."""
    out = shipped.parents[1] / "runs"
    (item,) = record.read_all([out / "records"])
    (folder,) = [p for p in (out / "checkpoints").iterdir() if p.name.endswith(item.key[:12])]
    wanted = checkpoint.latest(folder)
    own = next(shipped.glob("record-*.json"))
    assert find(str(item.path(out / "records"))) == (wanted, item.seed)
    assert find(str(own))[0].read_bytes() == wanted.read_bytes()
    for name in (folder, folder.name, item.key[:12]):
        assert find(str(name), out) == (wanted, None)
    alone = record.write(item, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not here; train it again with make bench ALGO=bc"):
        find(str(alone), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no checkpoint"):
        find(str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert run(Render(run=str(own), policy=("random",), out=tmp_path / "gifs")) == 0
    names = sorted(path.name for path in (tmp_path / "gifs").iterdir())
    assert names[0] == f"{stem(item.task)}-random-bc-seed-{item.seed}.gif"


# ----------------------------------------------------------------------------------- the files
def test_a_task_is_written_as_a_gif_and_a_png(tmp_path, few):
    assert run(Render(task="meanfield/squeeze-n16-v1", policy=("random",), out=tmp_path)) == 0
    gif, png = sorted(tmp_path.iterdir())
    assert gif.name == "meanfield--squeeze-n16-v1-random.gif"
    assert len(decoded(gif.read_bytes())[0]) == 8
    with Image.open(png) as image:
        assert image.size == (WIDTH, HEIGHT)


def test_the_committed_pictures_are_of_all_games_and_small():
    sizes = {path.name: path.stat().st_size for path in FIGURES.iterdir()}
    assert set(sizes) == {f"{stem(name)}.gif" for name in GAMES} | {"all.png"}, "make render ALL=1"
    assert max(size for name, size in sizes.items() if name.endswith(".gif")) < 300_000
    assert sum(sizes.values()) < 3_000_000
    for name in GAMES:
        with Image.open(FIGURES / f"{stem(name)}.gif") as image:
            assert 2 <= image.n_frames <= render.FRAMES


def test_the_page_of_tasks_is_what_the_registry_says():
    assert page.PAGE.read_text() == page.filled(), "python -m benchmark render --page"
