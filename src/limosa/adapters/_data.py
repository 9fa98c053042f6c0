"""Adaptation data: a panel split in time, windows of both parts, and the frozen forecaster's predictions for them.

Every adapter learns from the same training windows and is validated on the same later ones. No answer of one part lies
in the other, in any series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limosa.adapters._cache import CachedBatches, CachedWindow, OnDone, cache_predictions
from limosa.adapters._frozen import Corrected, device_of
from limosa.adapters._saving import fingerprint
from limosa.adapters._validation import THIRDS, WEIGHTS, Errors, ErrorSums, choose
from limosa.core import Forecast, Forecaster, check_at_least
from limosa.data.panel import Panel
from limosa.data.windows import WindowIndex, enumerate_windows
from limosa.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """Sizes of adaptation data."""

    context: int = 512  # steps that the frozen forecaster sees
    horizon: int = 256  # steps that are adapted
    windows: int = 8192  # windows times channels to learn from
    validation_windows: int = 4096  # windows times channels to validate on
    batch_size: int = 256  # windows times channels
    validation_share: float = 0.2  # of the panel's rows that come after the split, where no `end` is given
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "windows", "validation_windows", "batch_size")
        if not 0.0 < self.validation_share < 1.0:
            raise UsageError(f"validation_share is {self.validation_share}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeSplit:
    """A panel split in time into a training and a validation part. Both hold the same series."""

    whole: Panel
    training: Panel  # the rows before `end`
    end: int  # the first stamp of the validation part
    validation: WindowIndex  # windows of `whole` whose answers all lie at or after `end`


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesScale:
    """Mean and deviation of each series and channel in the training part: the units of errors and neighbours."""

    mean: np.ndarray  # [N, C]
    deviation: np.ndarray  # [N, C], 1 where a series is constant

    @classmethod
    def of(cls, panel: Panel) -> SeriesScale:
        """Those of a panel's observed values."""
        seen = np.isfinite(panel.values)
        count = np.maximum(np.add.reduceat(seen, panel.start[:-1], dtype=np.float64), 1.0)
        mean = np.add.reduceat(np.where(seen, panel.values, 0.0), panel.start[:-1]) / count
        owner = np.repeat(np.arange(len(panel)), panel.lengths)
        away = np.where(seen, panel.values - mean[owner], 0.0)
        deviation = np.sqrt(np.add.reduceat(away**2, panel.start[:-1]) / count)
        constant = deviation <= 1e-9 * np.abs(mean)
        return cls(mean=mean, deviation=np.where(constant, 1.0, deviation))


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptationData:
    """What an adapter is fitted with."""

    config: AdaptationConfig
    base: Forecaster
    split: TimeSplit
    scale: SeriesScale
    training: CachedBatches
    validation: CachedBatches
    key: str  # names the data, the windows, the sizes and the frozen forecaster

    def some_validation(self, most: int = 4) -> list[CachedWindow]:
        """A few of the validation batches, spread over the time, to choose weights by while training."""
        size = self.validation.batch_size
        starts = range(0, len(self.validation), size)
        chosen = starts[:: max(1, -(-len(starts) // most))]
        return [self.validation.take(np.arange(at, min(at + size, len(self.validation)))) for at in chosen]

    def errors(self, forecast: Callable[[CachedWindow], Forecast]) -> Errors:
        """Errors of a forecast on the validation windows."""
        return self.error_sums(forecast).errors()

    def choose_weights(self, adapter: Corrected, correction: Callable[[CachedWindow], Tensor] | None = None) -> Errors:
        """Set the weights `alpha` of a correction, so that it does no harm on validation windows, and measure it.

        `correction` gives that of a window; None takes the adapter's of the window's past.
        """
        made = correction or (lambda window: adapter.correction(window.past, window.base_forecast))
        sums = self.error_sums(lambda window: window.base_forecast, made, WEIGHTS)
        chosen = choose(sums)
        adapter.alpha.copy_(torch.tensor(WEIGHTS)[torch.from_numpy(chosen)])
        return sums.errors(chosen)

    def error_sums(
        self,
        forecast: Callable[[CachedWindow], Forecast],
        correction: Callable[[CachedWindow], Tensor] | None = None,
        weights: Sequence[float] = (0.0,),
    ) -> ErrorSums:
        """Errors of a forecast on the validation windows, with each weight of a correction."""
        sums, device = ErrorSums(self.config.horizon, weights, THIRDS), device_of(self.base)
        index, whole = self.validation.index, self.split.whole
        begins = whole.stamps[whole.start[index.series] + index.cutoff]
        bounds = np.quantile(np.unique(begins), np.arange(1, THIRDS) / THIRDS)
        third = torch.from_numpy(np.searchsorted(bounds, begins, side="right"))  # of the validation time
        with torch.inference_mode():
            for part, cpu in self.validation.in_order():
                window = cpu.to(device)
                assert window.future is not None
                change = None if correction is None else correction(window)
                sums.add(forecast(window), window.future, window.unit, third[part], change)
        return sums


def prepare(
    base: Forecaster,
    panel: Panel,
    config: AdaptationConfig,
    *,
    end: int | None = None,
    folder: Path | None = None,
    on_done: OnDone | None = None,
) -> AdaptationData:
    """Split `panel`, at the stamp `end` if given, sample windows and predict each once with `base`.

    With a `folder` the predictions are kept there, and a stopped run goes on where it was.

    Raises: DataError if the panel is too short to be split, or nothing was observed in a part.
    """
    split = split_in_time(panel, share=config.validation_share, end=end)
    C = panel.values.shape[1]
    if split.training.lengths.max() < 2:
        until = panel.times(np.array([split.end]))[0]
        raise DataError(f"no series has two rows before {until}, in the part to learn from; give longer series")
    training = _training_windows(split.training, config).sampled(max(1, config.windows // C), config.seed)
    validation = split.validation.sampled(max(1, config.validation_windows // C), config.seed + 1)
    scale = SeriesScale.of(split.training)
    batches, keys, done, total = {}, [], 0, len(training) + len(validation)
    sizes = {"context": config.context, "horizon": config.horizon}
    own = {"context": config.context, "deviation": scale.deviation, "rows": config.batch_size, "seed": config.seed}
    for name, part, index in (("training", split.training, training), ("validation", split.whole, validation)):
        keys.append(_key(base, part, index, config))
        path = None if folder is None else folder / f"{name}-{keys[-1]}.npy"
        report = None if on_done is None else lambda n, _, before=done: on_done(before + n, total)
        cache, levels = cache_predictions(base, part, index, **sizes, path=path, on_done=report)
        done += len(index)
        batches[name] = CachedBatches(panel=part, index=index, cache=cache, levels=levels, **own)  # type: ignore[arg-type]
    return AdaptationData(config=config, base=base, split=split, scale=scale, key="-".join(keys), **batches)


def split_in_time(panel: Panel, *, share: float = 0.2, end: int | None = None) -> TimeSplit:
    """Split at the stamp `end`, or so that about `share` of the rows come after it.

    Series that begin after the split are left out.

    Raises: DataError if no series reaches over the split, or nothing was observed on one side of it.
    """
    if end is None:
        end = int(np.sort(panel.stamps)[int((1.0 - share) * len(panel.stamps))])
    when = panel.times(np.array([end]))[0]
    begun = panel.stamps[panel.start[:-1]] < end  # [N]
    whole = panel.rows(np.repeat(begun, panel.lengths)) if begun.any() else panel
    training = whole.rows(whole.stamps < end) if begun.any() else panel
    validation = enumerate_windows(whole.lengths, horizon=1, origin=training.lengths)[:]
    if not begun.any() or not len(validation):
        raise DataError(
            f"no series has rows both before and after {when}, where the part that adapters are judged by begins; "
            "give longer series, or such that overlap in time"
        )
    observed, late = np.isfinite(whole.values).any(1), whole.stamps >= end
    for side, rows in (("before", ~late), ("from", late)):
        if not observed[rows].any():
            raise DataError(
                f"nothing was observed {side} {when}, where the part that adapters are judged by begins; give rows "
                "with values on both sides"
            )
    return TimeSplit(whole=whole, training=training, end=end, validation=validation)


def _training_windows(training: Panel, config: AdaptationConfig) -> WindowIndex:
    """Windows with a whole context before them where series are long enough, and an eighth of the answers."""
    longest = int(training.lengths.max())
    answers = max(1, min(config.horizon, longest // 4) // 8)
    past = max(1, min(config.context, (longest - answers) // 2))
    return enumerate_windows(training.lengths, past=past, horizon=min(answers, max(1, longest - past)))[:]


def _key(base: Forecaster, panel: Panel, index: WindowIndex, config: AdaptationConfig) -> str:
    """A name for the predictions of this forecaster for these windows."""
    made = hashlib.sha256(f"{fingerprint(base)} {sorted(asdict(config).items())}".encode())
    for array in (panel.values, panel.stamps, index.series, index.cutoff):
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()[:16]
