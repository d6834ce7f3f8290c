"""What the operator's channels receive, to the letter, and that their addresses are never shown."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alert_channels import Message, in_words, open_channels, send, without_secrets
from shared.settings import SettingsError
from tests.helpers import NOON
from tests.pipeline.sinks import HttpSink, SmtpSink, http_sink, posted, smtp_sink, with_urls

__all__ = ["http_sink", "posted", "smtp_sink"]  # fixtures

ALERT = {
    "severity": "critical",
    "layer": "sender",
    "key": "unmatched:w",
    "message": "1 order does not match",
    "since": NOON,
}
WORDS = "1 order does not match\nSince 2024-06-01 12:00 UTC, from sender.\nWhat to do: `make status` shows what blocks trading, and other alerts."  # fmt: skip  # noqa: E501
TITLE = "Sextant CRITICAL: unmatched:w"


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_addresses_are_told_apart_and_named_without_their_secrets() -> None:
    urls = "discord://1234567890/t0ken , critical|mailto://u:passw0rd@example.com?to=a@b.com,c@d.com,warning|json://h/x"
    channels = open_channels(with_urls(urls))
    assert [(c.name.partition("-")[0], c.least, c.severities) for c in channels] == [
        ("discord", "info", ("info", "warning", "critical")),
        ("mailto", "critical", ("critical",)),
        ("json", "warning", ("warning", "critical")),
    ]
    assert [c.address for c in channels][1] == "mailto://u:passw0rd@example.com?to=a@b.com,c@d.com"
    assert not any(secret in repr(channels) for secret in ("t0ken", "passw0rd", "1234567890", "example"))
    (same,) = open_channels(with_urls("warning|discord://1234567890/t0ken"))
    assert same.name == channels[0].name, "another severity would send everything anew"
    assert open_channels(with_urls(None)) == open_channels(with_urls(" ")) == ()


@pytest.mark.parametrize(
    ("urls", "cause"),
    [
        ("discord://1234567890/t0ken telepathy://s3cret", r"address 2 in ALERT_URLS \(telepathy://…\) is none"),
        ("s3cret", r"address 1 in ALERT_URLS \(\?://…\) is none"),
        ("discord://s3cret", r"\(discord://…\) is none"),
        ("severe|json://127.0.0.1/s3cret", "before its | stands one of info, warning, critical"),
        ("json://127.0.0.1/s3cret critical|json://127.0.0.1/s3cret", "names the same address twice"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_it(
    urls: str, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match=cause) as refused:
        open_channels(with_urls(urls))
    assert "s3cret" not in str(refused.value) + "".join(capsys.readouterr())


# ── exact words ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_alert_in_words() -> None:
    assert in_words(ALERT) == Message("critical", TITLE, WORDS)
    failed = in_words(ALERT | {"severity": "warning", "key": "job-failed:backfill"})
    assert failed.title == "Sextant WARNING: job-failed:backfill"
    assert "What to do: the log of backfill has the cause; mend it" in failed.body
    assert "What to do" not in in_words(ALERT | {"severity": "info"}).body


def test_what_strangers_wrote_calls_nobody_and_fits_into_a_message() -> None:
    told = in_words(ALERT | {"message": "@everyone <@1>\x07\x1b[31m\nrow 2" + "x" * 5000, "key": "k" * 300})
    assert told.body.startswith("@\u200beveryone <@\u200b1>  [31m\nrow 2xxx")
    assert "x…\nSince 2024" in told.body
    assert len(told.title + told.body) < 2000
    assert len(in_words(ALERT | {"message": "x" * 1500}).body.split("\n")[0]) == 1500


@pytest.mark.parametrize(
    ("url", "address", "payload"),
    [
        (
            "discord://1234567890/abcdefghT0KEN",
            "https://discord.com/api/webhooks/1234567890/abcdefghT0KEN",
            {"tts": False, "wait": True, "content": f"{TITLE}\r\n{WORDS}"},
        ),
        (
            "tgram://123456789:abcdefg_hijklmnop/123456",
            "https://api.telegram.org/bot123456789:abcdefg_hijklmnop/sendMessage",
            {
                "disable_notification": False, "disable_web_page_preview": True, "parse_mode": "HTML",
                "text": f"<b>{TITLE}</b>\r\n" + WORDS.replace("\n", "\r\n"), "chat_id": 123456,
            },
        ),
        (
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general",
            "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
            {
                "mrkdwn": False, "channel": "#general",
                "attachments": [{"title": TITLE, "text": WORDS, "color": "#A32037", "footer": "Sextant"}],
            },
        ),
    ],
)  # fmt: skip
def test_the_services_of_the_web_receive_exactly_this(
    posted: list[tuple[str, dict[str, Any]]], url: str, address: str, payload: dict[str, Any]
) -> None:
    (channel,) = open_channels(with_urls(url))
    assert send(channel, in_words(ALERT)) is None
    ((where, what),) = posted
    for attachment in what.get("attachments", []):
        attachment.pop("ts")  # Slack shows the moment of sending
    assert (where, what) == (address, payload)


def test_a_mail_is_received_as_it_was_written(smtp_sink: SmtpSink) -> None:
    url = f"mailto://localhost:{smtp_sink.port}?from=sextant@example.com&to=a@b.com,c@d.com&smtp=127.0.0.1"
    (channel,) = open_channels(with_urls(url))
    assert send(channel, in_words(ALERT)) is None
    assert [to for _, to, _ in smtp_sink.taken] == [["a@b.com"], ["c@d.com"]]
    for sender, _, mail in smtp_sink.taken:
        assert (sender, mail["Subject"]) == ("sextant@example.com", TITLE)
        text = mail.get_body(("plain",))
        assert text is not None
        assert text.get_content().replace("\r\n", "\n").strip() == WORDS


def test_a_hook_receives_exactly_this(http_sink: HttpSink) -> None:
    (channel,) = open_channels(with_urls(http_sink.url()))
    assert send(channel, in_words(ALERT)) is None
    expected = {"version": "1.0", "title": TITLE, "message": WORDS, "attachments": [], "type": "failure"}
    assert http_sink.taken == [("/5ecret-t0ken", expected)]


def test_a_refusal_is_named_without_the_address(
    http_sink: HttpSink, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[logging.LogRecord] = []
    everything = logging.Handler()
    monkeypatch.setattr(everything, "emit", logged.append)
    monkeypatch.setattr(logging.root, "handlers", [everything])
    monkeypatch.setattr(logging.root, "level", logging.DEBUG)
    http_sink.refuse_next = 1
    (channel,) = open_channels(with_urls(http_sink.url()))
    reason = send(channel, in_words(ALERT))
    assert reason is not None
    assert "error=403" in reason
    nowhere = open_channels(with_urls("json://127.0.0.1:1/5ecret-t0ken"))[0]
    unreachable = send(nowhere, in_words(ALERT))
    assert unreachable == "A Connection error occurred sending JSON notification to …."
    assert logged == [], "the caller says what went wrong; the libraries would show addresses"
    assert capsys.readouterr() == ("", "")


def test_a_message_is_not_carried_on_to_another_address(http_sink: HttpSink) -> None:
    """A webhook that was taken over could point anywhere."""
    http_sink.moved = True
    (channel,) = open_channels(with_urls(http_sink.url()))
    assert "307" in str(send(channel, in_words(ALERT)))
    assert [path for path, _ in http_sink.taken] == ["/5ecret-t0ken"]


words = st.text("abcdefghij0123456789-_", min_size=4, max_size=20)


@given(words, words, words, st.text(max_size=20))
def test_no_part_of_an_address_survives_in_a_reason(user: str, password: str, path: str, around: str) -> None:
    address = f"json://{user}:{password}@host.example/{path}?to={path}"
    said = f"{around}{user} at {address} with {password}; http://{user}:{password}@host.example/{path} {around}"
    shown = without_secrets(said, address)
    assert not any(secret in shown.replace(around, "") for secret in (user, password, path, "host.example"))
