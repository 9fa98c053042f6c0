"""Known covariates with forecasters that read none: what they gain where they matter, and cost where they do not.

    python benchmarks/covariates.py [--quick] [--save]

Series of 200 days of which the last 28 are forecast, made with a weekly season and noise or as random walks, and
covariates that explain something or nothing. `ratio` is the mean absolute error with covariates over that without,
`used` the share of series whose forecast they change, `covered` what the 80 % band holds with them. `noise_cost` is the
largest ratio where they explain nothing, `effect_ratio` the mean one where they do. `--quick` takes a quarter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import finish, options

STEPS, AHEAD = 200, 28
Array = NDArray[np.float64]


def made(series: int, seed: int) -> dict[str, tuple[bool, Array, Array]]:
    """Kind -> whether covariates explain something, values [B, T], covariates [B, T, K]."""
    dice, t = np.random.default_rng(seed), np.arange(STEPS + AHEAD)
    shape = (series, len(t))
    week = 100 + 20.0 * np.array([0, 1, 2, 1, 0, 3, 4])[t % 7] + dice.normal(0, 8, shape)
    walk = 100 + dice.normal(0, 3, shape).cumsum(1)
    promotion = (dice.random(shape) < 0.08) * 1.0
    warmth = 10 * np.sin(t / 30) + dice.normal(0, 4, shape)
    price = 1 + 0.2 * (dice.random(shape) < 0.2)
    holiday = np.zeros(shape)
    holiday[:, [50, 120, STEPS + 10]] = 1.0
    flat = np.broadcast_to(np.stack([t % 7 >= 5, t, 0 * t + 3], -1) * 1.0, (*shape, 3))
    counts = dice.poisson(2 * (1 + 2 * promotion)) * 1.0
    noise = dice.normal(size=(*shape, 3))
    return {
        "one of noise": (False, week, noise[..., :1]),
        "three of noise": (False, week, noise),
        "walks, two that wander": (False, walk, noise[..., :2].cumsum(1)),
        "weekend, line, constant": (False, week, flat),
        "a promotion doubles sales": (True, week * (1 + promotion), promotion[..., None]),
        "that and two of noise": (
            True,
            week * (1 + promotion),
            np.concatenate([promotion[..., None], noise[..., :2]], -1),
        ),
        "linear in temperature": (True, week + 3 * warmth, warmth[..., None]),
        "price elasticity of -2": (True, week / price**2, price[..., None]),
        "two past holidays": (True, week - 60 * holiday, holiday[..., None]),
        "counts under promotion": (True, counts, promotion[..., None]),
    }


def main() -> None:
    chosen = options(__doc__ or "")
    import torch

    import limosa
    from limosa.core import Window
    from limosa.tasks._covariates import WithCovariates

    torch.set_num_threads(1)
    table: list[dict[str, Any]] = []
    for kind, (explains, values, known) in made(10 if chosen.quick else 40, chosen.seed).items():
        past, actual = torch.from_numpy(values[:, :STEPS, None]), torch.from_numpy(values[:, STEPS:])
        window = Window(past=past, horizon=AHEAD, known=torch.from_numpy(known.copy()))
        for model in ("limosa-small", "naive"):
            own = WithCovariates(limosa.load(model))
            answers = own.forecast(window), limosa.load(model).forecast(Window(past=past, horizon=AHEAD))
            errors = [float((answer.at(0.5)[..., 0] - actual).abs().mean()) for answer in answers]
            low, high = (answers[0].at(level)[..., 0] for level in (0.1, 0.9))
            covered = float(((actual >= low) & (actual <= high)).double().mean())
            table.append(
                {
                    "run": f"{kind}, {model}",
                    "explains": explains,
                    "ratio": errors[0] / errors[1],
                    "used": own.used / own.asked,
                    "covered": covered,
                }
            )
    metrics = {
        "noise_cost": max(one["ratio"] for one in table if not one["explains"]),
        "effect_ratio": float(np.mean([one["ratio"] for one in table if one["explains"]])),
    }
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
