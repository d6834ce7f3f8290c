"""config/wallets.json: names and terms of live wallets, and never a key; what is refused is not repeated."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared import wallets_file
from shared.settings import PROJECT
from shared.wallets_file import WalletsFileError, entry_if_named, load_wallets, parse_amount, parse_wallets

EXAMPLE = PROJECT / "config" / "wallets.example.json"
Change = Callable[[dict[str, Any]], Any]


def changed(change: Change) -> str:
    """The example with its wallet changed."""
    content = json.loads(EXAMPLE.read_text())
    change(content["wallets"][0])
    return json.dumps(content)


def refusal(text: str) -> str:
    with pytest.raises(WalletsFileError) as error:
        parse_wallets(text)
    return str(error.value)


def test_the_example_is_right_and_says_all_there_is_to_say() -> None:
    (wallet,) = load_wallets(EXAMPLE).wallets
    assert (wallet.name, wallet.venue, wallet.quote, wallet.track) == ("main", "kraken", "USDT", "live")
    assert (wallet.key_env, wallet.secret_env) == ("KRAKEN_MAIN_KEY", "KRAKEN_MAIN_SECRET")
    assert wallet.managed_capital == Decimal(5000)
    assert wallet.limits.max_position_notional == Decimal(2500)
    assert (wallet.limits.ramp_days, wallet.limits.ramp_exposure) == (14, Decimal("0.02"))


def test_the_file_itself_is_never_committed() -> None:
    assert "config/wallets.json" in (PROJECT / ".gitignore").read_text().split()


def test_what_is_not_said_is_not_limited_and_not_managed() -> None:
    text = changed(lambda w: (w.pop("managed_capital"), w.update(limits={"max_order_notional": 500})))
    (wallet,) = parse_wallets(text).wallets
    assert wallet.managed_capital is None
    assert (wallet.limits.max_day_notional, wallet.limits.max_orders_a_day) == (None, None)
    assert (wallet.limits.ramp_days, wallet.limits.ramp_exposure) == (14, Decimal("0.02"))


@pytest.mark.parametrize("capital", ["5000.5", 5000.5, "all"])
def test_capital_is_an_amount_to_the_last_decimal_or_all(capital: str | float) -> None:
    (wallet,) = parse_wallets(changed(lambda w: w.update(managed_capital=capital))).wallets
    assert wallet.managed_capital == ("all" if capital == "all" else Decimal("5000.5"))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda w: w.update(key="abc"), "wallet main: unknown field key; allowed here are name, .*A key never belongs"),
        (lambda w: w["limits"].update(max_day="5"), "unknown field max_day; allowed here are max_order_notional"),
        (lambda w: w.update(key_env="SEXTANT_KEY"), "Sextant's own settings"),
        (lambda w: w.update(key_env=7), "key_env: name an environment variable"),
        (lambda w: w.update(secret_env="KRAKEN_MAIN_KEY"), "KRAKEN_MAIN_KEY is named twice"),
        (lambda w: w.pop("secret_env"), "wallet main: secret_env: Field required"),
        (lambda w: w["limits"].pop("max_order_notional"), "limits.max_order_notional: Field required"),
        (lambda w: w["limits"].update(max_day_notional="lots"), "max_day_notional: not an amount"),
        (lambda w: w["limits"].update(max_day_notional=True), "max_day_notional: not an amount"),
        (lambda w: w["limits"].update(max_day_notional=0), "max_day_notional: must be above 0"),
        (lambda w: w["limits"].update(max_orders_a_day=0), "max_orders_a_day: Input should be greater"),
        (lambda w: w["limits"].update(ramp_exposure="1.01"), "ramp_exposure: Input should be less"),
        (lambda w: w["limits"].update(ramp_days=-1), "ramp_days: Input should be greater"),
        (lambda w: w.update(managed_capital="-5"), "managed_capital: must be above 0"),
        (lambda w: w.update(symbols=[]), "symbols: name at least one"),
        (lambda w: w.update(symbols="BTC/USDT"), "symbols: a list is wanted"),
        (lambda w: w.update(symbols=["BTC/USDT", "BTC/EUR"]), "one quote currency"),
        (lambda w: w.update(symbols=["BTC/USDT", "BTC/USDT"]), "each symbol may be named once"),
        (lambda w: w.update(name="My Wallet"), "wallet 1: name: String should match"),
        (lambda w: w.update(track="mine"), "track: Input should be"),
    ],
)
def test_what_is_wrong_is_named(change: Change, cause: str) -> None:
    with pytest.raises(WalletsFileError, match=cause):
        parse_wallets(changed(change))


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = refusal(changed(lambda w: w.update(track="mine", symbols=[], managed_capital="x")))
    assert len(said.splitlines()) == 3


# As venues make them: Kraken's and Binance's, and shapes that pass for a variable's name at first sight.
KEYS = st.one_of(
    st.text(string.ascii_letters + string.digits + "+/=", min_size=40, max_size=90),
    st.text(string.ascii_uppercase + string.digits, min_size=20, max_size=64),
    st.text("0123456789ABCDEF", min_size=32, max_size=64),
    st.uuids().map(str),
)


@pytest.mark.parametrize("field", ["key_env", "secret_env"])
@hypothesis_settings(max_examples=60, deadline=None)
@given(key=KEYS)
def test_a_key_itself_is_refused_and_never_repeated(field: str, key: str) -> None:
    said = refusal(changed(lambda w: w.update({field: key})))
    assert "revoke it at the venue" in said
    assert key not in said
    assert key not in refusal(changed(lambda w: w.update(name=key, symbols=key, track=key, limits={key: key})))
    assert key not in refusal(changed(lambda w: w.update({key: "x"})))


@pytest.mark.parametrize("name", ["KRAKEN_MAIN_KEY", "K", "API_KEY_2", "BINANCE_ACCOUNT_OF_ANNA_AND_BEN_KEY"])
def test_an_ordinary_name_is_no_key(name: str) -> None:
    assert parse_wallets(changed(lambda w: w.update(key_env=name))).wallets[0].key_env == name


def test_two_wallets_share_no_key_and_no_name() -> None:
    content = json.loads(EXAMPLE.read_text())
    first = content["wallets"][0]
    content["wallets"].append(first | {"name": "second", "secret_env": "SECOND_SECRET"})
    assert "KRAKEN_MAIN_KEY is named twice in config/wallets.json, by main and second" in refusal(json.dumps(content))
    content["wallets"][1] = first | {"key_env": "K", "secret_env": "S"}
    assert "names a wallet twice" in refusal(json.dumps(content))
    content["wallets"][1]["name"] = "second"
    file = parse_wallets(json.dumps(content))
    assert file.entry("second").key_env == "K"
    with pytest.raises(WalletsFileError, match="names no wallet 'third'; it names main, second"):
        file.entry("third")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", r"is not valid JSON: .* \(line 1, column 2\)"),
        ('{"wallets": [], "wallets": []}', "says something twice"),
        ('{"wallets": 3}', "wallets: a list is wanted"),
        ("[]", "config/wallets.json: Input should be"),
        ('{"wallet": []}', "unknown field wallet; allowed here are wallets"),
    ],
)
def test_what_is_no_wallets_file_is_refused(text: str, cause: str) -> None:
    with pytest.raises(WalletsFileError, match=cause):
        parse_wallets(text)


def test_a_file_that_is_not_there_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallets_file, "WALLETS_FILE", tmp_path / "wallets.json")
    assert entry_if_named("main") is None
    with pytest.raises(WalletsFileError, match=r"copy config/wallets\.example\.json"):
        load_wallets()
    (tmp_path / "wallets.json").write_text(EXAMPLE.read_text())
    assert entry_if_named("other") is None
    found = entry_if_named("main")
    assert found is not None
    assert found.name == "main"
    (tmp_path / "wallets.json").write_bytes(b"\xff")
    with pytest.raises(WalletsFileError, match="cannot be read: UnicodeDecodeError"):
        load_wallets()


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("", "not an amount"), ("NaN", "not an amount"), ("Infinity", "not an amount"), (None, "not an amount"),
        (0.5, "not an amount"), ("0", "above 0"), ("-1", "above 0"), ("1e20", "below 100,000,000,000,000,000,000"),
        ("0.000000001", "more than 8 decimals"),
    ],
)  # fmt: skip
def test_what_numeric_28_8_could_not_keep_is_no_amount(value: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        parse_amount(value)


def test_an_amount_survives_to_its_last_decimal() -> None:
    assert parse_amount("99999999999999999999.99999999") == Decimal("99999999999999999999.99999999")
    assert parse_amount("0.00000001") == Decimal("1e-8")
