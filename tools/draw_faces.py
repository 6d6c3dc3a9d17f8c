"""Drawn faces under UTKFace's file names: pipelines of face images can be run and judged where the real set is not at hand.

In: a folder that does not exist, a count, a seed. Out: 200 x 200 x 3 JPEGs named [age]_[gender]_[race]_[date&time].jpg, with ages
from 1 to 116, gender 0 (male) or 1 (female), race 0 to 4, shares as in UTKFace (Zhang, Song and Qi 2017). Promise: a picture is a
function of (seed, its number), whatever the number of processes; the folder is there whole or not at all.

What shows of a person: of the age proportions, cheeks, hair, greying, wrinkles, lips, glasses; of gender hair, brows, lips, jaw,
beard; of race skin, hair, eyes, nose. Faces age early or late, and light, pose, background and noise differ, so that nothing of
it can be read off exactly.

python tools/draw_faces.py faces --count 5000 --seed 0
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import cos, sin, tau
from pathlib import Path
from typing import Any

import numpy as np

try:
    from PIL import Image, ImageDraw
except ImportError:
    sys.exit("error: faces are drawn with pillow (pip install pillow)")

Array = np.ndarray[Any, np.dtype[Any]]
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]

SIDE = 200
FINE = 2
"""Pixels are drawn this many times finer, and then averaged."""
HALF = 66.0
"""Half of a face's width in pixels, in a picture without pose."""
AGES = (
    (1, 1123), (5, 1240), (10, 927), (15, 610), (20, 1049), (25, 2809), (26, 2197), (30, 2827), (35, 2446), (40, 1912),
    (45, 1020), (50, 1130), (55, 1170), (60, 1000), (65, 690), (70, 520), (75, 430), (80, 390), (90, 560), (100, 160),
    (116, 35),
)  # fmt: skip
"""The last age of each group, and how many faces UTKFace has of it, or about."""
GENDERS = (0.523, 0.477)
RACES = (0.425, 0.191, 0.145, 0.168, 0.071)
SKINS: Sequence[Colour] = ((232, 190, 168), (112, 74, 54), (234, 198, 154), (176, 126, 90), (204, 158, 122))
HAIRS: Sequence[Colour] = ((116, 82, 52), (30, 24, 22), (24, 20, 20), (34, 26, 22), (64, 44, 32))
GREY: Colour = (196, 196, 196)


@dataclass(frozen=True)
class Person:
    """Who is drawn. Shares lie between 0 and 1: `growth` is 0 in a newborn, `wear` is what the years have done."""

    age: int
    female: bool
    race: int
    growth: float
    wear: float
    grey: float
    bald: float
    length: float
    beard: float
    glasses: bool
    skin: Colour
    hair: Colour
    width: float
    slant: float


