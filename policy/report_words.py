"""Numbers and times as a report writes them: a true minus, a dash for what is undefined, UTC."""

from __future__ import annotations

from collections.abc import Sequence

from shared.clock import from_unix
from shared.performance.metrics import DAY_S
from shared.rows import IntArray

UNDEFINED, MINUS = "–", "−"


def percent(fraction: float | None) -> str:
    """0.123 as '12.3%'; whole percents from 1,000 on."""
    return UNDEFINED if fraction is None else typeset(f"{fraction:,.{_digits(fraction)}%}")


def signed(fraction: float | None) -> str:
    """0.123 as '+12.3%'; whole percents from 1,000 on."""
    return UNDEFINED if fraction is None else typeset(f"{fraction:+,.{_digits(fraction)}%}")


def _digits(fraction: float) -> int:
    return 1 if abs(fraction) < 10.0 else 0


def ratio(value: float | None) -> str:
    return UNDEFINED if value is None else typeset(f"{value:,.2f}")


def money(amount: float | None) -> str:
    return UNDEFINED if amount is None else typeset(f"{amount:,.2f}")


def amount(quote: float | None) -> str:
    """Money, without cents where they no longer matter."""
    return money(quote) if quote is None or abs(quote) < 1_000.0 else typeset(f"{quote:,.0f}")


def typeset(number: str) -> str:
    """A true minus, and no sign before zero."""
    return number.replace("-", MINUS) if number.strip("+-0.,%") else number.lstrip("+-")


def minute(at: float) -> str:
    """Unix seconds as '2026-07-01 00:05'."""
    return f"{from_unix(at):%Y-%m-%d %H:%M}"


def length(times: IntArray) -> str:
    """'30 days' or '7.5 hours', from the first of ``times`` (Unix seconds) to the last."""
    days = float(times[-1] - times[0]) / DAY_S if len(times) else 0.0
    number, unit = (days, "days") if days >= 1.0 else (24.0 * days, "hours")
    return f"{number:,.0f} {unit}" if number >= 10.0 else f"{number:.1f} {unit}".replace(".0", "")


def span(times: IntArray) -> str:
    """'2026-07-01 00:05 to 2026-07-31 00:00 UTC'."""
    return f"{minute(times[0])} to {minute(times[-1])} UTC" if len(times) else "an empty span"


def listed(names: Sequence[str]) -> str:
    """'A', 'A and B', 'A, B, C and 4 more'."""
    shown = [*names] if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def capitalised(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"
