"""Turn free numbers of a network into quantiles that cannot cross.

`LEVELS` are the levels every limosa forecaster answers, so that forecasts of different models line up.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
MEDIAN = LEVELS.index(0.5)


def ordered_quantiles(median: Tensor, steps: Tensor) -> Tensor:
    """Quantiles around a median, non-decreasing by construction.

    Args:
        median: [...], the middle level.
        steps: [..., Q-1], free numbers; a softplus turns each into the distance between two neighbouring levels.

    Returns: [..., Q], in the order of `LEVELS`.
    """
    gaps = F.softplus(steps)
    below, above = gaps[..., :MEDIAN], gaps[..., MEDIAN:]
    offsets = torch.cat(
        [-below.flip(-1).cumsum(-1).flip(-1), torch.zeros_like(gaps[..., :1]), above.cumsum(-1)], dim=-1
    )
    return median.unsqueeze(-1) + offsets