def share(value: float) -> float:
    """The value, if it lies between 0 and 1, or the nearer of them."""
    return min(max(value, 0.0), 1.0)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """The first colour with an amount (0 to 1) of the second."""
    a, b, c = (x + (y - x) * amount for x, y in zip(first, second, strict=True))
    return a, b, c


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker or brighter."""
    return mix((0, 0, 0), colour, factor)


def draw_age(random: np.random.Generator) -> int:
    """An age; within a group all are equally probable."""
    last = np.array([age for age, _ in AGES])
    weights = np.array([count for _, count in AGES], float)
    group = random.choice(len(AGES), p=weights / weights.sum())
    return int(random.integers(last[group - 1] + 1 if group else 1, last[group] + 1))


def draw_person(random: np.random.Generator) -> Person:
    """Someone: what their age, gender and race make probable."""
    age, female = draw_age(random), bool(random.random() < GENDERS[1])
    race = int(random.choice(len(RACES), p=RACES))
    looks = max(age + random.normal(0, 1 + 0.2 * min(age, 60)), 0.3)
    grown = looks > 16
    skin = mix(SKINS[race], SKINS[random.choice(len(RACES), p=RACES)], abs(random.normal(0, 0.25)))
    skin = shade(skin, random.normal(1, 0.05))
    hair = HAIRS[race]
    if race in (0, 4) and random.random() < 0.35:
        hair = mix(hair, (206, 172, 112), random.random())
    recedes = 0.0 if female else share((looks - 28) / 45) * random.beta(1.2, 1.2)
    length = random.beta(5, 2) if female else random.beta(1.5, 7)
    return Person(
        age=age,
        female=female,
        race=race,
        growth=share((looks / 19) ** 0.7),
        wear=share((looks - 22) / 62),
        grey=share((looks - random.normal(46, 8)) / 26),
        bald=max(recedes, 0.85 * share(1 - looks / random.uniform(2, 4.5))),
        length=length * share((looks + 1) / 6) * (1 - 0.5 * share((looks - 40) / 50)),
        beard=random.beta(1, 1) if grown and not female and random.random() < 0.4 else 0.0,
        glasses=bool(random.random() < 0.4 * share((looks - 4) / 70)),
        skin=mix(skin, (214, 190, 170), 0.22 * share((looks - 45) / 50)),
        hair=hair,
        width=random.normal((1.0, 1.02, 1.08, 1.0, 1.02)[race], 0.03),
        slant=random.normal((0.02, 0.0, 0.12, 0.0, 0.04)[race], 0.02),
    )


class Canvas:
    """A picture, drawn in units of half a face's width from its middle: x to the right, y down, under a pose of its own."""

    def __init__(self, random: np.random.Generator, background: Array) -> None:
        fine = (SIDE * FINE, SIDE * FINE)
        self._image = Image.fromarray(background).resize(fine, Image.Resampling.BILINEAR)
        self._pen = ImageDraw.Draw(self._image)
        turn, scale = random.normal(0, 0.07), HALF * FINE * random.normal(1, 0.045)
        self._yaw = random.normal(0, 0.07)
        self._matrix = np.array([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]]) * scale
        self._middle = np.array([0.5, 0.53]) * SIDE * FINE + random.normal(0, 3.5 * FINE, 2)

    def polygon(self, points: Points, colour: Colour, depth: float = 0.0) -> None:
        """A filled polygon; `depth` is how far in front of the head it turns with it."""
        self._pen.polygon(self._pixels(points, depth), fill=_fill(colour))

    def line(self, points: Points, colour: Colour, width: float, depth: float = 0.0) -> None:
        """An open line; `width` in the same units."""
        pixels = max(round(width * HALF * FINE), 1)
        self._pen.line(self._pixels(points, depth), fill=_fill(colour), width=pixels, joint="curve")

    def _pixels(self, points: Points, depth: float) -> list[tuple[float, float]]:
        moved = np.asarray(points, float) + np.array((self._yaw * (1 + 2 * depth), 0.0))
        return [(x, y) for x, y in moved @ self._matrix.T + self._middle]

    def pixels(self) -> Array:
        """What is drawn, float32 [row, column, 3], from 0 to 255."""
        return np.asarray(self._image.reduce(FINE), np.float32)


def _fill(colour: Colour) -> tuple[int, int, int]:
    a, b, c = (int(min(max(part, 0), 255)) for part in colour)
    return a, b, c


def oval(x: float, y: float, width: float, height: float, first: float = 0.0, last: float = 1.0) -> Points:
    """Points of an ellipse with these half axes, from one part of the turn to another (0: right, 0.25: below)."""
    turns = np.linspace(first, last, 33) * tau
    return [(x + width * cos(turn), y + height * sin(turn)) for turn in turns]


