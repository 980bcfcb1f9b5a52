"""Numbers and times as people read them, in tables and where a chart is pointed at."""

from __future__ import annotations

import math
from datetime import datetime

UNKNOWN = "–"  # noqa: RUF001  an en dash is what a table shows for no value


def count(value: float) -> str:
    """A number of rows."""
    return f"{value:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 8:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{decimals}f}"


def fixed(value: float | None, decimals: int = 3) -> str:
    """A number with so many decimals; a dash for none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # no -0.00


def signed(value: float) -> str:
    """A difference, with its sign."""
    return figure(value) if not value > 0 else f"+{figure(value)}"


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent; a dash for none, and never 0 for a little."""
    if not math.isfinite(share):
        return UNKNOWN
    told = f"{share:.{decimals}%}"
    least = 10.0**-decimals
    return f"<{least:g}%" if 0 < share * 100 < least / 2 else told


def size(bytes_: int) -> str:
    """Bytes in the unit that suits them."""
    value = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def moment(time: datetime | None) -> str:
    """A time in UTC to the minute."""
    return UNKNOWN if time is None else time.strftime("%Y-%m-%d %H:%M")
