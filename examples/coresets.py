"""Choose ten real digits by each coreset, and train networks on each choice."""

import fastdc

MODEL = "convnet:width=8"


def main() -> None:
    """Choose, evaluate."""
    train, test = fastdc.load_dataset("digits")
    choices = {
        "random": fastdc.coresets.random(train, ipc=1),
        "k-center of pixels": fastdc.coresets.k_center(train, ipc=1, features="pixels"),  # no network
    }
    for name in ("herding", "k_center", "forgetting"):  # they share one network, trained once and kept in the folder `networks`
        choices[name] = fastdc.coresets.SELECTIONS[name](train, ipc=1, model=MODEL, epochs=10, cache="networks")
    for name, images in choices.items():
        print(f"{name:<20} {fastdc.evaluate(images, test, model=MODEL, networks=3)}")


if __name__ == "__main__":
    main()