def face_outline(person: Person) -> Points:
    """The head: round with full cheeks in a child, longer when grown; a broad jaw of men, jowls of the old."""
    height = 1.06 + 0.24 * person.growth
    jaw = 0.80 + (0.04 if person.female else 0.16) * person.growth + 0.15 * person.wear + 0.12 * (1 - person.growth)
    points = []
    for turn in np.linspace(0, tau, 65):
        x, y = cos(turn), sin(turn)
        below = max(y, 0.0)
        points.append((person.width * x * (1 + (jaw - 1) * below**1.3), height * y + 0.05 * below * person.wear))
    return points


def draw_background(random: np.random.Generator) -> Array:
    """The colours of a wall at its four corners, uint8 [2, 2, 3]."""
    grey, tint = random.uniform(30, 225), random.normal(0, 28, 3)
    return np.clip(grey + tint + random.normal(0, 20, (2, 2, 3)), 0, 255).astype(np.uint8)


def draw_behind(canvas: Canvas, person: Person, random: np.random.Generator, hair: Colour) -> None:
    """Long hair, shoulders, neck and ears."""
    wide, long = person.width, person.length
    if long > 0.15 and person.bald < 0.7:
        end = 0.1 + 1.6 * long
        canvas.polygon([*oval(0, -0.35, wide + 0.24, 1.0, 0.5, 1.0), (wide + 0.3, end), (-wide - 0.3, end)], hair)
    shoulders = 1.15 + (0.25 if person.female else 0.55) * person.growth
    clothes = tuple(random.uniform(20, 230, 3))
    neck = 0.36 + (0.08 if person.female else 0.22) * person.growth
    canvas.polygon(oval(0, 2.25, shoulders, 0.75), (clothes[0], clothes[1], clothes[2]))
    canvas.polygon([(-neck, 0.7), (neck, 0.7), (neck, 1.75), (-neck, 1.75)], shade(person.skin, 0.82))
    ear = 0.2 + 0.06 * person.wear
    for side in (-1, 1):
        canvas.polygon(oval(side * wide, 0.1, 0.11, ear), shade(person.skin, 0.9))


def draw_hair(canvas: Canvas, person: Person, random: np.random.Generator, hair: Colour) -> None:
    """What grows on top: a cap whose edge goes up as it recedes, and sides."""
    wide, top = person.width + 0.06, -1.13 - 0.22 * person.growth
    edge = -0.78 - 0.12 * person.growth + random.normal(0, 0.06) - 0.75 * person.bald
    volume = (0.02, 0.12, 0.05, 0.06, 0.06)[person.race] + 0.08 * person.length
    if edge > top:
        outer = oval(0, -0.2, wide + volume, -top - 0.2 + volume, 0.5, 1.0)
        inner = oval(0, -0.2, wide - 0.16, -edge - 0.2, 1.0, 0.5)
        canvas.polygon([*outer, *inner], hair)
    if person.growth > 0.35:
        for side in (-1, 1):
            below = 0.0 + 0.25 * person.length
            canvas.polygon([(side * (wide - 0.12), -0.55), (side * (wide + volume), -0.6),
                            (side * (wide + 0.02), below), (side * (wide - 0.08), below)], hair)  # fmt: skip


def draw_eyes(canvas: Canvas, person: Person, hair: Colour) -> None:
    """Eyes that are large and low in a child, lids that droop with the years, brows, glasses."""
    level = 0.16 - 0.28 * person.growth
    size = 0.235 - 0.06 * person.growth - 0.02 * person.wear
    open_ = size * (0.66 - 0.2 * person.wear - (0.2 if person.race == 2 else 0.0))
    iris = (70, 96, 120) if person.race == 0 and person.slant > 0.02 else (52, 34, 24)
    brow = mix(hair, shade(person.skin, 0.7), 0.5 * (1 - person.growth) + (0.3 if person.female else 0.0))
    for side in (-1, 1):
        x = side * 0.42
        canvas.polygon(
            oval(x, level + 0.02, size + 0.05, open_ + 0.07), shade(person.skin, 0.88 - 0.12 * person.wear), 0.1
        )
        canvas.polygon(oval(x, level, size, open_), (236, 234, 230), 0.1)
        canvas.polygon(oval(x, level, open_ * 0.95, open_ * 0.95), iris, 0.1)
        lid = [(x - side * size, level + 0.02), (x, level - open_), (x + side * size, level - person.slant)]
        canvas.line(lid, (30, 20, 18), 0.05 if person.female else 0.03, 0.1)
        above = level - open_ - 0.13 - (0.03 if person.female else 0.0)
        arch = [(x - side * 0.2, above + 0.04), (x + side * 0.05, above - 0.03), (x + side * 0.27, above + 0.05)]
        canvas.line(arch, brow, 0.05 if person.female else 0.09, 0.1)
        if person.glasses:
            canvas.line(oval(x, level + 0.02, 0.31, 0.24), (26, 26, 30), 0.05, 0.15)
    if person.glasses:
        canvas.line([(-0.12, level), (0.12, level)], (26, 26, 30), 0.05, 0.15)


