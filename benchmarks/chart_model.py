"""Train a small SmolVLM of our own to read charts (TS-ChartQA) on one core, and score it beside blind baselines.

    python benchmarks/chart_model.py prepare CORPUS FOLDER     draw charts and ask about them, part by part; resumable
    python benchmarks/chart_model.py train FOLDER OUT         train, or go on
    python benchmarks/chart_model.py score FOLDER OUT --save   accuracy on charts of series that training never saw

CORPUS is a table of series. Questions about frames of a video are left out: a chart is one image.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from common import Options, finish
from limosa.data.chat import Chat, Message, Picture, Prompt, train_tokenizer
from limosa.data.corpus import read_corpus
from limosa.data.images import ImageConfig
from limosa.data.synthetic.chart_answers import answer_by_statistics
from limosa.data.synthetic.chart_questions import CHOICES, KINDS, WORDINGS, ChartItem, ChartQuestions
from limosa.data.synthetic.charts import draw_charts
from limosa.models.smolvlm import SmolVLM, SmolVLMConfig
from limosa.nn.generate import GenerateConfig
from limosa.tasks._shared import parameter_count
from limosa.training import checkpoint
from limosa.training.loop import Progress, TrainConfig, fit
from limosa.training.randomness import own_randomness

SIZE = 64  # pixels of the edge of a chart
POINTS = (64, 96)  # of a series
ASKED = tuple(kind for kind in KINDS if kind != "appears")
ALONE = ("trend", "peak", "trough", "spikes", "period", "shift", "noisier", "last")  # that suit a chart of one series
PARTS = {"validation": 1_100, "train": 11_000, "test": 2_200}
SHARD = 1_100  # charts of a file
STEPS = 2_500


def prepare(corpus: Path, folder: Path) -> None:
    """Write the charts of all parts and the questions about them; files that are there stay."""
    series = read_corpus([corpus], ())
    folder.mkdir(parents=True, exist_ok=True)
    for part, number in PARTS.items():
        for shard in range(-(-number // SHARD)):
            place = folder / f"{part}-{shard:03d}"
            if not place.with_suffix(".npy").exists():
                write_shard(ChartQuestions(series, part, shard, points=POINTS), place, shard)
                print(place, flush=True)


def write_shard(questions: ChartQuestions, place: Path, seed: int) -> None:
    """The images of some items, and a line of JSON for each with all that can be asked about it, its own first."""
    generator = torch.Generator().manual_seed(seed)
    images, lines = [], []
    for number in range(SHARD):
        item = questions.item(ASKED[number % len(ASKED)])
        values = torch.from_numpy(item.values)
        images.append(draw_charts(values, generator, height=SIZE, width=SIZE)[0].numpy())
        lines.append(json.dumps([[item.kind, item.question, item.answer], *others(item, questions)]))
    place.with_suffix(".jsonl").write_text("\n".join(lines))
    np.save(place.with_suffix(".npy"), np.stack(images))


def others(item: ChartItem, questions: ChartQuestions) -> list[list[str]]:
    """What else has a clear answer on the same chart."""
    count = item.values.shape[1]
    kinds = ALONE if count == 1 else ("together",) if count == 2 else ()
    found = {kind: answer_by_statistics(kind, item.values) for kind in kinds if kind != item.kind}
    return [
        [kind, questions._question(kind, 0, count), answer]
        for kind, answer in found.items()
        if answer is not None and answer in CHOICES[kind]
    ]


class Charts:
    """The charts of one part, and batches of them by step."""

    def __init__(self, folder: Path, part: str, chat: Chat, *, rows: int = 64) -> None:
        files = sorted(folder.glob(f"{part}-*.npy"))
        if not files:
            raise SystemExit(f"no charts of the part {part} in {folder}; run `prepare` first")
        self.images = np.concatenate([np.load(file) for file in files])
        lines = [line for file in files for line in file.with_suffix(".jsonl").read_text().splitlines()]
        self.asked: list[list[list[str]]] = [json.loads(line) for line in lines]
        self.chat, self.rows = chat, rows
        often = Counter((kind, answer) for asked in self.asked for kind, _, answer in asked)
        self.rarity = [[1.0 / often[kind, answer] for kind, _, answer in asked] for asked in self.asked]

    def __len__(self) -> int:
        return len(self.asked)

    def batch(self, step: int) -> Prompt:
        """Random charts, each with its own question and up to three more, rare answers more often."""
        rng = np.random.default_rng([1, step])
        conversations = []
        for place in rng.integers(len(self), size=self.rows):
            weights = np.array(self.rarity[place][1:])
            count = min(3, len(weights))
            more = rng.choice(len(weights), count, replace=False, p=weights / weights.sum()).tolist() if count else []
            asked = rng.permutation([0, *(1 + i for i in more)])
            conversations.append(self.conversation(place, [self.asked[place][i] for i in asked]))
        return self.chat.prompt(conversations, reply=False)

    def conversation(self, place: int, asked: list[list[str]], *, answered: bool = True) -> list[Message]:
        """Questions and answers about one chart; without the last answer if it is not to be `answered`."""
        made: list[Message] = []
        for number, (_, question, answer) in enumerate(asked):
            picture = [] if number else [Picture(image=self.images[place].transpose(1, 2, 0))]
            made += [Message("user", [*picture, question]), Message("assistant", [answer])]
        return made if answered else made[:-1]

    def validation(self) -> list[Prompt]:
        """The own questions with their answers."""
        parts = np.array_split(np.arange(440), 4)
        return [
            self.chat.prompt([self.conversation(at, self.asked[at][:1]) for at in part], reply=False) for part in parts
        ]


def new_chat() -> Chat:
    """The tokenizer, made from the wordings for training and the answers, and how charts become tiles."""
    wordings = [text.replace("{c}", f" of {c}") for texts in WORDINGS.values() for text in texts[:-2] for c in "ABCD"]
    answers = [f" {answer}" for kind in ASKED for answer in CHOICES[kind]] * 20
    tokenizer = train_tokenizer([*wordings, *answers, "User:", "Assistant:"] * 4, 640)
    config = SmolVLMConfig()
    images = ImageConfig(tile=SIZE, longest_edge=SIZE, split=False, channels=3)
    return Chat(tokenizer, images, config.tokens)


def new_model(chat: Chat) -> SmolVLM:
    """An untrained model for the tokenizer of `chat`."""
    return SmolVLM(
        SmolVLMConfig(
            tile=SIZE,
            image_channels=3,
            vision_width=96,
            vision_layers=3,
            vision_feedforward=256,
            width=96,
            layers=3,
            key_heads=2,
            feedforward=256,
            vocabulary=chat.tokenizer.get_vocab_size(),
            image_token=chat.image,
            end_token=chat.end,
        )
    )


def train(folder: Path, out: Path, steps: int) -> None:
    """Train, or go on, for so many steps in all, and save the model."""
    chat = new_chat()
    charts, held = (Charts(folder, part, chat) for part in ("train", "validation"))
    with own_randomness(0):
        model = new_model(chat)
    config = TrainConfig(
        steps=steps, learning_rate=1.5e-3, warmup=100, weight_decay=0.05, average=0.998,
        validate_every=100, checkpoint_every=50,
    )  # fmt: skip
    print(f"{parameter_count(model):,} parameters, {len(charts):,} charts", flush=True)

    def report(at: Progress) -> None:
        if at.step % 25 == 0:
            print(f"{at.step} loss {at.loss:.4f} validation {at.validation} of {at.steps}", flush=True)

    result = fit(
        model, charts, config, validation=held.validation(), folder=out / "run", resume=(out / "run").exists(),
        on_progress=report,
    )  # fmt: skip
    model.save_pretrained(out / "model", more=chat.to_files())
    print(result)


def trained(folder: Path, chat: Chat) -> tuple[SmolVLM, int]:
    """The model that a run has saved, or the best so far of one that goes on; and the steps it has learnt for."""
    with own_randomness(0):
        model = new_model(chat)
    newest = checkpoint.common(folder / "run")
    if newest is None:
        raise SystemExit(f"no run in {folder}; run `train` first")
    state = checkpoint.load(newest)
    with torch.no_grad():
        for own, value in zip(model.parameters(), state["best_weights"] or state["parameters"], strict=True):
            own.copy_(value)
    return model.eval(), state["best"][0] if state["best"] else state["step"]


def said(model: SmolVLM, charts: Charts, images: np.ndarray) -> list[str]:
    """The model's answers to each chart's own question beside `images`."""
    answers = []
    for part in np.array_split(np.arange(len(charts)), max(1, len(charts) // 100)):
        asked = [
            [Message("user", [Picture(image=images[at].transpose(1, 2, 0)), charts.asked[at][0][1]])] for at in part
        ]
        made = model.generate(charts.chat.prompt(asked), GenerateConfig(tokens=5))
        answers += [charts.chat.decode(made.row(row)) for row in range(len(part))]
    return answers


def score(folder: Path, out: Path, chosen: Options) -> None:
    """Exact matches on the test part: by the chart, by another chart, by none, and the likeliest answer."""
    chat = new_chat()
    (model, steps), test, learnt = trained(out, chat), Charts(folder, "test", chat), Charts(folder, "train", chat)
    often = {kind: Counter(asked[0][2] for asked in learnt.asked if asked[0][0] == kind) for kind in ASKED}
    kinds = np.array([asked[0][0] for asked in test.asked])
    shuffled = test.images[np.random.default_rng(0).permutation(len(test))]
    answers = {
        "model": said(model, test, test.images),
        "other chart": said(model, test, shuffled),
        "no chart": said(model, test, np.full_like(test.images, 127)),
        "majority": [often[kind].most_common(1)[0][0] for kind in kinds],
    }
    right = {
        name: np.array([a == asked[0][2] for a, asked in zip(own, test.asked, strict=True)])
        for name, own in answers.items()
    }
    table = [
        {"question": kind, **{name: float(own[kinds == kind].mean()) for name, own in right.items()}} for kind in ASKED
    ]
    metrics = {f"accuracy_{name.replace(' ', '_')}": float(own.mean()) for name, own in right.items()}
    finish(chosen, metrics=metrics | {"charts": len(test), "steps": steps}, table=table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    own = verbs.add_parser("prepare")
    own.add_argument("corpus", type=Path)
    own.add_argument("folder", type=Path)
    own = verbs.add_parser("train")
    own.add_argument("folder", type=Path)
    own.add_argument("out", type=Path)
    own.add_argument("--steps", type=int, default=STEPS)
    own = verbs.add_parser("score")
    own.add_argument("folder", type=Path)
    own.add_argument("out", type=Path)
    own.add_argument("--save", action="store_true", help="write docs/results/chart_model.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.verb == "prepare":
        prepare(given.corpus, given.folder)
    elif given.verb == "train":
        train(given.folder, given.out, given.steps)
    else:
        score(given.folder, given.out, Options(json=False, quick=False, seed=0, save=given.save))


if __name__ == "__main__":
    main()
