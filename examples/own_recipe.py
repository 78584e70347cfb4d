"""Mix a recipe of one's own from the parts of published ones, and compare it with one of these."""

import dataclasses

import fastdc

MODEL = "convnet:width=16"
MIXED = fastdc.Recipe(
    match="features",  # what is compared: as in DM
    pool="fresh:train=real",  # whose networks: random ones that learn on real images between two steps, as in IDC
    batches="random",  # which real images
    augmentation="siamese:operations=crop+scale",  # one change for both sides, as in DSA; a mirrored digit would be another one
    formation="frequency",  # how what is stored becomes images: by frequencies
    model=MODEL,
    iterations=4,
    matching_steps=10,
    init="kmeans",
    lr_images=0.1,
    optimizer="adam:beta1=0.5",
    batch_real=32,
)


def main() -> None:
    """Condense by the mixed recipe, and by DM in as many steps; evaluate both and random images."""
    train, test = fastdc.load_dataset("digits")
    dm = dataclasses.replace(fastdc.RECIPES["dm"], iterations=40, model=MODEL, batch_real=32)
    sets = {
        "condensed": fastdc.condense(train, ipc=1, method=MIXED),
        "by dm": fastdc.condense(train, ipc=1, method=dm),
        "random": fastdc.coresets.random(train, ipc=1),
    }
    for name, images in sets.items():
        print(f"{name:<10} {fastdc.evaluate(images, test, protocol='dc', model=MODEL, networks=3, epochs=100)}")


if __name__ == "__main__":
    main()