def draw_nose_and_mouth(canvas: Canvas, person: Person, random: np.random.Generator) -> None:
    """A nose that never stops growing, lips that become thin."""
    tip = 0.42 - 0.06 * person.growth + 0.06 * person.wear
    broad = 0.12 + 0.06 * person.growth + 0.03 * person.wear + (0.06 if person.race == 1 else 0.0)
    dark = shade(person.skin, 0.76)
    canvas.polygon(
        [(-0.05, -0.05), (0.05, -0.05), (broad, tip), (0, tip + 0.07), (-broad, tip)], shade(person.skin, 0.92), 0.3
    )
    canvas.line([(-broad, tip), (0, tip + 0.07), (broad, tip)], dark, 0.04, 0.3)
    mouth, smile = 0.68 + 0.06 * person.growth, random.normal(0.04, 0.04)
    wide = 0.27 + 0.09 * person.growth
    full = (0.1 if person.race == 1 else 0.07) * (1.25 if person.female else 0.9) * (1 - 0.65 * person.wear)
    lips = mix(shade(person.skin, 0.8), (178, 52, 62), (0.75 if person.female else 0.4) * (1 - 0.5 * person.wear))
    canvas.polygon(
        [(-wide, mouth - smile), (0, mouth - full), (wide, mouth - smile), (0, mouth + full + smile)], lips, 0.1
    )
    canvas.line([(-wide, mouth - smile), (0, mouth + smile / 2), (wide, mouth - smile)], shade(lips, 0.6), 0.025, 0.1)


def draw_beard(canvas: Canvas, person: Person, hair: Colour) -> None:
    """From stubble to a full beard, around the mouth."""
    if person.beard > 0.0:
        colour = mix(person.skin, hair, 0.25 + 0.7 * person.beard)
        outer = oval(0, 0.35, person.width * 0.88, 0.85 + 0.2 * person.beard, 0.0, 0.5)
        canvas.polygon([*outer, *oval(0, 0.5, 0.52, 0.1, 0.5, 0.0)], colour)


def draw_wrinkles(canvas: Canvas, person: Person, random: np.random.Generator) -> None:
    """Lines across the forehead, around the mouth and the eyes, bags, spots: the more, the more worn."""
    if person.wear <= 0.05:
        return
    dark, thick = shade(person.skin, 1 - 0.42 * person.wear), 0.02 + 0.025 * person.wear
    for row in range(round(5 * person.wear)):
        y = -0.52 - 0.11 * row + random.normal(0, 0.015)
        canvas.line([(-0.5, y + 0.03), (0, y), (0.5, y + 0.03)], dark, thick)
    for side in (-1, 1):
        canvas.line(
            [(side * 0.2, 0.4), (side * 0.38, 0.62), (side * 0.42, 0.6 + 0.35 * person.wear)], dark, thick + 0.01, 0.1
        )
        canvas.line(oval(side * 0.42, 0.02, 0.22, 0.2, 0.08, 0.42), dark, thick, 0.1)
        for fold in (-0.08, 0.0, 0.08)[: round(3 * person.wear)]:
            canvas.line([(side * 0.66, -0.1 + fold / 2), (side * 0.82, -0.1 + 1.5 * fold)], dark, thick)
        if person.wear > 0.4:
            canvas.line([(side * 0.55, 0.75), (side * 0.62, 0.95)], dark, thick)
    for _ in range(round(10 * max(person.wear - 0.5, 0))):
        x, y = random.uniform(-0.7, 0.7), random.uniform(-0.8, 0.7)
        canvas.polygon(oval(x, y, 0.035, 0.03), shade(person.skin, 0.75))


