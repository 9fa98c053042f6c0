"""The train loop, on a learner of a few numbers."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limosa.core import Window
from limosa.errors import DataError, LimosaError, UsageError
from limosa.training import checkpoint
from limosa.training.loop import Progress, Result, TrainConfig, fit

CONFIG = TrainConfig(
    steps=24, learning_rate=0.02, warmup=4, average=0.9, validate_every=6, checkpoint_every=5, precision="fp32", seed=3
)


class Line(nn.Module):
    """A small network with dropout, so that the state of the random numbers matters."""

    def __init__(self, steps: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(steps, 16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def loss(self, batch: Window) -> Tensor:
        assert batch.future is not None
        return (self.network(batch.past[..., 0]).float() - batch.future[:, 0]).square().mean()


@dataclass(frozen=True)
class Sums:
    """Batches whose answer is the sum of the past; a pure function of the step."""

    rows: int = 8
    asked: list[int] = field(default_factory=list)

    def batch(self, step: int) -> Window:
        self.asked.append(step)
        past = torch.randn(self.rows, 6, 1, generator=torch.Generator().manual_seed(step))
        return Window(past=past, future=past.sum(1, keepdim=True), horizon=1)


class Lever(nn.Module):
    """One number that every step moves up by the rate; validation is best where it passes `best`."""

    def __init__(self, best: float) -> None:
        super().__init__()
        self.best = best
        self.height = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Window) -> Tensor:
        return -self.height.sum() if self.training else (self.height - self.best).square().sum()


def fit_line(config: TrainConfig, **options: Any) -> tuple[list[Tensor], Result]:
    """The weights and the result of a run from the same start."""
    line = Line()
    result = fit(line, options.pop("batches", Sums()), config, **options)
    return [p.detach().clone() for p in line.parameters()], result


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Stopped(Exception):
    """What ends a run in its middle."""


def stop_at(step: int) -> Any:
    """An `on_progress` that ends the run after `step` steps."""

    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return on_progress


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls(precision):
    losses = []
    config = replace(CONFIG, steps=150, precision=precision)
    _, result = fit_line(config, validation=[Sums().batch(999)], on_progress=lambda p: losses.append(p.loss))
    assert result.best_validation is not None
    assert result.best_validation < 0.25 * losses[0]
    assert result.loss == losses[-1]


def test_the_same_seed_gives_the_same_weights_also_the_second_time():
    assert equal(fit_line(CONFIG)[0], fit_line(CONFIG)[0])
    assert not equal(fit_line(CONFIG)[0], fit_line(replace(CONFIG, seed=4))[0])  # dropout


def test_batches_are_asked_for_by_step_each_once():
    batches = Sums()
    fit_line(replace(CONFIG, steps=5, accumulate=3), batches=batches)
    assert batches.asked == list(range(15))


def test_accumulated_batches_are_one_larger_batch():
    @dataclass(frozen=True)
    class Joined:
        parts: int

        def batch(self, step: int) -> Window:
            windows = [Sums().batch(step * self.parts + part) for part in range(self.parts)]
            past, future = (torch.cat([getattr(w, name) for w in windows]) for name in ("past", "future"))
            return Window(past=past, future=future, horizon=1)

    def weights(batches: Any, accumulate: int) -> list[Tensor]:
        line = Line()
        line.network[2].p = 0.0  # dropout would differ
        fit(line, batches, replace(CONFIG, accumulate=accumulate))
        return [p.detach() for p in line.parameters()]

    for a, b in zip(weights(Sums(), 3), weights(Joined(3), 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_frozen_parameter_stays():
    line = Line()
    line.network[0].weight.requires_grad_(False)
    before = line.network[0].weight.clone()
    fit(line, Sums(), CONFIG)
    assert torch.equal(line.network[0].weight, before)


def test_the_learner_ends_with_the_averaged_weights_in_evaluation_mode():
    lever = Lever(best=0.0)
    fit(lever, Sums(), replace(CONFIG, steps=50, warmup=0, learning_rate=0.1, average=0.9, weight_decay=0.0))
    averaged = float(lever.height.detach())
    assert not lever.training
    fit(
        raw := Lever(best=0.0),
        Sums(),
        replace(CONFIG, steps=50, warmup=0, learning_rate=0.1, average=0.0, weight_decay=0.0),
    )
    assert 0.0 < averaged < float(raw.height.detach())


# -- validation --------------------------------------------------------------------------------------------------------


def lifted(patience: int, steps: int = 100) -> tuple[float, Result]:
    """The height at the end of a run that passes the best one, 2, near its 20th step."""
    lever = Lever(best=2.0)
    config = TrainConfig(
        steps=steps,
        learning_rate=0.1,
        warmup=0,
        weight_decay=0.0,
        average=0.0,
        validate_every=5,
        patience=patience,
        seed=0,
    )
    result = fit(lever, Sums(), config, validation=[Sums().batch(0)])
    return float(lever.height.detach()), result


def test_the_best_validated_weights_are_returned():
    height, result = lifted(patience=0)
    assert result.step == 100
    assert result.best_step == 20
    assert height == pytest.approx(2.0, abs=0.3)
    assert result.best_validation == pytest.approx((height - 2.0) ** 2, abs=1e-6)


def test_training_stops_when_validation_no_longer_improves():
    height, result = lifted(patience=2)
    assert (result.best_step, result.step) == (20, 30)
    assert height == pytest.approx(2.0, abs=0.3)


def test_a_run_that_still_improves_is_not_stopped():
    _, result = lifted(patience=1, steps=12)
    assert (result.best_step, result.step) == (12, 12)


def test_every_row_of_validation_counts_alike_however_they_are_batched():
    rows = Sums(rows=9).batch(999)
    parts = [rows.rows(slice(0, 8)), rows.rows(slice(8, 9))]
    (_, whole), (_, split) = (fit_line(CONFIG, validation=windows) for windows in ([rows], parts))
    assert split.best_validation == pytest.approx(whole.best_validation, rel=1e-5)


def test_without_validation_nothing_is_chosen():
    _, result = fit_line(CONFIG)
    assert (result.step, result.best_step, result.best_validation) == (24, None, None)


def test_validation_does_not_disturb_training():
    windows = [Sums().batch(999)]
    plain, watched = [], []
    fit_line(CONFIG, on_progress=lambda p: plain.append(p.loss))
    fit_line(CONFIG, validation=windows, on_progress=lambda p: watched.append(p.loss))
    assert plain == watched


# -- stopping and resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stop", [1, 5, 13, 23, 24])
def test_a_resumed_run_ends_bitwise_as_if_it_had_never_stopped(tmp_path, precision, stop):
    config = replace(CONFIG, precision=precision)
    windows = [Sums().batch(999)]
    whole = fit_line(config, validation=windows, folder=tmp_path / "whole")
    with pytest.raises(Stopped):
        fit_line(config, validation=windows, folder=tmp_path / "cut", on_progress=stop_at(stop))
    batches = Sums()
    again = fit_line(config, validation=windows, folder=tmp_path / "cut", resume=True, batches=batches)
    assert equal(whole[0], again[0])
    assert whole[1] == again[1]
    # From the newest checkpoint, not from the start.
    assert batches.asked == list(range(24 if stop == 24 else 5 * (stop // 5), 24))


def test_a_run_stopped_inside_a_step_resumes_bitwise(tmp_path):
    @dataclass(frozen=True)
    class Failing:
        def batch(self, step: int) -> Window:
            if step == 2 * 17 + 1:  # the second micro-batch of a step
                raise Stopped
            return Sums().batch(step)

    config = replace(CONFIG, accumulate=2)
    whole, _ = fit_line(config)
    with pytest.raises(Stopped):
        fit_line(config, folder=tmp_path, batches=Failing())
    again, _ = fit_line(config, folder=tmp_path, resume=True)
    assert equal(whole, again)


class Normed(Line):
    """`Line` with running statistics, which are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.network.insert(1, nn.BatchNorm1d(16))


