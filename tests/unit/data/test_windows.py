"""Laws of training windows: each once an epoch, the same on every visit, never copied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limosa.core import Window
from limosa.data.panel import Panel
from limosa.data.windows import Windows, enumerate_windows, permuted
from limosa.errors import DataError, UsageError


def panel(*lengths: int) -> Panel:
    """Series whose values say where they are: 1000 * series + row."""
    series = np.repeat(np.arange(len(lengths)), lengths)
    row = np.concatenate([np.arange(n) for n in lengths])
    return Panel.read({"unique_id": series, "ds": row, "y": 1000.0 * series + row})


def answers(window: Window) -> list[float]:
    """The first answer of each item, which tells series and cutoff."""
    assert window.future is not None
    return window.future[:, 0, 0].tolist()


def test_every_window_comes_once_an_epoch_over_all_ranks() -> None:
    data, seen = panel(9, 2, 30, 3), []
    for rank in range(2):
        windows = Windows(data, context=5, horizon=2, batch_size=2, seed=3, rank=rank, world=2)
        assert len(windows) == 7 + 0 + 28 + 1
        assert windows.steps_per_epoch == 9
        seen += [value for step in range(9) for value in answers(windows.batch(step))]
    expected = [1000 * i + t for i, n in enumerate((9, 2, 30, 3)) for t in range(1, n - 1)]
    assert sorted(seen) == expected


def test_epochs_and_seeds_differ_in_order_only() -> None:
    data = panel(40)

    def epoch(seed: int, number: int) -> list[float]:
        windows = Windows(data, context=4, horizon=1, batch_size=13, seed=seed)
        return [v for step in range(3) for v in answers(windows.batch(3 * number + step))]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    assert all(sorted(order) == list(range(1, 40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch(0, 1) == orders[1]


def test_a_batch_depends_on_its_step_alone() -> None:
    def make(rank: int = 0) -> Windows:
        return Windows(panel(50, 60), context=8, horizon=3, batch_size=4, seed=1, rank=rank, world=2)

    first, again = make(), make()
    forward = [first.batch(step) for step in range(40)]
    for step in reversed(range(40)):
        assert answers(again.batch(step)) == answers(forward[step])
    assert [answers(make(rank=1).batch(step)) for step in range(5)] != [answers(b) for b in forward[:5]]


def test_past_and_future_are_neighbours_and_short_pasts_are_padded() -> None:
    windows = Windows(panel(6), context=3, horizon=2, batch_size=4, seed=0)
    batch = windows.batch(0)
    assert batch.future is not None
    assert batch.past.dtype == torch.float32
    for past, future in zip(batch.past[:, :, 0], batch.future[:, :, 0], strict=True):
        whole = torch.cat([past, future])
        first = float(future[0])
        expected = [first + k if first + k >= 0 else float("nan") for k in range(-3, 2)]
        np.testing.assert_array_equal(whole, expected)


def test_covariates_and_stamps_stay_beside_their_values() -> None:
    hours = np.datetime64("2024-01-01T00") + np.arange(9).astype("m8[h]")
    table = {"ds": hours, "y": np.arange(9.0), "promo": np.arange(9.0) + 100, "area": np.full(9, 7.0)}
    data = Panel.read(table, known_cols=["promo"], static_cols=["area"])
    batch = Windows(data, context=3, horizon=2, batch_size=7, seed=0).batch(0)
    assert batch.stamps is not None
    assert batch.known is not None
    assert batch.static is not None
    cutoff = torch.tensor(answers(batch))
    position = cutoff[:, None] + torch.arange(-3, 2)
    np.testing.assert_array_equal((batch.stamps - int(data.stamps[0])) // 3_600_000_000, position)
    np.testing.assert_array_equal(batch.known[:, :, 0], torch.where(position < 0, torch.nan, position + 100))
    np.testing.assert_array_equal(batch.static, np.full((7, 1), 7.0))


def test_min_context_is_kept() -> None:
    windows = Windows(panel(20), context=8, horizon=2, batch_size=1, seed=0, min_context=4)
    assert sorted(answers(windows.batch(step))[0] for step in range(len(windows))) == list(range(4, 19))


def test_fewer_windows_than_a_batch_go_round() -> None:
    windows = Windows(panel(4), context=2, horizon=1, batch_size=8, seed=0)
    assert windows.steps_per_epoch == 1
    assert sorted(set(answers(windows.batch(0)))) == [1, 2, 3]


def test_windows_are_counted_not_stored() -> None:
    few, many = (Windows(panel(n), context=512, horizon=64, batch_size=2, seed=0) for n in (100, 100_000))
    stored = [sum(v.nbytes for v in vars(w).values() if isinstance(v, np.ndarray)) for w in (few, many)]
    assert len(many) == 99_936
    assert stored[0] == stored[1]


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4097])
def test_the_permutation_is_one(size: int) -> None:
    order = permuted(np.arange(size), size, (5, 2))
    assert sorted(order.tolist()) == list(range(size))
    if size > 16:
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 4 / np.sqrt(size)


def test_impossible_windows_are_refused_with_the_fix() -> None:
    with pytest.raises(DataError, match=r"no series has 9 rows.*longest is '1' with 6.*shorter horizon"):
        Windows(panel(5, 6), context=3, horizon=8, batch_size=1, seed=0)
    good = {"context": 3, "horizon": 2, "batch_size": 1, "seed": 0}
    for bad in ({"horizon": 0}, {"min_context": 4}, {"rank": 1}):
        with pytest.raises(UsageError):
            Windows(panel(5, 6), **{**good, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("last", [None, 1, 3])
@pytest.mark.parametrize("origin", [0, np.array([0, 0, 9, 1, 0, 25])])
def test_windows_are_enumerated_as_a_loop_over_all_cutoffs_would_find_them(from_end, last, origin) -> None:
    lengths, past, horizon, stride = np.array([3, 9, 20, 1, 0, 30]), 2, 3, 4
    expected = []
    for number, length in enumerate(lengths):
        first = max(past, np.broadcast_to(origin, lengths.shape)[number])
        cutoffs = list(range(first, length - horizon + 1))
        cutoffs = cutoffs[::-1][::stride][::-1] if from_end else cutoffs[::stride]
        expected += [(number, cutoff) for cutoff in cutoffs[-(last or 99) :]]
    grid = enumerate_windows(
        lengths, horizon=horizon, past=past, stride=stride, origin=origin, last=last, from_end=from_end
    )
    found = grid[:]
    assert list(zip(found.series, found.cutoff, strict=True)) == expected
    assert len(grid) == len(found) == len(expected)
    some = grid[np.array([1, 0, 1])]
    assert list(zip(some.series, some.cutoff, strict=True)) == [expected[1], expected[0], expected[1]]
    assert [len(part) for part in found.batches(2)] == [2] * (len(found) // 2) + [1] * (len(found) % 2)


def test_the_span_of_a_window_is_the_stamps_of_its_first_and_last_row_inside_the_series() -> None:
    first, last = enumerate_windows(np.array([9, 20]), horizon=4, stride=5)[:].spans(panel(9, 20), context=3, horizon=4)
    assert first.tolist() == [0, 0, 3, 8, 13]
    assert last.tolist() == [4, 4, 9, 14, 19]
