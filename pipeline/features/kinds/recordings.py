"""Recordings as bytes: which samples they hold, or what is wrong with them.

The module `wave` of Python 3.11 refuses WAVE_FORMAT_EXTENSIBLE, which common programs write for
samples of 24 bits; the chunks are walked here instead.

Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991),
"Waveform Audio File Format"; Microsoft, WAVEFORMATEXTENSIBLE.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from pipeline.features.kinds.values import Floats

Encoding = Literal["wav", "pcm16"]

_PCM, _EXTENSIBLE = 1, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF
"""What a program writes that does not know yet how long the recording will be."""


class Pcm(NamedTuple):
    """Where the samples of a recording lie in its bytes."""

    begin: int
    end: int
    bits: int
    """Of one sample: 8 (unsigned), 16, 24 or 32 (signed, little-endian)."""
    channels: int

    @property
    def step(self) -> int:
        """Bytes of one moment: a sample of each channel."""
        return self.channels * self.bits // 8


def pcm_of(content: bytes, encoding: Encoding, sample_rate: int) -> Pcm | str:
    """Finds the samples of a recording.

    Args:
        content: The recording.
        encoding: `wav`, or `pcm16` for samples alone: 16 bits, signed, little-endian, mono.
        sample_rate: Hertz that a WAV must have.

    Returns:
        The place of the samples, or words for what is wrong with the recording.
    """
    found = Pcm(0, len(content), 16, 1) if encoding == "pcm16" else _in_wav(content, sample_rate)
    if isinstance(found, str):
        return found
    length = found.end - found.begin
    if length % found.step:
        return f"has {length} bytes of samples, not a multiple of {found.step}"
    return found


def samples_in(content: bytes, pcm: Pcm, most: int) -> Floats:
    """The first samples of a recording.

    Args:
        content: The recording.
        pcm: What `pcm_of` found.
        most: Samples to return at most.

    Returns:
        float64 [samples] in [-1, 1), the mean of the channels.
    """
    held = content[pcm.begin : min(pcm.end, pcm.begin + most * pcm.step)]
    if pcm.bits == 24:
        # [samples, 3 bytes] -> the upper three bytes of [samples, 4 bytes]
        wide = np.zeros((len(held) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(held, np.uint8).reshape(-1, 3)
        whole = wide.view("<i4")[:, 0] >> 8
    else:
        whole = np.frombuffer(held, {8: "u1", 16: "<i2", 32: "<i4"}[pcm.bits])
    samples = whole.astype(np.float64)
    if pcm.bits == 8:
        samples -= 128.0
    # [moments * channels] -> [moments, channels] -> [moments]
    mixed: Floats = (samples / 2.0 ** (pcm.bits - 1)).reshape(-1, pcm.channels).mean(axis=1)
    return mixed


def _in_wav(content: bytes, sample_rate: int) -> Pcm | str:
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return "is no WAV: it does not begin with RIFF and WAVE"
    chunks = _chunks(content)
    begin, size = chunks.get(b"fmt ", (0, 0))
    if size < 16 or begin + size > len(content):
        return "is a WAV without a whole chunk `fmt `"
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content, begin)
    if code == _EXTENSIBLE and size >= 26:
        (code,) = struct.unpack_from("<H", content, begin + 24)
    wrong = {
        f"has the format {code}, not PCM (1)": code != _PCM,
        f"has samples of {bits} bits, not 8, 16, 24 or 32": bits not in (8, 16, 24, 32),
        "has no channel": channels == 0,
        f"is sampled at {rate} Hz, not {sample_rate}": rate != sample_rate,
        "is a WAV without a chunk `data`": b"data" not in chunks,
    }
    faults = [fault for fault, holds in wrong.items() if holds]
    return faults[0] if faults else _data(content, *chunks[b"data"], bits, channels)


def _data(content: bytes, begin: int, size: int, bits: int, channels: int) -> Pcm | str:
    there = len(content) - begin
    size = there if size == _UNKNOWN_SIZE else size
    if size > there:
        return f"is cut off: {there} of {size} bytes of samples"
    return Pcm(begin, begin + size, bits, channels)


def _chunks(content: bytes) -> Mapping[bytes, tuple[int, int]]:
    """The first chunk of each name: where its content begins, and its size as it says."""
    found: dict[bytes, tuple[int, int]] = {}
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        found.setdefault(name, (at + 8, size))
        at += 8 + size + size % 2
    return found
