"""Draw small charts with matplotlib in styles that no training image has: fonts, dark themes, places of the legend."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
THEMES = ("default", "dark_background", "ggplot", "bmh", "grayscale", "Solarize_Light2")
LEGENDS = ("upper left", "upper right", "lower left", "lower right", "upper center")


def styled_chart(
    values: NDArray[Any], seed: int, *, height: int = 128, width: int = 128, names: str = "ABCD"
) -> NDArray[np.uint8]:
    """A chart of `values` [channels, points] in a style that `seed` draws: uint8 [height, width, 3].

    Channels of NaN are left out; `names` are those of the legend, which charts of several channels have.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from PIL import Image

    rng = np.random.default_rng(seed)
    enlarged = float(rng.uniform(2.0, 3.0))  # drawn at a finer grain, then made smaller
    drawn = io.BytesIO()
    shown = [i for i, line in enumerate(values) if np.isfinite(line).any()]
    with style.context([str(rng.choice(THEMES)), {"font.family": str(rng.choice(FONTS)), "font.size": 7}]):
        figure = Figure(figsize=(width / 50, height / 50), dpi=50 * enlarged, layout="constrained")
        axes = figure.subplots()
        for i in shown:
            dashes, size = str(rng.choice(["-", "-", "--", "-."])), float(rng.uniform(0.6, 1.8))
            axes.plot(values[i], dashes, linewidth=size, label=names[i])
        if len(shown) > 1:
            place: Any = str(rng.choice(LEGENDS))
            axes.legend(loc=place, fontsize=6, framealpha=0.5, ncols=int(rng.choice([1, len(shown)])))
        axes.margins(x=float(rng.uniform(0.0, 0.06)), y=float(rng.uniform(0.02, 0.25)))
        figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


def as_png(image: NDArray[np.uint8]) -> bytes:
    """An image [height, width, 3] as the bytes of a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()
