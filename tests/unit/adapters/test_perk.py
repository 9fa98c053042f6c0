"""PERK: memories of long histories, what they are made of and what they never see."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import limosa
from limosa import models
from limosa.adapters import _saving
from limosa.adapters._data import AdaptationConfig, prepare
from limosa.adapters._encoded import Memory, encode_panel
from limosa.adapters._fitting import FitRun
from limosa.adapters._history import History, phases
from limosa.adapters.perk import CHUNK, Perk, PerkConfig, fit
from limosa.core import Backbone, Forecaster, Window
from limosa.errors import DataError, UsageError
from promises.laws import LAWS, Subject, assert_close, series, subject, values
from unit.adapters.conftest import HOUR, panel_of, seasons

MAKERS = {name: subject(name, models.card(name), calendar=True).make for name in models.names()}
BASES = [name for name, make in MAKERS.items() if isinstance(make(), Backbone) and isinstance(make(), Forecaster)]
SIZES = {"context": 24, "horizon": 8, "history": 120, "rank": 2, "width": 8, "steps": 2, "tasks": 2}


def a_perk(base="patched", **options):
    """An adapter that encodes, with weights that hide nothing, on the tiny model of a file."""
    frozen = subject(base, models.card(base), calendar=True).make()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Perk(PerkConfig(**SIZES | options), frozen)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    made.alpha.fill_(1.0)
    return made.eval()


def a_window(rows=3, steps=120, horizon=8, channels=1, seed=0):
    """Series of several kinds with hourly stamps."""
    made = series(rows, steps + horizon, channels, seed)
    stamps = (HOUR * torch.arange(steps + horizon)).expand(rows, -1)
    return Window(past=made[:, :steps], future=made[:, steps:], horizon=horizon, stamps=stamps)


def channels_of(base):
    """How many channels the tiny model of a file reads jointly; 1 where it takes any number."""
    return getattr(models.card(base).tiny, "channels", 1)


def equal(one, other):
    """Whether two sets of factors are the same, bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


# The frozen model's card says that its forecasts do not follow every shift of a series.
@pytest.mark.slow
@pytest.mark.parametrize(
    "law", [law for law in LAWS if law.of is Forecaster and not law.of_scales], ids=lambda law: law.name
)
def test_an_adapter_that_encodes_keeps_the_promises_of_a_forecaster(law):
    law.check(Subject(name="perk", make=partial(a_perk, history=104, horizon=16, steps=1), calendar=True))


@pytest.mark.parametrize("base", BASES)
def test_what_is_encoded_changes_the_forecast_of_its_own_series_alone(base):
    model, window = a_perk(base), a_window(channels=channels_of(base))
    together = values(model, window)
    assert not torch.equal(together, values(model.base, window))
    for row in range(len(window)):
        alone = window.rows(slice(row, row + 1))
        assert_close(values(model, alone), together[row : row + 1], alone, 1e-4, f"row {row} alone")


def test_segments_end_where_the_past_ends_and_hold_no_later_answer():
    past = torch.arange(50.0)[None, :, None]
    history = History(past=Window(past=past, horizon=4), context=10, horizon=7, stride=7)
    whole = history.part(0, history.segments)
    assert history.segments == 5
    assert whole.future[-1, -1, 0] == 49.0
    assert torch.equal(whole.future[:, 0, 0] - whole.past[:, -1, 0], torch.ones(5))
    assert torch.equal(whole.future[1:, 0, 0], whole.future[:-1, -1, 0] + 1.0)
    assert torch.equal(history.part(2, 4).past, whole.past[2:4])
    assert history.age(0, 5).tolist() == [4, 3, 2, 1, 0]


def test_a_memory_and_its_loss_never_see_the_answers_that_they_are_judged_by():
    model, window = a_perk(), a_window()
    other = replace(window, future=window.future * -3.0 + 100.0)
    assert equal(model.encode(window)[0], model.encode(other)[0])
    answers = torch.autograd.functional.jacobian(
        lambda future: model.inner.through(
            model._losses(model._history(replace(window, future=future)), model.encode(window)[1], 0, 3, keep=True), 3
        )[model.inner.names[0]],
        window.future,
        create_graph=False,
    )
    assert not answers.any()


