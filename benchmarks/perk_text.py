"""Facts for the benchmark `perk`: marked facts among noise, capacity, and student records read as bytes.

T1: some facts are marked and many segments are noise; a query asks for the value of a marked key. T2: all segments are
facts. T3: records such as "id 4831 grade 72." read byte by byte; questions ask for one record, or relate two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.nn.decoder import Decoder, DecoderConfig
from limosa.nn.inner_loop import Factors, InnerConfig, InnerLoop, Losses, Segments
from limosa.nn.lora import initial, linears, low_rank

KEYS, VALUES, WIDTH, MARKED = 62, 30, 64, 8
RECORD, ASKED = 18, 14  # bytes of a record and of a question before its answer
Tensors = dict[str, Tensor]


def trained(
    loss: Callable[[int], Tensor], model: nn.Module, steps: int, rate: float, until: Callable[[], bool] | None = None
) -> int:
    """Minimise `loss(step)` by AdamW with a cosine; ends early where `until`, asked now and then, says so."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        torch.autograd.backward(loss(step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if until is not None and step % 50 == 49 and until():
            return step + 1
    return steps


# -- T1, T2: one token a segment ---------------------------------------------------------------------------------------


def facts(tasks: int, marked: int, segments: int, dice: torch.Generator) -> Tensors:
    """`marked` facts with keys of their own among `segments`; the rest are unmarked and random."""
    key = torch.randint(KEYS, (tasks, segments), generator=dice)
    key[:, :marked] = torch.rand(tasks, KEYS, generator=dice).argsort(1)[:, :marked]
    value = torch.randint(VALUES, (tasks, segments), generator=dice)
    mark = (torch.arange(segments) < marked).long().expand(tasks, -1)
    order = torch.rand(tasks, segments, generator=dice).argsort(1)
    found = {name: of.gather(1, order) for name, of in (("key", key), ("value", value), ("mark", mark))}
    return found | {"asked": key[:, :marked], "answer": value[:, :marked]}


class Reader(nn.Module):
    """Embeddings and one perceptron: the trunk that remembers facts by low-rank factors on its two matrices."""

    def __init__(self, rank: int, inner: InnerConfig) -> None:
        super().__init__()
        self.key, self.mark, self.value = (nn.Embedding(n, WIDTH) for n in (KEYS, 2, VALUES))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm, self.out = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VALUES)
        self.inner = InnerLoop(initial(self, ["up", "down"], rank), 2 * WIDTH, inner)

    def logits(self, key: Tensor, mark: Tensor) -> Tensor:
        x = self.key(key) + self.mark(mark)
        made: Tensor = self.out(self.norm(x + self.down(F.gelu(self.up(x)))))
        return made

    def losses(self, batch: Tensors) -> Losses:
        key, value, mark = batch["key"], batch["value"], batch["mark"]
        told = torch.cat([self.key(key) + self.mark(mark), self.value(value)], dim=-1)

        def losses(factors: Factors) -> Segments:
            with low_rank(self, factors):
                each = F.cross_entropy(self.logits(key, mark).mT, value, reduction="none")
            return Segments(each, told, torch.ones_like(each))

        return losses

    def answer(self, factors: Factors, asked: Tensor) -> Tensor:
        with low_rank(self, factors):
            return self.logits(asked, torch.ones_like(asked))

    def loss(self, batch: Tensors) -> Tensor:
        made = self.answer(self.inner.through(self.losses(batch), len(batch["key"])), batch["asked"])
        return F.cross_entropy(made.mT, batch["answer"])

    def recall(self, batch: Tensors) -> float:
        factors = self.inner.encode([self.losses(batch)], len(batch["key"]))
        return accuracy(self.answer(factors, batch["asked"]), batch["answer"])


