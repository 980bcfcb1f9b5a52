"""Recordings as log-mel frames: the formula, the encodings, what is refused, and the stream."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Features, Pipeline
from pipeline.errors import SpecError
from pipeline.features.arrow import features_of
from pipeline.features.fit import fit
from pipeline.features.kinds.audio import FittedAudio
from pipeline.features.kinds.mels import Frames, log_mels
from pipeline.features.kinds.recordings import Encoding, Pcm, pcm_of, samples_in
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import featurize
from pipeline.features.transform import features
from pipeline.lake import Lake
from pipeline.stream import BatchLayout, Stream
from pipeline.stream.cache import CacheSettings
from pipeline.stream.layout import SequenceColumn
from pipeline.training.splits import layout_of, shapes_of
from tests.clean import examples
from tests.features import sounds

RATE = 8000
SMALL: dict[str, Any] = {
    "sample_rate": RATE, "frame_ms": 8, "hop_ms": 4, "mels": 6, "longest": 12
}  # fmt: skip
CUT = Frames(sample_rate=RATE, length=64, hop=32, mels=6, longest=12)
RAW = pa.schema([("id", pa.int64()), ("month", pa.int64()), ("sound", pa.binary())])


def part(encoding: Encoding = "wav") -> FittedAudio:
    return FittedAudio(
        column="sound",
        encoding=encoding,
        sample_rate=RATE,
        frame=64,
        hop=32,
        mels=6,
        longest=12,
        means=(),
        deviations=(),
    )


def frames_of(content: bytes, how: FittedAudio) -> np.ndarray:
    """float32 [frames, mels] by Arrow."""
    (made,) = how.arrow({"sound": pa.array([content], pa.binary())})
    return np.array(made.flatten(), np.float32).reshape(-1, how.mels)


@pytest.mark.parametrize("count", [1, 63, 64, 95, 96, 300, 64 + 11 * 32, 1000])
def test_frames_are_those_of_the_formula(count: int) -> None:
    samples = sounds.tone(count, count)
    held = [sample / 2**15 for sample in samples]
    wanted = sounds.log_mels(held, RATE, frame=64, hop=32, bands=6, longest=12)
    assert len(wanted) == min(12, 1 + max(0, count - 64) // 32)
    np.testing.assert_allclose(log_mels(np.array(held), CUT), wanted, rtol=1e-9, atol=1e-9)
    found = frames_of(sounds.wav(samples), part())
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_array_equal(
        found, frames_of(np.array(samples, "<i2").tobytes(), part("pcm16"))
    )


def test_the_spectrum_is_torchs() -> None:
    held = np.array(sounds.tone(3, 2000)) / 2**15
    how = Frames(sample_rate=RATE, length=200, hop=80, mels=40, longest=1000)
    # torch lays the window into the middle of its 256 points.
    spectrum = torch.stft(
        torch.from_numpy(np.concatenate([np.zeros(28), held, np.zeros(28)])),
        n_fft=256, hop_length=80, win_length=200, window=torch.hann_window(200).double(),
        center=False, return_complex=True,
    )  # fmt: skip
    power = spectrum.abs().square().numpy().T
    wanted = np.log(np.maximum(power @ np.array(sounds.triangles(RATE, 256, 40)).T, 1e-10))
    np.testing.assert_allclose(log_mels(held, how), wanted, rtol=1e-5, atol=1e-5)


def test_silence_is_the_least_energy() -> None:
    for content in (sounds.wav([]), sounds.wav([0] * 200)):
        np.testing.assert_array_equal(frames_of(content, part()), np.float32(np.log(1e-10)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_samples_of_each_width_and_the_mean_of_channels(bits: int, channels: int) -> None:
    samples = [*sounds.tone(bits, 40, bits), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    content = sounds.wav(samples, width_bytes=bits // 8, channels=channels)
    found = pcm_of(content, "wav", RATE)
    assert isinstance(found, Pcm)
    wanted = [
        sum(samples[at : at + channels]) / channels / 2 ** (bits - 1)
        for at in range(0, len(samples), channels)
    ]
    assert samples_in(content, found, 1000).tolist() == pytest.approx(wanted, abs=1e-15)
    assert samples_in(content, found, 3).tolist() == pytest.approx(wanted[:3], abs=1e-15)


def rewritten(content: bytes, at: int, code: str, value: int) -> bytes:
    return content[:at] + struct.pack(code, value) + content[at + struct.calcsize(code) :]


def test_wavs_that_other_programs_write_are_read() -> None:
    samples = sounds.tone(1, 100)
    plain = sounds.wav(samples)
    head, data = plain[12:36], plain[36:]
    # A chunk of odd length goes on with a byte of padding.
    listed = plain[:12] + b"LIST\x03\x00\x00\x00abc\x00" + head + data
    fields = head[8:]
    extensible = b"fmt " + struct.pack("<I", 40) + struct.pack("<H", 0xFFFE) + fields[2:]
    extensible += (
        struct.pack("<HHIH", 22, 16, 4, 1) + b"\x00\x00\x00\x00\x10\x00\x80\x00" + b"\0" * 6
    )
    for content in (
        listed,
        plain[:12] + extensible + data,
        plain + b"id3 \x05\x00\x00\x00hello",
        rewritten(plain, 40, "<I", 0xFFFFFFFF),  # written to a pipe
    ):
        np.testing.assert_array_equal(frames_of(content, part()), frames_of(plain, part()))


GOOD = sounds.wav(sounds.tone(2, 100))
BROKEN = {
    "is no WAV: it does not begin with RIFF and WAVE": b"OggS" + bytes(60),
    "is a WAV without a whole chunk `fmt `": GOOD[:30],
    "has the format 3, not PCM (1)": rewritten(GOOD, 20, "<H", 3),
    "has samples of 12 bits, not 8, 16, 24 or 32": rewritten(GOOD, 34, "<H", 12),
    "has no channel": rewritten(GOOD, 22, "<H", 0),
    "is sampled at 44100 Hz, not 8000": sounds.wav([1, 2], rate=44_100),
    "is a WAV without a chunk `data`": GOOD[:40],
    "is cut off: 195 of 200 bytes of samples": GOOD[:-5],
    "has 195 bytes of samples, not a multiple of 2": rewritten(GOOD[:-5], 40, "<I", 195),
}


@pytest.mark.parametrize(("told", "content"), BROKEN.items())
def test_what_cannot_be_read_is_told(told: str, content: bytes) -> None:
    assert pcm_of(content, "wav", RATE) == told
    with pytest.raises(SpecError, match=r"audio\.sound: is no WAV of PCM at 8000 Hz in 1 of 3 row"):
        part().arrow({"sound": pa.array([None, content, GOOD], pa.binary())})


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    at=st.integers(0, len(GOOD)),
    put=st.binary(max_size=12),
    kept=st.integers(0, len(GOOD) + 12),
    encoding=st.sampled_from(["wav", "pcm16"]),
)
def test_no_bytes_raise(at: int, put: bytes, kept: int, encoding: Encoding) -> None:
    content = (GOOD[:at] + put + GOOD[at + len(put) :])[:kept]
    found = pcm_of(content, encoding, RATE)
    values = pa.array([content], pa.binary())
    how = part(encoding)
    assert how._faults_of(values).to_pylist() == [found if isinstance(found, str) else None]
    (made,) = how._frames_of(values).to_pylist()
    assert len(made) % how.mels == 0
    assert bool(made) == isinstance(found, Pcm)
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"mels": 128},
            "mels 128: 6 bands hold no frequency of a frame of 200 samples; set fewer",
        ),
        ({"hop_ms": 0.01}, "hop_ms 0.01 are 200 and 0 samples at 8000 Hz; set longer ones"),
        ({"frame_ms": 0}, "greater than 0"),
        ({"encoding": "mp3"}, "Input should be 'wav' or 'pcm16'"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=r"audio\.sound") as caught:
        described(sample_rate=RATE, **changes)
    assert told in str(caught.value)


def described(**how: Any) -> Features:
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"name": "even", "expression": "id % 2 = 0"},
            "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month = 4"},
            "leakage": [],
            "audio": {"sound": how},
        }
    )


def rows(count: int) -> list[dict[str, Any]]:
    """Recordings of many lengths; every ninth is missing."""
    return [
        {
            "id": number,
            "month": number % 4 + 1,
            "sound": None
            if number % 9 == 8
            else sounds.wav(sounds.tone(number, number * 37 % 500)),
        }
        for number in range(count)
    ]


def test_the_scale_is_fitted_whatever_the_partitions(spark: SparkSession) -> None:
    given_rows = rows(60)
    table = pa.Table.from_pylist([{**row, "period": "p"} for row in given_rows])
    how = described(**SMALL)
    specs = []
    for partitions in (1, 5):
        frame = prepared(spark.createDataFrame(table), how).repartition(partitions)
        specs.append(fit(frame.where("split = 'train'"), how, "small", "period"))
    assert specs[0] == specs[1]
    (fitted,) = specs[0].parts
    assert isinstance(fitted, FittedAudio)
    logs = np.concatenate(
        [
            frames_of(row["sound"], part()).astype(float)
            for row in given_rows
            if row["month"] <= 2 and row["sound"]
        ]
    )
    np.testing.assert_allclose(fitted.means, logs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted.deviations, logs.std(axis=0), rtol=1e-5)

    made = features(frame, specs[0]).select("id", "audio_sound").toArrow().sort_by("id")
    by_arrow = features_of(table, specs[0])["audio_sound"].combine_chunks()
    by_spark = made["audio_sound"].combine_chunks()
    assert by_spark.value_lengths().to_pylist() == by_arrow.value_lengths().to_pylist()
    bits = [np.array(each.flatten(), np.float32).view(np.int32) for each in (by_spark, by_arrow)]
    np.testing.assert_array_equal(bits[0], bits[1])
    assert FeatureSpec.from_json(specs[0].to_json()) == specs[0]


def test_without_a_recording_nothing_is_fitted(spark: SparkSession) -> None:
    table = pa.table({"id": [0, 1], "month": [1, 1], "period": ["p", "p"], "sound": [b"x", None]})
    how = described(**SMALL)
    told = r"audio\.sound: has no recording that can be read among the 2 train rows"
    with pytest.raises(SpecError, match=told):
        fit(prepared(spark.createDataFrame(table), how), how, "small", "period")
    silent = table.set_column(3, "sound", [[sounds.wav([]), None]])
    (fitted,) = fit(prepared(spark.createDataFrame(silent), how), how, "s", "period").parts
    assert isinstance(fitted, FittedAudio)
    assert fitted.deviations == (1.0,) * 6
    (made,) = fitted.arrow({"sound": silent["sound"]})
    assert made.to_pylist() == [pytest.approx([0.0] * 6, abs=1e-6), []]


def pipeline(root: Path, **how: Any) -> Pipeline:
    return examples.pipeline(
        root,
        {
            "source.columns": {
                "id": {"type": "bigint", "required": True},
                "month": {"type": "int", "required": True},
                "sound": {"type": "binary"},
            },
            "features": {
                **described(**SMALL).model_dump(mode="json", include={"keys", "label", "splits"}),
                "leakage": [],
                "audio": {"sound": {**SMALL, **how}},
                "rows_per_row_group": 8,
            },
            "train": {"model": {"family": "rnn"}},
        },
    )


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lake, FeatureSpec]:
    root = tmp_path_factory.mktemp("audio")
    examples.write_raw(root / "raw" / "a.parquet", rows(120), RAW)
    described_by = pipeline(root)
    lake = Lake(described_by.lake)
    clean(spark, described_by, lake)
    _, spec = featurize(spark, described_by, lake)
    return root, lake, spec


def test_a_recording_that_cannot_be_read_commits_nothing(
    spark: SparkSession, made: tuple[Path, Lake, FeatureSpec]
) -> None:
    root, lake, _ = made
    before = examples.files_below(Path(lake.root))
    told = (
        r"^features\.audio\.sound: is no WAV of PCM at 8001 Hz in 107 of 120 rows; one is sampled "
        r"at 8000 Hz, not 8001\. Nothing was committed; correct the sample rate"
    )
    with pytest.raises(SpecError, match=told):
        featurize(spark, pipeline(root, sample_rate=8001, scale="none"), lake)
    left = examples.files_below(Path(lake.root)) - before
    assert all("_delta_log" in path or path.startswith("specs") for path in left)


def test_the_table_holds_frame_after_frame(made: tuple[Path, Lake, FeatureSpec]) -> None:
    _, lake, spec = made
    table = examples.table(lake, spec.table).sort("id")
    assert table.schema["audio_sound"] == pl.List(pl.Float32)
    (fitted,) = spec.parts
    wanted = fitted.arrow({"sound": pa.array([row["sound"] for row in rows(120)], pa.binary())})
    assert table["audio_sound"].to_list() == wanted[0].to_pylist()


@pytest.mark.parametrize("window", [16, 64])
def test_the_stream_pads_frames(
    made: tuple[Path, Lake, FeatureSpec], tmp_path: Path, window: int
) -> None:
    _, lake, spec = made
    (shape,) = shapes_of(spec).named.items()
    assert (shape[0], shape[1].form, shape[1].shape) == ("audio", "sequence", (6,))
    table = examples.table(lake, spec.table).filter(pl.col("split") == "train")
    wanted = {tuple(row): 0 for row in table["audio_sound"].to_list()}
    files = lake.table(spec.table).snapshot().select(split={"train"}).uris()
    cache = CacheSettings(folder=str(tmp_path / "cache"), max_bytes=2**24)
    settings: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_rows": window, "seed": 3}

    def stream() -> Stream:
        return Stream(files, layout_of(spec), cache=cache, workers_count=2, **settings)

    with stream() as first:
        batches = [(b.tensors["audio"].clone(), b.lengths["audio"].clone()) for b in first.epoch(0)]
    for frames, lengths in batches:
        assert frames.shape == (len(lengths), int(lengths.max()), 6)
        assert frames.dtype == torch.float32
        for row, length in zip(frames, lengths.tolist(), strict=True):
            assert not row[length:].any()
            wanted[tuple(row[:length].reshape(-1).tolist())] += 1
    assert sum(wanted.values()) == len(table)
    assert min(wanted.values()) == 1
    # Again from the cache, and from the middle of the epoch.
    with stream() as ended:
        delivered = ended.epoch(0)
        next(delivered), next(delivered)
        state = ended.state_dict()
    with stream() as second:
        second.load_state_dict(state)
        found = [(b.tensors["audio"].clone(), b.lengths["audio"].clone()) for b in second.epoch(0)]
    assert len(found) == len(batches) - 2
    for one, other in zip(found, batches[2:], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_the_cache_holds_values_whatever_a_step_is(
    made: tuple[Path, Lake, FeatureSpec], tmp_path: Path
) -> None:
    """What a row group decodes to does not depend on the width of a step: batches do."""
    _, lake, spec = made
    files = lake.table(spec.table).snapshot().select(split={"train"}).uris()
    cache = CacheSettings(folder=str(tmp_path / "cache"), max_bytes=2**24)
    found, entries = [], set()
    for width in (6, 3, 1):
        layout = BatchLayout(sequences={"a": SequenceColumn(column="audio_sound", width=width)})
        with Stream(files, layout, rows_per_batch=64, shuffle=False, cache=cache) as stream:
            [(tensor, lengths)] = [
                (batch.tensors["a"].clone(), batch.lengths["a"].clone())
                for batch in stream.epoch(0)
            ]
        found.append((tensor, lengths))
        entries.add(frozenset(path.name for path in Path(cache.folder).glob("*.block")))
    (six, lengths), *others = found
    for (tensor, counted), width in zip(others, (3, 1), strict=True):
        assert torch.equal(counted, lengths * (6 // width))
        assert torch.equal(tensor.reshape(len(six), -1), six.reshape(len(six), -1))
    assert len(entries) == 1