def test_a_history_scaled_has_a_forecast_scaled():
    model, window = a_perk(), a_window(rows=5)
    unit = window.past.std(1, keepdim=True)
    plain = replace(window, past=window.past / unit)
    scaled = values(model, replace(plain, past=1000.0 * plain.past))
    assert_close(scaled / 1000.0, values(model, plain), plain, 2e-3, "1000 x")


def test_a_history_shorter_than_a_segment_leaves_what_meta_training_found():
    model, window = a_perk(), a_window(steps=31)
    factors, _ = model.encode(window)
    assert equal(factors, model.inner.begin(3))
    assert model.forecast(window).values.isfinite().all()
    assert not equal(model.encode(a_window(steps=32))[0], factors)


def test_rows_that_were_not_observed_count_for_nothing():
    model, window = a_perk(), a_window(steps=88)
    longer = replace(
        window,
        past=torch.cat([torch.full((3, 32, 1), torch.nan).double(), window.past], dim=1),
        stamps=torch.cat([window.stamps[:, :32] - 32 * HOUR, window.stamps], dim=1),
    )
    (one, _), (other, _) = model.encode(window), model.encode(longer)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    holes = window.past.clone()
    holes[:, 40:60] = torch.nan
    assert model.forecast(replace(window, past=holes)).values.isfinite().all()
    assert model.forecast(replace(window, past=holes * torch.nan)).values.isnan().all()


def test_a_constant_history_is_forecast_as_that_constant():
    model = a_perk()
    level = torch.tensor([0.0, 0.1, -1e6]).double()[:, None, None].expand(3, 120, 1)
    made = model.forecast(replace(a_window(), past=level)).values
    assert ((made - level[:, None, :1]).abs() <= 0.05 * level[:, None, :1].abs()).all()


