"""Classify series by what labelled ones have taught: `limosa classify` and `limosa.classify`.

A classifier is fitted to labelled series, or loaded as it was saved, and gives each series a class and probabilities.
Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa import models as registry
from limosa.core import Classifier, LabelledBatch, OnProgress
from limosa.data.layout import LabelledLayout
from limosa.errors import UsageError
from limosa.files import PICTURES
from limosa.models.classifiers._fitted import ROWS, FittedClassifier
from limosa.options import Option, verb
from limosa.tasks._options import ModelOptions, writable
from limosa.tasks.detect import trainer
from limosa.tasks.load import load

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from limosa.data.labelled import LabelledSeries

DEFAULT_CLASSIFIER = "fused"
STRETCHES = 10  # of a series, each of which is left out to see whether it decided
ACTUAL = "actual"  # the column of classes that the series came with

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What was found of N series."""

    series: LabelledSeries  # labels are those that they came with, if any
    probabilities: NDArray[np.float64]  # [N, K]
    classifier: FittedClassifier
    proba: bool = False  # whether `frame` shows probabilities

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.classifier.classes

    @property
    def labels(self) -> NDArray[np.object_]:
        """[N] the most likely class of each series."""
        import numpy as np

        names = np.array(self.classes, dtype=object)
        return np.asarray(names[self.probabilities.argmax(axis=1)])

    @property
    def accuracy(self) -> float | None:
        """The share of series that got the class they came with, of those that came with one."""
        known = None if self.series.labels is None else self.series.labels != ""
        if known is None or not known.any():
            return None
        return float((self.labels == self.series.labels)[known].mean())

    def frame(self) -> pd.DataFrame:
        """One row per series: id, label, with `proba` the probability of each class, and the class it came with."""
        import pandas as pd

        columns: dict[str, Any] = {"unique_id": self.series.ids, "label": self.labels}
        if self.proba:
            columns |= {f"probability-{name}": self.probabilities[:, i] for i, name in enumerate(self.classes)}
        if self.series.labels is not None:
            columns[ACTUAL] = self.series.labels
        return pd.DataFrame(columns)

    def plot(self, path: str | Path) -> None:
        """Draw up to six series with their classes, each the channel that decided, and which stretch of it did.

        Raises: UsageError for a suffix other than .png and .svg, LimosaError if it cannot be written.
        """
        from limosa.plots.classes import class_chart
        from limosa.plots.forecast import MAX_CHARTS

        series = self.series.of(self.classifier.channels)
        values, weights, titles = [], [], []
        for i, own in enumerate(series.arrays()[:MAX_CHARTS]):
            weight = importance(self.classifier, own)  # [L, C]
            channel = int(weight.clip(min=0.0).sum(axis=0).argmax())
            values.append(own[:, channel])
            weights.append(weight[:, channel])
            name = f", {series.channels[channel]}" if len(series.channels) > 1 else ""
            titles.append(f"{series.ids[i]}: {self.labels[i]} ({self.probabilities[i].max():.0%}){name}")
        class_chart(values, weights, titles, path)


