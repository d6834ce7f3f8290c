"""Status shows what there is and each reason why nothing would be bought, also on 80 columns and to a file."""

from __future__ import annotations

import io
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr
from rich.console import Console

from pipeline import status
from pipeline.operator import issue_command
from pipeline.status import age, blockers, show
from shared.alerts import raise_alert
from shared.clock import to_unix
from shared.settings import Settings, load_settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.policy.paper_world import DELAY, FIVE, MINUTE, A, B, PaperMarket, at, candles, insert_config, insert_model
from tests.shared.llm_spine_rows import llm_rows
from tests.shared.spine_rows import insert

SIM_A, SIM_B = "SIM-BTC/USDT", "SIM-ETH/USDT"


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    scheduled = settings.model_copy(update={"schedule": load_settings().schedule})
    return PaperMarket(database_for, scheduled)


def shown(market: PaperMarket, now: datetime, width: int = 80) -> str:
    """What goes to a pipe or a file."""
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=False)
    show(market.database_for("cli"), market.settings, now, console)
    return text.getvalue()


def blocked(market: PaperMarket, now: datetime) -> list[str]:
    return blockers(market.database_for("cli"), market.settings, now)


def steered(market: PaperMarket) -> None:
    insert_config(market, at("12:00"), valid_until=at("20:00"))


def trade_once(market: PaperMarket) -> None:
    """A wallet that holds 2 AAA, bought at 12:05; candles of both instruments until 12:30."""
    a = market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0] * 7))
    market.store(B, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0] * 7))
    wallet = market.wallet("main", NOON)
    market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))
    market.send(at("12:10"))


def test_a_wallet_is_shown_with_its_money_and_what_it_holds(market: PaperMarket) -> None:
    trade_once(market)
    text = " ".join(shown(market, at("12:30")).split())
    # 2 at 100.05 and 40 bps fee: 0.8004; marked at 100
    assert "main: paper wallet on test, steered by track live" in text
    assert "equity 9,999.10 USDT" in text
    assert "cash 9,799.10" in text
    assert "holds 2 AAA/USDT" in text
    assert "; trades" in text


def test_today_counts_from_the_last_equity_before_midnight_else_from_what_was_paid_in(market: PaperMarket) -> None:
    trade_once(market)
    market.database_for("owner").execute("UPDATE decisions SET equity = 10050")
    assert "(-0.90 today)" in shown(market, at("12:30"))
    early = {"at": NOON.replace(hour=0)}
    market.database_for("owner").execute("UPDATE decisions SET as_of = %(at)s", early)
    assert "(-50.90 today)" in shown(market, at("12:30"))


def test_candles_jobs_and_models_are_shown_with_their_age(market: PaperMarket) -> None:
    trade_once(market)
    store_candles(market.database_for, "simulated", SIM_A, 300, random_candles(3, 300), "simulated")
    model = insert_model(market, "encoder")
    text = shown(market, at("12:50"), width=120)
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "test AAA/USDT 300 s 2024-06-01 12:30 20 min ago real" in lines
    assert "simulated SIM-BTC/USDT 300 s 2024-06-01 12:00 50 min ago SIMULATED" in lines
    assert f"encoder model {model} (real), known from {NOON - timedelta(hours=900):%Y-%m-%d %H:%M}" in lines
    (sender,) = [line for line in lines if line.startswith("sender ")]
    assert "done, as of 2024-06-01 12:10" in sender, "its clock was a replayed one"
    assert sender.endswith("12:52")
    (backfill,) = [line for line in lines if line.startswith("backfill ")]
    assert (backfill.split()[1], backfill.split()[-1]) == ("never", "13:37")


def test_a_jobs_failure_is_shown_with_its_reason(market: PaperMarket) -> None:
    market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0]))
    policy = market.database_for("policy")
    policy.execute(
        "INSERT INTO job_runs (job, clock_at, started_at, status, error) "
        "VALUES ('run_trader', %(at)s, %(at)s, 'failed', 'JobError: [/b] the sky [is] low')", {"at": NOON}
    )  # fmt: skip
    text = " ".join(shown(market, NOON, width=120).replace("│", " ").split())
    assert "failed: JobError: [/b] the sky [is] low" in text


def test_without_a_wallet_that_is_the_only_blocker(market: PaperMarket) -> None:
    assert blocked(market, NOON) == ["there is no wallet: `make demo` or `make wallet WALLET=… CAPITAL=…`"]


def test_a_wallet_that_may_trade_on_fresh_candles_with_a_model_has_no_blocker(market: PaperMarket) -> None:
    trade_once(market)
    insert_model(market, "policy", insert_model(market, "encoder"))
    steered(market)
    assert blocked(market, at("12:30")) == []
    assert "nothing" in shown(market, at("12:30")).split("What blocks or limits trading")[1]


