"""The brain holds no exchange key, and without a language model's key it speaks to nobody but the database."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest
from pydantic import SecretStr

from meta_controller.run_metacontroller import main
from shared.clock import ReplayClock
from shared.settings import PROJECT, Settings
from tests.helpers import NOON, DatabaseFor
from tests.meta_controller.test_run_metacontroller import store_market

# Whoever adds a secret to the settings decides here whether the meta-controller's process may hold it.
SECRETS = {"openai_api_key", "database_url", "db_password", "alert_urls", "heartbeat_url"} | {
    f"db_password_{layer}" for layer in ("candles", "encoder", "meta_controller", "policy", "sender", "cli")
}


def test_the_settings_hold_no_exchange_key() -> None:
    secret = {name for name, field in Settings.model_fields.items() if SecretStr in _types(field.annotation)}
    assert secret == SECRETS


def _types(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


@pytest.mark.parametrize("module", ["run_metacontroller", "strategist", "assess_llm", "import_news", "probe_llm"])
def test_no_part_of_the_meta_controller_can_speak_to_an_exchange(module: str) -> None:
    code = f"import sys, meta_controller.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not {name for name in loaded if name.startswith(("krakenex", "ccxt", "shared.exchanges", "websockets"))}
    assert "openai" not in loaded  # imported where a call is made, and only there


def test_without_a_key_no_socket_is_opened(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg's own connection is made by libpq; all that Python could open is refused here, but for the look at
    whether the database's socket answers."""
    connect = socket.socket.connect

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    def only_local(self: socket.socket, address: Any) -> None:
        return connect(self, address) if self.family == socket.AF_UNIX else refused()

    store_market(database_for, bars=300)
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    monkeypatch.setattr("shared.job.open_clock", lambda url: ReplayClock(NOON))
    monkeypatch.setattr(socket.socket, "connect", only_local)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert main([]) == 0
    assert database_for("meta_controller").fetch("SELECT FROM llm_calls") == []
    assert len(database_for("meta_controller").fetch("SELECT FROM policy_config")) == 4