def importance(classifier: FittedClassifier, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much the log odds of a series' most likely class fall without the stretch around each step of each channel.

    `values` [L, C] are those of the classifier's channels. A tenth of a channel at a time becomes the line between its
    neighbours (occlusion, Zeiler and Fergus 2014), moved on by half of that; a step has the mean of its stretches.
    Returns [L, C]; below 0 where a stretch speaks for another class.
    """
    import numpy as np
    import torch

    L, C = values.shape
    width = max(1, L // STRETCHES)
    places = [(first, channel) for channel in range(C) for first in range(0, L, max(1, width // 2))]
    copies = np.repeat(values[None], 1 + len(places), axis=0)
    for row, (first, channel) in enumerate(places, start=1):
        own = values[:, channel]
        left = np.isfinite(own) & ((np.arange(L) < first) | (np.arange(L) >= first + width))
        if left.any():
            stretch = np.arange(first, min(first + width, L))
            copies[row, stretch, channel] = np.interp(stretch, np.flatnonzero(left), own[left])
    parts = [LabelledBatch(values=torch.from_numpy(part)) for part in np.array_split(copies, 1 + len(copies) // ROWS)]
    found = np.concatenate([classifier.probabilities(part) for part in parts]).clip(1e-6, 1.0 - 1e-6)
    sure = found[:, found[0].argmax()]
    odds = np.log(sure / (1.0 - sure))
    total, count = np.zeros((L, C)), np.zeros((L, C))
    for row, (first, channel) in enumerate(places, start=1):
        total[first : first + width, channel] += odds[0] - odds[row]
        count[first : first + width, channel] += 1.0
    return total / count


@verb(unit="steps")
def classify(
    source: Annotated[Any, Option("Series to classify: CSV, Excel, Parquet or .ts file, or folder of CSV.", "FILE")],
    *,
    train: Annotated[Any, Option("Labelled series to learn from, of the same kinds.", "FILE")] = None,
    model: Annotated[
        str | Path | FittedClassifier,
        Option("A classifier to fit, or the folder of a saved one.", "NAME|FOLDER", flag="-m"),
    ] = DEFAULT_CLASSIFIER,
    options: ModelOptions = None,
    proba: Annotated[bool, Option("Write the probability of each class too.")] = False,
    steps: Annotated[int, Option("Optimizer steps of a classifier that is trained.", "NUMBER", least=1)] = 500,
    save: Annotated[str | Path | None, Option("Keep the fitted classifier there.", "FOLDER")] = None,
    seed: Annotated[int, Option("Same seed, same classifier.", "NUMBER")] = 0,
    plot: Annotated[
        Path | None, Option("Picture of up to six series, .png or .svg.", "FILE", accept=writable(PICTURES))
    ] = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[LabelledLayout],
) -> Classification:
    """Give each series of a table or file a class, learnt from labelled series.

    `source` and `train` are long tables (ids, one column of values for each channel, and for `train` the class in
    `label_col`), `.ts` files, folders of CSV files (for `train` one folder for each class), arrays [series, channels,
    length], lists of arrays [channels, length], or a pair of one of these and labels. Series may differ in length and
    lack values. `model` is the name of a classifier (`limosa models`), fitted with its `options`, `steps` and `seed`;
    the folder of a saved one; or `Classification.classifier`. Where `source` has labels, they are shown beside those
    found.

    Raises: UsageError, ModelNotFound, DataError for series that cannot be read or lack a channel of the classifier.
    """
    from limosa.data.labelled import read_labelled

    fitted = loaded(model, train, options)
    series = read_labelled(source, **layout)
    if fitted is None:
        labelled = read_labelled(train, **layout)
        fitted = fit(labelled, str(model), options, steps=steps, seed=seed, on_progress=on_progress)
    found = Classification(series=series, probabilities=fitted.predict(series), classifier=fitted, proba=proba)
    if save is not None:
        fitted.save(save)
    if plot is not None:
        found.plot(plot)
    if (accuracy := found.accuracy) is not None:
        log.info(f"{accuracy:.1%} of the series got the class that they came with")
    return found


def loaded(
    model: str | Path | FittedClassifier, train: Any, options: Mapping[str, Any] | None
) -> FittedClassifier | None:
    """The fitted classifier that `model` stands for; None for the name of one that has to be fitted.

    Raises: UsageError if a fitted one is given labelled series or options, or one to be fitted none; ModelNotFound.
    """
    if not isinstance(model, FittedClassifier) and registry.find(model) is None:
        if train is None:
            raise UsageError(f"{model} has to learn the classes; give labelled series, train (--train)")
        return None
    if train is not None or options:
        name = "the classifier" if isinstance(model, FittedClassifier) else model
        raise UsageError(f"{name} is fitted already; leave --train and --option out, or name a classifier to be fitted")
    return model if isinstance(model, FittedClassifier) else FittedClassifier.read(model, load(model, can=Classifier))


def fit(
    series: LabelledSeries,
    model: str,
    options: Mapping[str, Any] | None = None,
    *,
    steps: int = 500,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> FittedClassifier:
    """A new classifier by the name of its file, fitted to labelled series. The caller's random state stays as it is.

    Raises: ModelNotFound, UsageError if `model` classifies nothing or an option does not fit, DataError for fewer than
    two classes.
    """
    from limosa.training.randomness import own_randomness

    chosen = dict(options or {})
    if "seed" in (field.name for field in dataclasses.fields(registry.card(model).config)):
        chosen.setdefault("seed", seed)
    with own_randomness(seed):
        built = registry.checked(registry.build(model, **chosen), Classifier, model)
        counts = Counter(() if series.labels is None else series.labels.tolist())
        classes = ", ".join(f"{name} ({counts[name]})" for name in series.classes())
        log.info(f"{model} is fitted to {len(series):,} series of {len(series.channels)} channels: {classes}")
        return FittedClassifier.fit(built, series, trainer(steps, seed, on_progress))
