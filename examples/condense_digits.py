"""Condense scikit-learn's digits to ten images, look at them, and train networks on them and on ten random real ones."""

import fastdc

MODEL = "convnet:width=16"


def main() -> None:
    """Condense, draw, evaluate."""
    train, test = fastdc.load_dataset("digits")
    condensed = fastdc.condense(train, ipc=1, model=MODEL, iterations=40, batch_real=64, out="runs/digits")
    condensed.grid().save("digits.png")
    chosen = fastdc.coresets.random(train, ipc=1)
    for name, images in (("condensed", condensed), ("random", chosen)):
        print(f"{name:<10} {fastdc.evaluate(images, test, model=MODEL, networks=3)}")


if __name__ == "__main__":
    main()