def lit(pixels: Array, random: np.random.Generator) -> Array:
    """The picture under a light from somewhere, through a camera with noise, uint8 [row, column, 3]."""
    place = np.linspace(-1, 1, SIDE, dtype=np.float32)
    across, down = random.normal(0, 0.16, 2).astype(np.float32)
    slope = 1 + across * place[None, :] + down * place[:, None]
    colour = (random.normal(1, 0.13) * random.normal(1, 0.035, 3)).astype(np.float32)
    noise: Array = np.asarray(random.standard_normal(pixels.shape, np.float32))
    noise *= np.float32(random.uniform(2, 9))
    noise += np.float32(random.normal(0, 7))
    noise += pixels * slope[..., None] * colour
    seen: Array = noise.clip(0, 255, out=noise).astype(np.uint8)
    return seen


def draw_face(seed: int, number: int) -> tuple[Person, Array]:
    """The picture of this number, uint8 [200, 200, 3], and who it shows."""
    random = np.random.Generator(np.random.Philox(key=(seed << 64) + number))
    person = draw_person(random)
    hair = mix(shade(person.hair, random.normal(1, 0.1)), GREY, person.grey)
    canvas = Canvas(random, draw_background(random))
    draw_behind(canvas, person, random, hair)
    canvas.polygon(face_outline(person), person.skin)
    cheeks = mix(person.skin, (222, 120, 110), 0.16 * (1 - person.growth) + 0.05 * person.female)
    for side in (-1, 1):
        canvas.polygon(oval(side * 0.52, 0.42, 0.26, 0.22), cheeks)
    draw_hair(canvas, person, random, hair)
    draw_beard(canvas, person, hair)
    draw_wrinkles(canvas, person, random)
    draw_eyes(canvas, person, hair)
    draw_nose_and_mouth(canvas, person, random)
    return person, lit(canvas.pixels(), random)


def write_face(folder: Path, seed: int, number: int) -> None:
    """Draws one face into a folder."""
    person, pixels = draw_face(seed, number)
    taken = datetime(2017, 1, 1) + number * timedelta(milliseconds=61_007)
    name = f"{person.age}_{int(person.female)}_{person.race}_{taken:%Y%m%d%H%M%S}{taken.microsecond // 1000:03d}.jpg"
    Image.fromarray(pixels).save(folder / name, quality=88)


def draw_set(folder: Path, count: int, seed: int, processes: int) -> None:
    """Draws all faces into a folder beside (what a killed run left there goes), and then gives it its name."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(partial(write_face, beside, seed), range(count), chunksize=25):
            pass
    os.sync()
    beside.rename(folder)


def at_least(least: int) -> Any:
    """A reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw faces with the file names of UTKFace.")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--count", type=at_least(1), default=5000, help="how many faces (5000)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="another seed, other people (0)")
    parser.add_argument("--processes", type=at_least(1), default=len(os.sched_getaffinity(0)), help="all cores")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"error: {given.out} is there already (name another folder, or remove it)")
    try:
        draw_set(given.out, given.count, given.seed % (1 << 64), given.processes)
    except OSError as error:
        sys.exit(f"error: {error.filename or given.out}: {error.strerror}")
    print(f"{given.out}: {given.count} faces")


if __name__ == "__main__":
    main()
