"""What is particular to Aaren: the stream, forgetting, real time; what it shares with all models is in the promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limosa import models
from limosa.core import Backbone, Forecaster, Learner, Pretrained, Streaming, Window, encode
from limosa.errors import UsageError
from limosa.models.forecasters.aaren import Aaren, AarenConfig, Pool
from limosa.nn.running import scaled_running
from promises.laws import HOUR, series

TINY: AarenConfig = models.card("aaren").tiny
ROWS = 4


def built(**options) -> Aaren:
    """A tiny model in which no weight is zero."""
    torch.manual_seed(0)
    model = Aaren(replace(TINY, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def long_window(model: Aaren, steps: int, *, holes: bool = True) -> Window:
    """Rows of several kinds with irregular stamps, covariates and missing values."""
    dice = torch.Generator().manual_seed(1)
    H, C, K = model.horizon, model.config.channels, model.config.known
    past = series(ROWS, steps, C, seed=0)
    if holes:
        past = past.masked_fill(torch.rand(past.shape, generator=dice) < 0.2, torch.nan)
        past[0, :5] = torch.nan  # begins late
        past[1, steps // 2 : steps // 2 + 9] = torch.nan
    hours = torch.randint(1, 5, (ROWS, steps + H), generator=dice).cumsum(1)
    known = torch.randn(ROWS, steps + H, K, generator=dice, dtype=torch.float64) if K else None
    return Window(past=past, horizon=H, stamps=HOUR * hours, known=known)


def streamed(model: Aaren, window: Window) -> Tensor:
    """The output after the last row."""
    state = model.start(len(window))
    L, H = window.past.shape[1], model.horizon
    for t in range(L):
        here = slice(t, t + 1 + H) if t + 1 + H <= L + H else slice(t, None)
        stamps = None if window.stamps is None else window.stamps[:, here]
        known = None if window.known is None else window.known[:, here]
        state, output = model.step(state, window.past[:, t], stamps=stamps, known=known)
    return output


def far(made: Tensor, expected: Tensor, window: Window) -> float:
    """The largest distance in units of how much each row moves."""
    move = window.past.nan_to_num().std(1).clamp(min=1e-3)[:, None, None]
    return float(((made - expected).abs() / move).max())


def test_it_satisfies_the_protocols_and_can_be_saved():
    for protocol in (Forecaster, Learner, Backbone, Pretrained, Streaming):
        assert isinstance(built(), protocol)


@pytest.mark.parametrize("options", [{"slope": False}, {"channels": 2, "known": 3}, {"interval": 7200.0}])
@pytest.mark.parametrize("scaling", ["running", "none"])
def test_a_stream_gives_the_forecast_of_all_rows_so_far(scaling, options):
    model = built(context=400, scaling=scaling, **options)
    window = long_window(model, 70)
    if scaling == "none":
        window = replace(window, past=window.past / window.past.nan_to_num().abs().amax(1, keepdim=True))
    assert far(streamed(model, window), model.forecast(window).values, window) <= 1e-5


def test_a_stream_without_stamps_is_a_forecast_without_stamps():
    model = built(context=400)
    window = replace(long_window(model, 40), stamps=None)
    assert far(streamed(model, window), model.forecast(window).values, window) <= 1e-5


def test_a_stream_says_nothing_before_it_saw_something():
    model = built()
    nothing = torch.full((1, 1), torch.nan)
    state, output = model.step(model.start(1), nothing)
    assert bool(output.isnan().all())
    state, output = model.step(state, torch.tensor([[3.0]]))
    assert bool(output.isfinite().all())
    _, output = model.step(state, nothing)
    assert bool(output.isfinite().all()), "a missing row ends the forecast"


def leaves(state) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in leaves(part)]


def test_the_state_never_grows():
    model = built()
    state = model.start(2)
    before = [(t.shape, t.dtype) for t in leaves(state)]
    for t in range(2 * model.context):
        state, output = model.step(state, torch.full((2, 1), 1e6 * t))
    assert [(t.shape, t.dtype) for t in leaves(state)] == before
    assert bool(output.isfinite().all())


@pytest.mark.parametrize("options", [{"attention": "causal"}, {"scaling": "window"}, {"scaling": "last"}])
def test_what_needs_whole_windows_is_not_streamed(options):
    with pytest.raises(UsageError, match="needs whole windows; to stream, train with"):
        built(**options).start(1)


def test_a_row_of_another_shape_is_refused():
    model = built()
    with pytest.raises(UsageError, match=r"value has shape \(2, 3\); this stream takes \(2, 1\)"):
        model.step(model.start(2), torch.zeros(2, 3))


# -- attention ---------------------------------------------------------------------------------------------------------


def inputs(N: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    dice = torch.Generator().manual_seed(2)
    seen = torch.rand(2, N, generator=dice) < 0.8
    return torch.randn(2, N, TINY.width, generator=dice), seen, torch.ones(2, N)


def pool(**options) -> Pool:
    torch.manual_seed(0)
    return Pool(replace(TINY, **options))


def test_the_folded_projection_is_the_keys_one():
    layer, (x, _, _) = pool(), inputs()
    d = TINY.width // TINY.heads
    query = layer.query(layer.token).view(TINY.heads, d)
    keys = layer.key(x).unflatten(-1, (TINY.heads, d))
    factored = torch.einsum("hd,rnhd->rnh", query, keys) / d**0.5
    assert torch.allclose(x @ layer.folded().mT, factored, atol=1e-5)


def test_what_a_layer_reads_does_not_depend_on_who_reads():
    layer, (x, seen, elapsed) = pool(), inputs()
    seen[:, -1] = False
    other = x.clone()
    other[:, -1] = 9.0
    assert torch.equal(layer(x, seen, elapsed)[:, -1], layer(other, seen, elapsed)[:, -1])


def test_a_layer_never_sees_later_or_missing_steps():
    layer, (x, seen, elapsed) = pool(), inputs()
    hidden, later = x.masked_fill(~seen[..., None], 7.0), x.clone()
    later[:, 20:] = 7.0
    made = layer(x, seen, elapsed)
    assert torch.allclose(layer(hidden, seen, elapsed), made, atol=1e-6)
    assert torch.allclose(layer(later, seen, elapsed)[:, :20], made[:, :20], atol=1e-6)


def test_a_layer_with_a_slope_forgets_and_one_without_does_not():
    x, seen, elapsed = inputs(2000)
    changed = x.clone()
    changed[:, :500] += 1.0
    with torch.no_grad():
        forgets, remembers = (
            float((layer(changed, seen, elapsed) - layer(x, seen, elapsed))[:, -1].abs().max())
            for layer in (pool(slope=True), pool(slope=False))
        )
    assert forgets < 1e-6 < 1e-2 < remembers


def test_time_between_stamps_fades_the_past_where_an_interval_is_set():
    window = long_window(built(), 40, holes=False)
    assert window.stamps is not None
    later = torch.where(torch.arange(window.stamps.shape[1]) >= 30, 24 * 7 * HOUR, 0)  # same marks but of the year
    gap = replace(window, stamps=window.stamps + later)
    model = built()
    with torch.no_grad():
        model.to_tokens.weight[:, -5:] = 0.0  # no calendar
    timed = Aaren(replace(TINY, interval=3600.0)).eval()
    timed.load_state_dict(model.state_dict())
    last = [encode(m, w)[-1].hidden[:, -1] for m in (model, timed) for w in (window, gap)]
    assert torch.equal(last[0], last[1]), "without an interval only the count of steps tells time"
    assert not torch.allclose(last[2], last[3], atol=1e-3)


def test_the_rival_has_the_same_size_but_for_the_queries():
    def size(**options) -> int:
        return sum(p.numel() for p in built(**options).parameters())

    assert size(slope=False) - size(attention="causal") == TINY.layers * TINY.width


@pytest.mark.parametrize("scaling", ["running", "window", "last"])
def test_the_rival_is_a_forecaster_that_masks_and_learns(scaling):
    model = built(attention="causal", scaling=scaling, channels=2, known=3)
    window = long_window(model, 48)
    assert window.known is not None
    assert bool(model.forecast(window).values.isfinite().all())
    future = series(ROWS, model.horizon, 2, seed=3)
    model.loss(replace(window, future=future)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


# -- scaling, channels, covariates -------------------------------------------------------------------------------------


def test_the_running_scale_of_the_last_step_is_near_that_of_the_window():
    past = 5.0 + 3.0 * torch.randn(8, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = scaled_running(past, memory=1e6)
    assert torch.allclose(made.center, past.mean(1, keepdim=True), rtol=1e-3)
    deviation = 1.25 * (past - past.mean(1, keepdim=True)).abs().mean(1, keepdim=True)
    assert torch.allclose(made.scale, deviation, rtol=0.02)
    assert torch.equal(scaled_running(past[:, :100], memory=50.0).z, scaled_running(past, memory=50.0).z[:, :100]), (
        "it looks ahead"
    )


def test_the_running_scale_follows_a_level_that_moves():
    past = torch.cat([torch.zeros(1, 300, 1), torch.full((1, 300, 1), 100.0)], dim=1).double()
    assert float(scaled_running(past, memory=30.0).center) == pytest.approx(100.0, abs=0.1)


def test_several_channels_are_read_jointly_or_refused():
    model = built(channels=2)
    window = long_window(model, 30, holes=False)
    other = window.past.clone()
    other[..., 1] *= torch.linspace(1.0, 3.0, 30, dtype=torch.float64)
    made, moved = (model.forecast(replace(window, past=past)).values[..., 0] for past in (window.past, other))
    assert not torch.allclose(made, moved), "channel 0 does not see channel 1"
    with pytest.raises(UsageError, match="reads 2 channels jointly and the window has 1"):
        model.forecast(replace(window, past=window.past[..., :1]))


def test_covariates_ahead_matter_and_are_asked_for():
    model = built(known=1)
    window = long_window(model, 30, holes=False)
    assert window.known is not None
    moved = window.known.clone()
    moved[:, -1] += 5.0
    made, other = (model.forecast(replace(window, known=known)).values for known in (window.known, moved))
    assert torch.equal(made[:, :, :-1], other[:, :, :-1])
    assert not torch.equal(made[:, :, -1], other[:, :, -1])
    with pytest.raises(UsageError, match="reads 1 known covariates and is given 0"):
        model.forecast(replace(window, known=None))


def test_rows_without_answers_do_not_count():
    model = built()
    window = replace(long_window(model, 30), future=series(ROWS, model.horizon, 1, seed=5))
    assert window.future is not None
    missing = window.future.clone()
    missing[1] = torch.nan
    kept = window.rows(torch.tensor([0, 2, 3]))
    with torch.no_grad():
        made, expected = (float(model.loss(batch)) for batch in (replace(window, future=missing), kept))
    assert made == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UsageError, match="training needs answers for 1 to 12 steps"):
        model.loss(replace(window, horizon=13))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": 0}, "kernel is 0; it must be at least 1"),
        ({"width": 18}, "width 18 must be a multiple of twice the 2 heads"),
        ({"attention": "full"}, "attention is 'full'; choose one of aaren, causal"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        replace(TINY, **options)
