"""The text and the image task of `sherl.py`: hosts pretrained here, then adapted to a task with few labels."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, BertModel, ViTConfig, ViTModel

from fashion import read as read_fashion
from limosa.core import encode
from limosa.models.foreign.hf import HuggingFace, InputBatch
from limosa.training.loop import TrainConfig, fit
from limosa.training.randomness import own_randomness
from sherl_rivals import rival

METHODS = ("full", "lora", "lora last", "last block", "head", "bitfit", "sherl 1", "sherl 2", "sherl 1, paper's start")
PACKAGES = ("asyncio", "email", "encodings", "importlib", "multiprocessing", "unittest", "xml")
LENGTH, MASK = 64, 256  # bytes of a snippet; id of a masked byte
SIZES = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SOURCE_CLASSES = 5  # of Fashion-MNIST, for pretraining
RATES = (3e-4, 1e-3, 3e-3)  # one is chosen on the validation rows, for each method and seed
BATCH = 64


def size(quick: bool) -> dict[str, int]:
    """How much is run."""
    if quick:
        return {"pretrain": 4, "labels": 128, "validation": 64, "test": 64, "steps": 4}
    return {"pretrain": 800, "labels": 4000, "validation": 1000, "test": 4000, "steps": 250}


def pretrain(part: str, sizes: dict[str, int], device: str, kept: Path, fashion: Path) -> Path:
    """The folder of the pretrained host, made if it is not there yet."""
    name = hashlib.sha256(json.dumps([part, SIZES, LENGTH, BATCH, sizes["pretrain"]]).encode()).hexdigest()[:12]
    folder = kept / f"host-{part}-{name}"
    if not (folder / "config.json").exists():
        with own_randomness(0):
            (_pretrained_text if part == "text" else _pretrained_image)(sizes, device, folder, fashion)
    return folder


class _Masked(nn.Module):
    """Masked bytes from their neighbours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.host, self.to_bytes = HuggingFace(model), nn.Linear(SIZES["hidden_size"], 256)

    def loss(self, batch: InputBatch) -> Tensor:
        ids = batch.inputs["input_ids"]
        masked = torch.rand(ids.shape, device=ids.device) < 0.2
        hidden = InputBatch(inputs={"input_ids": torch.where(masked, MASK, ids)})
        tokens = self.host.features(encode(self.host, hidden)[-1])
        return F.cross_entropy(self.to_bytes(tokens[masked]), ids[masked])


def _pretrained_text(sizes: dict[str, int], device: str, folder: Path, _: Path) -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    rows = _snippets(files, sizes["pretrain"] * BATCH, np.random.default_rng(0))
    config = BertConfig(vocab_size=257, max_position_embeddings=LENGTH, **SIZES, **QUIET)
    learner = _Masked(BertModel(config, add_pooling_layer=False)).to(device)
    _learn(learner, InputBatch(inputs={"input_ids": rows}), sizes["pretrain"], 1e-3, 0)
    learner.host.model.cpu().save_pretrained(folder)


def _pretrained_image(sizes: dict[str, int], device: str, folder: Path, fashion: Path) -> None:
    pictures, _ = read_fashion(fashion, BATCH)
    source = pictures.label < SOURCE_CLASSES
    config = ViTConfig(image_size=28, patch_size=7, num_channels=1, **SIZES, **QUIET)
    learner = HuggingFace(ViTModel(config, add_pooling_layer=False), classes=SOURCE_CLASSES).to(device)
    batch = InputBatch(inputs={"pixel_values": pictures.values[source][:, None]}, label=pictures.label[source])
    _learn(learner, batch, sizes["pretrain"], 1e-3, 0)
    learner.model.cpu().save_pretrained(folder)


