"""Kraken's REST door, against a local server that speaks its documented shapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pytest

from shared.exchanges.kraken import PAIRS_TTL_S, KrakenExchange
from shared.exchanges.paper import PaperExchange
from shared.exchanges.protocol import ExchangeError, NotListed
from shared.exchanges.resilience import ReadCache
from shared.exchanges.simulated import SimulatedExchange
from shared.settings import FeedSettings
from tests.shared.fake_kraken import NOW, SERVED, Answer, FakeKraken, Patience, api_error, connect, pair, serving

RATE_LIMIT = api_error("EAPI:Rate limit exceeded")
FIVE_MINUTES, HOUR = 300, 3_600
TRIES, SPACING_S = 4, 1.0
DAY_AGO = NOW - 86_400


@pytest.fixture
def fake() -> FakeKraken:
    return FakeKraken()


@pytest.fixture
def patience() -> Patience:
    return Patience()


@pytest.fixture
def kraken(fake: FakeKraken, patience: Patience) -> Iterator[KrakenExchange]:
    with serving(fake) as uri:
        yield connect(uri, patience)


# --- symbols and rules ---


@pytest.mark.parametrize("symbol", ["BTC/USDT", "XBT/USDT", "btc/usdt"])
def test_every_spelling_of_bitcoin_is_one_symbol(kraken: KrakenExchange, symbol: str) -> None:
    assert kraken.resolve(symbol) == "BTC/USDT"


def test_a_dollar_token_pair_that_is_missing_becomes_the_dollar_pair_under_its_own_symbol(
    fake: FakeKraken, kraken: KrakenExchange
) -> None:
    del fake.pairs["XBTUSDT"]
    assert kraken.resolve("BTC/USDT") == "BTC/USD"
    assert kraken.resolve("SOL/USDT") == "SOL/USD"


def test_dogecoin_is_found_under_krakens_name(kraken: KrakenExchange) -> None:
    assert kraken.resolve("DOGE/USDT") == "DOGE/USD"


def test_a_pair_without_wsname_is_found_by_its_altname(fake: FakeKraken, kraken: KrakenExchange) -> None:
    fake.pairs = {"XXBTZUSD": pair(None, altname="XBTUSD", quote="ZUSD"), "ADAUSDT": pair(None, altname="ADAUSDT")}
    assert kraken.resolve("BTC/USD") == "BTC/USD"
    assert kraken.resolve("ADA/USDT") == "ADA/USDT"


def test_an_unlisted_symbol_is_refused_with_what_was_tried(kraken: KrakenExchange) -> None:
    with pytest.raises(ExchangeError, match=r"'NOPE/USDT': tried NOPE/USDT, NOPE/USD$"):
        kraken.resolve("NOPE/USDT")
    with pytest.raises(ExchangeError, match=r"tried BTC/EUR \(XBT/EUR\)$"):
        kraken.resolve("BTC/EUR")


def test_candles_are_never_served_under_another_symbol_silently(fake: FakeKraken, kraken: KrakenExchange) -> None:
    del fake.pairs["XBTUSDT"]
    with pytest.raises(ExchangeError, match="BTC/USDT"):
        kraken.candles("BTC/USDT", HOUR, DAY_AGO, NOW)


def test_pairs_are_asked_once(fake: FakeKraken, kraken: KrakenExchange) -> None:
    kraken.resolve("BTC/USDT")
    kraken.rules("SOL/USD")
    kraken.candles("BTC/USD", HOUR, DAY_AGO, NOW)
    assert len(fake.calls("AssetPairs")) == 1


def test_rules_are_the_pairs_own_decimals(kraken: KrakenExchange) -> None:
    rules = kraken.rules("DOGE/USD")
    assert rules.tick_size == Decimal("0.0000001")
    assert rules.lot_size == Decimal("0.00000001")
    assert rules.min_notional == Decimal("0.5")
    assert rules.min_quantity == Decimal("0.00005")
    assert rules.status == "online"


@pytest.mark.parametrize(
    ("told", "status"),
    [("post_only", "post_only"), ("reduce_only", "reduce_only"), ("cancel_only", "cancel_only"),
     ("limit_only", "post_only"), ("work_in_progress", "cancel_only"), (None, "online")],
)  # fmt: skip
def test_a_pair_in_a_state_that_is_not_known_takes_no_new_orders(
    fake: FakeKraken, kraken: KrakenExchange, told: str | None, status: str
) -> None:
    fake.pairs = {"XXBTZUSD": pair("XBT/USD", status=told)}
    assert kraken.rules("BTC/USD").status == status


def test_only_what_is_missing_in_the_list_is_not_listed(fake: FakeKraken, kraken: KrakenExchange) -> None:
    with pytest.raises(NotListed):
        kraken.rules("NOPE/USD")
    fake.fail(*[(200, b"{}")] * TRIES)
    kraken.calls.cache = ReadCache()
    with pytest.raises(ExchangeError) as refused:
        kraken.rules("BTC/USD")
    assert not isinstance(refused.value, NotListed)


def test_rules_fall_back_to_pair_decimals_and_a_default_cost(fake: FakeKraken, kraken: KrakenExchange) -> None:
    fake.pairs = {"XXBTZUSD": pair("XBT/USD", tick_size=None, costmin=None)}
    assert kraken.rules("BTC/USD").tick_size == Decimal("0.1")
    assert kraken.rules("BTC/USD").min_notional == Decimal("0.5")


@pytest.mark.parametrize(
    ("rules", "said"),
    [({"tick_size": "0.000000001"}, "tick of 1E-9"), ({"tick_size": None, "pair_decimals": 9}, "tick of 1E-9"),
     ({"tick_size": "0.000000015"}, "tick of 1.5E-8"), ({"lot_decimals": 9}, "lot of 1E-9"),
     ({"ordermin": "0.000000001"}, "least quantity of 1E-9")],
)  # fmt: skip
def test_a_step_finer_than_the_database_holds_is_refused(
    fake: FakeKraken, kraken: KrakenExchange, rules: dict[str, object], said: str
) -> None:
    fake.pairs = {"PEPEUSD": pair("PEPE/USD") | rules, "XXBTZUSD": pair("XBT/USD") | {"tick_size": "0.00000001"}}
    with pytest.raises(ExchangeError, match=f"PEPE/USD: its {said} is finer than 1e-8, which this") as refused:
        kraken.rules("PEPE/USD")
    assert refused.value.kind == "refused"
    assert kraken.rules("BTC/USD").tick_size == Decimal("0.00000001")


def test_a_strange_pair_spoils_no_other(fake: FakeKraken, kraken: KrakenExchange) -> None:
    fake.pairs = {"ODD": None, "ODDER": {}, "BADUSD": {"wsname": "BAD/USD", "lot_decimals": "?"}, **fake.pairs}
    assert kraken.rules("BTC/USD").tick_size == Decimal("0.1")
    with pytest.raises(ExchangeError, match="BADUSD"):
        kraken.rules("BAD/USD")


# --- candles ---


def test_the_unfinished_candle_is_dropped(kraken: KrakenExchange) -> None:
    candles = kraken.candles("BTC/USDT", FIVE_MINUTES, NOW - HOUR, NOW + HOUR)
    assert candles.as_of[-1] == NOW // FIVE_MINUTES * FIVE_MINUTES
    assert len(candles) == 12


def test_only_what_closed_within_the_window_is_served(kraken: KrakenExchange) -> None:
    until = NOW // HOUR * HOUR - 2 * HOUR
    candles = kraken.candles("BTC/USDT", HOUR, until - 5 * HOUR, until)
    np.testing.assert_array_equal(candles.as_of, until + HOUR * np.arange(-4, 1))


def test_numbers_in_strings_become_numbers(kraken: KrakenExchange) -> None:
    candles = kraken.candles("BTC/USD", HOUR, DAY_AGO, NOW)
    assert candles.open.dtype == np.float64
    assert 29_000 < candles.close[0] < 31_000
    assert set(candles.volume) == {1.25}
    assert set(candles.trades) == {7}


def test_the_pair_is_asked_by_its_id(fake: FakeKraken, kraken: KrakenExchange) -> None:
    kraken.candles("BTC/USD", HOUR, DAY_AGO, NOW)
    assert fake.calls("OHLC")[0]["pair"] == "XXBTZUSD"


def test_no_more_than_the_endpoint_serves_is_claimed(fake: FakeKraken, kraken: KrakenExchange) -> None:
    candles = kraken.candles("BTC/USDT", 60, 0, NOW)
    assert len(candles) == SERVED - 1
    assert len(fake.calls("OHLC")) == 1


def test_a_live_window_costs_one_call(fake: FakeKraken, kraken: KrakenExchange) -> None:
    kraken.candles("BTC/USDT", FIVE_MINUTES, NOW - HOUR, NOW)
    assert len(fake.calls("OHLC")) == 1


def test_pages_are_followed_until_one_brings_nothing_new(fake: FakeKraken, kraken: KrakenExchange) -> None:
    whole = kraken.candles("BTC/USDT", FIVE_MINUTES, DAY_AGO, NOW)
    fake.answers["OHLC"] = short_pages(fake, 100)
    paged = kraken.candles("BTC/USDT", FIVE_MINUTES, DAY_AGO, NOW + HOUR)
    np.testing.assert_array_equal(paged.as_of, whole.as_of)
    np.testing.assert_array_equal(paged.close, whole.close)
    assert len(fake.calls("OHLC")) == 1 + 4


def short_pages(fake: FakeKraken, size: int) -> Answer:
    """OHLC that serves ``size`` entries a page, and the entry after them as the one that is not committed."""
    whole = fake.answers["OHLC"]

    def answer(query: dict[str, str]) -> object:
        envelope = whole(query)
        (key,) = envelope["result"].keys() - {"last"}
        entries = envelope["result"][key][: size + 1]
        last = entries[-2][0] if len(entries) > 1 else int(query["since"])
        return {"error": [], "result": {key: entries, "last": last}}

    return answer


def test_missing_minutes_stay_missing(fake: FakeKraken, kraken: KrakenExchange) -> None:
    whole = fake.answers["OHLC"]

    def with_gap(query: dict[str, str]) -> object:
        envelope = whole(query)
        del envelope["result"]["XBTUSDT"][3:5]
        return envelope

    fake.answers["OHLC"] = with_gap
    candles = kraken.candles("BTC/USDT", 60, NOW - HOUR, NOW)
    assert len(candles) == 58
    assert np.diff(candles.as_of).max() == 180


@pytest.mark.parametrize("timeframe_s", [30, 61, 120, 7_200, 21_600 * 60])
def test_a_timeframe_kraken_does_not_serve_is_refused_unasked(
    fake: FakeKraken, kraken: KrakenExchange, timeframe_s: int
) -> None:
    with pytest.raises(ExchangeError, match=str(timeframe_s)):
        kraken.candles("BTC/USDT", timeframe_s, DAY_AGO, NOW)
    assert not fake.asked


# --- faults ---


def test_a_rate_limit_passes_with_patience(fake: FakeKraken, kraken: KrakenExchange, patience: Patience) -> None:
    fake.fail(RATE_LIMIT)
    assert kraken.resolve("BTC/USDT") == "BTC/USDT"
    assert kraken.calls.statistics()["troubles"] == {"rate_limited": 1}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (RATE_LIMIT, "rate_limited"),
        (api_error("EGeneral:Too many requests"), "rate_limited"),
        (api_error("EService: Throttled: 1750000000"), "rate_limited"),
        ((429, b"slow down"), "rate_limited"),
        (api_error("EService:Unavailable"), "maintenance"),
        (api_error("EService:Busy"), "server_error"),
        (api_error("EGeneral:Internal error"), "server_error"),
        ((500, b"oops"), "server_error"),
        ((502, b""), "server_error"),
        ((200, b"<html><title>Just a moment...</title></html>"), "not_json"),
        ((200, b'{"error":[],"result":{"XBT'), "not_json"),
        ((200, b""), "not_json"),
        ((200, b'{"error":[],"result":null}'), "no_result"),
        ((200, b"null"), "no_result"),
        ((200, b"[1,2]"), "no_result"),
        ((200, b'{"error":[],"result":{}}'), "no_result"),
    ],
)
def test_trouble_that_may_pass_is_asked_again_and_that_stays_ends_in_an_error_of_its_kind(
    fake: FakeKraken, kraken: KrakenExchange, fault: tuple[int, bytes], kind: str
) -> None:
    fake.fail(*[fault] * TRIES)
    with pytest.raises(ExchangeError, match=r"kraken AssetPairs: .* gave up after 4 tries") as refused:
        kraken.resolve("BTC/USDT")
    assert refused.value.kind == kind
    assert len(fake.asked) == TRIES
    fake.fail(fault)
    assert kraken.resolve("BTC/USDT") == "BTC/USDT"
    assert kraken.calls.statistics()["troubles"] == {kind: TRIES + 1}


def test_a_venue_that_asks_for_patience_gets_it(fake: FakeKraken, kraken: KrakenExchange, patience: Patience) -> None:
    fake.headers, _ = {"Retry-After": "17"}, fake.fail((429, b"slow down"))
    kraken.resolve("BTC/USDT")
    assert sum(patience.naps) == 17


def test_a_server_error_in_the_middle_of_candles_is_asked_again(fake: FakeKraken, kraken: KrakenExchange) -> None:
    kraken.resolve("BTC/USDT")
    fake.fail((500, b"oops"))
    assert len(kraken.candles("BTC/USDT", FIVE_MINUTES, NOW - HOUR, NOW)) == 12


def test_a_server_that_is_gone_is_an_exchange_error(fake: FakeKraken, patience: Patience) -> None:
    with serving(fake) as uri:
        kraken = connect(uri, patience)
    with pytest.raises(ExchangeError, match="ConnectionError") as refused:
        kraken.resolve("BTC/USDT")
    assert refused.value.kind == "transport"


def test_a_venue_that_does_not_answer_in_time_is_a_timeout(
    fake: FakeKraken, kraken: KrakenExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.exchanges.kraken.TIMEOUT_S", 0.05)
    answer = fake.answers["AssetPairs"]
    fake.answers["AssetPairs"] = lambda query: time.sleep(0.2) or answer(query)
    with pytest.raises(ExchangeError, match="ReadTimeout") as refused:
        kraken.resolve("BTC/USDT")
    assert refused.value.kind == "timeout"


@pytest.mark.parametrize(
    ("fault", "kind", "excerpt"),
    [
        ((403, b"no"), "venue_error", "403"),
        (api_error("EQuery:Unknown asset pair"), "venue_error", "EQuery:Unknown asset pair"),
        (api_error("EGeneral:Temporary lockout"), "venue_error", "Temporary lockout"),
        ((200, b'{"error":[],"result":{"last":1}}'), "malformed", "'last': 1"),
        ((200, b'{"error":[],"result":{"XBTUSDT":[]}}'), "malformed", "KeyError"),
        ((200, b'{"error":[],"result":{"XBTUSDT":[[1,"a"]],"last":1}}'), "malformed", "ValueError"),
        ((200, b'{"error":[],"result":{"XBTUSDT":[[0,"1","1","1","NaN","1","1",1]],"last":1}}'), "malformed", "finite"),
        ((200, b'{"error":[],"result":{"XBTUSDT":null,"last":1}}'), "malformed", "TypeError"),
    ],
)
def test_an_answer_that_is_none_is_refused_at_once_and_quoted(
    fake: FakeKraken, kraken: KrakenExchange, fault: tuple[int, bytes], kind: str, excerpt: str
) -> None:
    kraken.resolve("BTC/USDT")
    fake.fail(fault)
    with pytest.raises(ExchangeError, match=rf"(?s)kraken OHLC .*'pair': 'XBTUSDT'.*{excerpt}") as refused:
        kraken.candles("BTC/USDT", HOUR, DAY_AGO, NOW)
    assert refused.value.kind == kind
    assert kraken.calls.statistics()["troubles"] == {kind: 1}
    assert len(fake.calls("OHLC")) == 1


def test_calls_keep_a_second_of_distance(kraken: KrakenExchange, patience: Patience) -> None:
    kraken.candles("BTC/USDT", HOUR, DAY_AGO, NOW)
    assert sum(patience.naps) == SPACING_S
    patience.time += 10
    kraken.candles("BTC/USDT", HOUR, DAY_AGO, NOW)
    assert sum(patience.naps) == SPACING_S


def test_pairs_are_asked_again_after_an_hour_so_a_delisting_is_noticed(
    fake: FakeKraken, kraken: KrakenExchange, patience: Patience
) -> None:
    assert kraken.resolve("SOL/USD") == "SOL/USD"
    del fake.pairs["SOLUSD"]
    patience.time += PAIRS_TTL_S - 1
    assert kraken.resolve("SOL/USD") == "SOL/USD"
    patience.time += 2
    with pytest.raises(ExchangeError, match="SOL/USD"):
        kraken.resolve("SOL/USD")


def test_more_than_kraken_allows_is_refused_but_not_at_an_address_of_ones_own() -> None:
    with pytest.raises(ExchangeError, match="requests_per_s"):
        KrakenExchange(requests_per_s=2.0)
    assert KrakenExchange(requests_per_s=0.5).capabilities.requests_per_s == 0.5
    assert KrakenExchange("http://127.0.0.1:1", requests_per_s=50.0).capabilities.requests_per_s == 50.0
    assert KrakenExchange.capabilities.requests_per_s == 1.0


# --- the stream ---


def test_the_stream_goes_to_the_venues_address_with_the_feeds_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("shared.exchanges.kraken_stream.stream_kraken", lambda *arguments: asked.append(arguments))
    KrakenExchange().stream(["BTC/USD"], 300)
    feed = FeedSettings(silence_s=7.0, reconnect_s=2.0, reconnect_max_s=30.0)
    local = KrakenExchange("http://127.0.0.1:9", "ws://127.0.0.1:9/v2")
    PaperExchange(local).stream(["BTC/USD"], 60, feed)
    (url, symbols, timeframe_s, options), (own_url, _, _, own_options) = asked
    assert (url, symbols, timeframe_s) == ("wss://ws.kraken.com/v2", ["BTC/USD"], 300)
    assert (options.silence_s, options.reconnect_s, options.reconnect_max_s) == (5.0, 1.0, 60.0)
    assert own_url == "ws://127.0.0.1:9/v2"
    assert (own_options.silence_s, own_options.reconnect_s, own_options.reconnect_max_s) == (7.0, 2.0, 30.0)


@pytest.mark.parametrize("addresses", [("http://127.0.0.1:9", None), (None, "ws://127.0.0.1:9/v2")])
def test_an_emulators_stream_never_joins_the_real_candles_nor_the_other_way_round(
    addresses: tuple[str | None, str | None],
) -> None:
    with pytest.raises(ExchangeError, match="rest_url and websocket_url together"):
        KrakenExchange(*addresses).stream(["BTC/USD"], 300)


def test_paper_candles_offer_no_stream_and_no_trades_where_the_source_has_none() -> None:
    paper = PaperExchange(SimulatedExchange())
    assert not paper.capabilities.streams_candles
    with pytest.raises(ExchangeError, match="simulated streams no candles"):
        paper.stream(["SIM-BTC/USDT"], 300)
    with pytest.raises(ExchangeError, match="simulated builds no candles"):
        paper.candles_from_trades("SIM-BTC/USDT", 300, NOW - HOUR, NOW)
