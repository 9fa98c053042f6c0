"""A classifier of time series with the interface of scikit-learn, for its pipelines, searches and cross-validation.

    found = limosa.TimeSeriesClassifier().fit(X, y).predict(X_new)

scikit-learn is not needed for that; where it is there, `clone`, `cross_val_score`, `GridSearchCV` and pipelines take
the estimator. Importing this file imports neither torch, pandas, numpy nor scikit-learn.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limosa.errors import DataError, UsageError
from limosa.models.classifiers._fitted import FittedClassifier
from limosa.tasks.classify import DEFAULT_CLASSIFIER, fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.labelled import LabelledSeries

KINDS = "give an array [series, channels, length] or [series, length], or a list of arrays [channels, length]"


class TimeSeriesClassifier:
    """Learns classes of whole series; used as scikit-learn's classifiers are.

    `X` is an array [series, channels, length], an array or a frame [series, length] of one channel, or a list of arrays
    [channels, length] of any lengths. NaN means not observed.

    Args:
        model: name of a classifier, `fused` unless told otherwise (`limosa models` lists them).
        options: its options by name, such as {"features": 2000}; its defaults if None.
        steps: optimizer steps of a classifier that is trained.
        seed: same seed, same classifier.

    After `fit`, `classes_` [K] holds the classes in the type of `y`, `fitted_` what `limosa.classify` takes as model.
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        model: str = DEFAULT_CLASSIFIER,
        *,
        options: Mapping[str, Any] | None = None,
        steps: int = 500,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.options = options
        self.steps = steps
        self.seed = seed

    # -- learning and asking --------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from series `X` and their classes `y` [N].

        Raises: DataError if they do not fit together or hold fewer than two classes; UsageError, ModelNotFound as
        `limosa.classify`.
        """
        import numpy as np

        series, width = _series(X)
        names, code = np.unique(_classes(y, len(series)), return_inverse=True)
        if len(names) < 2:
            raise DataError(f"y holds one class, {names[0]!r}; a classifier needs series of at least two classes")
        labelled = series.of_arrays(series.arrays(), code.tolist())
        self.fitted_ = fit(labelled, self.model, self.options, steps=self.steps, seed=self.seed)
        self.classes_ = names
        self.__dict__.pop("n_features_in_", None)
        if width is not None:
            self.n_features_in_ = width
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities [N, K] of the classes, in the order of `classes_`.

        Raises: NotFittedError before `fit`; DataError if `X` is not like that of `fit`.
        """
        self._check_fitted()
        series, width = _series(X)
        if width is not None and width != (expected := getattr(self, "n_features_in_", width)):
            raise DataError(
                f"X has {width} features, but {type(self).__name__} is expecting {expected} features as input; give a "
                "list of series if their lengths differ"
            )
        return self.fitted_.predict(series)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class [N] of each series, in the type of `y`.

        Raises: as `predict_proba`.
        """
        import numpy as np

        found = self.predict_proba(X)
        return np.asarray(self.classes_[found.argmax(axis=1)])

    def score(self, X: Any, y: Any) -> float:
        """The share of series that get the class `y` [N].

        Raises: as `predict_proba`.
        """
        import numpy as np

        return float((self.predict(X) == np.asarray(y)).mean())

    def save(self, folder: str | Path) -> None:
        """Write what was learnt, to be loaded by `limosa.classify(..., model=folder)`, or by `load`.

        Raises: NotFittedError before `fit`; LimosaError if the folder cannot be written.
        """
        self._check_fitted()
        named = FittedClassifier(
            classifier=self.fitted_.classifier,
            classes=tuple(map(str, self.classes_.tolist())),
            channels=self.fitted_.channels,
        )
        named.save(folder)

    # -- what scikit-learn asks -----------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor.

        Raises: UsageError if there is none of a name.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise UsageError(f"{type(self).__name__} has no parameter {name!r}; there are: {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fitted_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(three_d_array=True, allow_nan=True),
        )

    def _check_fitted(self) -> None:
        if hasattr(self, "fitted_"):
            return
        words = f"this {type(self).__name__} is not fitted yet; call fit(X, y) first"
        if "sklearn" not in sys.modules:
            raise UsageError(words)
        from sklearn.exceptions import NotFittedError

        raise type("NotFittedError", (UsageError, NotFittedError), {})(words)


def _series(X: Any) -> tuple[LabelledSeries, int | None]:
    """`X` of any of its kinds, and its columns where it is a table [series, length].

    Raises: DataError if it is empty or of other dimensions; TypeError if it is sparse or holds no numbers.
    """
    import numpy as np

    from limosa.data.labelled import LabelledSeries, read_labelled

    if isinstance(X, LabelledSeries):
        return X, None
    if hasattr(X, "toarray"):
        raise TypeError(f"X is a sparse matrix, which holds no series; {KINDS}: X.toarray()")
    if isinstance(X, list) and len({np.shape(one) for one in X}) > 1:
        return read_labelled([np.asarray(one, dtype=np.float64) for one in X]), None
    values = np.asarray(X)
    if values.dtype.kind == "c":
        raise DataError("Complex data not supported; give real numbers, such as X.real")
    values = values.astype(np.float64)
    if values.ndim not in (2, 3):
        raise DataError(
            f"Expected 2D array, got {values.ndim}D array instead. Reshape your data: {KINDS}, such as X.reshape(1, -1)"
        )
    for axis, what in ((0, "sample"), (-1, "feature")):
        if not values.shape[axis]:
            raise DataError(f"Found array with 0 {what}(s) (shape={values.shape}) while a minimum of 1 is required.")
    return read_labelled(values), values.shape[1] if values.ndim == 2 else None


def _classes(y: Any, count: int) -> NDArray[Any]:
    """`y` as an array [N].

    Raises: DataError if it is missing, of another length, not whole numbers or names, or has several columns.
    """
    import numpy as np

    if y is None:
        raise DataError("fit requires y to be passed, but the target y is None; give the class of each series")
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        if "sklearn" in sys.modules:
            import warnings

            from sklearn.exceptions import DataConversionWarning

            warnings.warn("A column-vector y was passed when a 1d array was expected", DataConversionWarning, 3)
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"y has shape {values.shape}, a multioutput target; give one class for each series, [series]")
    if len(values) != count:
        raise DataError(f"X has {count} series and y {len(values)} classes; give one class for each series")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise DataError("Unknown label type: y is continuous or holds NaN; give classes: whole numbers or names")
    return values.astype(str) if values.dtype.kind == "O" and any(isinstance(one, str) for one in values) else values
