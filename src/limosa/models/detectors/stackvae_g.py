"""StackVAE-G: a small variational auto-encoder that all channels share, and a graph between them, for anomalies.

Li et al. 2021, "StackVAE-G: An efficient and interpretable model for time series anomaly detection" (arXiv 2105.08397).
The window of each channel is encoded by the same network, the codes of neighbours in a learnt sparse graph are mixed,
and the same decoder rebuilds each window. The residual of a window is its anomaly score.

`variant="paper"` (see `PAPER`) is that, scored by the squared error of the newest row; the mean of the code is decoded
instead of the mean of 200 draws, and units come from training rows only: deviations, squashed like log beyond ten of
them, so that a channel which is nearly constant does not saturate. `variant="fused"`, the
default, differs in:

* A linear expert says what each channel should be given its own past and all others (`_gaussian`): its residual is
  not mixed with those of neighbours, so contributions come from it, and its partial correlations are the edges of the
  graph. A third expert is what the principal components of normal windows cannot rebuild.
* Residuals are standardised by those of normal rows, those of both linear experts by rows that their fits lack.
* An anomaly may be short or long: residuals are averaged over several spans, and the largest score counts.
* The likelihood is Gaussian with a floor, on what was observed; a channel does not compete with its neighbours.

A total of 1 is exceeded by one in a hundred normal rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, Scores, Training, Window, check_at_least, check_choice
from limosa.data.windows import permuted
from limosa.errors import UsageError
from limosa.models.detectors._channel_graph import SHARPNESS, ChannelGraph
from limosa.models.detectors._gaussian import Conditional, Plane, cross_fit, links
from limosa.models.detectors._residual_scale import NORMAL_QUANTILE, ResidualScale
from limosa.models.detectors._sliding import Sliding, carried, pieces, windows

SHARE = 0.01  # of a channel's range, added to its deviation
SOFT = 10.0  # deviations from which a value counts by its logarithm
LEAST_SIGMA = 0.1  # of the likelihood, in units of the channel: a window rebuilt better than that is rebuilt
WEIGHTS = (0.6, 0.1, 0.3)  # of the linear expert, the network and the plane in the total
COMPONENTS = 30  # of the plane
BATCH = 64  # windows


@dataclass(frozen=True, kw_only=True)
class StackVaeGConfig:
    """Options of `StackVaeG`."""

    variant: Literal["fused", "paper"] = "fused"
    window: int = 20  # rows
    hidden: int = 64  # width of the encoder's and the decoder's layers
    code: int = 8  # numbers per channel and window
    embedding: int = 30  # numbers per channel from which the graph is made
    neighbours: int = 10  # largest number of channels that a channel depends on
    mixing: float = 0.5  # share of a code that comes from neighbours
    directed: bool = False  # whether a may depend on b without b depending on a
    scales: tuple[int, ...] = (2, 10, 40)  # rows over which residuals are averaged; fused only
    ridge: float = 1.0  # of the linear expert, in variances; fused only
    seed: int = 0  # of the first weights and the order of windows
    channels: int = 0  # set by fit

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))  # a list where it was read from JSON
        check_at_least(self, 1, "window", "hidden", "code", "embedding", "neighbours")
        check_choice(self, "variant", ("fused", "paper"))
        if not 0.0 <= self.mixing <= 1.0 or not self.ridge > 0.0 or not self.scales or min(self.scales) < 1:
            raise UsageError(
                f"mixing is {self.mixing}, ridge {self.ridge}, scales {self.scales}; they must lie in [0, 1], above 0, "
                "and be at least 1 row each"
            )


PAPER = StackVaeGConfig(variant="paper", window=100, hidden=200, code=20)


# -- the network -------------------------------------------------------------------------------------------------------


def _layers(first: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())


class Network(nn.Module):
    """The auto-encoder of windows [.., C, W], and a Learner of them."""

    def __init__(self, config: StackVaeGConfig) -> None:
        super().__init__()
        c = self.config = config
        self.encoder = nn.Sequential(*_layers(c.window, c.hidden), nn.Linear(c.hidden, c.code))
        self.code_mean, self.code_log_var = nn.Linear(c.code, c.code), nn.Linear(c.code, c.code)
        self.decoder = _layers(c.code, c.hidden)
        self.mean, self.log_var = nn.Linear(c.hidden, c.window), nn.Linear(c.hidden, c.window)
        self.graph = ChannelGraph(
            c.channels, c.embedding, c.neighbours, directed=c.directed, own_edge=c.variant == "paper"
        )

    def _mixed(self, x: Tensor, graph: Tensor) -> Tensor:
        own = self.encoder(x)
        return torch.lerp(own, graph @ own, self.config.mixing)

    def newest(self, x: Tensor, graph: Tensor) -> Tensor:
        """The newest row [.., C] of windows [.., C, W], rebuilt from the mean of codes mixed by `graph` [C, C]."""
        last = self.decoder(self.code_mean(self._mixed(x, graph)))
        newest: Tensor = F.linear(last, self.mean.weight[-1:], self.mean.bias[-1:])[..., 0]
        return newest

    def loss(self, batch: Window) -> Tensor:
        """Reconstruction error, divergence of the codes, and error of predicting a channel by its neighbours.

        `batch.past` is [B, W, C] in units of the channels, NaN = not observed, which does not count.
        """
        whole = batch.past.mT  # [B, C, W]
        x, seen = carried(whole), whole.isfinite()
        graph = self.graph()
        mixed = self._mixed(x, graph)
        center, log_spread = self.code_mean(mixed), self.code_log_var(mixed)
        code = center + torch.randn_like(center) * (0.5 * log_spread).exp()
        last = self.decoder(code)
        mean, log_var = self.mean(last), self.log_var(last)
        if self.config.variant == "paper":
            error = (mean + torch.randn_like(mean) * (0.5 * log_var).exp() - x).square()
        else:
            variance = log_var.exp() + LEAST_SIGMA**2
            error = 0.5 * ((mean - x).square() / variance + variance.log())
        divergence = 0.5 * (center.square() + log_spread.exp() - 1.0 - log_spread).sum((1, 2)).mean()
        predicted = (x - graph @ x).square()
        size = x[0].numel()
        total: Tensor = size * (_mean(error, seen) + _mean(predicted, seen)) + divergence
        return total if self.config.variant == "paper" else total / size


def _mean(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, values, 0.0).sum() / seen.sum().clamp(min=1)


@dataclass(frozen=True)
class NormalWindows:
    """All windows of normal rows [T, C] as training batches: each once an epoch, in a seeded order."""

    rows: Tensor
    width: int
    seed: int

    def batch(self, step: int) -> Window:
        """The batch of step `step`."""
        import numpy as np

        count = len(self.rows) - self.width + 1
        epoch, within = divmod(step, max(1, count // BATCH))
        index = (within * BATCH + np.arange(min(BATCH, count))) % count
        first = torch.from_numpy(permuted(index, count, (self.seed, epoch)))
        return Window(past=self.rows[first[:, None] + torch.arange(self.width)], horizon=1)


# -- the detector ------------------------------------------------------------------------------------------------------


class StackVaeG(Sliding):
    """The detector of this file; see there. `fit` trains the `Network`, which is the Learner."""

    config: StackVaeGConfig
    mixing: Tensor  # [C, C] the network's graph, kept so that it is not computed at each row
    links: Tensor  # [C, C] partial correlations; fused only
    edge: Tensor  # scalar, NORMAL_QUANTILE of the weighted mean on normal rows; fused only

    def __init__(self, config: StackVaeGConfig) -> None:
        super().__init__(config)
        self._build()

    def _build(self) -> None:
        """New parts for the channels of the config."""
        c = self.config
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(c.seed)
            self.network = Network(c)
        self.register_buffer("mixing", torch.zeros(c.channels, c.channels))
        if self._fused:
            self.linear = Conditional(c.window, c.channels, c.ridge)
            self.plane = Plane(c.window, c.channels, COMPONENTS)
            self.residual_scale = ResidualScale(2, c.channels, c.scales)  # of the linear expert and the network
            self.plane_scale = ResidualScale(1, c.channels, (1,))  # its residuals are means of a window already
            self.register_buffer("edge", torch.ones(()))
            self.register_buffer("links", torch.zeros(c.channels, c.channels))

    @property
    def _fused(self) -> bool:
        return self.config.variant == "fused"

    @property
    def span(self) -> int:
        """The longest span over which residuals are averaged."""
        return max(self.config.scales) if self._fused else 1

    # -- fitting --------------------------------------------------------------------------------------------------

    def fit(self, rows: Tensor, train: Training) -> None:
        """Learn from `rows` [T, C]: units and the linear expert in closed form, the network by `train`.

        Raises: DataError if there are too few rows, UsageError if there are too many channels for the window.
        """
        z = self.standardise(rows, share=SHARE)
        self._build()

        train(self.network, NormalWindows(z, self.config.window, self.config.seed))
        self.eval()
        with torch.no_grad():
            self.mixing.copy_(self.network.graph())
            if self._fused:
                moments, unseen = cross_fit([self.linear, self.plane], z)  # [T - window + 1, 2, C]
                self.links.copy_(links(moments))
                rebuilt = torch.cat([self._rebuilt(part)[0] for part in pieces(z[None], self.window)])
                energies = torch.stack([unseen[:, 0], rebuilt, unseen[:, 1]], dim=1)
                self.residual_scale.fit(energies[:, :2])
                self.plane_scale.fit(energies[:, 2:])
                self.edge.fill_(np.quantile(self._fused_total(energies[None]).numpy(), NORMAL_QUANTILE))

    def _units(self, values: Tensor) -> Tensor:
        """Squashed: beyond `SOFT` deviations a value counts by its logarithm."""
        return SOFT * (super()._units(values) / SOFT).asinh()

    # -- scores ---------------------------------------------------------------------------------------------------

    def _rebuilt(self, past: Tensor) -> Tensor:
        """Squared residuals of the network [B, n, C] of `past` [B, window - 1 + n, C], 0 where not observed."""
        x = carried(windows(past, self.window)).contiguous()  # [B, n, C, W]
        residuals = x[..., -1] - self.network.newest(x, self.mixing)
        return residuals.square().masked_fill(past[:, self.window - 1 :].isnan(), 0.0)

    def energies(self, past: Tensor) -> Tensor:
        """Squared residuals [B, n, experts, C] of `past` [B, window - 1 + n, C], 0 where not observed."""
        if not self._fused:
            return self._rebuilt(past)[:, :, None]
        return torch.stack([self.linear.energies(past), self._rebuilt(past), self.plane.energies(past)], dim=2)

    def scores(self, energies: Tensor) -> Scores:
        """From squared residuals [B, span - 1 + n, experts, C]: totals of all, contributions of the linear expert."""
        if not self._fused:
            return super().scores(energies[:, :, 0])
        contribution = self.residual_scale.contribution(energies[:, self.span - 1 :, :2])[:, :, 0]
        return Scores(values=contribution, total=self._fused_total(energies) / self.edge)

    def _fused_total(self, energies: Tensor) -> Tensor:
        """The weighted mean [B, n] of the experts' totals, from squared residuals [B, span - 1 + n, experts, C]."""
        return self.experts(energies) @ energies.new_tensor(WEIGHTS)

    def experts(self, energies: Tensor) -> Tensor:
        """The totals [B, n, 3] of linear expert, network and plane, from squared residuals [B, span - 1 + n, 3, C]."""
        alone = self.plane_scale.total(energies[:, self.span - 1 :, 2:])
        return torch.cat([self.residual_scale.total(energies[:, :, :2]), alone], dim=-1)

    def edges(self) -> Tensor:
        """[C, C] from 0 to 1, how strongly each channel (row) depends on each other one (column); 0 with itself.

        Of the fused variant these are partial correlations over the window, of the paper's the learnt graph.
        """
        self._check_fitted()
        if self._fused:
            return self.links
        strengths = self.network.graph.strengths().detach() / SHARPNESS
        return strengths * (1.0 - torch.eye(len(strengths)))


CARD = Card(
    config=StackVaeGConfig,
    build=StackVaeG,
    tiny=StackVaeGConfig(window=8, hidden=16, code=4, embedding=6, neighbours=2, scales=(1, 6)),
    source="Li et al. 2021, StackVAE-G",
    summary="detector: shared auto-encoder and graph of channels, fused with a linear expert",
)
