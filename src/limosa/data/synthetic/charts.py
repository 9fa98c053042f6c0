"""Draw line charts of many series at once, anti-aliased, as small images to train a vision-language model on.

A line is drawn column by column: each of three sub-columns of a pixel is covered over the range of y that the polyline
has inside it, widened by the line, and the coverage of the three is averaged. Every point counts, however many share
a pixel. Styles are random per chart: colours, line width, margins, limits of the axis, grid, markers, dark ground.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limosa.data.synthetic.parts import Random
from limosa.errors import UsageError

CHANNELS = "ABCD"  # names of the channels of a chart, as its legend shows them
SUB = 3  # sub-columns of a pixel
STEPS = (2.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 200.0, 500.0)  # between labels of an axis
LABELS = 6  # at most, on an axis
GLYPHS = {  # 3 x 5 pixels: rows from the top, three bits each
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556",
}  # fmt: skip
COLOURS = ((0.12, 0.38, 0.72), (0.90, 0.45, 0.08), (0.15, 0.60, 0.25), (0.80, 0.12, 0.18))  # of A to D, jittered
_COLOURS_SHAPE = (len(COLOURS), 3)


def draw_charts(
    values: Tensor, generator: torch.Generator, *, height: int = 128, width: int = 128, alike: bool = False
) -> Tensor:
    """Charts of `values` [B, C, T] in random styles: uint8 [B, 3, height, width] on the generator's device.

    With `alike` all are drawn in one style and on one axis, as frames of one chart are.

    Up to four channels of numbers from 0 to 100, T points at least 2. NaN leaves a gap; a channel of nothing but NaN is
    not there, and has no name in the legend. A chart of one channel has no legend.

    Raises: UsageError for other shapes, or images of fewer than 64 pixels to a side.
    """
    if values.ndim != 3 or not 1 <= values.shape[1] <= len(CHANNELS) or values.shape[2] < 2:
        raise UsageError(
            f"values have shape {tuple(values.shape)}; give [charts, 1 to {len(CHANNELS)} channels, points]"
        )
    if min(height, width) < 64:
        raise UsageError(f"a chart of {height} x {width} pixels holds no labels; give at least 64")
    chart = _Chart(values.to(generator.device, torch.float32), Random(generator), height, width, alike=alike)
    chart.draw_axes()
    for channel in range(values.shape[1]):
        chart.draw_line(channel)
    return (chart.image * 255.0).round().clamp(0, 255).to(torch.uint8)


class _Chart:
    """Charts in the making: `image` [B, 3, H, W] from 0 to 1, and where the axes of each lie, in pixels."""

    def __init__(self, values: Tensor, rng: Random, height: int, width: int, *, alike: bool) -> None:
        self.values, self.height, self.width = values, height, width
        batch, _, self.points = values.shape
        styles = 1 if alike else batch
        self.unit = unit = max(1, height // 128)  # pixels of a pixel of a glyph
        self.present = values.isfinite().any(2)  # [B, C]
        self.legend = self.present.sum(1) > 1  # [B]

        def uniform(low: float, high: float) -> Tensor:
            return rng.uniform(low, high, styles).expand(batch)

        self.left, self.right = uniform(9, 15) * unit, width - uniform(2, 6) * unit
        self.top, self.bottom = uniform(2, 6) * unit + 7 * unit * self.legend, height - uniform(8, 12) * unit
        low, high = values.nan_to_num(_LARGE).amin((1, 2)), values.nan_to_num(-_LARGE).amax((1, 2))
        if alike:
            low, high = low.amin().expand(batch), high.amax().expand(batch)
        pad = (high - low).clamp(min=4.0)
        self.low = (low - pad * uniform(0.02, 0.3)).clamp(min=0.0)
        self.high = (high + pad * uniform(0.02, 0.3)).clamp(max=99.5).maximum(high)
        dark = uniform(0, 1) < 0.15
        ground = torch.where(dark, uniform(0.0, 0.2), uniform(0.9, 1.0))
        self.ink = torch.where(dark, 0.85, 0.2)
        self.line_width = uniform(0.8, 2.2) * unit
        self.grid = (uniform(0, 1) < 0.6) * uniform(0.1, 0.4)  # how dark
        self.markers = (uniform(0, 1) < 0.25) & (self.points <= 96)
        jitter = rng.uniform(-0.12, 0.12, styles, *_COLOURS_SHAPE).expand(batch, *_COLOURS_SHAPE)
        colours = torch.tensor(COLOURS, device=values.device) + jitter
        self.colours = torch.where(dark[:, None, None], colours * 0.6 + 0.4, colours).clamp(0.0, 1.0)
        self.image = ground[:, None, None, None].expand(batch, 3, height, width).clone()

    def x(self, index: Tensor) -> Tensor:
        """Pixels from the left of points [B, ...] by number."""
        return self._between(self.left, self.right, index / (self.points - 1))

    def y(self, value: Tensor) -> Tensor:
        """Pixels from the top of values [B, ...]."""
        low, high = (one.view(-1, *[1] * (value.ndim - 1)) for one in (self.low, self.high))
        return self._between(self.bottom, self.top, (value - low) / (high - low))

    @staticmethod
    def _between(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        first, last = (one.view(-1, *[1] * (share.ndim - 1)) for one in (first, last))
        return first + (last - first) * share

    def draw_axes(self) -> None:
        """Axes, labels of both, a grid for some, and the legend."""
        rows = torch.arange(self.height, device=self.values.device) + 0.5
        columns = torch.arange(self.width, device=self.values.device) + 0.5
        value, there = self._labels(self.low, self.high)  # [B, LABELS]
        end = torch.full_like(self.low, self.points - 1)
        index, within = self._labels(torch.zeros_like(end), end)
        x, y = self.x(index), self.y(value)
        inside_x = (columns >= self.left[:, None] - 1) & (columns <= self.right[:, None])  # [B, W]
        inside_y = (rows >= self.top[:, None]) & (rows <= self.bottom[:, None] + 1)  # [B, H]
        near_y = ((rows[:, None] - y[:, None]).abs() < 0.5) & there[:, None]  # [B, H, LABELS]
        near_x = ((columns[:, None] - x[:, None]).abs() < 0.5) & within[:, None]
        grid = (near_y.any(2)[:, :, None] & inside_x[:, None]) | (near_x.any(2)[:, None] & inside_y[:, :, None])
        axes = ((columns - self.left[:, None] + 0.5).abs() < 0.5)[:, None] & inside_y[:, :, None]
        axes |= ((rows - self.bottom[:, None] - 0.5).abs() < 0.5)[:, :, None] & inside_x[:, None]
        self._blend(torch.maximum(grid * self.grid[:, None, None], axes * 0.8), self.ink[:, None].expand(-1, 3))
        self._write(value, there, (self.left - 1.5 * self.unit)[:, None], y - 2.5 * self.unit)
        self._write(index, within, x + 2.0 * self.unit, (self.bottom + 2.0 * self.unit)[:, None])
        self._name_channels()

    def _labels(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Round numbers between `low` and `high` [B], and which of them are there: [B, LABELS]."""
        steps = torch.tensor(STEPS, device=low.device)
        fits = (high - low)[:, None] / steps < LABELS - 1
        step = steps[fits.float().argmax(1)][:, None]
        value = (low[:, None] / step).ceil() * step + step * torch.arange(LABELS, device=low.device)
        return value, value <= high[:, None]

    def _write(self, number: Tensor, there: Tensor, x: Tensor, y: Tensor) -> None:
        """Write whole numbers [B, n] of up to three digits that end at x, their tops at y [B, n or 1]."""
        whole = number.round().long()
        for place in range(3):
            digit = whole // 10**place % 10
            shown = there & ((whole >= 10**place) | (place == 0))
            self._stamp(digit, shown, x - (4 * place + 3) * self.unit, y, self.ink[:, None, None])

    def _name_channels(self) -> None:
        """The legend: letters in the channels' colours, above the lines."""
        batch, channels = self.present.shape
        order = self.present.cumsum(1) - 1
        x = self.right[:, None] - 6.0 * self.unit * (self.present.sum(1, keepdim=True) - order)
        y = (self.top - 6.0 * self.unit)[:, None]
        letter = 10 + torch.arange(channels, device=x.device).expand(batch, channels)
        self._stamp(letter, self.present & self.legend[:, None], x, y, self.colours[:, :channels])

    def _stamp(self, glyph: Tensor, there: Tensor, x: Tensor, y: Tensor, colour: Tensor) -> None:
        """Put glyphs [B, n] with their upper left corners at x, y [B, n or 1], in colours [B, n or 1, 3]."""
        x, y, colour = x.expand_as(there), y.expand_as(there), colour.expand(*there.shape, 3)
        shapes = _shapes(self.unit).to(x.device)  # [14, h, w]
        row, column = (torch.arange(n, device=x.device) for n in shapes.shape[1:])
        chart, item = there.nonzero(as_tuple=True)
        down = (y[chart, item].round().long()[:, None, None] + row[:, None]).clamp(0, self.height - 1)
        along = (x[chart, item].round().long()[:, None, None] + column).clamp(0, self.width - 1)
        at, i, j = shapes[glyph[chart, item]].nonzero(as_tuple=True)
        self.image[chart[at], :, down[at, i, 0], along[at, 0, j]] = colour[chart, item][at]

    def draw_line(self, channel: int) -> None:
        """One channel over what is there."""
        low, high = self._range(channel)  # [B, columns]
        rows = torch.arange(self.height, device=low.device) + 0.5
        half = self.line_width[:, None, None] / 2
        covered = torch.minimum(rows - low[..., None] + half, high[..., None] + half - rows) + 0.5
        covered = covered.clamp_(0.0, 1.0).view(len(low), self.width, SUB, self.height).mean(2)  # [B, W, H]
        self._blend(covered.transpose(1, 2), self.colours[:, channel])
        if bool(self.markers.any()):
            self._mark(channel)

    def _range(self, channel: int) -> tuple[Tensor, Tensor]:
        """The least and the largest y of the line in each sub-column, [B, W * SUB]; wrong way round where none is."""
        y = self.y(self.values[:, channel])  # [B, T]
        count, last = self.width * SUB, self.points - 1
        edge = torch.arange(count + 1, device=y.device) / SUB
        place = (edge - self.left[:, None]) / (self.right - self.left)[:, None] * last  # [B, count + 1] in points
        outside, place = (place < 0) | (place > last), place.clamp(0, last)
        before = place.floor().long().clamp(max=last - 1)
        at_edge = torch.lerp(y.gather(1, before), y.gather(1, before + 1), place - before)
        at_edge = at_edge.masked_fill(outside, torch.nan)
        column = (self.x(torch.arange(self.points, device=y.device).expand(len(y), -1)) * SUB).long()
        ends = []
        for sign, reduce in ((1.0, "amin"), (-1.0, "amax")):
            far = at_edge.nan_to_num(sign * _LARGE)
            pick = torch.minimum if reduce == "amin" else torch.maximum
            ends.append(pick(far[:, :-1], far[:, 1:]).scatter_reduce(1, column, y.nan_to_num(sign * _LARGE), reduce))
        reach = max(1, round(SUB * self.unit / 2))  # a line is as wide along x
        low = -F.max_pool1d(-ends[0][:, None], 2 * reach + 1, 1, reach)[:, 0]
        return low, F.max_pool1d(ends[1][:, None], 2 * reach + 1, 1, reach)[:, 0]

    def _mark(self, channel: int) -> None:
        """A square of three pixels at each point, for the charts that have markers."""
        y = self.y(self.values[:, channel])
        there = y.isfinite() & self.markers[:, None]
        chart, point = there.nonzero(as_tuple=True)
        x = self.x(torch.arange(self.points, device=y.device).expand_as(y))[chart, point]
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                row = (y[chart, point].floor().long() + down).clamp(0, self.height - 1)
                column = (x.floor().long() + along).clamp(0, self.width - 1)
                self.image[chart, :, row, column] = self.colours[chart, channel]

    def _blend(self, share: Tensor, colour: Tensor) -> None:
        """Cover `share` [B, H, W] of each pixel by a colour [B, 3]."""
        self.image += share[:, None] * (colour[:, :, None, None] - self.image)


_LARGE = 1e6  # pixels or units from any that is drawn


def _shapes(unit: int) -> Tensor:
    """The glyphs of 0 to 9 and A to D, [14, 5 * unit, 3 * unit] of whether a pixel is set."""
    bits = [[[int(row) >> shift & 1 for shift in (2, 1, 0)] for row in rows] for rows in GLYPHS.values()]
    return torch.tensor(bits).repeat_interleave(unit, 1).repeat_interleave(unit, 2).bool()
