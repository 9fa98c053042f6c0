"""Fine-tune all weights of a frozen forecaster, as a change that is kept apart from them."""

from __future__ import annotations

from limosa.adapters._data import AdaptationData
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._tuning import ChangedWeights, NoOptions, tune
from limosa.core import AdapterCard, Forecaster


class Full(ChangedWeights):
    """A frozen model with a change of every weight. Satisfies Forecaster and Learner."""


def fit(base: Forecaster, data: AdaptationData, config: NoOptions, run: FitRun) -> Fitted:
    """Train the change on the training windows."""
    return tune(Full, base, data, config, run, learning_rate=1e-4)


CARD = AdapterCard(
    config=NoOptions,
    build=Full,
    fit=fit,
    tiny=NoOptions(),
    needs="a model with weights",
    source="limosa",
    summary="a change of every weight",
)
