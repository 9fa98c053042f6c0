"""Answer a question about a table in English from computed facts, or about a chart by a vision-language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.core import Forecaster
from limosa.data.layout import ChannelLayout
from limosa.errors import UsageError
from limosa.files import PICTURES
from limosa.options import Option, verb
from limosa.tasks._options import DEFAULT_MODEL, writable

if TYPE_CHECKING:
    from limosa.tasks._answers import Answer

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MOST_GAP = 100_000  # rows that may stand for one gap


@verb(text=lambda answer: answer.text, record=lambda answer: answer.to_dict())
def ask(
    source: Annotated[Any, Option("Table, wide or long, CSV or Parquet; or the picture of a chart.", "FILE")],
    question: Annotated[str, Option("What to know, in English.", "QUESTION", argument=True)],
    *,
    model: Annotated[
        str | Path | Forecaster,
        Option("What forecasts a table, or the folder of a model that looks at pictures.", "NAME|FOLDER", flag="-m"),
    ] = DEFAULT_MODEL,
    plot: Annotated[
        Path | None, Option("Picture of the evidence, .png or .svg.", "FILE", accept=writable(PICTURES))
    ] = None,
    **layout: Unpack[ChannelLayout],
) -> Answer:
    """Answer a question about a table in English: every number in the answer was computed from its rows.

    `source` is a table of series, wide or long: a CSV or Parquet file, a data frame, or a dict of arrays; or the path
    of an image of a chart, which the chart model in the folder `model` looks at. Spans such as "last week" count back
    from the last row. What cannot be answered is said, with what can be asked. The answer has `text`, `facts`,
    `refused`, `to_dict()` and `plot(path)`.

    Raises: UsageError, DataError for a table that cannot be read, ModelNotFound.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() in IMAGES:
        return _ask_picture(Path(source), question, model, plot)
    from limosa.data.wide import read_rows
    from limosa.tasks._answers import answer

    found = answer(question, read_rows(source, **layout).with_gaps(MOST_GAP), model)
    if plot is not None:
        found.plot(plot)
    return found


def _ask_picture(image: Path, question: str, model: Any, plot: Path | None) -> Answer:
    """What a vision-language model says of a picture. This is the only place that knows of such a model.

    Raises: UsageError if no model that looks at pictures is named or an option does not fit, DataError if the picture
    or the model's files cannot be read, ModelNotFound if there is no such folder.
    """
    if plot is not None:
        raise UsageError("--plot marks the evidence of a table's answer; leave it out for a picture")
    if model == DEFAULT_MODEL or not isinstance(model, str | Path):
        raise UsageError(f"{image} is a picture; give the folder of a model that looks at pictures: -m FOLDER")
    if not question.strip():
        raise UsageError("there is no question; ask in words, such as: is the line rising?")
    from limosa.models._assistant import Assistant
    from limosa.tasks._answers import Answer

    return Answer(question=question, text=Assistant.from_pretrained(model).answer(question, [image]).text)
