"""Fine-tune all weights of a frozen forecaster, as a change that is kept apart from them."""

from __future__ import annotations

from functools import partial

from limosa.adapters._tuning import ROWS, ChangedWeights, NoOptions, tune
from limosa.core import AdapterCard


class Full(ChangedWeights):
    """A frozen model with a change of every weight. Satisfies Forecaster and Learner."""


CARD = AdapterCard(
    config=NoOptions,
    build=Full,
    fit=partial(tune, Full, learning_rate=1e-4),
    tiny=NoOptions(),
    needs="a model with weights",
    source="limosa",
    summary="a change of every weight",
    rows=ROWS,
)
