"""What the emulator prints at its start is what one types next: the lines open an account with a key and money."""

from __future__ import annotations

import json
import re

import requests

from tests.exchange_emulator.__main__ import welcome
from tests.exchange_emulator.server import Emulator


def test_the_lines_that_are_printed_open_an_account_for_a_live_wallet(emulator: Emulator) -> None:
    text = welcome(emulator)
    lines = re.findall(r"curl -s (\S+/(?:accounts|keys|money)) -d '(.*)'", text)
    assert [address.rpartition("/")[2] for address, _ in lines] == ["accounts", "keys", "money"]
    for address, body in lines:
        assert requests.post(address, data=body, timeout=5).status_code == 200, body
    key = json.loads(lines[1][1])
    assert f"export KRAKEN_MAIN_KEY={key['key']} KRAKEN_MAIN_SECRET={key['secret']}" in text
    balances = emulator.engine.view("main").balances
    assert {asset: balance.total for asset, balance in balances.items()} == {"USD": 5000}
