"""Keys come from the sender's environment, whole or not at all, and no message or repr shows one."""

from __future__ import annotations

import ast
import json

import pytest

from policy.execution.wallet_keys import NoCredentials, credentials_of
from shared.settings import PROJECT
from shared.wallets_file import WalletEntry, parse_wallets

KEY, SECRET = "kQH5HW/8p1uGOVjb", "FRs+gtq09rR7OFtKj9BGhyOGS3u5vtY"
ENVIRON = {"KRAKEN_MAIN_KEY": KEY, "KRAKEN_MAIN_SECRET": SECRET, "SECOND_KEY": "another", "SECOND_SECRET": "one"}


@pytest.fixture(scope="module")
def wallets() -> tuple[WalletEntry, ...]:
    content = json.loads((PROJECT / "config" / "wallets.example.json").read_text())
    second = content["wallets"][0] | {"name": "second", "key_env": "SECOND_KEY", "secret_env": "SECOND_SECRET"}
    return parse_wallets(json.dumps({"wallets": [content["wallets"][0], second]})).wallets


def test_each_wallet_has_its_own_key(wallets: tuple[WalletEntry, ...]) -> None:
    main, second = (credentials_of(wallet, ENVIRON, wallets) for wallet in wallets)
    assert (main.key, main.secret) == (KEY, SECRET)
    assert (second.key, second.secret) == ("another", "one")
    assert KEY not in repr(main)
    assert SECRET not in f"{main}"


def test_the_line_break_that_an_editor_leaves_is_not_part_of_a_key(wallets: tuple[WalletEntry, ...]) -> None:
    found = credentials_of(wallets[0], ENVIRON | {"KRAKEN_MAIN_KEY": f" {KEY}\n"})
    assert found.key == KEY


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"KRAKEN_MAIN_KEY": None}, "wallet main: the environment variable KRAKEN_MAIN_KEY.* is not set"),
        ({"KRAKEN_MAIN_SECRET": None}, "KRAKEN_MAIN_SECRET.* is not set"),
        ({"KRAKEN_MAIN_SECRET": " \n"}, "KRAKEN_MAIN_SECRET.* is not set"),
        ({"KRAKEN_MAIN_KEY": f"{KEY} {SECRET}"}, "KRAKEN_MAIN_KEY holds something that is no key"),
        ({"KRAKEN_MAIN_KEY": f"{KEY}\x00"}, "KRAKEN_MAIN_KEY holds something that is no key"),
        ({"KRAKEN_MAIN_KEY": f"{KEY}ß"}, "KRAKEN_MAIN_KEY holds something that is no key"),
        ({"KRAKEN_MAIN_KEY": SECRET}, "KRAKEN_MAIN_KEY and KRAKEN_MAIN_SECRET hold the same"),
        ({"SECOND_KEY": f"{KEY}\n"}, "the same key as SECOND_KEY of wallet second"),
    ],
)
def test_half_a_key_or_a_shared_one_is_refused_and_not_shown(
    wallets: tuple[WalletEntry, ...], changes: dict[str, str | None], cause: str
) -> None:
    environ = {name: value for name, value in (ENVIRON | changes).items() if value is not None}
    with pytest.raises(NoCredentials, match=cause) as error:
        credentials_of(wallets[0], environ, wallets)
    assert KEY not in str(error.value)
    assert SECRET not in str(error.value)


def test_only_the_sender_can_reach_the_keys() -> None:
    """No other file of the project imports wallet_keys: the brain and the operator's commands hold none. The rehearsals
    start senders of their own, with keys of the emulator."""
    layers = ("shared", "candles", "encoder", "meta_controller", "policy", "pipeline")
    files = [path for layer in layers for path in (PROJECT / layer).rglob("*.py")]
    texts = {path: path.read_text() for path in files}
    suspects = {path: text for path, text in texts.items() if "wallet_keys" in text}
    importers = {path for path, text in suspects.items() if any(n.endswith("wallet_keys") for n in imported(text))}
    inside = (PROJECT / "policy" / "execution", PROJECT / "pipeline" / "crash", PROJECT / "pipeline" / "drill_world.py")
    assert len(files) > 100
    assert all(any(path.is_relative_to(place) for place in inside) for path in importers), sorted(importers)


def imported(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    members = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return plain | sources | members
