"""Forecasters of other libraries, with tiny models of random weights; skipped where a library is not installed."""

from __future__ import annotations

import pytest
import torch

from limosa.adapters.memory import MemoryConfig, TSMemory
from limosa.core import Window
from limosa.errors import LimosaError, ModelNotFound
from limosa.models.foreign.chronos import Chronos


def window(horizon):
    dice = torch.Generator().manual_seed(0)
    past = torch.randn(2, 40, 2, generator=dice, dtype=torch.float64).cumsum(1) + 50.0
    past[0, :7] = torch.nan
    past[1, :, 1] = torch.nan
    return Window(past=past, horizon=horizon)


def bolt():
    """Chronos-Bolt, tiny."""
    chronos = pytest.importorskip("chronos.chronos_bolt")
    t5 = pytest.importorskip("transformers").T5Config
    inner = {"context_length": 64, "prediction_length": 8, "input_patch_size": 8, "input_patch_stride": 8}
    inner |= {"quantiles": [0.1, 0.5, 0.9], "use_reg_token": True}
    config = t5(
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        vocab_size=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        chronos_config=inner,
    )
    config.chronos_config = inner
    torch.manual_seed(0)
    return chronos.ChronosBoltPipeline(chronos.ChronosBoltModelForForecasting(config).eval())


def two():
    """Chronos-2, tiny."""
    pipeline = pytest.importorskip("chronos.chronos2.pipeline")
    model = pytest.importorskip("chronos.chronos2.model")
    config = pytest.importorskip("chronos.chronos2.config")
    inner = {"context_length": 64, "output_patch_size": 8, "input_patch_size": 8, "input_patch_stride": 8}
    inner |= {"quantiles": [i / 10 for i in range(1, 10)], "use_reg_token": True, "max_output_patches": 2}
    core = config.Chronos2CoreConfig(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, chronos_config=inner)
    torch.manual_seed(0)
    return pipeline.Chronos2Pipeline(model.Chronos2Model(core).eval())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [bolt, two])
def test_chronos_answers_in_our_order_and_can_be_adapted(make):
    base = Chronos(make()).eval()
    for horizon in (1, base.horizon, base.horizon + 5):
        made = base.forecast(window(horizon))
        assert tuple(made.values.shape) == (2, len(made.levels), horizon, 2)
        assert bool((made.values[0].diff(dim=0) >= 0).all())
        assert bool(made.values[0].isfinite().all())
        assert bool(made.values[1, ..., 1].isnan().all()), "a series without values"
    memory = TSMemory(MemoryConfig(context=32, horizon=16, width=16, token=8), base).eval()
    assert torch.equal(memory.forecast(window(8)).values.nan_to_num(), base.forecast(window(8)).values.nan_to_num())
    assert not list(dict(memory.named_parameters()).keys() & {f"model.{n}" for n, _ in base.model.named_parameters()})


def test_what_is_not_installed_or_not_there_is_said(tmp_path):
    try:
        import chronos  # noqa: F401
    except ImportError:
        with pytest.raises(LimosaError, match=r"limosa\[chronos\]"):
            Chronos.from_pretrained(tmp_path)
    else:
        with pytest.raises(ModelNotFound, match="no model in"):
            Chronos.from_pretrained(tmp_path)


def test_fracast_answers_in_our_order():
    pytest.importorskip("fracast")
    from limosa.models.foreign.fracast import Fracast

    made = Fracast().forecast(window(100))
    assert tuple(made.values.shape) == (2, 9, 100, 2)
    assert bool((made.values[0].diff(dim=0) >= 0).all())
    assert bool(made.values[1, ..., 1].isnan().all())
