from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from meta_controller.bounds import BOUNDS, MAX_CHANGE
from meta_controller.market_index import Grid, MarketHistory, block_start, index_history
from meta_controller.outcomes import outcomes, volatility_terciles
from meta_controller.statistics_analogs import SENT_CLOSE
from meta_controller.statistics_context import allowed, z_scores
from meta_controller.statistics_mirror import mirrored, renamed
from meta_controller.statistics_series import (
    Asset,
    across,
    asset_of,
    asset_section,
    extremes,
    market_section,
    mean_correlation,
    scale,
    scaled_returns,
    short,
    shortened,
    trends,
    volatility,
    volume_ratio,
)
from meta_controller.statistics_view import View
from shared.clock import to_unix
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import DatabaseFor, random_candles
from tests.meta_controller.prompt_world import AS_OF, DAY, HOUR, World

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR_S, DAY_S = 3600, 86_400
SPANS = {"4h": 4, "24h": 24}


def history_of(series: list[Candles]) -> MarketHistory:
    """The whole index, as the experts see it."""
    last, bars = int(series[0].as_of[-1]), len(series[0])
    grid = Grid.of(series, last - (bars - 1) * HOUR_S, HOUR_S, bars)
    return index_history(grid, block_start(last), last)


@pytest.fixture(scope="module")
def history() -> MarketHistory:
    return history_of([random_candles(24 * 230, HOUR_S, seed=n, volatility=0.006) for n in range(2)])


def turned(history: MarketHistory) -> MarketHistory:
    return dataclasses.replace(history, returns=-history.returns)


def assets(history: MarketHistory) -> list[Asset]:
    noise = np.random.default_rng(3).normal(0, 0.004, len(history))
    return [Asset(name, n, history.returns + n * noise, np.ones(len(history)), 1.0) for n, name in enumerate("AB")]


@pytest.mark.parametrize(("name", "h"), SPANS.items())
def test_the_terciles_shown_are_those_that_the_label_will_be_made_with(
    history: MarketHistory, name: str, h: int
) -> None:
    now = math.sqrt((history.returns[-h:] ** 2).sum())
    shown = volatility(history.returns, h * HOUR_S, HOUR_S)
    assert [shown["low"] * now, shown["high"] * now] == pytest.approx(volatility_terciles(history, h)[-1], rel=1e-12)
    assert 0 < shown["pct"] <= 100


@pytest.mark.parametrize(("name", "h"), SPANS.items())
def test_the_past_is_told_in_the_terms_of_the_labels(history: MarketHistory, name: str, h: int) -> None:
    t, efficiency = trends(history.returns, HOUR_S)
    labelled = outcomes(history, h * HOUR_S)
    assert t[name] == pytest.approx(labelled.t_statistic[-h - 1])
    assert efficiency[name] == pytest.approx(labelled.efficiency[-h - 1])


def test_numbers_have_no_unit(history: MarketHistory) -> None:
    one, ten = (
        market_section(h, assets(h)) for h in (history, dataclasses.replace(history, returns=10 * history.returns))
    )
    assert shortened(one | {"corr": 0}) == shortened(ten | {"corr": 0})


def test_the_market_in_a_mirror_is_the_mirrored_table_of_the_market(history: MarketHistory) -> None:
    shown, other = (shortened(market_section(h, assets(h)) | {"corr": 0}) for h in (history, turned(history)))
    assert mirrored(table(market=shown))["market"] == other
    assert shown != other


def test_an_asset_in_a_mirror_is_the_mirrored_table_of_the_asset(history: MarketHistory) -> None:
    one = assets(history)[1]
    shown, other = (shortened(asset_section(a, HOUR_S)) for a in (one, dataclasses.replace(one, returns=-one.returns)))
    assert mirrored(table(assets={"asset 1": shown}))["assets"]["asset 1"] == other


def test_a_return_is_measured_in_its_usual_size() -> None:
    returns = np.tile([0.01, -0.01], 24 * 40)
    returns[-4:] = 0.01
    assert scale(returns, HOUR_S) == pytest.approx(0.01)
    shown = scaled_returns(returns, HOUR_S)
    assert shown["4h"] == pytest.approx(2.0)
    assert shown["1h"] == pytest.approx(1.0)


def test_distances_are_from_the_highest_and_the_lowest_close_of_the_span() -> None:
    returns = np.tile([0.01, -0.01], 12 * 50)
    returns[-2:] = -0.02
    below, above = extremes(returns, HOUR_S)
    unit = scale(returns, HOUR_S) * math.sqrt(24)
    assert below["30d"] * unit == pytest.approx(-0.05)
    assert above["30d"] * unit == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(below["90d"])


