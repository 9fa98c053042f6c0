"""Streams: one row at a time gives the outputs of the model, also after a restart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

import limosa
from limosa import models
from limosa.core import Forecaster, Streaming
from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError
from limosa.tasks.stream import Stream, leaves


class Parts(NamedTuple):
    total: torch.Tensor
    rest: dict


class Sums:
    """Sums of what came so far, kept in a nest of containers."""

    def __init__(self, channels=2):
        self.channels = channels

    def start(self, batch):
        zeros = torch.zeros(batch, self.channels, dtype=torch.float64)
        return Parts(zeros, {"count": torch.zeros(batch, dtype=torch.int64), "last": [zeros, (zeros,)]})

    def step(self, state, value, *, times=1):
        if value.shape[1] != self.channels:
            raise UsageError(f"{value.shape[1]} channels came")
        total = state.total + times * value
        return Parts(total, {"count": state.rest["count"] + 1, "last": [value, (total,)]}), total


def test_each_row_moves_the_state_on():
    stream = Stream(Sums())
    outputs = [stream.update(row) for row in ([1.0, 2.0], (3.0, 4.0), np.array([5.0, 6.0]), torch.tensor([[7.0, 8.0]]))]
    assert torch.cat(outputs).tolist() == [[1.0, 2.0], [4.0, 6.0], [9.0, 12.0], [16.0, 20.0]]
    assert stream.rows == 4
    assert int(stream.state.rest["count"]) == 4


def test_a_number_is_a_row_and_a_list_is_a_row_of_each_stream():
    assert Stream(Sums(1)).update(3).tolist() == [[3.0]]
    assert Stream(Sums(1), batch=3).update([1, 2, 3]).tolist() == [[1.0], [2.0], [3.0]]
    assert Stream(Sums(2), batch=2).update([[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_a_model_wants_to_know_beside_the_row_is_handed_on():
    assert Stream(Sums()).update([1.0, 2.0], times=10).tolist() == [[10.0, 20.0]]


def test_the_state_does_not_grow():
    stream = Stream(Sums())
    sizes = set()
    for _ in range(50):
        stream.update([1.0, 2.0])
        sizes.add(stream.state_bytes)
    assert sizes == {3 * 2 * 8 + 8}


def test_a_row_that_does_not_fit_leaves_the_stream_as_it_was():
    stream = Stream(Sums(), batch=2)
    stream.update([[1.0, 2.0], [3.0, 4.0]])
    for row in ([[1.0, 2.0]], [[[1.0]]], [1.0, 2.0]):
        with pytest.raises(UsageError):
            stream.update(row)
    assert stream.rows == 1
    assert stream.state.total.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_model_that_cannot_stream_and_no_streams_at_all_are_refused():
    with pytest.raises(UsageError, match=r"[Nn]aive can forecast but cannot take one row at a time"):
        limosa.stream("naive")
    with pytest.raises(UsageError, match="at least 1 stream"):
        limosa.stream(Sums(), batch=0)
    with pytest.raises(ModelNotFound):
        limosa.stream("nothing-of-that-name")


def test_a_saved_stream_goes_on_as_if_it_had_never_stopped(tmp_path):
    stream = Stream(Sums(), batch=2)
    stream.update([[1.0, 2.0], [3.0, 4.0]])
    stream.save(tmp_path / "deep" / "stream")
    again = Stream.load(tmp_path / "deep" / "stream", Sums())
    assert again.rows == 1
    for row in ([[5.0, 6.0], [7.0, 8.0]], [[0.0, 1.0], [torch.nan, 2.0]]):
        assert torch.equal(again.update(row).nan_to_num(-1), stream.update(row).nan_to_num(-1))
    assert type(again.state) is Parts
    assert all(
        torch.equal(mine.nan_to_num(-1), theirs.nan_to_num(-1))
        for mine, theirs in zip(leaves(again.state), leaves(stream.state), strict=True)
    )


def test_what_is_no_stream_of_this_model_is_refused(tmp_path):
    Stream(Sums()).save(tmp_path)
    with pytest.raises(DataError, match="other options"):
        Stream.load(tmp_path, Sums(3))
    (tmp_path / "stream.safetensors").write_bytes(b"not a stream")
    with pytest.raises(DataError, match="does not hold a stream"):
        Stream.load(tmp_path, Sums())
    with pytest.raises(ModelNotFound, match="no saved stream"):
        Stream.load(tmp_path / "elsewhere", Sums())


def test_a_full_disk_leaves_nothing_behind(tmp_path, full_disk):
    stream = Stream(Sums())
    with full_disk(), pytest.raises(LimosaError, match="cannot write"):
        stream.save(tmp_path)
    assert not list(tmp_path.iterdir())


TINY = {name: models.card(name).build(models.card(name).tiny) for name in models.names()}
STREAMING = [name for name, model in TINY.items() if isinstance(model, Streaming) and isinstance(model, Forecaster)]


@pytest.mark.parametrize("name", STREAMING)
def test_every_streaming_model_can_be_streamed_saved_and_gone_on_with(name, tmp_path):
    torch.manual_seed(0)
    model = models.card(name).build(models.card(name).tiny).eval()
    model.save_pretrained(tmp_path / "model")
    stream = limosa.stream(tmp_path / "model", batch=2)
    dice = torch.Generator().manual_seed(0)
    rows = 5.0 + torch.randn(20, 2, 1, generator=dice)
    rows[3, 1] = torch.nan
    sizes = set()
    for row in rows[:10]:
        output = stream.update(row)
        assert output.isfinite().all()
        sizes.add(stream.state_bytes)
    assert len(sizes) == 1
    stream.save(tmp_path / "stream")
    again = Stream.load(tmp_path / "stream", limosa.load(tmp_path / "model"))
    for row in rows[10:]:
        assert torch.equal(again.update(row), stream.update(row))


def test_spacetime_is_among_the_streaming_models():
    assert "spacetime" in STREAMING
