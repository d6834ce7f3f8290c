"""Kraken counts private questions by key: whoever asks waits before it is refused, and what acts never waits."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import Accepted, CouldNotAsk, Credentials
from shared.clock import Timer
from tests.policy.kraken_account import FIRST_NONCE, KEY, SECRET, URL, FakeAccount, order

COUNTER, DECAY_PER_S = 15.0, 0.33  # as Kraken's documents say of the lowest tier
COST = {"OpenOrders": 1, "TradesHistory": 2}


class Kraken:
    """The venue's own counter, on a clock that sleeping moves; ``worst``: the highest that it ever stood."""

    def __init__(self) -> None:
        self.fake = FakeAccount()
        self.now = 1_000.0
        self.worst = self._level = 0.0
        self._at = self.now
        self._nonces = count(FIRST_NONCE)
        self.fake.replies |= {"OpenOrders": {"open": {}}, "TradesHistory": {"trades": {}, "count": 0},
                              "AddOrder": {"txid": ["OAAA"], "descr": {"order": "buy"}}}  # fmt: skip

    def trading(self, home: Path, key: str = KEY, url: str | None = None) -> KrakenTrading:
        timer = Timer(lambda: self.now, self._sleep)
        return KrakenTrading(
            Credentials(key, SECRET), lambda: next(self._nonces), ("BTC/USD",), url, timer=timer, home=home
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def count(self) -> None:
        """What came in since the last look."""
        self._level = max(0.0, self._level - (self.now - self._at) * DECAY_PER_S)
        self._at = self.now
        self._level += sum(COST.get(method, 0) for method, _ in self.fake.sent)
        self.fake.sent.clear()
        self.worst = max(self.worst, self._level)


@pytest.fixture
def kraken(monkeypatch: pytest.MonkeyPatch) -> Kraken:
    made = Kraken()
    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", lambda *args, **options: made.fake.send(*args, **options))
    return made


def test_a_busy_sender_waits_instead_of_being_refused_and_orders_go_out_at_once(kraken: Kraken, tmp_path: Path) -> None:
    venues = [kraken.trading(tmp_path) for _ in range(2)]  # as two runs of cron: they share the key's file
    for number in range(40):
        venues[number % 2].open_orders()
        kraken.count()
        venues[number % 2].fills(0.0)
        kraken.count()
    assert COUNTER - 2 < kraken.worst <= COUNTER + 1e-6
    began = kraken.now
    assert [venues[0].place(order(), FIRST_NONCE + 10_000 + n) for n in range(20)] == [Accepted("OAAA")] * 20
    assert kraken.now == began


def test_another_key_has_a_counter_of_its_own_and_an_emulator_none(kraken: Kraken, tmp_path: Path) -> None:
    first, second = kraken.trading(tmp_path), kraken.trading(tmp_path, "another-key-of-a-test")
    for _ in range(30):
        first.open_orders()
    began = kraken.now
    with pytest.raises(CouldNotAsk):  # the fake knows no such key
        second.key_rights()
    assert kraken.now == began
    emulated = kraken.trading(tmp_path, url=URL)
    for _ in range(30):
        emulated.open_orders()
    assert kraken.now - began < 5.0  # the public questions of names have a limit of their own


def test_after_a_refusal_for_asking_too_often_nothing_is_asked_until_the_venues_counter_is_empty(
    kraken: Kraken, tmp_path: Path
) -> None:
    trading = kraken.trading(tmp_path)
    trading.open_orders()
    refused = b'{"error": ["EAPI:Rate limit exceeded"]}'
    kraken.fake.replies["OpenOrders"] = lambda _form: refused
    began = kraken.now
    with pytest.raises(CouldNotAsk, match="Rate limit"):
        trading.open_orders()
    kraken.fake.replies["OpenOrders"] = {"open": {}}
    assert trading.place(order(), FIRST_NONCE + 10_000) == Accepted("OAAA")
    assert kraken.now == began, "what acts does not wait"
    kraken.trading(tmp_path).open_orders()
    assert kraken.now - began >= COUNTER / DECAY_PER_S