def test_no_more_windows_are_in_work_at_once_than_a_chunk(monkeypatch):
    model, seen = a_perk(), []
    state = model._state
    monkeypatch.setattr("limosa.adapters.perk.REMEMBERED", 100)
    monkeypatch.setattr(model, "_state", lambda rows: seen.append(len(rows)) or state(rows))
    memory = encode_panel(model, panel_of(seasons(2000, 1)))
    assert max(seen) == CHUNK
    assert sum(seen) == model.config.steps * ((2000 - 24) // 8)
    assert memory.rows.tolist() == [2000]


def test_a_memory_answers_as_the_adapter_that_encodes_again():
    model = a_perk(history=240)
    panel = panel_of(seasons(240, 2), seasons(200, 2, seed=1))
    memory = encode_panel(model, panel)
    window = panel.latest(240, 8)
    again = model.forecast(window).values
    made = memory.on(model).forecast(panel.latest(model.base.context, 8)).values
    assert torch.allclose(made, again, rtol=1e-4, atol=1e-4)


def test_memories_are_saved_loaded_stacked_and_chosen_from(tmp_path):
    model, panel = a_perk(), panel_of(seasons(200, 1), seasons(160, 1, seed=1), seasons(180, 1, seed=2))
    memory = encode_panel(model, panel)
    assert memory.ids.tolist() == ["s0", "s1", "s2"]
    memory.save(tmp_path / "deep" / "memory")
    again = Memory.load(tmp_path / "deep" / "memory")
    assert equal(again.factors, memory.factors)
    assert again.made_by == memory.made_by
    turned = Memory.stacked([again.of(["s2"]), again.of(["s0", "s1"])])
    assert turned.ids.tolist() == ["s2", "s0", "s1"]
    assert equal(turned.of(["s0", "s1", "s2"]).factors, memory.factors)
    assert sum(file.stat().st_size for file in (tmp_path / "deep" / "memory").iterdir()) < 1.2 * memory.bytes + 4000
    with pytest.raises(DataError, match="'s7'"):
        memory.of(["s0", "s7"])


def test_the_distance_of_memories_is_that_of_the_changes_they_make():
    model = a_perk()
    memory = encode_panel(model, panel_of(seasons(200, 1), seasons(200, 1), 5.0 * seasons(200, 1, seed=4) ** 3))
    found = memory.distance(memory)
    assert torch.allclose(found, found.T, atol=1e-5)
    assert found.diagonal().max() < 1e-4
    assert found[0, 1] < 1e-4 < found[0, 2]
    changes = torch.cat(
        [
            (memory.factors[f"{name}.lora_B.weight"] @ memory.factors[f"{name}.lora_A.weight"]).flatten(1)
            for name in (key.removesuffix(".lora_A.weight") for key in memory.factors if key.endswith("A.weight"))
        ],
        dim=1,
    )
    size = changes.square().sum(1)
    wanted = ((changes[0] - changes[2]).square().sum() * 2.0 / (size[0] + size[2])).sqrt()
    assert torch.allclose(found[0, 2].float(), wanted, rtol=1e-3)


def test_a_memory_refuses_another_adapter_than_its_own():
    memory = encode_panel(a_perk(), panel_of(seasons(100, 1)))
    other = a_perk()
    with torch.no_grad():
        other.inner.log_rate[0] += 1e-6
    with pytest.raises(DataError, match="another adapter"):
        memory.on(other)
    with pytest.raises(DataError, match="another adapter"):
        encode_panel(other, panel_of(seasons(140, 1)), memory)


def test_an_update_learns_from_new_rows_alone_and_keeps_the_other_series():
    model, rows = a_perk(), seasons(200, 1)
    memory = encode_panel(model, panel_of(rows[:150], seasons(90, 1, seed=5)))
    same = encode_panel(model, panel_of(rows[:155]), memory)
    assert equal(same.of(["s0", "s1"]).factors, memory.factors)
    old = rows.copy()
    old[: 150 - model.base.context] = 7.0  # not read again
    newer, again = (encode_panel(model, panel_of(part), memory) for part in (rows, old))
    assert equal(newer.factors, again.factors)
    assert newer.of(["s0"]).rows.tolist() == [198]
    assert equal(newer.of(["s1"]).factors, memory.of(["s1"]).factors)
    assert not equal(newer.of(["s0"]).factors, memory.of(["s0"]).factors)


def test_known_covariates_and_seasons_reach_the_shift():
    model = a_perk(covariates=1, season=50)
    window = replace(a_window(), known=torch.zeros(3, 128, 1).double())
    promoted = replace(window, known=window.known.index_fill(1, torch.tensor([123]), 1.0))
    memory = model.encode(window)
    assert not torch.equal(model.answer(window, *memory).values, model.answer(promoted, *memory).values)
    later = replace(window, stamps=window.stamps + 7 * HOUR)
    assert not torch.equal(model.answer(window, *memory).values, model.answer(later, *memory).values)
    whole = replace(window, stamps=window.stamps + 50 * HOUR)
    assert torch.allclose(model.answer(window, *memory).values, model.answer(whole, *memory).values, rtol=1e-4)
    with pytest.raises(UsageError, match="covariates"):
        model.answer(replace(window, known=None), *memory)


def test_phases_repeat_with_their_season():
    stamps = HOUR * torch.arange(400)[None]
    assert torch.allclose(phases(stamps, 48, 3)[:, :100], phases(stamps, 48, 3)[:, 48:148], atol=1e-6)
    assert torch.allclose(phases(stamps, 0, 3)[:, :100], phases(stamps, 0, 3)[:, 168:268], atol=1e-6)


def test_a_model_whose_hidden_states_cannot_be_reached_is_refused():
    with pytest.raises(UsageError, match="hidden states"):
        Perk(PerkConfig(**SIZES), subject("naive", models.card("naive"), calendar=True).make())


def some_data(rows=300):
    """Noisy days on the tiny patched model."""
    frozen = subject("patched", models.card("patched"), calendar=True).make()
    sizes = AdaptationConfig(context=32, horizon=8, windows=64, validation_windows=64, batch_size=32)
    return prepare(frozen, panel_of(seasons(rows, 2)), sizes)


@pytest.mark.slow
def test_a_fit_that_was_stopped_and_resumed_ends_as_one_that_was_not(tmp_path):
    data, config = some_data(), PerkConfig(**SIZES)
    whole = fit(data.base, data, config, FitRun(steps=4, folder=tmp_path / "a"))

    def stop(at):
        if at.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data.base, data, config, FitRun(steps=4, folder=tmp_path / "b", on_progress=stop))
    resumed = fit(data.base, data, config, FitRun(steps=4, folder=tmp_path / "b", resume=True))
    assert equal(whole.adapter.state_dict(), resumed.adapter.state_dict())
    _saving.save(resumed.adapter, tmp_path / "c", base="patched", more={})
    again = _saving.load(tmp_path / "c", data.base)
    panel = data.split.training
    assert equal(encode_panel(again, panel).factors, encode_panel(whole.adapter, panel).factors)