def _snippets(files: list[Path], count: int, dice: np.random.Generator) -> Tensor:
    """[count, LENGTH] bytes from random places of files, long ones more often."""
    content = [np.frombuffer(file.read_bytes(), np.uint8) for file in files]
    content = [one for one in content if len(one) >= 2 * LENGTH]
    share = np.array([len(one) for one in content], float)
    chosen = dice.choice(len(content), count, p=share / share.sum())
    rows = [content[i][(at := dice.integers(len(content[i]) - LENGTH)) : at + LENGTH] for i in chosen]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


class _Shuffled:
    """Rows as batches, each once an epoch."""

    def __init__(self, rows: InputBatch, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def batch(self, step: int) -> InputBatch:
        """The batch of a step."""
        epoch, within = divmod(step, max(1, len(self.rows) // BATCH))
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        return self.rows.rows(order[within * BATCH : (within + 1) * BATCH])


def _learn(learner: Any, rows: InputBatch, steps: int, rate: float, seed: int) -> None:
    config = TrainConfig(steps=steps, learning_rate=rate, warmup=steps // 10, average=0.0, seed=seed)
    fit(learner, _Shuffled(rows, seed), config)


def data_of(part: str, sizes: dict[str, int], seed: int, fashion: Path) -> list[InputBatch]:
    """Training, validation and test rows; the test rows are the same for all seeds."""
    counts = [sizes["labels"], sizes["validation"], sizes["test"]]
    if part == "image":
        train, test = read_fashion(fashion, BATCH)
        order = torch.randperm(len(train.label), generator=torch.Generator().manual_seed(seed))
        cuts = [order[: counts[0]], order[counts[0] : counts[0] + counts[1]], torch.arange(counts[2])]
        sources = [train, train, test]
        return [
            InputBatch(inputs={"pixel_values": source.values[cut][:, None]}, label=source.label[cut])
            for source, cut in zip(sources, cuts, strict=True)
        ]
    library, made = Path(sysconfig.get_paths()["stdlib"]), []
    for place, count in enumerate(counts):
        dice, rows = np.random.default_rng([place, seed if place < 2 else 0]), []
        each = -(-count // len(PACKAGES))
        for package in PACKAGES:
            files = sorted((library / package).rglob("*.py"))
            own = [file for i, file in enumerate(files) if (i % 4 == 0) == (place == 2)]  # files of the test apart
            rows.append(_snippets(own, each, dice))
        label = torch.arange(len(PACKAGES)).repeat_interleave(each)
        made.append(InputBatch(inputs={"input_ids": torch.cat(rows)}, label=label))
    return made


def cell(part: str, method: str, seed: int, sizes: dict[str, int], kept: Path, fashion: Path) -> dict[str, float]:
    """Accuracy on the test rows, with the rate that is best on the validation rows."""
    folder = pretrain(part, sizes, "cpu", kept, fashion)
    train, validation, test = data_of(part, sizes, seed, fashion)
    classes = len(PACKAGES) if part == "text" else 10
    options: dict[str, Any] = {"start": "paper"} if method.endswith("start") else {}
    best: tuple[float, float, float] = (-1.0, 0.0, 0.0)
    for rate in RATES:
        with own_randomness(seed):
            model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
            host = HuggingFace(model, classes=classes).eval()
            learner: Any = rival(method.split(",")[0], host, _cross_entropy, new_head=True, **options)
        _learn(learner, train, sizes["steps"], rate, seed)
        score = accuracy(learner, validation)
        if score > best[0]:
            best = (score, accuracy(learner, test), rate)
    return {"accuracy": best[1], "validation": best[0], "rate": best[2]}


def _cross_entropy(scores: Tensor, batch: InputBatch) -> Tensor:
    assert batch.label is not None
    return F.cross_entropy(scores, batch.label)


@torch.no_grad()
def accuracy(learner: Any, rows: InputBatch) -> float:
    """Share of right answers."""
    learner.eval()
    assert rows.label is not None
    right = [
        (learner.output(rows.rows(part)).argmax(-1) == rows.label[part]).sum()
        for part in torch.split(torch.arange(len(rows)), 500)
    ]
    return float(sum(right)) / len(rows)