def test_what_cannot_be_known_is_unknown() -> None:
    few = np.full(24 * 5, 0.01)
    assert all(math.isnan(value) for value in scaled_returns(few, HOUR_S).values())
    assert math.isnan(volatility(few, DAY_S, HOUR_S)["pct"])
    still = np.zeros(24 * 40)
    assert math.isnan(trends(still, HOUR_S)[0]["24h"])
    assert math.isnan(scaled_returns(np.full(100, 0.01), 2 * HOUR_S)["1h"])  # the bars are longer
    assert math.isnan(mean_correlation([Asset("A", 1, still, still, 1.0)] * 2, DAY_S, HOUR_S))


def test_a_missing_bar_moves_nothing_and_the_next_catches_up() -> None:
    candles = random_candles(50, HOUR_S)
    keep = np.arange(50) != 20
    first = int(candles.as_of[0])
    whole, holed = (asset_of("A", 1, c, first, HOUR_S, 50) for c in (candles, candles[keep]))
    assert holed.returns[19] == 0.0
    assert holed.returns[20] == pytest.approx(whole.returns[19] + whole.returns[20])
    assert np.array_equal(np.delete(holed.returns, [19, 20]), np.delete(whole.returns, [19, 20]))


def test_an_asset_begins_with_its_first_candle() -> None:
    candles = random_candles(50, HOUR_S)
    late = asset_of("A", 1, candles, int(candles.as_of[0]) - 100 * HOUR_S, HOUR_S, 150)
    assert len(late.returns) == len(late.volume) == 49


def test_a_busy_day_has_a_volume_above_one() -> None:
    volume = np.ones(24 * 30)
    volume[-24:] = 31.0
    assert volume_ratio(volume, HOUR_S) == pytest.approx(31.0 / 2.0)


def test_many_assets_are_told_by_the_lowest_the_middle_and_the_highest() -> None:
    sections = [{"ret": {"1h": float(n)}, "volume": math.nan if n else 2.0} for n in (3, 0, 1)]
    assert across(sections) == {"ret": {"1h": [0.0, 1.0, 3.0]}, "volume": [2.0, 2.0, 2.0]}


@given(st.floats(-1e6, 1e6))
def test_a_short_number_is_near_and_has_three_digits(value: float) -> None:
    shown = short(value)
    assert shown is not None
    assert abs(shown - value) <= max(0.005 * abs(value), 0.0005) * (1 + 1e-9)
    digits = re_digits(json.dumps(shown))
    assert len(digits) <= 3 or abs(value) >= 1000
    assert short(shown) == shown
    assert json.dumps(shown) != "-0.0"


def re_digits(text: str) -> str:
    return text.replace("-", "").replace(".", "").strip("0")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown(value: float | None) -> None:
    assert short(value) is None


@given(name=st.sampled_from(sorted(BOUNDS)), share=st.floats(0, 1), hours=st.floats(1, 40), limit=st.floats(0, 1))
def test_what_is_shown_as_allowed_is_never_refused(name: str, share: float, hours: float, limit: float) -> None:
    low, high = BOUNDS[name]
    now, most = low + share * (high - low), max(low, limit * high)
    step = MAX_CHANGE[name] * hours
    lowest, highest = allowed(now, (low, most), step)
    assert [short(lowest), short(highest)] == [lowest, highest]
    assert low <= lowest
    assert highest <= most + 1e-12
    if lowest <= highest and now <= most:
        assert now - step - 1e-9 <= lowest <= highest <= now + step + 1e-9


def test_a_step_is_told_to_its_last_digit() -> None:
    assert allowed(0.8, (0.0, 1.0), 0.2) == [0.6, 1.0]
    assert allowed(None, (0.005, 0.2), 0.01) == [0.005, 0.2]
    assert allowed(3.0, (0.5, 10.0), 1.0) == [2.0, 4.0]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=90))
def test_z_scores_are_finite_whatever_the_figures(values: list[float]) -> None:
    found = z_scores(np.array(values))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= math.sqrt(len(values)) + 1e-6


# ── the mirror ──

NUMBER = st.one_of(st.none(), st.floats(-99, 99).map(short))
SIX = st.lists(st.floats(0, 1).map(short), min_size=6, max_size=6)
TREND = st.sampled_from(["down", "flat", "up"])
SPREAD = st.one_of(NUMBER, st.lists(st.floats(-9, 9).map(short), min_size=3, max_size=3).map(sorted))