def test_each_blocker_is_named_with_its_wallet(market: PaperMarket) -> None:
    trade_once(market)
    steered(market)
    market.wallet("idle", at("12:20"), resume=False, symbols=(A,))
    market.command(at("12:25"), "pause", "main")
    assert blocked(market, at("12:30")) == [
        "no active policy model: the baseline trades; `make train-encoder`, then `make train-policy`",
        "main: pause: no entries from now on (pause: a test); `make resume WALLET=main REASON=…`",
        "idle: pause: no entries from now on (never resumed); `make resume WALLET=idle REASON=…`",
    ]
    stale = [line for line in blocked(market, at("14:31")) if "candles" in line]
    assert stale == [
        f"main: candles of {A} on test are from 2 h ago",
        f"main: candles of {B} on test are from 2 h ago",
        f"idle: candles of {A} on test are from 2 h ago",
    ]
    assert not [line for line in blocked(market, at("14:30")) if "candles" in line]


def test_an_instrument_that_has_no_candles_at_all_is_a_blocker(market: PaperMarket) -> None:
    market.wallet("w", NOON, symbols=(A,))
    assert f"w: candles of {A} on test are from never" in blocked(market, NOON)


def test_what_clamped_the_last_decision_is_told(market: PaperMarket) -> None:
    a = market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0]))
    market.order(market.wallet("w", NOON, symbols=(A,)), a, "buy", "1", NOON + DELAY)
    clamps = '[{"rule": "daily_loss", "before": 0.5, "after": 0, "because": "lost 6.00% today"}]'
    market.database_for("owner").execute("UPDATE decisions SET clamps = %(c)s::jsonb", {"c": clamps})
    assert f"last decision on {A}: daily_loss: lost 6.00% today" in blocked(market, NOON)


def test_on_80_columns_no_name_is_cut_and_no_line_is_longer(market: PaperMarket) -> None:
    for symbol in (SIM_A, SIM_B):
        made = random_candles(3, 300, end=to_unix(NOON))
        store_candles(market.database_for, "simulated", symbol, 300, made, "simulated")
    market.wallet("a-wallet-with-a-rather-long-name", NOON, symbols=(SIM_A, SIM_B))
    market.send(at("12:02"))
    market.trade(at("12:02"))
    raise_alert(market.database_for("policy"), NOON, "warning", "k", "one thing " * 30)
    for track in ("live", "llm", "rules", "static"):
        insert_config(market, NOON, track=track, source="operator", valid_until=at("12:10"))
    text = shown(market, at("12:30"))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text.replace("FILE=…", "")
    assert "\x1b" not in text, "a file gets no colours"
    for name in ("a-wallet-with-a-rather-long-name", SIM_A, SIM_B, "SIMULATED", "backfill", "run_encoder",
                 "run_metacontroller", "run_trader", "sender", "10,000.00",
                 "06-01 12:00", "operator", "EXPIRED", "static"):  # fmt: skip
        assert name in text


def test_what_people_and_venues_wrote_is_shown_as_they_wrote_it(market: PaperMarket) -> None:
    trade_once(market)
    reason = "[/b] until [monday]"
    issue_command(market.database_for("cli"), at("12:20"), "main", "pause", reason, "test")
    raise_alert(market.database_for("candles"), NOON, "warning", "k", "kraken said [/nothing] and [red]")
    text = " ".join(shown(market, at("12:30")).split())
    assert text.count(f"pause: no entries from now on (pause: {reason})") == 2  # with its wallet, and as a blocker
    assert "warning candles: kraken said [/nothing] and [red]" in text


def test_old_alerts_are_not_shown(market: PaperMarket) -> None:
    policy = market.database_for("policy")
    raise_alert(policy, NOON - timedelta(days=8), "warning", "old", "long ago")
    assert "Alerts" not in shown(market, NOON)
    raise_alert(policy, NOON - timedelta(days=6), "critical", "new", "of late")
    text = shown(market, NOON)
    assert "05-26 12:00 critical policy: of late" in text
    assert "long ago" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7_199, "119 min ago"), (7_200, "2 h ago"),
     (172_799, "47 h ago"), (172_800, "2 d ago")],
)  # fmt: skip
def test_an_age_is_said_in_the_unit_one_would_use(seconds: int, said: str) -> None:
    assert age(NOON, NOON - timedelta(seconds=seconds)) == said


def test_the_command_shows_and_refuses_bad_settings(
    market: PaperMarket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "load_settings", lambda: market.settings)
    assert status.main([]) == 0
    assert "there is no wallet" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("SEXTANT_UNIVERSE__VENUEE", "x")
    assert status.main([]) == 2
    assert "SEXTANT_UNIVERSE__VENUEE" in capsys.readouterr().err


def test_a_venue_is_shown_as_the_feed_saw_it_last(market: PaperMarket) -> None:
    insert = """
    INSERT INTO venue_checks (venue, status, clock_skew_s, recorded_at)
    VALUES (%(venue)s, %(status)s, %(skew)s, %(at)s)
    """
    candles = market.database_for("candles")
    for venue, state, skew, moment in (
        ("test", "online", 0.2, "12:00"),
        ("test", "cancel_only", -7.25, "12:29"),
        ("simulated", "online", None, "12:28"),
    ):
        candles.execute(insert, {"venue": venue, "status": state, "skew": skew, "at": at(moment)})
    lines = status.venue_lines(market.database_for("cli"), at("12:30"))
    assert lines == ["simulated: online (2 min ago)", "test: cancel only, our clock 7.2 s behind (60 s ago)"]
    assert all(line in shown(market, at("12:30")) for line in lines)


