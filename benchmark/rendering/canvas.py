"""A small canvas: lines, discs, bars and words, smoothed by drawing larger and averaging down.

Pixels only, no display and no fonts of the system: the same calls give the same bytes. Colours are
Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmark.task import Array

Colour = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Colour = (255, 255, 255)
INK: Colour = (34, 34, 34)
GREY: Colour = (120, 120, 120)
PALE: Colour = (226, 226, 226)
BLUE: Colour = (0, 114, 178)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
ORANGE: Colour = (230, 159, 0)
VERMILLION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)
AGENTS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)  # one colour an agent where N is small
BODY = 0.6  # tint of a body's inside
WIDTH, HEIGHT = 400, 300  # pixels of a frame
TOP = 44  # the title's height; scenes draw below it
MARGIN = 12
FINE = 3  # pixels are drawn FINE times FINE and averaged


def tint(colour: Colour, share: float) -> Colour:
    """White at share 0, the colour at share 1."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + (c - 255) * share) for c in colour)
    return red, green, blue


# Exactly kept by a GIF's palette: lines and words, with the steps of their smoothed edges
THEME = (
    *(tint(colour, share) for colour in AGENTS for share in (BODY, 1.0)),
    *(tint(colour, k / 6) for colour in (INK, GREY) for k in range(7)),
    PALE,
)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = f"{matplotlib.get_data_path()}/fonts/ttf/{name}"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


class Canvas:
    """A white frame. Coordinates are pixels from the upper left corner and may be fractions."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * FINE, height * FINE), WHITE)
        self._draw = ImageDraw.Draw(self.image)

    def disc(
        self,
        centre: Point,
        radius: float,
        fill: Colour | None,
        edge: Colour | None = None,
        width: float = 1.0,
    ) -> None:
        x, y, r = centre[0] * FINE, centre[1] * FINE, radius * FINE
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse(box, fill, edge, max(1, round(width * FINE)))

    def bar(self, box: tuple[float, float, float, float], fill: Colour) -> None:
        """Filled rectangle of left, top, right, bottom; nothing where it has no area."""
        left, top, right, bottom = (round(x * FINE) for x in box)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill)

    def line(
        self, points: Sequence[Point], colour: Colour, width: float = 1.5, round_ends: bool = False
    ) -> None:
        fine = [(x * FINE, y * FINE) for x, y in points]
        self._draw.line(fine, colour, max(1, round(width * FINE)), joint="curve")
        if round_ends:
            for end in (points[0], points[-1]):
                self.disc(end, width / 2, colour)

    def dashes(self, points: Sequence[Point], colour: Colour, width: float = 1.5) -> None:
        """A dashed polyline: 5 pixels on, 4 off."""
        drawn = 0.0
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = float(np.hypot(x1 - x0, y1 - y0))
            at = 0.0
            while at < length:
                phase = (drawn + at) % 9
                end = min(at + (5 - phase if phase < 5 else 9 - phase), length)
                if phase < 5:
                    a, b = at / length, end / length
                    ends = [(x0 + (x1 - x0) * s, y0 + (y1 - y0) * s) for s in (a, b)]
                    self.line(ends, colour, width)
                at = max(end, at + 1e-6)
            drawn += length

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon([(x * FINE, y * FINE) for x, y in points], fill)

    def pixels(self, box: tuple[float, float, float, float], colours: Array) -> None:
        """colours [rows, columns, 3] uint8, each a rectangle of the box (left, top, ...)."""
        left, top, right, bottom = (round(x * FINE) for x in box)
        cells = Image.fromarray(np.ascontiguousarray(colours, np.uint8))
        scaled = cells.resize((right - left, bottom - top), Image.Resampling.NEAREST)
        self.image.paste(scaled, (left, top))

    def text(
        self,
        at: Point,
        words: str,
        size: int = 11,
        colour: Colour = INK,
        anchor: str = "lm",
        bold: bool = False,
    ) -> None:
        """anchor: l, m, r (left, middle, right of the words) and a, m, s (top, middle, base)."""
        place = (at[0] * FINE, at[1] * FINE)
        self._draw.text(place, words, colour, _font(size * FINE, bold), anchor=anchor)

    def title(self, name: str, left: str, right: str) -> None:
        """The task's name in bold; under it the policy (left) and what the scene notes (right)."""
        self.text((MARGIN, 15), name, 13, anchor="lm", bold=True)
        self.text((MARGIN, 32), left, 11, GREY)
        self.text((self.width - MARGIN, 32), right, 11, GREY, anchor="rm")

    def key(self, at: Point, entries: Sequence[tuple[Colour, str]], across: bool = False) -> None:
        """A legend: one coloured disc and its words a line, or all in one line."""
        x, y = at
        for colour, words in entries:
            self.disc((x + 4, y), 4, colour)
            self.text((x + 13, y), words, 10)
            if across:
                x += 26 + _font(10 * FINE, False).getlength(words) / FINE
            else:
                y += 17

    def frame(self) -> Array:
        """[height, width, 3] uint8."""
        return np.asarray(self.image.reduce(FINE))


@dataclass(frozen=True)
class View:
    """A window on the plane, drawn in a box (left, top, right, bottom) of the canvas; y upwards."""

    box: tuple[float, float, float, float]
    low: Point
    high: Point

    def __call__(self, x: float, y: float) -> Point:
        left, top, right, bottom = self.box
        across = (x - self.low[0]) / (self.high[0] - self.low[0])
        up = (y - self.low[1]) / (self.high[1] - self.low[1])
        return left + across * (right - left), bottom - up * (bottom - top)

    def length(self, d: float) -> float:
        """A horizontal distance in pixels."""
        return d * (self.box[2] - self.box[0]) / (self.high[0] - self.low[0])