@pytest.mark.slow
def test_meta_training_takes_pasts_of_many_lengths():
    data, lengths = some_data(), set()
    original = Perk.loss

    def noted(self, batch):
        lengths.add(batch.past.shape[1])
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Perk, "loss", noted)
        fit(data.base, data, PerkConfig(**SIZES), FitRun(steps=5))
    assert len(lengths) > 3
    assert max(lengths) <= 120


def test_series_too_short_to_hold_two_windows_are_said_to_be():
    data = some_data(rows=24)
    with pytest.raises(DataError, match="longer series"):
        fit(data.base, data, PerkConfig(**SIZES), FitRun(steps=1))


@pytest.mark.slow
def test_meta_training_makes_memories_that_help():
    """Each series has a slow wave of its own size, which only its history shows."""
    torch.manual_seed(0)
    model = a_perk(steps=2, season=64, harmonics=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    dice = np.random.default_rng(0)

    def batch(rows):
        size = dice.standard_normal((rows, 1, 1))
        made = size * np.cos(2 * np.pi * np.arange(80) / 64)[None, :, None] + 0.1 * dice.standard_normal((rows, 80, 1))
        stamps = (HOUR * torch.arange(80)).expand(rows, -1)
        values = torch.from_numpy(made).float()
        return Window(past=values[:, :72], future=values[:, 72:], horizon=8, stamps=stamps)

    held = batch(32)
    before = float(model.loss(held).detach())
    for _ in range(25):
        optimizer.zero_grad()
        model.loss(batch(4)).backward()
        optimizer.step()
    after = float(model.loss(held).detach())
    hidden = replace(held, past=held.past.index_fill(1, torch.arange(40), torch.nan))
    assert after < 0.8 * before
    assert after < 0.9 * float(model.loss(hidden).detach())


def streamed(model, rows):
    """The states and forecasts of one stream after each of some rows."""
    stream, made = limosa.stream(model), []
    for row in rows:
        forecast = stream.update(row)
        made.append((stream.state, forecast.values))
    return made


@pytest.mark.slow
def test_a_stream_learns_from_a_window_only_when_all_of_its_answers_were_observed():
    model, rows = a_perk(channels=2), seasons(50, 2)
    states = [state["factors"] for state, _ in streamed(model, rows)]
    moved = [i + 1 for i in range(1, 50) if not equal(states[i], states[i - 1])]
    assert moved == [32, 40, 48]  # rows seen: a context of 24, then a horizon of 8 at a time
    newest = rows.copy()
    newest[40:] += 100.0
    other = [state["factors"] for state, _ in streamed(model, newest)]
    assert equal(states[46], other[46])
    assert not equal(states[47], other[47])


@pytest.mark.slow
def test_a_stream_ends_with_the_memory_of_as_many_updates_and_goes_on_from_a_saved_state(tmp_path):
    model, rows = a_perk(), seasons(48, 1)
    made = streamed(model, rows)
    window = Window(past=torch.from_numpy(rows[:32])[None], horizon=8, stamps=(HOUR * torch.arange(32))[None])
    memory = model.encode(window)
    assert equal(made[31][0]["factors"], memory[0])
    for end in (40, 48):
        stamps = (HOUR * torch.arange(end - 32, end))[None]
        memory = model.encode(
            Window(past=torch.from_numpy(rows[end - 32 : end])[None], horizon=8, stamps=stamps), memory
        )
    assert equal(made[47][0]["factors"], memory[0])
    stream = limosa.stream(model)
    for row in rows[:45]:
        stream.update(row)
    stream.save(tmp_path)
    again = type(stream).load(tmp_path, model)
    assert again.state_bytes == limosa.stream(model).state_bytes
    for row in rows[45:]:
        last = again.update(row)
    assert torch.equal(last.values, made[-1][1])
