"""Generate synthetic series to pre-train forecasters that have to work on series they never saw.

A *kind* ("load", "walk", "counts", ...) is a recipe: chances and strength ranges. A series is a composition of parts,
each computed for all rows of a batch that use it: seasonal profiles on real sampling clocks, trends, ARMA and
stationary Gaussian processes through the FFT, random walks, volatility, regimes, holidays, and the habits of sensors
(counts, clipping, bounds, rounding, stuck values, gaps). Nothing loops over series or steps.

Training on composed kernels is the idea of KernelSynth (Ansari et al. 2024, Chronos), training on season x trend x
noise templates that of ForecastPFN (Dooley et al. 2023). Here every part costs at most O(T log T), and spectra stand in
for covariance matrices.
"""

from limosa.data.synthetic.series import Synthetic, draw

__all__ = ["Synthetic", "draw"]