class InContext(nn.Module):
    """The rival: a transformer that has all segments before it, one token each, and then the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.mark, self.value = (nn.Embedding(n, WIDTH) for n in (KEYS, 3, VALUES + 1))
        sizes = {"width": WIDTH, "layers": 2, "heads": 4, "key_heads": 4, "feedforward": 2 * WIDTH}
        self.trunk = Decoder(DecoderConfig(vocabulary=VALUES, tied=False, **sizes))

    def forward(self, batch: Tensors) -> Tensor:
        asked = batch["asked"]
        past = self.key(batch["key"]) + self.mark(batch["mark"]) + self.value(batch["value"])
        now = self.key(asked) + self.mark(torch.full_like(asked, 2)) + self.value(torch.full_like(asked, VALUES))
        N, Q = past.shape[1], asked.shape[1]
        allowed = torch.ones(N + Q, N + Q, dtype=torch.bool, device=past.device).tril()
        allowed[N:, N:] = torch.eye(Q, dtype=torch.bool, device=past.device)  # a query sees no other query
        hidden = self.trunk.hidden(torch.cat([past, now], dim=1), allowed[None, None])
        made: Tensor = self.trunk.logits(hidden[:, N:])
        return made


def accuracy(logits: Tensor, answer: Tensor) -> float:
    """Share of right answers."""
    return float((logits.argmax(-1) == answer).float().mean())


def nearest(batch: Tensors) -> float:
    """Recall by looking up the newest segment of the same key among the marked ones."""
    same = (batch["asked"][:, :, None] == batch["key"][:, None]) & (batch["mark"][:, None] == 1)
    return float((batch["value"].gather(1, same.float().argmax(-1)) == batch["answer"]).float().mean())


@dataclass
class Cell:
    """One cell of T1 or T2: what is trained, and at which lengths it is tested."""

    seed: int
    device: str
    steps: int
    rank: int = 16
    most: int = 8  # marked facts in training
    inner: dict[str, Any] = field(default_factory=dict)
    tests: int = 64

    def on(self, batch: Tensors) -> Tensors:
        return {name: value.to(self.device) for name, value in batch.items()}

    def reader(self) -> Reader:
        """A trained reader."""
        torch.manual_seed(self.seed)
        model = Reader(self.rank, InnerConfig(**{"steps": 4, "divisor": 32.0} | self.inner)).to(self.device)
        dice = torch.Generator().manual_seed(self.seed)

        def loss(step: int) -> Tensor:
            marked = MARKED if self.most == MARKED else int(torch.randint(2, self.most + 1, (), generator=dice))
            return model.loss(self.on(facts(16, marked, marked + 24, dice)))

        trained(loss, model, self.steps, 3e-3)
        return model

    def in_context(self, segments: int) -> tuple[InContext, int]:
        """A transformer trained on contexts of so many segments until it recalls .98 of them."""
        torch.manual_seed(self.seed)
        model, dice = InContext().to(self.device), torch.Generator().manual_seed(self.seed)
        held = self.on(facts(64, MARKED, segments, torch.Generator().manual_seed(7)))

        def loss(step: int) -> Tensor:
            batch = self.on(facts(64, MARKED, segments, dice))
            return F.cross_entropy(model(batch).mT, batch["answer"])

        def solved() -> bool:
            with torch.no_grad():
                return accuracy(model(held), held["answer"]) >= 0.99

        return model, trained(loss, model, self.steps, 2e-3, solved)

    def test(self, recall: Callable[[Tensors], float], marked: int, segments: int) -> float:
        """Mean recall over test tasks, some at a time."""
        dice = torch.Generator().manual_seed(99 + self.seed)
        size = max(1, min(self.tests, 2**16 // segments))
        parts = [recall(self.on(facts(size, marked, segments, dice))) for _ in range(-(-self.tests // size))]
        return sum(parts) / len(parts)


# -- T3: records as bytes ----------------------------------------------------------------------------------------------


def encoded(text: str, size: int) -> list[int]:
    """Bytes, filled up with zeros."""
    return list(text.encode().ljust(size, b"\0"))


def records(tasks: int, count: int, question: str, dice: torch.Generator) -> Tensors:
    """Records of students and questions on them: "recall" asks for a grade, "relation" which of two is higher."""
    ids = torch.stack([torch.randperm(9000, generator=dice)[:count] + 1000 for _ in range(tasks)])
    grades = torch.randint(10, 100, (tasks, count), generator=dice)
    segments, asked, answers = [], [], []
    for own, grade in zip(ids.tolist(), grades.tolist(), strict=True):
        segments.append([encoded(f"id {i} grade {g}.", RECORD) for i, g in zip(own, grade, strict=True)])
        a, b = torch.randint(count, (2, 8), generator=dice).tolist()
        if question == "recall":
            asked.append([encoded(f"id {own[i]} grade ", ASKED) for i in a])
            answers.append([encoded(str(grade[i]), 2) for i in a])
        else:
            b = [j if grade[j] != grade[i] else (j + 1) % count for i, j in zip(a, b, strict=True)]
            asked.append([encoded(f"{own[i]} or {own[j]}: ", ASKED) for i, j in zip(a, b, strict=True)])
            answers.append([encoded("<" if grade[i] < grade[j] else ">", 1) for i, j in zip(a, b, strict=True)])
    return {name: torch.tensor(of) for name, of in (("segments", segments), ("asked", asked), ("answers", answers))}


class Student(nn.Module):
    """A byte decoder that remembers records by low-rank factors on all of its linear layers."""

    def __init__(self, rank: int, inner: InnerConfig, width: int = 128) -> None:
        super().__init__()
        self.trunk = Decoder(DecoderConfig(width=width, feedforward=2 * width, heads=4, key_heads=4))
        names = linears(self.trunk)
        self.inner = InnerLoop(initial(self.trunk, names, rank), width, inner)

    def losses(self, segments: Tensor) -> Losses:
        """The next-byte losses of segments [T, S, N], each byte weighed by the hidden state that has seen it."""
        T = len(segments)
        tokens = segments.flatten(0, 1)
        present = (tokens[:, 1:] > 0).float().view(T, -1)

        def losses(factors: Factors) -> Segments:
            with low_rank(self.trunk, factors):
                hidden = self.trunk.hidden(self.trunk.embed_tokens(tokens))
            logits = self.trunk.logits(hidden[:, :-1])
            each = F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").view(T, -1)
            return Segments(each * present, hidden[:, 1:].reshape(T, present.shape[1], -1), present)

        return losses

    def answer(self, factors: Factors, asked: Tensor, answers: Tensor) -> Tensor:
        """Logits [T * Q, A, vocabulary] of each byte of the answers, given those before it."""
        whole = torch.cat([asked, answers], dim=-1).flatten(0, 1)
        keep = whole > 0
        tokens = torch.stack([torch.cat([row[ok], row[~ok]]) for row, ok in zip(whole, keep, strict=True)])
        last = keep.sum(1) - answers.shape[-1]  # where the answer begins
        with low_rank(self.trunk, factors):
            logits = self.trunk(tokens)
        place = last[:, None] - 1 + torch.arange(answers.shape[-1], device=last.device)
        made: Tensor = logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1]))
        return made

    def loss(self, batch: Tensors) -> Tensor:
        factors = self.inner.through(self.losses(batch["segments"]), len(batch["segments"]))
        logits = self.answer(factors, batch["asked"], batch["answers"])
        return F.cross_entropy(logits.mT, batch["answers"].flatten(0, 1))

    def recall(self, batch: Tensors) -> float:
        parts = [self.losses(part) for part in torch.split(batch["segments"], 64, dim=1)]
        factors = self.inner.encode(parts, len(batch["segments"]))
        with torch.no_grad():
            logits = self.answer(factors, batch["asked"], batch["answers"])
        return float((logits.argmax(-1) == batch["answers"].flatten(0, 1)).all(-1).float().mean())


def student(question: str, seed: int, steps: int, device: str, count: int = 16) -> Student:
    """A student meta-trained on 4 to `count` records."""
    torch.manual_seed(seed)
    inner = InnerConfig(steps=4, divisor=64.0, reduction="saturating")
    model, dice = Student(16, inner).to(device), torch.Generator().manual_seed(seed)

    def loss(step: int) -> Tensor:
        several = 4 + int(torch.randint(count - 3, (), generator=dice))
        return model.loss({k: v.to(device) for k, v in records(8, several, question, dice).items()})

    trained(loss, model, steps, 2e-3)
    return model


# -- cost --------------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any], device: str, rounds: int = 3) -> float:
    """The median time of a call."""
    times = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def cost(count: int, device: str) -> dict[str, float]:
    """Of a text of so many bytes: time to encode and to answer, and to answer in context; on a GPU the memory too."""
    torch.manual_seed(0)
    model = Student(16, InnerConfig(steps=4, divisor=64.0)).to(device).eval()
    batch = records(1, max(2, count // RECORD), "recall", torch.Generator().manual_seed(0))
    batch = {name: value.to(device) for name, value in batch.items()}
    parts = torch.split(batch["segments"], 256, dim=1)
    made: dict[str, float] = {"bytes": float(count)}

    def peak(name: str, work: Callable[[], Any]) -> Any:
        if device != "cuda":
            return work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        done = work()
        made[f"{name}_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return done

    factors = peak("encode", lambda: model.inner.encode([model.losses(part) for part in parts], 1))
    made["encode_ms"] = 1e3 * seconds(lambda: model.inner.encode([model.losses(p) for p in parts], 1), device)
    with torch.no_grad():
        asked, answers = batch["asked"][:, :1], batch["answers"][:, :1]
        made["answer_ms"] = 1e3 * seconds(lambda: model.answer(factors, asked, answers), device, 9)
        text = torch.cat([batch["segments"].flatten(1), asked[0]], dim=1)
        read = lambda: model.trunk.hidden(model.trunk.embed_tokens(text))  # noqa: E731
        peak("in_context", read)
        made["in_context_ms"] = 1e3 * seconds(read, device)
    return made
