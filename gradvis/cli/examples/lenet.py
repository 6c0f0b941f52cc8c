"""A small convolutional network on scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels).

    python lenet.py                                          trains it, records that, writes model.pt
    mpirun -n 2 gradvis-surface model.pt                     draws its loss surface
    mpirun -n 2 gradvis-trajectory run.recording --surface   draws where training went

The data is that of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998, as it comes with scikit-learn; nothing is downloaded.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gradvis


class LeNet(nn.Module):
    """Two convolutions with batch norm, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] and their classes."""
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(classes)


def objective() -> gradvis.Objective:
    """What gradvis-surface calls: the loss and the accuracy of this network on this data."""
    return gradvis.objective(LeNet(), data=digits(), loss="cross_entropy", metrics=["accuracy"])


def train(epochs: int = 10, batch: int = 64) -> None:
    """SGD with momentum, recorded; a lower learning rate for the last three epochs."""
    torch.manual_seed(0)
    images, classes = digits()
    model = LeNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs - 3])
    with gradvis.record(
        model, optimizer, out="run.recording", every_n_steps=10, objective="lenet.py:objective", fresh=True
    ) as recorder:
        for epoch in range(epochs):
            model.train()
            hits = 0
            for part in torch.randperm(len(images)).split(batch):
                outputs = model(images[part])
                loss = nn.functional.cross_entropy(outputs, classes[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.log(loss=loss)
                hits += int((outputs.argmax(1) == classes[part]).sum())
            schedule.step()
            print(f"epoch {epoch + 1:2d}: accuracy in training {hits / len(images):.3f}")
    gradvis.save_checkpoint("model.pt", model, objective="lenet.py:objective")


if __name__ == "__main__":
    train()
