from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from pipeline.operate.report.figures import count, figure, fixed, moment, percent, signed, size


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figure(2400.0), "2,400"),
        (figure(0.0), "0"),
        (figure(0.69053), "0.6905"),
        (figure(-9.94), "-9.940"),
        (figure(123456.7), "123,457"),
        (figure(1.5e-12), "1.500e-12"),
        (figure(math.nan), "–"),  # noqa: RUF001
        (figure(None), "–"),  # noqa: RUF001
        (fixed(-0.0004), "0.000"),
        (fixed(-0.12345, 2), "-0.12"),
        (fixed(math.nan), "–"),  # noqa: RUF001
        (signed(0.25), "+0.2500"),
        (signed(-3.0), "-3"),
        (signed(0.0), "0"),
        (percent(0.5), "50.0%"),
        (percent(0.0), "0.0%"),
        (percent(1e-6), "<0.1%"),
        (percent(math.nan), "–"),  # noqa: RUF001
        (count(336775.0), "336,775"),
        (size(999), "999 B"),
        (size(3300), "3.3 kB"),
        (size(12_400_000), "12 MB"),
        (size(5 * 10**15), "5,000.0 TB"),
        (moment(None), "–"),  # noqa: RUF001
        (moment(datetime(2013, 1, 2, 3, 4, tzinfo=UTC)), "2013-01-02 03:04"),
    ],
)
def test_numbers_are_shown_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
