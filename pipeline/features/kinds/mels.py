"""Log-mel frames of a recording, by NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.features.kinds.values import Floats

LEAST_ENERGY = 1e-10
"""Silence has no logarithm."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """How a recording is cut into frames, and each into mel bands."""

    sample_rate: int
    """Hertz."""
    length: int
    """Samples of one frame."""
    hop: int
    """Samples from the beginning of one frame to that of the next."""
    mels: int
    """Bands."""
    longest: int
    """Frames, from the recording's beginning."""

    @property
    def most_samples(self) -> int:
        """Samples that the first `longest` frames cover."""
        return self.length + (self.longest - 1) * self.hop

    @property
    def points(self) -> int:
        """Of the Fourier transform: the power of 2 from the frame's length on, zeros behind it."""
        return 1 << (self.length - 1).bit_length()


def log_mels(samples: Floats, how: Frames) -> Floats:
    """Natural logarithms of the energies in mel bands.

    Of each frame: times a Hann window (periodic), |FFT|^2, summed through triangles whose corners
    lie evenly on the HTK mel scale from 0 Hz to half the sample rate, and whose peaks are 1; then
    ln(max(energy, 1e-10)). A recording shorter than a frame has zeros behind it; otherwise samples
    that fill no frame at the end are left out.

    Args:
        samples: float64 [samples] in [-1, 1).
        how: The cut.

    Returns:
        float64 [frames, mels]; at least one frame, and `how.longest` at most.

    Source: Young et al., The HTK Book 3.4 (2006), 5.4 and 5.6; the window, the mel scale and the
    triangles are the defaults of `torchaudio.transforms.MelSpectrogram`.
    """
    samples = np.pad(samples, (0, max(0, how.length - len(samples))))
    # [samples] -> [frames, samples of a frame]
    windows = np.lib.stride_tricks.sliding_window_view(samples, how.length)
    frames = windows[:: how.hop][: how.longest] * _hann(how.length)
    spectrum = np.fft.rfft(frames, n=how.points)
    power = spectrum.real**2 + spectrum.imag**2
    # [frames, frequencies] x [mels, frequencies] -> [frames, mels]; not by BLAS, whose sums may
    # depend on the number of threads
    energies = np.einsum("fp,mp->fm", power, triangles(how), optimize=False)
    logs: Floats = np.log(np.maximum(energies, LEAST_ENERGY))
    return logs


@lru_cache(maxsize=16)
def triangles(how: Frames) -> Floats:
    """Weights of the frequencies in each band, float64 [mels, points / 2 + 1]."""
    top = how.sample_rate / 2
    corners = _hertz(np.linspace(0.0, _mel(top), how.mels + 2))
    frequencies = np.linspace(0.0, top, how.points // 2 + 1)
    low, peak, high = (corners[at : at + how.mels, None] for at in range(3))
    rising = (frequencies - low) / (peak - low)
    falling = (high - frequencies) / (high - peak)
    weights: Floats = np.maximum(0.0, np.minimum(rising, falling))
    return weights


@lru_cache(maxsize=16)
def _hann(length: int) -> Floats:
    window: Floats = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _hertz(mels: Floats) -> Floats:
    hertz: Floats = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    return hertz
