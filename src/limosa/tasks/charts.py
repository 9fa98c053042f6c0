"""Write questions about charts of a table's series, with exact answers, to train or test a vision-language model on."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.core import OnProgress
from limosa.data.layout import Layout
from limosa.errors import LimosaError, UsageError
from limosa.options import Option, verb
from limosa.tasks._options import OutputFolder, Table
from limosa.tasks._shared import read

if TYPE_CHECKING:
    import numpy as np

    from limosa.data.panel import Panel
    from limosa.data.synthetic.chart_questions import ChartItem

PARTS = ("train", "validation", "test")
STYLE = "test-style"  # the items of test drawn in styles that no other part has

log = logging.getLogger("limosa")


@verb(unit="items", table=False)
def charts(
    source: Table,
    out: OutputFolder,
    *,
    items: Annotated[
        int, Option("Questions to train on; a tenth as many to validate and to test.", "NUMBER", least=10)
    ] = 1000,
    size: Annotated[int, Option("Height and width of the images.", "PIXELS", least=64)] = 128,
    seed: Annotated[int, Option("Same seed, same items.", "NUMBER", least=0)] = 0,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> None:
    """Write TS-ChartQA: twelve kinds of questions about charts of a table's series, with exact answers.

    The folder gets `train.jsonl`, `validation.jsonl`, `test.jsonl` and `test-style.jsonl`, one item a line: kind,
    question, answer, reason, choices, images, values, source, channel. Images are PNG files in the folder beside of the
    same name, several for a question about frames. Series belong to a part by their names, test has wordings of its
    own, and `test-style` shows the charts of test as matplotlib draws them. Parts without series get synthetic ones.

    Raises: UsageError if the folder is there already, DataError for bad input, LimosaError if writing fails.
    """
    import numpy as np
    import torch

    from limosa.data.synthetic.chart_questions import KINDS, ChartQuestions

    folder = Path(out)
    if folder.exists():
        raise UsageError(f"cannot write {folder}: it is there already; give the name of a new folder")
    series = _series(read(source, **layout))
    numbers = {"train": items, "validation": items // 10, "test": items // 10}
    total, done = sum(numbers.values()), 0
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        partial.mkdir(parents=True)
        for part in PARTS:
            questions = ChartQuestions(series, part, seed)
            generator = torch.Generator().manual_seed(
                int(np.random.SeedSequence([seed, len(part)]).generate_state(1)[0])
            )
            writers = [_Writer(partial, part)] + ([_Writer(partial, STYLE)] if part == "test" else [])
            for number in range(numbers[part]):
                item = questions.item(KINDS[number % len(KINDS)])
                for writer in writers:
                    writer.write(item, _images(item, generator if writer.part == part else number + seed, size))
                done += 1
                if on_progress:
                    on_progress(done, total)
        partial.rename(folder)
    except OSError as error:
        raise LimosaError(f"cannot write {folder}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info(f"wrote {total:,} questions about {len(series):,} series to {folder}")


def _series(panel: Panel) -> dict[str, np.ndarray]:
    """The targets of all series by name."""
    targets = panel.columns.targets
    return {
        f"{name}/{target}" if len(targets) > 1 else str(name): panel.values[panel.start[i] : panel.start[i + 1], column]
        for i, name in enumerate(panel.ids)
        for column, target in enumerate(targets)
    }


def _images(item: ChartItem, style: Any, size: int) -> list[np.ndarray]:
    """The frames of an item, uint8 [size, size, 3], by our rasteriser or, where `style` is a seed, by matplotlib."""
    import torch

    from limosa.data.synthetic.charts import draw_charts
    from limosa.plots.charts import styled_chart

    if not isinstance(style, torch.Generator):
        return [styled_chart(frame, style, height=size, width=size) for frame in item.values]
    drawn = draw_charts(torch.from_numpy(item.values), style, height=size, width=size, alike=True)
    return list(drawn.permute(0, 2, 3, 1).numpy())


class _Writer:
    """The lines and images of one part."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part, self.number = folder, part, 0
        (folder / part).mkdir()

    def write(self, item: ChartItem, images: list[np.ndarray]) -> None:
        from limosa.data.synthetic.chart_questions import CHOICES
        from limosa.plots.charts import as_png

        names = [f"{self.part}/{self.number:06d}-{i}.png" for i in range(len(images))]
        for name, image in zip(names, images, strict=True):
            (self.folder / name).write_bytes(as_png(image))
        line = {
            "kind": item.kind, "question": item.question, "answer": item.answer, "reason": item.reason,
            "choices": CHOICES[item.kind], "images": names, "source": item.source, "channel": item.channel,
            "values": [[[round(float(one), 3) for one in line] for line in frame] for frame in item.values],
        }  # fmt: skip
        with (self.folder / f"{self.part}.jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        self.number += 1