def table(**parts: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "time": {"weekday": "Sat", "hour_utc": 12},
        "market": {"ret": {"1h": 1.0}, "t": {"4h": -0.5}, "vol": {"4h": {"pct": 20}}},
        "assets": {"asset 1": {"ret": {"1h": 1.0}}, "asset 2": {"ret": {"1h": -2.0}}, "without_data": 1},
        "experts": "absent", "base_rates": "absent", "happened": "absent", "news": "absent", "analogs": "absent",
        "memories": "absent",
    }  # fmt: skip
    return usual | parts


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    section = {"ret": {"1h": draw(SPREAD)}, "t": {"24h": draw(SPREAD)}, "vol_pct": {"4h": draw(NUMBER)}}
    section |= {"below_high": {"30d": draw(SPREAD)}, "above_low": {"30d": draw(SPREAD)}, "price": "3.5"}
    called = {"called": f"{draw(TREND)}, mid", "happened": f"{draw(TREND)}, high", "brier": 0.5}
    return table(
        market=section, assets={"asset 1": section},
        experts={"4h": {"pool": draw(SIX)}}, base_rates={"4h": draw(SIX)},
        happened={"24h": {"trend": draw(TREND), "volatility": "low"}},
        news={"macro": [3, draw(NUMBER), 0.5]},
        analogs={"n": 20, "ret_24h": draw(SPREAD), "vol_x_24h": [1, 2, 3]},
        memories=[{"days_ago": 3, "4h": called, "conviction": draw(NUMBER)}],
    )  # fmt: skip


@given(tables())
def test_a_mirror_in_a_mirror_shows_the_table_itself(shown: dict[str, Any]) -> None:
    assert json.dumps(mirrored(mirrored(shown))) == json.dumps(shown)


def test_a_mirror_turns_every_direction_and_nothing_else() -> None:
    called = {"called": "up, mid", "happened": "flat, high", "brier": 0.5}
    shown = table(
        market={"ret": {"1h": 1.5}, "t": {"4h": [-3, -1, 2]}, "eff": {"4h": 0.2}, "below_high": {"30d": -4},
                "above_low": {"30d": 0.5}},
        experts={"4h": {"pool": [0.1, 0.2, 0.7, 0.3, 0.3, 0.4]}},
        happened={"4h": {"trend": "down", "volatility": "low"}},
        news={"macro": [3, -0.4, 0.5]}, analogs={"n": 9, "ret_24h": [-2, 1, 3], "vol_x_24h": [1, 2, 3]},
        memories=[{"days_ago": 3, "4h": called, "conviction": 0.3}], book={"llm": {"1d": [1.0, -0.5]}},
    )  # fmt: skip
    seen = mirrored(shown)
    assert seen["market"] == {"ret": {"1h": -1.5}, "t": {"4h": [-2, 1, 3]}, "eff": {"4h": 0.2},
                              "below_high": {"30d": -0.5}, "above_low": {"30d": 4}}  # fmt: skip
    assert seen["experts"]["4h"]["pool"] == [0.7, 0.2, 0.1, 0.3, 0.3, 0.4]
    assert seen["happened"] == {"4h": {"trend": "up", "volatility": "low"}}
    assert seen["news"] == {"macro": [3, 0.4, 0.5]}
    assert seen["analogs"] == {"n": 9, "ret_24h": [-3, -1, 2], "vol_x_24h": [1, 2, 3]}
    assert seen["memories"][0]["4h"] == called | {"called": "down, mid"}
    assert seen["memories"][0]["conviction"] == -0.3
    assert seen["book"] == shown["book"]
    assert seen["assets"]["without_data"] == 1


def test_another_identity_changes_names_order_and_hour_and_nothing_else() -> None:
    shown = table()
    seen = renamed(shown)
    first, second = shown["assets"]["asset 2"], shown["assets"]["asset 1"]
    assert list(seen["assets"].items()) == [("asset A", first), ("asset B", second), ("without_data", 1)]
    assert seen["time"] == {"weekday": "Tue", "hour_utc": 19}
    assert {k: v for k, v in seen.items() if k not in ("assets", "time")} == {
        k: v for k, v in shown.items() if k not in ("assets", "time")}  # fmt: skip


def test_with_names_another_identity_is_another_ticker_year_and_price() -> None:
    section = {"ret": {"1h": 1.0}, "price": "100"}
    seen = renamed(table(time="2024-06-01T12:00Z", assets={"BTC/USDT": section}))
    assert seen["time"] == "2027-06-01T12:00Z"
    assert seen["assets"] == {"QNT/USDT": section | {"price": "730"}}


# ── from rows ──


