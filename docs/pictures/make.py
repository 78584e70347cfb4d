"""The pictures of docs/method.md.

python docs/pictures/make.py          learns and tests the images of FashionMNIST, writes bench/results/pictures.json, and draws all
python docs/pictures/make.py --draw   draws the diagrams anew, from that file
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
RESULTS = ROOT / "bench" / "results" / "pictures.json"
MODEL, ITERATIONS = "convnet:width=32", (0, 5, 20, 60, 200)

# Colours that can be read on white and on black.
INK, LINE, BLOCK, ACCENT = "#7c7c7c", "#8a8a8a", "#6f6f6f", "#3f6fc4"
WIDTH = 480  # of every diagram: on a telephone its text is not much smaller than that of the page


# What is measured


def learn() -> None:
    """Learn ten images, test them after some of the iterations, beside real ones, and keep images and accuracies."""
    sys.path.insert(0, str(ROOT / "bench"))
    import record

    import fastdc

    started = time.monotonic()
    train, test = fastdc.load_dataset("fashion-mnist")
    sets = {"random": fastdc.coresets.random(train, 1)}
    with tempfile.TemporaryDirectory() as folder:
        for iterations in ITERATIONS:  # each call goes on where the one before it ended
            sets[f"{iterations} iterations"] = fastdc.condense(train, 1, model=MODEL, batch_real=64, iterations=iterations, out=folder)
    rows = []
    for subject, images in sets.items():
        found = fastdc.evaluate(images, test, model=MODEL, networks=5)
        rows.append({"subject": subject, "mean": 100 * found.mean, "std": 100 * found.std, "networks": 5})
    record.write(RESULTS, "python docs/pictures/make.py", rows, seconds=round(time.monotonic() - started, 1))
    draw_learned([sets[f"{iterations} iterations"].to_pixels() for iterations in ITERATIONS])
    draw_real(train)


def draw_learned(steps: Sequence[Any]) -> None:
    """A row of ten images for each number of iterations."""
    save([image for images in steps for image in images], 10, 44, "learned.png")


def draw_real(train: Any, each: int = 24) -> None:
    """A row of real images of each class."""
    of_class = [(train.labels == label).nonzero()[:each, 0] for label in range(10)]
    save([train.images[i].float() / 255 for rows in of_class for i in rows], each, 20, "real.png")


def save(images: Sequence[Any], columns: int, size: int, name: str) -> None:
    """Grey images [1, H, W] in 0..1, so many beside each other, each brought to so many pixels."""
    from PIL import Image

    rows = -(-len(images) // columns)
    whole = Image.new("LA", (columns * (size + 2) - 2, rows * (size + 2) - 2))  # between the images one sees the page
    for i, image in enumerate(images):
        picture = Image.fromarray((255 * image[0]).round().byte().numpy()).resize((size, size), Image.Resampling.BICUBIC)
        whole.paste(picture.convert("LA"), (i % columns * (size + 2), i // columns * (size + 2)))
    whole.save(FOLDER / name, optimize=True)


# What is drawn


def diagram(height: int, *parts: str) -> str:
    """An SVG file of these parts."""
    tip = f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/>'
    marker = f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">{tip}</marker>'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="15" fill="{INK}">'
    return "\n".join([head, f"<defs>{marker}</defs>", *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", further: str = "") -> str:
    """Words on a line."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{further}>{words}</text>'


def box(x: float, y: float, width: float, *lines: str) -> str:
    """A frame with lines of text in it, 22 for each and 14 more in height."""
    frame = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{22 * len(lines) + 14}" rx="8" fill="none" stroke="{LINE}"/>'
    return "\n".join([frame, *(text(x + width / 2, y + 23 + 22 * i, line) for i, line in enumerate(lines))])