def test_running_statistics_resume_bitwise_too(tmp_path):
    undisturbed, resumed = Normed(), Normed()
    fit(undisturbed, Sums(), CONFIG, validation=[Sums().batch(999)])

    def stop(at: Progress) -> None:
        if at.step == 13:
            raise Stopped

    with pytest.raises(Stopped):
        fit(Normed(), Sums(), CONFIG, validation=[Sums().batch(999)], folder=tmp_path, on_progress=stop)
    fit(resumed, Sums(), CONFIG, validation=[Sums().batch(999)], folder=tmp_path, resume=True)
    assert equal(list(undisturbed.state_dict().values()), list(resumed.state_dict().values()))


def test_a_run_stopped_early_is_not_taken_up_again(tmp_path):
    config = TrainConfig(
        steps=100, learning_rate=0.1, warmup=0, average=0.0, validate_every=5, patience=2, checkpoint_every=5, seed=0
    )
    validation = [Sums().batch(0)]
    first = fit(Lever(best=2.0), Sums(), config, validation=validation, folder=tmp_path)
    batches = Sums()
    assert fit(Lever(best=2.0), batches, config, validation=validation, folder=tmp_path, resume=True) == first
    assert batches.asked == []


def test_without_resume_a_run_starts_anew_beside_old_checkpoints(tmp_path):
    whole, _ = fit_line(CONFIG, folder=tmp_path)
    batches = Sums()
    again, _ = fit_line(CONFIG, folder=tmp_path, batches=batches)
    assert batches.asked[0] == 0
    assert equal(whole, again)