def test_a_book_earns_nothing_by_being_paid_into(database_for: DatabaseFor, settings: Settings) -> None:
    world = World(database_for, settings)
    world.store_market(bars=24 * 10)
    wallet = world.wallet("llm")
    for hours, equity in ((30, 1000.0), (20, 1100.0), (10, 1600.0), (1, 1520.0)):
        world.equity(wallet, AS_OF - hours * HOUR, AS_OF, equity)
    world.flow(wallet, AS_OF - 15 * HOUR, AS_OF, 500.0)
    book = world.prompt().statistics["book"]
    assert book["llm"] == {"1d": [-5, -5], "7d": [4.5, -5], "30d": [4.5, -5]}
    assert (book["rules"], book["static"]) == ("absent", "absent")


def test_the_allowed_range_heeds_bounds_steps_and_the_operator(database_for: DatabaseFor, settings: Settings) -> None:
    world = World(database_for, settings)
    world.store_market(bars=24 * 10)
    world.config(AS_OF - 2 * HOUR, AS_OF - 2 * HOUR, "llm", max_exposure=0.5, risk_aversion=9.0)
    world.config(AS_OF - HOUR / 2, AS_OF - HOUR / 2, "llm", max_exposure=0.6, risk_aversion=9.0)  # too young to count
    shown = world.prompt(world.inputs(limits={"max_exposure": 0.7})).statistics["steering"]
    assert shown["max_exposure"] == [0.5, None, 0.1, 0.7]
    assert shown["risk_aversion"] == [9, None, 7, 10]
    assert shown["pause"] == [False, None]
    assert shown["strategy_weights"]["cash"] == [0, None, 0, 0.5]


@examples(deadline=None)
@given(st.integers(1, 5))
def test_chains_have_numbers_and_of_many_only_the_middle_is_told(n: int) -> None:
    from meta_controller import statistics_context as context

    figures = [(f"chain_{i}", "fees", np.array([0.0] * 9 + [float(i)])) for i in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "chain_figures", lambda view, metrics: figures)
        shown = context.onchain_section(None, ["fees"])  # type: ignore[arg-type]
    assert isinstance(shown, dict)
    assert not any("_" in name for name in shown)
    assert list(shown) == (["chains", "median"] if n > 3 else [f"chain {i}" for i in range(1, n + 1)])


def test_a_candle_is_shown_as_it_stood_whenever_that_was(database_for: DatabaseFor, settings: Settings) -> None:
    """Written, then revised four times; another first written late, then revised; one that only comes next hour."""
    world = World(database_for, settings)
    world.store_market(bars=24 * 10)
    revised, late = AS_OF - 5 * HOUR, AS_OF - 4 * HOUR
    world.gap(late)
    stood: dict[datetime, dict[datetime, float]] = {AS_OF: close_of(world)}
    for n in range(1, 4):
        at = AS_OF + n * DAY
        if n == 2:
            world.candle(late, at)
            world.candle(AS_OF + HOUR, at)
        world.revision(revised, at, close=100.0 + n)
        if n == 3:
            world.revision(late, at, close=123.0)
            world.revision(AS_OF + HOUR, at, close=123.0)
        stood[at] = close_of(world)
    world.revision(revised, AS_OF + 1.5 * DAY, close=150.0)  # by a clock that was set back: it held until the last
    stood[AS_OF + 3 * DAY] = close_of(world)
    assert len({tuple(known.items()) for known in stood.values()}) == 4
    for at, known in stood.items():
        for recorded_by in (at, at + 23 * HOUR):
            view = View(database_for("meta_controller"), AS_OF, recorded_by)
            shown = view.candles(world.ids[0], 3600, to_unix(AS_OF) - 10 * DAY_S)
            expected = {to_unix(as_of): close for as_of, close in known.items() if as_of <= AS_OF}
            assert dict(zip(shown.as_of.tolist(), shown.close.tolist(), strict=True)) == expected
            around = view.records("closes_around", SENT_CLOSE, instrument_ids=[world.ids[0]], timeframe_s=3600,
                                  moments=[AS_OF - 12 * HOUR])  # fmt: skip
            nearby = [close for as_of, close in expected.items() if as_of >= to_unix(AS_OF) - 7.5 * DAY_S]
            assert around["close"].tolist() == nearby


def close_of(world: World) -> dict[datetime, float]:
    """What is stored now."""
    query = "SELECT as_of, close FROM market_data WHERE instrument_id = %(id)s ORDER BY as_of"
    return {row["as_of"]: row["close"] for row in world.database_for("owner").fetch(query, {"id": world.ids[0]})}


def test_stale_figures_of_a_chain_are_absent(database_for: DatabaseFor, settings: Settings) -> None:
    world = World(database_for, settings)
    world.store_market(bars=24 * 10)
    for n in range(20):
        world.onchain(AS_OF - (8 + n) * DAY, AS_OF, float(n))
    assert world.prompt().statistics["onchain"] == "absent"
