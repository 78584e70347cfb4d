"""Condense pictures of one's own: a folder with a subfolder for each class. What is learned is written as pictures, too."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import fastdc

PICTURES = Path("pictures")  # pictures/CLASS/*.png, or .jpg; one in five of each class is kept for the test
MODEL = "convnet:width=16"


def draw_pictures(count: int = 100) -> None:
    """Stand-ins for pictures of one's own: shapes of any colour, anywhere in pictures of several sizes."""
    rng = np.random.default_rng(0)
    for name, corners in {"triangle": 3, "square": 4, "star": 0}.items():
        (PICTURES / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            side, radius = rng.integers(40, 60), rng.integers(15, 20)
            picture = Image.fromarray(rng.integers(0, 80, (side, side, 3), dtype=np.uint8))
            middle, colour = rng.integers(radius, side - radius, 2), tuple(rng.integers(120, 256, 3).tolist())
            turns = np.arange(corners or 10) * 2 * np.pi / (corners or 10) + rng.uniform(-0.3, 0.3)
            reach = radius * (np.ones(corners) if corners else np.tile([1.0, 0.4], 5))
            points = middle + reach[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
            ImageDraw.Draw(picture).polygon([tuple(point) for point in points.tolist()], fill=colour)
            picture.save(PICTURES / name / f"{number:03d}.png")


def main() -> None:
    """Read, condense, evaluate, write."""
    if not PICTURES.exists():
        draw_pictures()
    train, test = fastdc.load_dataset(f"folder:{PICTURES}", image_size=16)  # the middle of each picture, brought to 16 pixels a side
    print(f"{len(train)} pictures to learn from, {len(test)} to test on, of {', '.join(train.class_names)}")
    condensed = fastdc.condense(train, ipc=2, method="auto", iterations=3, model=MODEL)
    for name, images in {"condensed": condensed, "random": fastdc.coresets.random(train, ipc=2)}.items():
        print(f"{name:<10} {fastdc.evaluate(images, test, model=MODEL, networks=3, epochs=100)}")
    condensed.to_folder("condensed")  # condensed/000_square/0000.png and so on
    condensed.save_grid("condensed.png")


if __name__ == "__main__":
    main()
