"""Fashion-MNIST, and a small residual network with batch norm, for the benchmarks that classify pictures.

The data are 60,000 and 10,000 grey pictures of 28 x 28 points in 10 classes (Xiao et al. 2017, arXiv 1708.07747), as
the Debian package dataset-fashion-mnist installs them. A picture is a window whose steps are its rows and whose
channels its columns.
"""

from __future__ import annotations

import gzip
import math
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import LabelledBatch

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures with their classes; as training batches (`core.Batches`) each once an epoch, in an order of the seed."""

    values: Tensor  # [pictures, 28, 28] float32, mean 0 and deviation 1 over the training set
    label: Tensor  # [pictures] int64
    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1  # processes that share the pictures of a step

    @property
    def steps(self) -> int:
        """Steps of an epoch; what does not fill a step is left out."""
        return len(self.label) // (self.batch_size * self.world)

    def batch(self, step: int) -> LabelledBatch:
        """The batch of optimizer step `step`."""
        epoch, within = divmod(step, self.steps)
        order = torch.randperm(len(self.label), generator=torch.Generator().manual_seed(1_000_003 * self.seed + epoch))
        first = (within * self.world + self.rank) * self.batch_size
        return self.at(order[first : first + self.batch_size])

    def at(self, index: Tensor) -> LabelledBatch:
        """The pictures of an index, as one batch."""
        return LabelledBatch(values=self.values[index], label=self.label[index])

    def blocks(self, size: int = 1000) -> list[LabelledBatch]:
        """All pictures in order."""
        return [self.at(index) for index in torch.split(torch.arange(len(self.label)), size)]


def add_folder(parser: ArgumentParser) -> None:
    """The option that names the data folder."""
    parser.add_argument("--fashion", type=Path, default=FOLDER, help="folder of the four idx files")


def read(folder: Path, batch_size: int, seed: int = 0) -> tuple[Pictures, Pictures]:
    """Training and test pictures. Without them the benchmark ends, skipped."""
    parts = []
    for part in ("train", "t10k"):
        try:
            values, label = (_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        except OSError as error:
            print(f"skipped: {error}; install dataset-fashion-mnist or name the folder by --fashion", file=sys.stderr)
            raise SystemExit(0) from None
        parts.append((values.float(), label.long()))
    deviation, mean = torch.std_mean(parts[0][0])
    train, test = (
        Pictures(values=(values - mean) / deviation, label=label, batch_size=batch_size, seed=seed)
        for values, label in parts
    )
    return train, test


def _idx(path: Path) -> Tensor:
    """A file of unsigned bytes in the idx format: two zeros, type 8, dimensions, their sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">i4", content[3], 4)
    found = np.frombuffer(content, np.uint8, math.prod(sizes), 4 + 4 * content[3])
    return torch.from_numpy(found.reshape(sizes).copy())


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, out, 3, stride), nn.ReLU(), _convolution(out, out, 3, 1))
        self.around = nn.Identity() if width == out and stride == 1 else _convolution(width, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, out, h / stride, w / stride]."""
        return F.relu(self.body(x) + self.around(x))


class ResNet(nn.Module):
    """A residual network of five 3x3 convolutions behind patches of 4 x 4 points; satisfies Learner."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=4, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 28, 28] -> scores [B, 10]."""
        scores: Tensor = self.layers(pictures[:, None].contiguous(memory_format=torch.channels_last)).float()
        return scores

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Cross entropy."""
        assert batch.label is not None
        return F.cross_entropy(self(batch.values), batch.label)

    def predict(self, batch: LabelledBatch) -> Tensor:
        """Probabilities [B, 10]."""
        return F.softmax(self(batch.values), 1)


def _convolution(width: int, out: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, out, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


@torch.no_grad()
def judged(model: ResNet, pictures: Pictures) -> tuple[float, float]:
    """Mean cross entropy and share of right answers, in fp32 and in evaluation mode."""
    model.eval()
    loss = right = 0.0
    for block in pictures.blocks():
        assert block.label is not None
        scores = model(block.values)
        loss += float(F.cross_entropy(scores, block.label, reduction="sum"))
        right += float((scores.argmax(1) == block.label).sum())
    return loss / len(pictures.label), right / len(pictures.label)
