"""A typo must never trade with the default: every setting is known, checked, and named when it is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

import shared.settings
from shared.db import DatabaseUnavailable, connect, owner_url, role_url
from shared.settings import LAYERS, PROJECT, SettingsError, load_settings

SECRET = "do-not-print-me"
Write = Callable[[str], None]


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(shared.settings, "SETTINGS_FILE", tmp_path / "settings.toml")
    return lambda text: (tmp_path / "settings.toml").write_text(text) and None


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(shared.settings, "ENV_FILE", tmp_path / ".env")
    return lambda text: (tmp_path / ".env").write_text(text) and None


@pytest.fixture(autouse=True)
def _no_files_of_the_developer(toml: Write, dotenv: Write) -> None:
    """Only what a test wrote is read."""


def complaint() -> str:
    with pytest.raises(SettingsError) as error:
        load_settings()
    return str(error.value)


def test_without_any_file_the_defaults_hold() -> None:
    settings = load_settings()
    assert (settings.universe.venue, settings.risk.max_position, settings.db_port) == ("kraken", 0.5, 5432)


def test_the_settings_file_of_the_project_says_what_the_defaults_are(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings().model_dump(exclude={"schedule"})
    monkeypatch.setattr(shared.settings, "SETTINGS_FILE", PROJECT / "config" / "settings.toml")
    shipped = load_settings()
    assert shipped.llm.model in shipped.llm.models  # who is asked by default has a price
    assert shipped.model_dump(exclude={"schedule", "llm"}) == {k: v for k, v in defaults.items() if k != "llm"}
    assert shipped.llm.model_dump(exclude={"models"}) == {k: v for k, v in defaults["llm"].items() if k != "models"}
    assert {"backfill", "encoder", "meta", "trader", "sender"} <= set(load_settings().schedule)


def test_the_example_names_only_settings_that_exist(dotenv: Write) -> None:
    example = (PROJECT / "config" / ".env.example").read_text().splitlines()
    offered = [
        line.removeprefix("# ") for line in example if line.startswith("# ") and "=" in line and " " not in line[2:]
    ]
    assert len(offered) >= 12
    dotenv("\n".join(line for line in offered if not line.startswith("DB_PORT")))
    load_settings()


@pytest.mark.parametrize(
    "name",
    ["SEXTANT_BOGUS", "SEXTANT_EXECUTION__DELAY", "SEXTANT_EXECUTION_DELAY_S", "SEXTANT_UNIVERSE__", "sextant_bogus"],
)
def test_an_unknown_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert f"unknown setting {name} in the environment" in complaint()


def test_a_near_miss_is_told_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEXTANT_EXECUTION__DELAYS", "60")
    assert "did you mean SEXTANT_EXECUTION__DELAY_S?" in complaint()


def test_a_name_like_no_other_is_shown_all_that_are_known(dotenv: Write) -> None:
    dotenv("KRAKEN_KEY=1")
    message = complaint()
    assert all(name in message for name in ("SEXTANT_RISK__MAX_POSITION", "DATABASE_URL", "SEXTANT_HOME"))


@pytest.mark.parametrize("line", ["SEXTANT_BOGUS=1", "export SEXTANT_BOGUS=1", "DB_PASWORD_POLICY=x", "KRAKEN_KEY=x"])
def test_an_unknown_name_in_the_env_file_is_refused(dotenv: Write, line: str) -> None:
    dotenv(f"# a comment with = in it\nSEXTANT_LOG__LEVEL=DEBUG\n{line}\n")
    name = line.removeprefix("export ").partition("=")[0]
    assert f"unknown setting {name} in config/.env" in complaint()


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("[execution]\ndelay = 1", "execution.delay", "delay_s"),
        ("bogus = 1", "bogus", "universe"),
        ("[bogus]\na = 1", "bogus", "execution"),
        ('[schedule.x]\nmodule = "a.b"\ncron = "* * * * *"\nwhen = 1', "schedule.x.when", "cron"),
    ],
)
def test_an_unknown_key_in_the_settings_file_is_refused(toml: Write, text: str, key: str, allowed: str) -> None:
    toml(text)
    message = complaint()
    assert f"unknown setting {key}; allowed here:" in message
    assert allowed in message.partition("allowed here:")[2]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SEXTANT_RISK__MAX_POSITION", "0.51", "risk.max_position: Input should be less than or equal to 0.5"),
        ("SEXTANT_RISK__MAX_POSITION", "-0.01", "risk.max_position: Input should be greater than or equal to 0"),
        ("SEXTANT_RISK__MAX_POSITION", "nan", "risk.max_position"),
        ("SEXTANT_RISK__MAX_ORDER_NOTIONAL", "67200000", "risk.max_order_notional: Input should be less than"),
        ("SEXTANT_EXECUTION__DELAY_S", "soon", "execution.delay_s: Input should be a valid integer"),
        ("SEXTANT_UNIVERSE__BASE_TIMEFRAME", "7m", "universe.base_timeframe: Input should be '1m', '5m'"),
        ("SEXTANT_UNIVERSE__SYMBOLS", '["btc-usdt"]', "universe.symbols.0: String should match pattern"),
        ("SEXTANT_UNIVERSE__SYMBOLS", "[]", "universe.symbols"),
        ("SEXTANT_UNIVERSE__SYMBOLS", "BTC/USDT,ETH/USDT", "SEXTANT_UNIVERSE__SYMBOLS: not JSON; write lists as JSON"),
        ("SEXTANT_UNIVERSE", '{"venue": ', "SEXTANT_UNIVERSE: not JSON; write lists as JSON"),
        ("SEXTANT_LOG__LEVEL", "LOUD", "log.level: Input should be 'DEBUG', 'INFO'"),
        ("SEXTANT_SCHEDULE__X__CRON", "hourly", "schedule.x.cron"),
        ("DB_PORT", "70000", "DB_PORT: Value error, a TCP port is between 1 and 65535"),
    ],
)
def test_a_bad_value_names_its_key_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"bad value for {expected}" in complaint()


def test_all_bad_values_are_named_at_once(toml: Write) -> None:
    toml("[risk]\nmax_position = 2\nmax_drawdown = 2\n[log]\nlevel = 1")
    assert all(key in complaint() for key in ("risk.max_position", "risk.max_drawdown", "log.level"))


def test_a_settings_file_that_is_not_toml_is_named(toml: Write) -> None:
    toml("[risk\n")
    assert complaint().startswith("settings.toml is not valid TOML:")


def test_the_environment_beats_the_env_file_which_beats_the_settings_file(
    monkeypatch: pytest.MonkeyPatch, toml: Write, dotenv: Write
) -> None:
    toml('[universe]\nvenue = "from_toml"\n[execution]\ndelay_s = 1\nslippage_bps = 1')
    dotenv("SEXTANT_UNIVERSE__VENUE=from_dotenv\nSEXTANT_EXECUTION__DELAY_S=2\n")
    monkeypatch.setenv("SEXTANT_UNIVERSE__VENUE", "from_environment")
    settings = load_settings()
    found = (settings.universe.venue, settings.execution.delay_s, settings.execution.slippage_bps)
    assert found == ("from_environment", 2, 1)
    assert load_settings(universe={"venue": "from_code"}).universe.venue == "from_code"


def test_settings_cannot_be_changed_once_loaded() -> None:
    settings = load_settings()
    for target, name in ((settings, "db_host"), (settings.risk, "max_position")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(target, name, "0.1")


def test_a_relative_home_counts_from_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(home="data/x").home_path == PROJECT / "data" / "x"
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    assert load_settings().home_path == tmp_path.resolve()


@pytest.mark.parametrize(
    "url",
    ["postgresql://owner:own@db.example:6000/main?sslmode=require",
     "host=db.example port=6000 dbname=main user=owner password=own sslmode=require"],
)  # fmt: skip
def test_a_database_url_serves_the_owner_and_with_its_own_login_each_role(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DB_PASSWORD_POLICY", "p@ss/word'")
    settings = load_settings()
    place = {"host": "db.example", "port": "6000", "dbname": "main", "sslmode": "require"}
    assert conninfo_to_dict(owner_url(settings)) == place | {"user": "owner", "password": "own"}
    assert conninfo_to_dict(role_url(settings, "policy")) == place | {
        "user": "sextant_policy",
        "password": "p@ss/word'",
    }
    assert settings.external_database


def test_the_parts_make_the_same_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DB_HOST", "db.example"), ("DB_PORT", "6000"), ("DB_NAME", "main"), ("DB_USER", "me@work"),
                        ("DB_PASSWORD", "o/w?n"), ("DB_PASSWORD_POLICY", "p@ss/word'")):  # fmt: skip
        monkeypatch.setenv(name, value)
    settings = load_settings()
    place = {"host": "db.example", "port": "6000", "dbname": "main"}
    assert conninfo_to_dict(owner_url(settings)) == place | {"user": "me@work", "password": "o/w?n"}
    assert conninfo_to_dict(role_url(settings, "policy")) == place | {
        "user": "sextant_policy",
        "password": "p@ss/word'",
    }
    assert settings.external_database


@pytest.mark.parametrize("url", [f"postgresq://sextant:{SECRET}@h/db", f"postgresql://sextant:{SECRET}%zz@h/db"])
def test_a_database_url_that_is_none_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    for open_url in (owner_url, lambda settings: role_url(settings, "policy")):
        with pytest.raises(SettingsError, match="bad value for DATABASE_URL") as error:
            open_url(load_settings())
        assert SECRET not in str(error.value)


def test_no_secret_is_ever_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://sextant:{SECRET}@127.0.0.1:1/x")
    for name in ("DB_PASSWORD", *(f"DB_PASSWORD_{layer.upper()}" for layer in LAYERS)):
        monkeypatch.setenv(name, SECRET)
    settings = load_settings()
    with pytest.raises(DatabaseUnavailable) as unreachable:
        connect(role_url(settings, "policy"))
    monkeypatch.setenv("DB_PORT", "x")
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(unreachable.value), complaint()):
        assert SECRET not in text
    password = settings.role_password("policy")
    assert password is not None
    assert password.get_secret_value() == SECRET


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_has_a_password_of_its_own(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    monkeypatch.setenv(f"DB_PASSWORD_{layer.upper()}", SECRET)
    settings = load_settings()
    assert [name for name in LAYERS if settings.role_password(name)] == [layer]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("SEXTANT_BOGUS", "1", "SEXTANT_BOGUS"), ("DATABASE_URL", f"postgresq://x:{SECRET}@h/d", "DATABASE_URL")],
)
def test_a_job_with_bad_settings_ends_with_exit_2_and_names_them(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    environment = {"SEXTANT_HOME": str(tmp_path), "PATH": "", name: value}
    job = subprocess.run(
        [sys.executable, "-m", "policy.run_trader"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (job.returncode, job.stdout) == (2, "")
    assert said in job.stderr
    assert "Traceback" not in job.stderr
    assert SECRET not in job.stderr
