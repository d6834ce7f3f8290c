"""The operator's channels: where alerts go, and how one is put into words and sent there.

ALERT_URLS names them by Apprise's addresses (discord://…, tgram://…, slack://…, mailto://…), separated by spaces or
commas; ``critical|`` or ``warning|`` before one keeps lesser alerts from it. An address holds a token: nothing here
shows more of it than its scheme.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from shared.alerts import Severity
from shared.settings import Settings, SettingsError

if TYPE_CHECKING:
    from apprise import AppriseAsset

SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the least first
LONGEST_MESSAGE = 1500  # Discord takes 2000 characters, with the title
SEND_S = 15.0
_SEPARATOR = re.compile(r"\s+|,\s*(?=(?:[a-z]+\|)?[a-z0-9]+://)")  # a comma inside an address separates its recipients
_APPRISE_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One address. ``name`` (its service, a hash of it) is what is written down and shown."""

    name: str
    least: Severity
    address: str = field(repr=False)

    @property
    def severities(self) -> tuple[Severity, ...]:
        return SEVERITIES[SEVERITIES.index(self.least) :]


@dataclass(frozen=True, slots=True)
class Message:
    severity: Severity
    title: str
    body: str


def open_channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels of ALERT_URLS, each once; none where it is not set. SettingsError for one that cannot be used."""
    if settings.alert_urls is None:
        return ()
    parts = (part.strip(",") for part in _SEPARATOR.split(settings.alert_urls.get_secret_value()))
    channels = [_channel(k, part) for k, part in enumerate(filter(None, parts), start=1)]
    if len({channel.name for channel in channels}) < len(channels):
        raise SettingsError("ALERT_URLS names the same address twice: each alert would come twice; leave one")
    return tuple(channels)


def _channel(k: int, text: str) -> Channel:
    least, bar, address = text.rpartition("|")
    scheme = address.partition("://")[0] if "://" in address else ""
    if bar and least not in SEVERITIES:
        raise SettingsError(f"address {k} in ALERT_URLS: before its | stands one of {', '.join(SEVERITIES)}")
    _silence_libraries()
    from apprise import Apprise

    if not re.fullmatch("[a-z0-9]+", scheme) or Apprise.instantiate(address, asset=_asset()) is None:
        raise SettingsError(
            f"address {k} in ALERT_URLS ({scheme or '?'}://…) is none that Apprise understands: see "
            "https://appriseit.com/services/ for how its service is written"
        )
    digest = hashlib.sha256(address.encode()).hexdigest()
    return Channel(f"{scheme}-{digest[:8]}", least or "info", address)  # type: ignore[arg-type]  # one of SEVERITIES


@cache
def _asset() -> AppriseAsset:
    """Apprise as a plain messenger: no pictures from elsewhere, no files, no redirects, nothing read into a text."""
    from apprise import AppriseAsset

    return AppriseAsset(
        app_id="Sextant",
        app_desc="Sextant",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        async_mode=False,
        storage_mode="memory",
        service_timeout=SEND_S,
        http_redirects=False,
        allow_templates=False,
        interpret_emojis=False,
    )


def _silence_libraries() -> None:
    """They log addresses, with their tokens, at DEBUG; what went wrong comes back in the result."""
    for name in ("apprise", "urllib3", "requests_oauthlib", "oauthlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    apprise = logging.getLogger("apprise")
    apprise.propagate = False
    if not apprise.handlers:
        apprise.addHandler(logging.NullHandler())


def send(channel: Channel, message: Message) -> str | None:
    """Sends within SEND_S seconds; None where the channel took it, else why not, without its secrets."""
    _silence_libraries()
    from apprise import Apprise

    messenger = Apprise(asset=_asset())
    messenger.add(channel.address)
    result = messenger.notify(
        title=message.title, body=message.body, notify_type=_APPRISE_TYPES[message.severity], body_format="text"
    )
    if result:
        return None
    said = "; ".join(entry.message for entry in result.logs()) or f"no answer ({result.status.name.lower()})"
    return without_secrets(said, channel.address)[:300]


def without_secrets(text: str, address: str) -> str:
    """``text`` with every part of the address in it, but its scheme, made unreadable."""
    from urllib.parse import unquote

    rest = address.partition("://")[2]
    parts = {rest, unquote(rest), *re.split(r"[/:@?&=#,]", rest), *re.split(r"[/:@?&=#,]", unquote(rest))}
    for part in sorted((part for part in parts if len(part) > 3), key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def in_words(alert: Mapping[str, Any]) -> Message:
    """An alert (severity, layer, key, message, since) as a message: what, by whom, since when, what to do."""
    severity: Severity = alert["severity"]
    since: datetime = alert["since"]
    todo = ""
    if severity != "info":
        todo = f"\nWhat to do: {_advice(alert['key'])}`make status` shows what blocks trading, and other alerts."
    body = f"{_plain(alert['message'])}\nSince {since:%Y-%m-%d %H:%M} UTC, from {alert['layer']}.{todo}"
    return Message(severity, f"Sextant {severity.upper()}: {_plain(alert['key'], 100)}", body)


def _advice(key: str) -> str:
    kind, _, job = key.partition(":")
    return f"the log of {job} has the cause; mend it, and its next run goes on. " if kind == "job-failed" else ""


def _plain(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """What venues and models wrote, harmless: nobody is called by an @, and nothing is longer than channels take."""
    shown = "".join(c if c.isprintable() or c == "\n" else " " for c in text).replace("@", "@\u200b")
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