def test_a_service_has_no_next_run(market: PaperMarket) -> None:
    assert "always on" in next(line for line in shown(market, NOON).splitlines() if "run_feed" in line)


def test_a_silent_meta_controller_is_a_blocker_and_its_last_word_is_shown(market: PaperMarket) -> None:
    market.wallet("w", NOON, symbols=(A,))
    assert "w: nobody has ever steered track live" in " ".join(blocked(market, NOON))
    steered(market)
    assert not [line for line in blocked(market, at("19:59")) if "steer" in line or "word" in line]
    expired = [line for line in blocked(market, at("20:00")) if "word" in line]
    assert expired == [
        "w: the last word is of 2024-06-01 12:00, on track live: half exposure, after a day no entries; `make run-meta`"
    ]
    text = shown(market, at("20:00"))
    told = [line.replace("│", " ").split() for line in text.splitlines()]
    for row in (["as", "of", "06-01", "12:00"], ["by", "test"], ["valid", "EXPIRED"]):
        assert row in told
    assert "2024-06-01 │" in shown(market, at("12:00") + timedelta(days=600)), "another year's date has its year"
    assert "LLM" not in text


def test_what_the_language_model_costs_and_has_earned_is_shown(market: PaperMarket) -> None:
    steered(market)
    meta = market.database_for("meta_controller")
    market.settings = market.settings.model_copy(update={"openai_base_url": "http://127.0.0.1:1/v1"})
    model, now = market.settings.llm.model, at("12:30")
    assert "never asked" in " ".join(shown(market, now).split())
    ended = {"status": "failed", "error": "too [late]", "cost_usd": "0.002", "ended_at": NOON, "recorded_at": NOON}
    insert(meta.connection, "llm_calls", llm_rows(1, NOON)["llm_calls"] | {"model": model, "as_of": NOON} | ended)
    insert(meta.connection, "llm_trust", llm_rows(0, NOON)["llm_trust"] | {"model": model, "weight": 0.2})
    text = " ".join(shown(market, now).split())
    assert f"LLM {model} at 127.0.0.1:1, mode shadow: has earned a weight of 0.20 (2024-06-01)" in text
    assert "call 1 of 06-01 12:00 failed: too [late]" in text
    assert "spent 0.0020 of 0.01 USD in an hour, 0.0020 of 0.05 USD in a day" in text


def test_an_answer_that_did_not_count_is_shown_up_to_a_whole_word(market: PaperMarket) -> None:
    steered(market)
    meta = market.database_for("meta_controller")
    market.settings = market.settings.model_copy(update={"openai_base_url": "http://127.0.0.1:1/v1"})
    ended = {"status": "failed", "error": "something " * 40, "cost_usd": "0", "ended_at": NOON, "recorded_at": NOON}
    insert(meta.connection, "llm_calls", llm_rows(1, NOON)["llm_calls"] | {"as_of": NOON} | ended)
    assert "something something … spent" in " ".join(shown(market, at("12:30")).split())


def test_a_key_that_cannot_be_sent_is_told_and_the_rest_is_shown(market: PaperMarket) -> None:
    steered(market)
    market.settings = market.settings.model_copy(update={"openai_api_key": SecretStr("sk abc")})
    text = " ".join(shown(market, at("12:30")).split())
    assert "OPENAI_API_KEY holds a blank" in text
    assert "sk abc" not in text
    assert "What blocks or limits trading" in text


def test_a_model_without_a_price_is_told_not_to_be_asked(market: PaperMarket) -> None:
    steered(market)
    llm = market.settings.llm.model_copy(update={"model": "gpt-9"})
    market.settings = market.settings.model_copy(update={"openai_base_url": "http://127.0.0.1:1/v1", "llm": llm})
    assert 'NOT ASKED: [llm.models."gpt-9"] tells no price' in " ".join(shown(market, at("12:30")).split())


def test_an_hour_about_which_the_model_was_not_asked_is_told(market: PaperMarket) -> None:
    meta = market.database_for("meta_controller")
    market.settings = market.settings.model_copy(update={"openai_base_url": "http://127.0.0.1:1/v1"})
    insert_config(market, NOON, track="llm", source="llm")
    assert "not asked about" not in " ".join(shown(market, at("12:30")).split()), "its own steering"
    insert_config(market, at("13:00"), track="llm", source="rules")
    untold = "not asked about 06-01 13:00: `reasons` of policy_config, track llm, say why"
    assert f"never asked; {untold}" in " ".join(shown(market, at("13:30")).split())
    for call, (about, told) in enumerate(((NOON, True), (at("13:00"), False))):
        ended = {"status": "failed", "error": "late", "cost_usd": "0", "ended_at": about, "recorded_at": about}
        insert(meta.connection, "llm_calls", llm_rows(call + 1, NOON)["llm_calls"] | {"as_of": about} | ended)
        assert (f"late; {untold}" in " ".join(shown(market, at("13:30")).split())) is told
