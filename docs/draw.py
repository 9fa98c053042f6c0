"""Draw the pictures of the documentation: `python docs/draw.py` writes them to `docs/images/`."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from limosa.data.kinds import KINDS, SyntheticConfig
from limosa.data.synthetic import draw

IMAGES = Path(__file__).parent / "images"


def draw_synthetic(path: Path, *, seed: int = 7, steps: int = 720) -> None:
    """Thirty synthetic series, 6 x 5 small multiples titled by kind: every kind twice, the first two three times."""
    generator = torch.Generator().manual_seed(seed)
    config = SyntheticConfig(missing=0.2)
    figure = Figure(figsize=(16, 12), layout="constrained")
    for i, axes in enumerate(figure.subplots(6, 5).flat):
        kind = KINDS[i % len(KINDS)]
        axes.plot(draw(1, steps, generator, config, kind)[0].tolist(), linewidth=0.7, color="#22557a")
        axes.set_title(kind, fontsize=10)
        axes.set_xticks([])
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    draw_synthetic(IMAGES / "synthetic.png")