def test_resuming_with_another_model_is_a_data_error(tmp_path):
    fit_line(CONFIG, folder=tmp_path)
    with pytest.raises(DataError, match="another folder"):
        fit(Lever(best=0.0), Sums(), CONFIG, folder=tmp_path, resume=True)


def test_a_checkpoint_of_another_version_is_a_data_error(tmp_path):
    fit_line(CONFIG, folder=tmp_path)
    newest = checkpoint.common(tmp_path)
    assert newest is not None
    state = newest / "state.json"
    state.write_text(state.read_text().replace('["format", {"plain": 3}]', '["format", {"plain": 2}]'))
    with pytest.raises(DataError, match="another version"):
        fit_line(CONFIG, folder=tmp_path, resume=True)


def test_a_run_with_a_folder_ends_as_one_without(tmp_path):
    assert equal(fit_line(CONFIG)[0], fit_line(CONFIG, folder=tmp_path)[0])


# -- what goes wrong, and what is said ---------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    class Bursting(Line):
        def loss(self, batch: Window) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(batch) * (math.inf if self.calls == 6 else 1.0)

    with pytest.raises(LimosaError, match="step 5 is inf"):
        fit(Bursting(), Sums(), CONFIG)


def test_what_exploded_is_named_by_batch_rows_and_largest_gradients():
    @dataclass(frozen=True)
    class Holed:
        def batch(self, step: int) -> Window:
            window = Sums().batch(step)
            if step == 2 * 3 + 1:  # the second micro-batch of step 3
                window.past[[2, 5]] = math.inf
            return window

    with pytest.raises(LimosaError, match=r"step 3 is nan \(batch 7, rows 2, 5\).*network\.\d\.(weight|bias) \(nan\)"):
        fit_line(replace(CONFIG, accumulate=2), batches=Holed())


def test_gradients_that_explode_are_named_though_the_loss_is_finite():
    class Root(Line):
        def loss(self, batch: Window) -> Tensor:
            return super().loss(batch) + self.network[3].bias.mul(0.0).sqrt().sum()  # infinite slope at 0

    with pytest.raises(
        LimosaError, match=r"step 0: the norm of the gradients is nan.*largest: network\.3\.bias \(nan\)"
    ):
        fit(Root(), Sums(), CONFIG)


def test_the_next_batch_is_prepared_while_the_step_is_computed():
    begun = threading.Event()

    class Told(Sums):
        def batch(self, step: int) -> Window:
            if step == 1:
                begun.set()
            return super().batch(step)

    class Waiting(Line):
        def loss(self, batch: Window) -> Tensor:
            assert begun.wait(10.0)
            return super().loss(batch)

    fit(Waiting(), Told(), CONFIG)


