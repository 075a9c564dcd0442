"""The network and the images of the examples, in the place of yours: plain PyTorch, nothing here knows of ghostify."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class SmallNet(nn.Module):
    """Takes images ``[batch, 1, 32, 32]`` and gives a score for each of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
        self.features = nn.Sequential(*(layer for size in sizes for layer in block(*size)))
        self.classify = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).mean((2, 3)))


def block(inputs: int, maps: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, maps, 3, stride, padding=1, bias=False), nn.BatchNorm2d(maps), nn.ReLU()


def digits(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    """Handwritten digits and their labels, in batches: 1,200 to learn from, 597 to judge by."""
    bunch = load_digits()
    images = F.interpolate(torch.from_numpy(bunch.images).float()[:, None] / 8 - 1, size=(32, 32), mode="bilinear")
    labels = torch.from_numpy(bunch.target)
    train, test = TensorDataset(images[:1200], labels[:1200]), TensorDataset(images[1200:], labels[1200:])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, batch_size)


def trained(train: DataLoader, epochs: int) -> SmallNet:
    torch.manual_seed(0)
    network = SmallNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, test: DataLoader) -> float:
    """Share of right answers, in %."""
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in test)
    return 100 * right / len(test.dataset)