def choice(x: float, y: float, name: str) -> str:
    """One of a recipe's five choices, beside what it decides; (x, y) is its middle."""
    width = 9 * len(name) + 14
    pill = f'<rect x="{x - width / 2:g}" y="{y - 12:g}" width="{width}" height="24" rx="12" fill="{ACCENT}"/>'
    return pill + text(x, y + 5, name, further=' fill="#fff" font-weight="600"')


def arrow(*points: tuple[float, float]) -> str:
    """A line through these points, with a tip at its end."""
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{LINE}" stroke-width="2" marker-end="url(#tip)"/>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{colour}"/>'


def few() -> str:
    """60,000 images and ten, each the same area."""
    unit = 1.2
    return diagram(
        300,
        bar(20, 10, 300 * unit, 200 * unit, BLOCK),
        text(200, 136, "60,000 real images", further=' fill="#fff"'),
        bar(420, 10 + 199 * unit, 10 * unit, unit, ACCENT),
        text(426, 225, "10 learned"),
        text(WIDTH / 2, 284, "each image has the same area"),
    )


def loop() -> str:
    """A matching step, and what the five choices of a recipe decide in it."""
    left, right = 130, 350
    return diagram(
        460,
        choice(240, 16, "pool"),
        box(140, 34, 200, "a network"),
        choice(left, 110, "batches"),
        box(40, 128, 180, "real images", "of a class"),
        choice(right, 110, "formation"),
        box(260, 128, 180, "synthetic images", "of this class"),
        choice(240, 215, "augmentation"),
        arrow((left, 186), (left, 246)),
        arrow((right, 186), (right, 246)),
        box(40, 248, 180, "how they would", "change the network"),
        box(260, 248, 180, "how they would", "change the network"),
        arrow((left, 306), (left, 338), (186, 338), (186, 366)),
        arrow((right, 306), (right, 338), (294, 338), (294, 366)),
        choice(240, 350, "match"),
        box(140, 368, 200, "how far apart?"),
        arrow((340, 386), (462, 386), (462, 157), (441, 157)),
        text(462, 422, "moves the pixels", anchor="end"),
        arrow((140, 386), (18, 386), (18, 52), (139, 52)),
        text(22, 448, "again, with this network or the next one", anchor="start"),
    )


def tested() -> str:
    """How a set is tested."""
    return diagram(
        236,
        box(5, 10, 110, "ten learned", "images"),
        box(5, 92, 110, "ten real", "images"),
        arrow((115, 39), (153, 39)),
        arrow((115, 121), (153, 121)),
        box(155, 10, 126, "new networks,", "trained"),
        box(155, 92, 126, "new networks,", "trained"),
        arrow((281, 39), (318, 39), (318, 68), (333, 68)),
        arrow((281, 121), (318, 121), (318, 92), (333, 92)),
        box(335, 40, 140, "10,000 images", "that none of", "them has seen"),
        text(405, 152, "how many do"),
        text(405, 174, "they name right?"),
        text(WIDTH / 2, 220, "the same training for both, from random weights"),
    )


def accuracy() -> str:
    """A bar for each set, its deviation in words."""
    rows = json.loads(RESULTS.read_text())["rows"]
    names = {"random": "random real images", "0 iterations": "noise, 0 iterations"}
    parts = []
    for i, row in enumerate(rows):
        y = 10 + 34 * i
        parts += [
            text(180, y + 17, names.get(row["subject"], row["subject"]), anchor="end"),
            bar(188, y, 2 * row["mean"], 24, LINE if row["subject"] == "random" else ACCENT),
            text(196 + 2 * row["mean"], y + 17, f"{row['mean']:.1f}% ± {row['std']:.1f}", anchor="start"),
        ]
    return diagram(10 + 34 * len(rows), *parts)


DIAGRAMS = {"few": few, "loop": loop, "tested": tested, "accuracy": accuracy}


def main(arguments: Sequence[str]) -> int:
    """Write the pictures."""
    if arguments not in ([], ["--draw"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        learn()
    for name, drawn in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(drawn())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