def test_the_share_of_time_that_waits_for_batches_is_told():
    @dataclass(frozen=True)
    class Slow:
        def batch(self, step: int) -> Window:
            time.sleep(0.05)
            return Sums().batch(step)

    seen: list[Progress] = []
    result = fit(Line(), Slow(), replace(CONFIG, steps=6), on_progress=seen.append)
    assert all(0.3 < one.waited <= 1.0 for one in seen)
    assert result.waited == pytest.approx(seen[-1].waited, abs=0.1)


def test_progress_tells_where_the_run_stands():
    seen: list[Progress] = []
    fit_line(CONFIG, validation=[Sums().batch(999)], on_progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 25))
    assert {p.steps for p in seen} == {24}
    assert all(math.isfinite(p.loss) and p.norm > 0.0 for p in seen)
    assert [p.validation is None for p in seen] == [True] * 5 + [False] * 19
    assert all(p.seconds_left >= 0.0 for p in seen)
    assert seen[-1].seconds_left == 0.0


def test_the_time_left_is_the_pace_times_the_steps_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = []

    def on_progress(progress: Progress) -> None:
        left.append(progress.seconds_left)

    class Slow(Line):
        def loss(self, batch: Window) -> Tensor:
            now[0] += 2.0
            return super().loss(batch)

    fit(Slow(), Sums(), CONFIG, on_progress=on_progress)
    assert left == pytest.approx([2.0 * (24 - step) for step in range(1, 25)])


@pytest.mark.parametrize(
    "options",
    [
        *({"steps": 0}, {"accumulate": 0}, {"validate_every": 0}, {"checkpoint_every": 0}),
        *(
            {"average": 1.0},
            {"average": -0.1},
            {"learning_rate": 0.0},
            {"learning_rate": math.nan},
            {"max_grad_norm": -1.0},
            {"patience": -1},
        ),
        *({"warmup": -1}, {"weight_decay": -0.1}, {"precision": "fp8"}, {"optimizer": "lion"}, {"schedule": "step"}),
    ],
)
def test_an_option_out_of_range_is_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        TrainConfig(**options)


# -- by the clock ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that the run reads, which goes on by a hundredth of a minute at each look."""
    now = [0.0]

    def look() -> float:
        now[0] += 0.6
        return now[0]

    monkeypatch.setattr("limosa.training.loop.time.monotonic", look)
    return now


def test_a_run_of_minutes_ends_with_them_and_with_the_rate_fallen(clock):
    seen: list[Progress] = []
    config = replace(CONFIG, steps=100_000, minutes=5.0, optimizer="sgd", weight_decay=0.0)
    _, result = fit_line(config, on_progress=seen.append, validation=[Sums().batch(10_000)])
    assert 300.0 <= clock[0] < 320.0
    assert 50 < result.step == seen[-1].step == seen[-1].steps
    assert seen[len(seen) // 2].steps == pytest.approx(result.step, rel=0.2)  # told from the speed so far
    assert seen[-1].validation is not None  # of the last step
    rates = []
    lever = Lever(best=0.0)
    fit(lever, Sums(), config, on_progress=lambda _: rates.append(float(lever.height.detach())))
    moves = [after - before for before, after in pairwise(rates)]
    assert moves[-1] < 0.1 * max(moves)


def test_a_resumed_run_of_minutes_has_only_those_left(clock, tmp_path):
    config = replace(CONFIG, steps=100_000, minutes=5.0)
    with pytest.raises(Stopped):
        fit_line(config, folder=tmp_path, on_progress=stop_at(40))
    clock[0] = 1e6  # some days later
    fit_line(config, folder=tmp_path, resume=True)
    assert 1e6 + 150.0 < clock[0] < 1e6 + 270.0


def test_minutes_below_zero_are_refused():
    with pytest.raises(UsageError, match="minutes is -1"):
        TrainConfig(minutes=-1.0)
