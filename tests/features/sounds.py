"""Recordings for tests, and their log-mel frames by plain Python."""

from __future__ import annotations

import cmath
import io
import math
import wave

import numpy as np


def wav(samples: list[int], *, rate: int = 8000, width_bytes: int = 2, channels: int = 1) -> bytes:
    """A WAV by Python's own module; `samples` are signed, channel beside channel."""
    unsigned = width_bytes == 1
    data = b"".join(
        (sample + 128 * unsigned).to_bytes(width_bytes, "little", signed=not unsigned)
        for sample in samples
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(width_bytes)
        written.setframerate(rate)
        written.writeframes(data)
    return file.getvalue()


def tone(seed: int, count: int, bits: int = 16) -> list[int]:
    """A sine that changes its pitch, and noise."""
    random = np.random.default_rng(seed)
    at = np.arange(count)
    pitch = random.uniform(0.02, 0.2)
    held = 0.5 * np.sin(at * pitch * (1 + at / 4000)) + 0.05 * random.normal(size=count)
    top = 2 ** (bits - 1)
    return [int(v) for v in np.clip(np.round(held * top), -top, top - 1)]


def log_mels(
    samples: list[float], rate: int, *, frame: int, hop: int, bands: int, longest: int
) -> list[list[float]]:
    """The formula as it stands in the docs, by sums over complex exponentials."""
    samples = samples + [0.0] * (frame - len(samples))
    points = 1
    while points < frame:
        points *= 2
    window = [math.sin(math.pi * n / frame) ** 2 for n in range(frame)]
    frames: list[list[float]] = []
    begin = 0
    while begin + frame <= len(samples) and len(frames) < longest:
        windowed = [samples[begin + n] * window[n] for n in range(frame)]
        power = [
            abs(sum(v * cmath.exp(-2j * cmath.pi * k * n / points) for n, v in enumerate(windowed)))
            ** 2
            for k in range(points // 2 + 1)
        ]
        frames.append(
            [
                math.log(max(1e-10, sum(w * p for w, p in zip(weights, power, strict=True))))
                for weights in triangles(rate, points, bands)
            ]
        )
        begin += hop
    return frames


def triangles(rate: int, points: int, bands: int) -> list[list[float]]:
    def hertz(place: int) -> float:
        mel = place / (bands + 1) * 2595 * math.log10(1 + rate / 2 / 700)
        return 700 * (10 ** (mel / 2595) - 1)

    found = []
    for band in range(bands):
        low, peak, high = (hertz(band + corner) for corner in range(3))
        weights = []
        for k in range(points // 2 + 1):
            at = k * rate / points
            if low < at <= peak:
                weights.append((at - low) / (peak - low))
            elif peak < at < high:
                weights.append((high - at) / (high - peak))
            else:
                weights.append(0.0)
        found.append(weights)
    return found
