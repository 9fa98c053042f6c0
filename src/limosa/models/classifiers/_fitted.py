"""A fitted classifier: the model, the names of its classes and of its channels.

Saved as the model's own two files and `classification.json` beside them. Importing this file imports neither torch,
pandas nor numpy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limosa.core import Classifier, LabelledBatch, Training
from limosa.errors import DataError, ModelNotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.labelled import LabelledSeries

CLASSIFICATION = "classification.json"
ROWS = 256  # series predicted at a time


@dataclass(frozen=True, kw_only=True)
class FittedClassifier:
    """A classifier after its fit, and what has to be known of the series it was fitted to."""

    classifier: Any  # Classifier, Pretrained
    classes: tuple[str, ...]
    channels: tuple[str, ...]

    @classmethod
    def fit(cls, classifier: Classifier, series: LabelledSeries, train: Training) -> Self:
        """Fit `classifier` to labelled series.

        Raises: DataError if there are fewer than two classes, or a series has no label.
        """
        classes = series.classes()
        classifier.fit(series.batch(classes), train)
        return cls(classifier=classifier, classes=classes, channels=series.channels)

    def predict(self, series: LabelledSeries) -> NDArray[np.float64]:
        """Probabilities [N, classes] of the series, whose channels are found by name.

        Raises: DataError if one is lacking.
        """
        import numpy as np

        series = series.of(self.channels)
        parts = np.array_split(np.arange(len(series)), -(-len(series) // ROWS))
        return np.concatenate([self.probabilities(series.batch(index=index)) for index in parts])

    def probabilities(self, batch: LabelledBatch) -> NDArray[np.float64]:
        """Probabilities [B, classes] of a batch with the channels of the classifier, in their order."""
        import torch

        with torch.no_grad():
            return self.classifier.predict(batch).double().cpu().numpy()  # type: ignore[no-any-return]

    def save(self, folder: str | Path) -> None:
        """Write the classifier's files and `classification.json` beside them.

        Raises: LimosaError if the folder cannot be written; no file is left half-written.
        """
        content = {"classes": self.classes, "channels": self.channels}
        self.classifier.save_pretrained(folder, more={CLASSIFICATION: content})

    @classmethod
    def read(cls, folder: str | Path, classifier: Any) -> Self:
        """`classifier`, which was loaded from `folder`, with what `save` left beside it.

        Raises: ModelNotFound if nothing lies beside it, DataError if that does not fit.
        """
        path = Path(folder) / CLASSIFICATION
        if not path.is_file():
            raise ModelNotFound(f"{path} does not exist; save the classifier again: limosa classify --save {folder}")
        try:
            content = json.loads(path.read_text())
            classes, channels = tuple(content["classes"]), tuple(content["channels"])
            config = classifier.config
            if (len(classes), len(channels)) != (config.classes, config.channels):
                raise ValueError(f"{len(classes)} classes and {len(channels)} channels")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} does not say what this version needs of a fitted classifier ({error}); fit the classifier and "
                f"save it again: limosa classify FILE --train FILE --save {folder}"
            ) from error
        return cls(classifier=classifier, classes=classes, channels=channels)
