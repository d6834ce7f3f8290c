"""The doors for accounts, and an emulator that is killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.settings import PROJECT
from tests.emulator.private_world import CLIENT_ID, SECRET, krakenex_of, order, refused, result
from tests.exchange_emulator.kraken_ids import number_of
from tests.exchange_emulator.server import Emulator


def post(emulator: Emulator, door: str, body: Any) -> requests.Response:
    return requests.post(f"{emulator.rest_url}/_ctl/{door}", json=body, timeout=5)


def opened(emulator: Emulator) -> None:
    assert post(emulator, "accounts", {"name": "main", "maker": "0.001", "taker": "0.002"}).json()["fees"] == {
        "maker": "0.001", "taker": "0.002",
    }  # fmt: skip
    key = post(emulator, "keys", {"account": "main", "key": "krakenex", "secret": SECRET}).json()
    assert (key["rights"], "secret" in key) == (["read", "trade"], False)
    for asset, amount in (("USD", "10000"), ("BTC", "1")):
        move = {"account": "main", "kind": "deposit", "asset": asset, "amount": amount}
        assert post(emulator, "money", move).status_code == 200


def test_an_account_is_opened_funded_traded_on_and_told_in_truth(emulator: Emulator) -> None:
    opened(emulator)
    api = krakenex_of(emulator)
    (txid,) = result(api, "AddOrder", **order(cl_ord_id=CLIENT_ID))["txid"]
    number = number_of("O", txid)
    fill = post(emulator, "fills", {"order": number, "quantity": "0.04"}).json()
    assert (fill["quantity"], fill["price"], fill["is_maker"]) == ("0.04", "20000", True)
    assert result(api, "QueryOrders", txid=txid)[txid]["vol_exec"] == "0.04000000"
    (cancelled,) = requests.delete(f"{emulator.rest_url}/_ctl/orders", json={"account": "main"}, timeout=5).json()
    assert (cancelled["number"], cancelled["reason"]) == (number, "Canceled by the venue")
    truth = requests.get(f"{emulator.rest_url}/_ctl/ground_truth", timeout=5).json()["main"]
    assert [(told["client_id"], told["state"], told["filled"]) for told in truth["orders"]] == [
        (CLIENT_ID, "canceled", "0.04"),
    ]  # fmt: skip
    assert truth["balances"]["USD"] == {"total": "9199.2000", "held": "0"}
    assert [entry["kind"] for entry in truth["entries"]] == ["deposit", "deposit", "trade", "trade"]


def test_a_key_gains_a_right_and_money_moves_in_every_way(emulator: Emulator) -> None:
    opened(emulator)
    api = krakenex_of(emulator)
    rights = {"key": "krakenex", "rights": ["read", "trade", "withdraw"]}
    requests.patch(f"{emulator.rest_url}/_ctl/keys", json=rights, timeout=5).raise_for_status()
    assert "withdraw-funds" in result(api, "GetApiKeyInfo")["permissions"]
    for kind, amount in (("withdrawal", "10"), ("transfer", "-5"), ("staking", "2")):
        move = {"account": "main", "kind": kind, "asset": "USD", "amount": amount}
        post(emulator, "money", move).raise_for_status()
    assert result(api, "Balance") == {
        "ZUSD": "9983.0000000000", "XXBT": "1.0000000000", "USD.S": "2.0000000000",
    }  # fmt: skip
    post(emulator, "limits", {"which": "kraken_calls", "per_s": 0, "burst": 0}).raise_for_status()
    assert refused(api, "Balance") == "EAPI:Rate limit exceeded"
    assert api.query_public("Time")["error"] == []
    post(emulator, "limits", {"which": "kraken_public", "per_s": 0, "burst": 0}).raise_for_status()
    assert api.query_public("Time")["error"] == ["EAPI:Rate limit exceeded"]


@pytest.mark.parametrize(
    ("door", "body", "reason"),
    [
        ("accounts", {"name": "main"}, "there is an account"),
        ("accounts", {"name": "new", "venue": "mtgox"}, "no venue 'mtgox'"),
        ("accounts", {"name": "new", "maker": "0.1"}, "say maker and taker"),
        ("accounts", {"nom": "new"}, "missing: ['name'], unknown: ['nom']"),
        ("keys", {"account": "nobody", "key": "k", "secret": SECRET}, "no account 'nobody'; there are main"),
        ("keys", {"account": "main", "key": "krakenex", "secret": SECRET}, "there is a key"),
        ("keys", {"account": "main", "key": "k", "secret": SECRET, "rights": ["fly"]}, "no right fly"),
        ("money", {"account": "main", "kind": "gift", "asset": "USD", "amount": "1"}, "no kind 'gift'"),
        ("money", {"account": "main", "kind": "deposit", "asset": "USD", "amount": 0.1}, "a string like '0.1'"),
        ("money", {"account": "main", "kind": "deposit", "asset": "USD", "amount": "-1"}, "above 0"),
        ("money", {"account": "main", "kind": "withdrawal", "asset": "USD", "amount": "99999"}, "funds"),
        ("fills", {"order": 7}, "no order 7"),
        ("limits", {"which": "sky", "per_s": 1, "burst": 1}, "no limit 'sky'"),
    ],
)
def test_nonsense_is_refused_with_the_reason(emulator: Emulator, door: str, body: Any, reason: str) -> None:
    opened(emulator)
    before = emulator.engine.view("main")
    answer = post(emulator, door, body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    assert emulator.engine.view("main") == before


def test_an_emulator_goes_on_with_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with Emulator(journal=path) as first:
        opened(first)
        (txid,) = result(krakenex_of(first), "AddOrder", **order(price="29600"))["txid"]
    with Emulator(journal=path) as second:
        second.clock.advance(86_400)
        api = krakenex_of(second)
        assert result(api, "QueryOrders", txid=txid)[txid]["status"] == "closed"
        assert second.engine.view("main").fills[0].at_ns > first.engine.now_ns()


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The program and its address."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.exchange_emulator", "--speed", "0", "--port", "0", *arguments],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    for line in program.stdout:
        if "export CLOCK_URL=" in line:
            return program, line.strip().partition("=")[2].removesuffix("/_ctl/clock")
    raise AssertionError("it ended before it said where it is")


def test_a_sigkill_of_the_program_loses_nothing_that_it_told(tmp_path: Path) -> None:
    arguments = ["--journal", str(tmp_path / "truth.jsonl"), "--start", "2025-06-15T15:07:10"]
    tellings = []
    program, url = started(*arguments)
    try:
        requests.post(f"{url}/_ctl/accounts", json={"name": "main"}, timeout=5).raise_for_status()
        move = {"account": "main", "kind": "deposit", "asset": "USD", "amount": "10000"}
        requests.post(f"{url}/_ctl/money", json=move, timeout=5).raise_for_status()
        tellings.append(requests.get(f"{url}/_ctl/ground_truth", timeout=5).json())
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(timeout=5)
    with Emulator(journal=tmp_path / "truth.jsonl") as again:
        tellings.append(requests.get(f"{again.rest_url}/_ctl/ground_truth", timeout=5).json())
    assert tellings[0] == tellings[1]
    assert tellings[0]["main"]["balances"]["USD"]["total"] == "10000.0000"
