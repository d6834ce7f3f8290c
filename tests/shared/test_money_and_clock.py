"""The laws of the two borders: between money and floats, and between moments and seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import (
    ReplayClock,
    SystemClock,
    floor_time,
    from_unix,
    parse_time,
    require_utc,
    to_unix,
)
from shared.money import LARGEST_EXACT, QUANTUM, to_float, to_money

LIMIT = int(LARGEST_EXACT * 10**8)  # in quanta of 1e-8
AMOUNTS = st.integers(-LIMIT + 1, LIMIT - 1).map(lambda quanta: quanta * QUANTUM)
# Hypothesis favours small numbers; the danger is just below the limit, where doubles are farthest apart.
LARGE_AMOUNTS = st.integers(1, 10**9).map(lambda below: (LIMIT - below) * QUANTUM)
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=OFFSETS)  # noqa: DTZ001


@given(AMOUNTS | LARGE_AMOUNTS)
def test_an_amount_that_crosses_and_comes_back_is_the_same(amount: Decimal) -> None:
    assert to_money(to_float(amount)) == amount


@given(AMOUNTS | LARGE_AMOUNTS)
def test_two_amounts_never_become_the_same_float(amount: Decimal) -> None:
    neighbour = amount - QUANTUM if amount > 0 else amount + QUANTUM
    assert (to_float(neighbour) < to_float(amount)) == (amount > 0)


@given(st.floats(-LARGEST_EXACT, LARGEST_EXACT, exclude_min=True, exclude_max=True))
def test_a_float_becomes_the_nearest_amount(value: float) -> None:
    amount = to_money(value)
    assert abs(amount - Decimal(repr(value))) <= QUANTUM / 2
    assert amount.as_tuple().exponent == -8


def test_one_tenth_is_one_tenth() -> None:
    assert (to_money(0.1), to_money(0.1 + 0.2), to_money(1e-9)) == (Decimal("0.1"), Decimal("0.3"), 0)
    assert to_money(np.float64(0.1)) == Decimal("0.1")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_amount_too_large_for_a_float_is_refused(sign: int) -> None:
    below = Decimal(LARGEST_EXACT) - QUANTUM
    assert to_money(to_float(sign * below)) == sign * below
    with pytest.raises(OverflowError, match="could not be kept exactly"):
        to_float(sign * Decimal(LARGEST_EXACT))
    with pytest.raises(OverflowError, match="could not be kept exactly"):
        to_money(sign * LARGEST_EXACT)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_amount_is_refused(value: float) -> None:
    with pytest.raises(OverflowError):
        to_money(value)
    with pytest.raises(ArithmeticError):
        to_float(Decimal(value))


@given(MOMENTS)
def test_the_same_moment_in_utc_is_the_same_moment(at: datetime) -> None:
    assert require_utc(at) == at
    assert require_utc(at).utcoffset() == timedelta(0)


@given(MOMENTS)
def test_unix_seconds_are_the_whole_seconds_at_or_before(at: datetime) -> None:
    second = from_unix(to_unix(at))
    assert second <= at < second + timedelta(seconds=1)
    assert to_unix(second) == to_unix(at)
    assert second.tzinfo is UTC


@given(MOMENTS, st.sampled_from([1, 60, 300, 3600, 14400, 86400]))
def test_a_floored_time_is_the_last_of_the_grid(at: datetime, step_s: int) -> None:
    floored = floor_time(at, step_s)
    assert floored <= at < floored + timedelta(seconds=step_s)
    assert to_unix(floored) % step_s == 0
    assert floor_time(floored, step_s) == floored


def test_a_moment_before_1970_is_floored_and_not_truncated() -> None:
    assert to_unix(datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)) == -1
    assert floor_time(datetime(1969, 12, 31, 23, 30, tzinfo=UTC), 3600) == datetime(1969, 12, 31, 23, tzinfo=UTC)


def test_a_naive_moment_is_refused_everywhere() -> None:
    naive = datetime(2024, 6, 1, 12)  # noqa: DTZ001
    clock = ReplayClock(naive.replace(tzinfo=UTC))
    for refuses in (require_utc, to_unix, ReplayClock, clock.set, lambda at: floor_time(at, 60)):
        with pytest.raises(ValueError, match=r"2024-06-01T12:00:00 has no time zone; write it as .*\+00:00"):
            refuses(naive)


@pytest.mark.parametrize(
    ("text", "hour"),
    [("2024-06-01", 0), ("2024-06-01T12:00", 12), ("2024-06-01 12:00:00", 12), ("2024-06-01T12:00Z", 12),
     ("2024-06-01T12:00+02:00", 10)],
)  # fmt: skip
def test_a_time_without_a_zone_is_read_as_utc(text: str, hour: int) -> None:
    assert parse_time(text) == datetime(2024, 6, 1, hour, tzinfo=UTC)
    assert parse_time(text).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "1717243200", "01.06.2024"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a time; write 2024-12-01"):
        parse_time(text)


def test_a_replay_clock_stands_until_it_is_set() -> None:
    clock = ReplayClock(datetime(2024, 6, 1, 14, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == clock.now() == datetime(2024, 6, 1, 12, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    clock.set(datetime(2024, 6, 2, tzinfo=UTC))
    assert clock.now() == datetime(2024, 6, 2, tzinfo=UTC)


def test_the_system_clock_is_aware_and_goes_forward() -> None:
    first, second = SystemClock().now(), SystemClock().now()
    assert first.tzinfo is UTC
    assert first <= second
