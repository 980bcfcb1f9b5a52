"""The kind `audio`: a recording as its log-mel frames.

No expression of Spark's does a Fourier transform: `spark()` is an Arrow UDF over the very function
that `arrow()` calls. Another, which only looks at headers, tells which recordings cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FeatureColumn, Sequence
from pipeline.features.kinds.kind import (
    BYTES,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Need,
    with_example,
)
from pipeline.features.kinds.mels import LEAST_ENERGY, Frames, log_mels, triangles
from pipeline.features.kinds.recordings import Encoding, pcm_of, samples_in
from pipeline.features.kinds.scales import rounded
from pipeline.features.kinds.values import Floats, rows_of
from pipeline.settings import Positive

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LONGEST_FRAME = 2**20
"""Samples: the bands are a matrix as long as a frame, made when the settings are read."""
FRAMES = "frames"
_FLOOR = float(np.log(LEAST_ENERGY))
_EVEN = 1e-9
"""Share of the mean square below which a variance is the rounding of a constant."""


class Audio(FeatureSettings):
    """A recording in a binary column, as log-mel frames."""

    encoding: Encoding = "wav"
    """`wav`: PCM of 8, 16, 24 or 32 bits, of several channels the mean. `pcm16`: samples alone,
    signed, little-endian, mono."""
    sample_rate: Positive
    """Hertz; a WAV of another rate is refused."""
    frame_ms: Milliseconds = 25.0
    hop_ms: Milliseconds = 10.0
    """From the beginning of one frame to that of the next."""
    mels: Positive = 40
    """Bands, from 0 Hz to half the sample rate."""
    longest: Positive = 512
    """Frames kept, from the beginning."""
    scale: Literal["standard", "none"] = "standard"
    """`standard`: each band less its mean over the train split's frames, by its deviation."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Sequence

    @property
    def frames(self) -> Frames:
        """The cut, in samples."""
        return Frames(
            sample_rate=self.sample_rate,
            length=round(self.sample_rate * self.frame_ms / 1000),
            hop=round(self.sample_rate * self.hop_ms / 1000),
            mels=self.mels,
            longest=self.longest,
        )

    def measures(self, name: str) -> Mapping[str, Column]:
        """Number of frames; of each band the sum and the sum of squares of the logarithms."""
        if self.scale == "none":
            return {}
        sums = _by_arrow(lambda values: _sums(values, self.encoding, self.frames), "array<double>")
        made = sums(F.col(name))
        keys = [FRAMES, *_keys("sum", self.mels), *_keys("square", self.mels)]
        return {key: F.sum(F.get(made, F.lit(place))) for place, key in enumerate(keys)}

    def fitted(self, name: str, measured: Measured) -> FittedAudio:
        """Returns the part, with the mean and the deviation of each band.

        Raises:
            SpecError: No recording of the train split can be read.
        """
        means, deviations = ((), ()) if self.scale == "none" else _moments(measured, self.mels)
        return FittedAudio(
            column=name,
            encoding=self.encoding,
            sample_rate=self.sample_rate,
            frame=self.frames.length,
            hop=self.frames.hop,
            mels=self.mels,
            longest=self.longest,
            means=means,
            deviations=deviations,
        )

    @model_validator(mode="after")
    def _bands_hold_frequencies(self) -> Self:
        frames = self.frames
        if frames.length < 2 or not frames.hop:
            raise ValueError(
                f"frame_ms {self.frame_ms:g} and hop_ms {self.hop_ms:g} are {frames.length} and "
                f"{frames.hop} samples at {self.sample_rate} Hz; set longer ones"
            )
        if frames.length > _LONGEST_FRAME:
            raise ValueError(
                f"frame_ms {self.frame_ms:g} is {frames.length} samples at {self.sample_rate} Hz, "
                f"over {_LONGEST_FRAME}; set a shorter one"
            )
        empty = int((triangles(frames).max(axis=1) == 0).sum())
        if empty:
            raise ValueError(
                f"mels {self.mels}: {empty} bands hold no frequency of a frame of "
                f"{frames.length} samples; set fewer, or a longer frame_ms"
            )
        return self


