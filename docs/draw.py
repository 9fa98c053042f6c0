"""Draw the pictures of the documentation: `python docs/draw.py` writes them to `docs/images/`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from textwrap import fill

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import limosa
from limosa.app.demo import EXAMPLE
from limosa.data.synthetic import draw
from limosa.data.synthetic.recipes import KINDS, SyntheticConfig

IMAGES = Path(__file__).parent / "images"
RESULTS = Path(__file__).parent / "results"
QUESTIONS = (
    "What happened in September, and what comes next?", "When was the peak?", "Is it growing?",
    "Which hour of the day is the busiest?", "When was it above 800?", "What changed after 10 September?",
    "Is today unusual?", "How sure is next week?", "Will it exceed 700 tomorrow?", "The top 3 days in August",
)  # fmt: skip
WAYS = {  # of slow_links.json, as they begin there -> color
    "DDP": "#8c2d19", "DDP, fp16 hook": "#d1702f", "DDP, PowerSGD rank 1": "#8a8a8a", "local-sgd": "#5b8c5a",
    "co2, its own tau": "#22557a",
}  # fmt: skip


def draw_synthetic(path: Path, *, seed: int = 7, steps: int = 720) -> None:
    """Thirty synthetic series, 6 x 5 small multiples titled by kind: every kind once, the first ones twice."""
    generator = torch.Generator().manual_seed(seed)
    config = SyntheticConfig(missing=0.2)
    figure = Figure(figsize=(16, 12), layout="constrained")
    for i, axes in enumerate(figure.subplots(6, 5).flat):
        kind = KINDS[i % len(KINDS)]
        axes.plot(draw(1, steps, generator, config, kind)[0].tolist(), linewidth=0.7, color="#22557a")
        axes.set_title(kind, fontsize=10)
        axes.set_xticks([])
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def draw_answers(path: Path) -> None:
    """Ten questions about the embedded series, each with the picture that `limosa ask --plot` draws."""
    figure = Figure(figsize=(16, 17), layout="constrained")
    for axes, question in zip(figure.subplots(5, 2).flat, QUESTIONS, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            answer = limosa.ask(EXAMPLE, question, plot=Path(folder) / "evidence.png")
            axes.imshow(imread(Path(folder) / "evidence.png"))
        axes.set_title(fill(answer.text, 95), fontsize=9, loc="left")
        axes.set_axis_off()
    figure.savefig(path, dpi=75)


def draw_slow_links(path: Path) -> None:
    """Left the time of a step by link and way to train, right the loss over time at 25 Mbit: `slow_links`, as saved."""
    table = json.loads((RESULTS / "slow_links.json").read_text())["table"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    pace, loss = figure.subplots(1, 2)
    links = sorted({row["link_mbit"] for row in table if row["way"] == "DDP"}, reverse=True)
    for way, color in WAYS.items():
        found = {row["link_mbit"]: row["seconds_per_step"] for row in table if row["way"].split(", tau")[0] == way}
        pace.plot(range(len(links)), [found[link] for link in links], marker="o", color=color, label=way)
    alone = [row["seconds_per_step"] for row in table if row["way"].startswith("no communication")]
    pace.axhline(sum(alone) / len(alone), color="black", linewidth=0.8, linestyle=":", label="no communication")
    pace.set_xticks(range(len(links)), [f"{link} Mbit/s" for link in links])
    pace.set_yscale("log")
    pace.set_ylabel("seconds per step")
    pace.legend(frameon=False, fontsize=8)
    for way, name in (("loss of DDP", "DDP"), ("loss of co2", "co2, its own tau")):
        rows = [row for row in table if row["way"] == way]
        loss.plot([row["seconds"] for row in rows], [row["loss"] for row in rows], color=WAYS[name], label=name)
    loss.set_xscale("log")
    loss.set_xlabel("seconds at 25 Mbit/s")
    loss.set_ylabel("validation loss")
    loss.legend(frameon=False, fontsize=8)
    for axes in (pace, loss):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    draw_synthetic(IMAGES / "synthetic.png")
    draw_slow_links(IMAGES / "slow_links.png")
    draw_answers(IMAGES / "ask.png")
