"""Which names open which venue, and what is said about the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.exchanges import EXCHANGES, ExchangeError, open_exchange
from shared.settings import PROJECT, VenueSettings

LOCAL_REST, LOCAL_SOCKET = "http://127.0.0.1:9", "ws://127.0.0.1:9/v2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ftx", "FTX collapsed in November 2022"),
        ("bittrex", "shut down in December 2023"),
        ("robinhood", "signer of its own"),
        ("krakne", "did you mean kraken?"),
        ("Kraken", "did you mean kraken?"),
        ("bitstmap", "did you mean bitstamp?"),
        ("", "nobody here knows it"),
        ("paper:ftx", "FTX collapsed"),
        ("simulated:kraken", "no exchange"),
    ],
)
def test_a_name_that_is_no_venue_is_refused_with_the_reason_and_the_choices(name: str, said: str) -> None:
    with pytest.raises(ExchangeError) as refused:
        open_exchange(name)
    assert said in str(refused.value)
    assert all(choice in str(refused.value) for choice in EXCHANGES)


def test_any_other_venue_of_ccxt_opens_and_admits_that_nothing_ever_tried_it() -> None:
    exchange = open_exchange("bitstamp")
    assert exchange.name == "bitstamp"
    assert exchange.capabilities.exercised == "never"


def test_a_venue_is_opened_at_the_address_of_the_settings() -> None:
    venues = {"kraken": VenueSettings(rest_url=LOCAL_REST, websocket_url=LOCAL_SOCKET, requests_per_s=7.0)}
    assert open_exchange("kraken", venues).capabilities.requests_per_s == 7.0
    assert open_exchange("paper:kraken", venues).capabilities.requests_per_s == 7.0
    assert open_exchange("kraken").capabilities.requests_per_s == 1.0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simulated", VenueSettings(rest_url="http://127.0.0.1:9")),
        ("paper", VenueSettings(requests_per_s=1.0)),
        ("binance", VenueSettings(websocket_url="ws://127.0.0.1:9")),
        ("binance", VenueSettings(requests_per_s=1_000.0)),
        ("kraken", VenueSettings(rest_url=LOCAL_REST)),
        ("kraken", VenueSettings(websocket_url=LOCAL_SOCKET)),
        ("kraken", VenueSettings(rest_url=LOCAL_REST, websocket_url="wss://ws.kraken.com/v2")),
        ("kraken", VenueSettings(rest_url="https://api.kraken.com", websocket_url=LOCAL_SOCKET)),
    ],
)
def test_a_setting_that_a_venue_cannot_heed_is_refused(name: str, settings: VenueSettings) -> None:
    with pytest.raises(ExchangeError, match=r"\[venues"):
        open_exchange(name, {name: settings})


@pytest.mark.parametrize(
    ("section", "said"),
    [("karken", "did you mean kraken?"), ("bitstmap", "did you mean bitstamp?"), ("paper:kraken", "no exchange"),
     ("ftx", "FTX collapsed")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["kraken", "simulated", "paper:kraken", "bitstamp"])
def test_a_section_of_no_venue_is_never_ignored(name: str, section: str, said: str) -> None:
    with pytest.raises(ExchangeError) as refused:
        open_exchange(name, {"kraken": VenueSettings(), section: VenueSettings(requests_per_s=0.5)})
    assert f"[venues.{section}]" in str(refused.value)
    assert said in str(refused.value)


def test_sections_of_other_venues_disturb_none() -> None:
    assert open_exchange("kraken", {"bitstamp": VenueSettings(), "binance": VenueSettings()}).name == "kraken"


def test_what_paper_asks_is_counted_where_its_source_asks_anybody() -> None:
    paper = open_exchange("paper:kraken")
    assert paper.calls.statistics()["calls"] == 0
    assert paper.calls is paper._source.calls
    assert not hasattr(open_exchange("paper"), "calls")


@pytest.mark.parametrize(
    ("name", "shared"), [("kraken", "kraken"), ("paper:kraken", "kraken"), ("bitstamp", "bitstamp")]
)
def test_the_installations_limit_is_one_file_for_each_venue(tmp_path: Path, name: str, shared: str) -> None:
    open_exchange(name, home=tmp_path).calls.limiter.acquire()
    assert [path.name for path in (tmp_path / "rates").iterdir()] == [shared]


def test_paper_is_the_candles_of_another_venue_under_its_name_and_market_orders_only() -> None:
    paper, kraken = open_exchange("paper:kraken"), open_exchange("kraken")
    assert (paper.name, paper.provenance) == ("kraken", "real")
    assert paper.capabilities.timeframes_s == kraken.capabilities.timeframes_s
    assert paper.capabilities.order_types == ("market",)
    assert paper.capabilities.sandbox
    assert open_exchange("paper").name == "simulated"


def test_a_venues_library_loads_only_when_it_is_opened() -> None:
    code = (
        "import sys, shared.exchanges as e; e.open_exchange('simulated'); e.open_exchange('paper');"
        "print({'krakenex', 'ccxt', 'requests', 'websockets'} & set(sys.modules))"
        ";e.open_exchange('kraken'); print({'ccxt', 'websockets'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["set()", "set()"]
