"""Train networks on a condensed set in loops of one's own: in plain PyTorch, and in Lightning (pip install lightning)."""

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastdc

MODEL, EPOCHS, LR = "convnet:width=16", 60, 0.05


def fresh_network(train: fastdc.ImageData) -> nn.Module:
    """One of fastdc's networks; any other will do."""
    torch.manual_seed(0)
    return fastdc.models.build(MODEL, train.channels, train.num_classes, train.image_size)


def in_plain_pytorch(network: nn.Module, condensed: fastdc.CondensedDataset) -> None:
    """Train by batches. A condensed set is a map-style Dataset of (image, label), normalised as the training images were."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    for _ in range(EPOCHS):
        for images, labels in DataLoader(condensed, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()


class Classifier(lightning.LightningModule):
    """The same in Lightning."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """The accuracy of a batch."""
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As above."""
        return torch.optim.SGD(self.network.parameters(), lr=LR, momentum=0.9)


def main() -> None:
    """Condense, then train and test in both ways."""
    train, test = fastdc.load_dataset("digits")
    condensed = fastdc.condense(train, ipc=2, method="auto", iterations=2, model=MODEL)
    images = test.normalised(slice(None))  # by the mean and deviation of the training images, as the condensed ones are

    network = fresh_network(train)
    in_plain_pytorch(network, condensed)
    with torch.no_grad():
        print(f"plain PyTorch {(network(images).argmax(1) == test.labels).float().mean():.1%}")

    module = Classifier(fresh_network(train))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", **quiet)
    trainer.fit(module, DataLoader(condensed, batch_size=32, shuffle=True))
    (result,) = trainer.test(module, DataLoader(TensorDataset(images, test.labels), batch_size=256), verbose=False)
    print(f"Lightning     {result['accuracy']:.1%}")


if __name__ == "__main__":
    main()