class FittedAudio(Fitted):
    """(logarithm of the energy - mean) / deviation of each mel band, one column, `array<float>`.

    Frame after frame, `mels` values each: see `log_mels` for the formula. A missing recording has
    no frame, an empty one is a frame of silence. Means and deviations are of the train split's
    frames, and there are none where the logarithms stay as they are.
    """

    kind: Literal["audio"] = "audio"
    encoding: Encoding
    sample_rate: int
    """Hertz."""
    frame: int
    """Samples."""
    hop: int
    """Samples."""
    mels: int
    longest: int
    """Frames."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    @property
    def frames(self) -> Frames:
        """The cut."""
        return Frames(
            sample_rate=self.sample_rate,
            length=self.frame,
            hop=self.hop,
            mels=self.mels,
            longest=self.longest,
        )

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`audio_<column>`, whose steps are frames."""
        return (
            Sequence(
                name=f"audio_{self.column}",
                source=self.column,
                longest=self.longest,
                width=self.mels,
                prefix="audio",
            ),
        )

    def spark(self) -> tuple[Column, ...]:
        """The frames; none for null, nor for what cannot be read."""
        made = _by_arrow(self._frames_of, "array<float>")(F.col(self.column))
        return (F.coalesce(made, F.array().cast("array<float>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The frames; none for null.

        Raises:
            SpecError: A recording cannot be read.
        """
        values = rows_of(rows, self.column)
        faults = [fault for fault in self._faults_of(values).to_pylist() if fault]
        if faults:
            raise with_example(self.bad_rows(len(faults), len(values)), min(faults))
        return (self._frames_of(values),)

    def is_bad(self) -> Column:
        """Whether the recording cannot be read."""
        return self.fault().isNotNull()

    def fault(self) -> Column:
        """What is wrong with a recording; null where it is missing or can be read."""
        return _by_arrow(self._faults_of, "string")(F.col(self.column))

    def bad_rows(self, bad: int, rows: int) -> SpecError:
        """The error that tells what can be read."""
        what = "WAV of PCM" if self.encoding == "wav" else "PCM of 16 bits"
        return SpecError(
            f"features.audio.{self.column}",
            f"is no {what} at {self.sample_rate} Hz in {bad} of {rows} rows",
            "Nothing was committed; correct the sample rate or the encoding, resample the "
            "recordings, or write a rule under clean.rules that keeps them out.",
        )

    def _faults_of(self, values: pa.Array) -> pa.Array:
        found = (
            None if content is None else pcm_of(content, self.encoding, self.sample_rate)
            for content in _contents(values)
        )
        return pa.array([each if isinstance(each, str) else None for each in found], pa.string())

    def _frames_of(self, values: pa.Array) -> pa.Array:
        """Frames of each recording [rows]; none for null and for what cannot be read."""
        nothing = np.empty((0, self.mels))
        logs = [
            nothing if (made := _logs(content, self.encoding, self.frames)) is None else made
            for content in _contents(values)
        ]
        offsets = np.cumsum([0, *(each.size for each in logs)]).astype(np.int32)
        # rows x [frames of the row, mels] -> [frames, mels] -> [frames * mels]
        flat = self._scaled(np.concatenate([nothing, *logs])).astype(np.float32).reshape(-1)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))

    def _scaled(self, logs: Floats) -> Floats:
        if not self.means:
            return logs
        scaled: Floats = (logs - np.array(self.means)) / np.array(self.deviations)
        return scaled


def _sums(values: pa.Array, encoding: Encoding, how: Frames) -> pa.Array:
    """Of each recording: frames, sums and sums of squares of its bands; null without a frame."""
    rows: list[list[float] | None] = []
    for content in _contents(values):
        logs = _logs(content, encoding, how)
        if logs is None:
            rows.append(None)
            continue
        # Measured from silence, so that what is silent everywhere has a variance of exactly 0.
        above = logs - _FLOOR
        parts = [[len(above)], above.sum(axis=0), (above**2).sum(axis=0)]
        rows.append(np.concatenate(parts).tolist())
    return pa.array(rows, pa.list_(pa.float64()))


def _moments(measured: Measured, mels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each band."""
    count = measured.values[FRAMES]
    if not count:
        raise SpecError(
            measured.setting,
            f"has no recording that can be read among the {measured.rows} train rows",
            "Leave this feature out, or correct its encoding and its sample rate.",
        )
    means, deviations = [], []
    for total, square in zip(_keys("sum", mels), _keys("square", mels), strict=True):
        mean, mean_square = measured.values[total] / count, measured.values[square] / count
        variance = mean_square - mean**2
        is_constant = variance <= _EVEN * mean_square
        spread = 0.0 if is_constant else float(np.sqrt(variance))
        deviation = rounded(spread, beside=spread)
        means.append(rounded(mean + _FLOOR, beside=deviation))
        # A constant says nothing, and must not divide by zero.
        deviations.append(deviation or 1.0)
    return tuple(means), tuple(deviations)


def _logs(content: bytes | None, encoding: Encoding, how: Frames) -> Floats | None:
    """float64 [frames, mels] of one recording; None where it is missing or cannot be read."""
    found = "" if content is None else pcm_of(content, encoding, how.sample_rate)
    if content is None or isinstance(found, str):
        return None
    return log_mels(samples_in(content, found, how.most_samples), how)


def _contents(values: pa.Array) -> list[bytes | None]:
    contents: list[bytes | None] = values.cast(pa.binary()).to_pylist()
    return contents


def _by_arrow(made: Callable[[pa.Array], pa.Array], result: str) -> Callable[[Column], Column]:
    """A function of Arrow arrays, as Spark calls it on columns."""

    def made_by_hints(values: pa.Array) -> pa.Array:  # Spark tells by them what it is to give
        return made(values)

    called: Callable[[Column], Column] = arrow_udf(made_by_hints, result)  # type: ignore[call-overload] # its types want what hints tell
    return called


def _keys(of: str, mels: int) -> list[str]:
    return [f"{of} {band}" for band in range(mels)]


KIND = Kind(
    name="audio",
    settings=Audio,
    fitted=FittedAudio,
    need=Need(BYTES.fits, "a recording is to be binary", BYTES.remedy),
)
