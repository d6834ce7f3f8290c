"""Typed settings: config/settings.toml, then config/.env, then the environment; the later wins.

Every setting has one name: ``[section] key`` in the file is ``SEXTANT_SECTION__KEY`` in the environment.
SEXTANT_HOME, DATABASE_URL and DB_* keep their customary names. An unknown key or a bad value stops the
program (exit 2) with the key's name and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from shared.clock import LOCAL_URL
from shared.errors import SextantError
from shared.exit_settings import ExitSettings

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = PROJECT / "config" / "settings.toml"
ENV_FILE = PROJECT / "config" / ".env"
TIMEFRAMES = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}
LAYERS = ("candles", "encoder", "meta_controller", "policy", "sender", "cli")

SYMBOL_PATTERN = r"^[A-Z0-9-]+/[A-Z0-9]+$"

Symbol = Annotated[str, Field(pattern=SYMBOL_PATTERN)]
Timeframe = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class SettingsError(SextantError):
    """Settings that cannot be used; the message names each key and what is allowed."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UniverseSettings(Section):
    """What is watched and traded."""

    venue: str = Field("kraken", pattern=r"^[a-z0-9_]+$")
    symbols: tuple[Symbol, ...] = Field(("BTC/USDT", "ETH/USDT"), min_length=1)
    base_timeframe: Timeframe = "5m"
    decision_timeframe: Timeframe = "1h"

    @property
    def base_timeframe_s(self) -> int:
        return TIMEFRAMES[self.base_timeframe]

    @property
    def decision_timeframe_s(self) -> int:
        return TIMEFRAMES[self.decision_timeframe]


class VenueSettings(Section):
    """Where a venue is reached, when not at its own address: an emulator, a proxy."""

    rest_url: str | None = Field(None, pattern=r"^https?://")
    websocket_url: str | None = Field(None, pattern=r"^wss?://")
    requests_per_s: float | None = Field(None, gt=0)  # stricter than what the venue allows


class FeedSettings(Section):
    """The live feed. Deadlines are in seconds of real time."""

    grace_s: float = Field(10.0, gt=0, le=120)  # after a close without news: ask the venue
    silence_s: float = Field(5.0, gt=0, le=300)  # no message of any kind: the connection is dead
    reconnect_s: float = Field(1.0, gt=0, le=60)  # first wait after a lost connection; doubles, with jitter
    reconnect_max_s: float = Field(60.0, gt=0, le=3600)
    skew_limit_s: float = Field(5.0, gt=0, le=60)  # our clock against the venue's: more, and there are no entries


class EncoderSettings(Section):
    train_on: tuple[str, ...] = ()  # "BTC/USDT", "kraken:BTC/USD"; empty: the universe
    train_steps: int = Field(600, ge=1, le=1_000_000)  # at most
    train_passes: float = Field(8.0, gt=0)  # over all windows, at most: a short history is soon known by heart
    batch_size: int = Field(256, ge=8, le=8192)
    seed: int = Field(7, ge=0)
    stale_after_days: float = Field(14.0, gt=0)  # since the end of its training: an alert a day


class PolicySettings(Section):
    seeds: int = Field(3, ge=1, le=100)  # policies trained beside each other; their median acts
    pathwise_steps: int = Field(1500, ge=0, le=1_000_000)  # gradient steps through the surrogate
    ppo_steps: int = Field(200_000, ge=0, le=1_000_000_000)  # environment steps of the fine-tuning
    seed: int = Field(7, ge=0)


def _weighs_drl(names: tuple[str, ...]) -> tuple[str, ...]:
    if "drl" not in names:
        raise ValueError("name drl too: the rules follow it, and no answer could move away from it in an hour")
    return names


class LlmModelSettings(Section):
    """One language model: what it costs, in US dollars a million tokens, and the last day that it has read about."""

    input_usd: float = Field(ge=0, le=1000)
    output_usd: float = Field(ge=0, le=1000)
    knowledge_cutoff: date


class LlmSettings(Section):
    """The language model beside the rules. It is asked only where OPENAI_API_KEY or OPENAI_BASE_URL is set."""

    mode: Literal["off", "shadow", "trusted", "full"] = "shadow"  # how far the live steering follows it
    model: str = Field("gpt-4.1-nano", min_length=1)
    prompt: str = Field("strategist.v1", pattern=r"^[a-z]+\.v[0-9]+$")
    anonymous: bool = True  # no symbol, date or absolute price in the prompt
    answer_format: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    timeout_s: float = Field(30.0, gt=0, le=300)  # of the whole conversation
    max_output_tokens: int = Field(1200, ge=100, le=32_000)  # of one answer
    max_tool_calls: int = Field(2, ge=0, le=10)
    memories: int = Field(4, ge=0, le=20)  # recalled at most
    embedding_model: str = ""  # of the same endpoint; empty: the local one
    strategies: Annotated[tuple[str, ...], AfterValidator(_weighs_drl)] = (
        "drl",
        "trend_vol_target",
        "vol_target",
        "cash",
    )  # it may weigh
    onchain_metrics: tuple[str, ...] = ("active_addresses", "transactions", "fees", "hash_rate", "exchange_netflow")
    news_an_hour: int = Field(4, ge=0, le=100)  # items read at most, each in a call of its own
    usd_an_hour: float = Field(0.01, ge=0)
    usd_a_day: float = Field(0.05, ge=0)
    usd_a_month: float = Field(1.0, ge=0)
    models: dict[str, LlmModelSettings] = {}


class ExecutionSettings(Section):
    """How a decision becomes an order, and what a paper fill costs."""

    delay_s: int = Field(120, ge=0, le=3600)  # between the candle close and the earliest fill
    no_trade_band: float = Field(0.1, ge=0, le=1)  # change, as a share of a full position, below which nothing is sent
    taker_fee_bps: float = Field(40.0, ge=0, le=500)
    slippage_bps: float = Field(5.0, ge=0, le=500)  # half the spread, a side
    impact: float = Field(1.0, ge=0, le=10)  # of the square-root law: times bar volatility × √(share of its volume)
    stale_after_s: int = Field(7200, ge=60)  # inputs older than this: no entries
    order_deadline_s: float = Field(5.0, ge=2, le=60)  # live: later than this after sending, a venue must not take it
    max_slippage: float = Field(0.01, gt=0, le=0.1)  # live: an order's limit, this far beyond the newest close
    reconcile_every_s: int = Field(300, ge=10)  # live: ledger against account
    flatten_slippage: float = Field(0.02, gt=0, le=0.2)  # how far below the newest close a flattening order may sell


class SymbolRisk(Section):
    """The operator's bounds on one symbol, stricter than those on all of them."""

    max_position: float = Field(0.5, ge=0, le=0.5)


class RiskSettings(Section):
    """The operator's bounds on what steering may ask for."""

    max_position: float = Field(0.5, ge=0, le=0.5)
    max_exposure: float = Field(1.0, ge=0, le=1)
    max_step: float = Field(0.25, gt=0, le=1)  # by which a position may grow in one decision
    daily_loss_limit: float = Field(0.05, ge=0.005, le=0.2)
    max_drawdown: float = Field(0.15, ge=0.02, le=0.5)
    max_leverage: float = Field(1.0, gt=0, lt=2)
    max_heat: float = Field(0.2, gt=0, le=0.2)  # sum of weight × stop distance
    stop_distance: float = Field(0.15, gt=0, lt=1)  # below cost: where each live position's stop rests at the venue
    atr_multiple: float = Field(0.0, ge=0, le=20)  # a stop is at least so many average true ranges away
    trade_risk: float = Field(1.0, gt=0, le=1)  # loss of one position down to its stop; 1: off
    kelly_fraction: float = Field(0.25, gt=0, le=1)
    kelly_win_probability: float = Field(0.0, ge=0, lt=1)  # 0: nobody knows an edge, and it is off
    kelly_payoff: float = Field(1.0, gt=0, le=100)  # what a winning trade gains ÷ what a losing one loses
    max_correlated_exposure: float = Field(1.0, gt=0, le=1)  # 1: off
    correlated_from: float = Field(0.6, ge=0, le=1)
    max_concentration: float = Field(1.0, gt=0, le=1)  # sum of squared weights; 1: off
    max_value_at_risk: float = Field(0.1, gt=0, le=1)  # 95 %, daily; 1: off
    max_cvar: float = Field(0.15, gt=0, le=1)
    ladder_from: float = Field(1.0, gt=0, le=1)  # share of max_drawdown from which exposure shrinks; 1: off
    cooldown_s: float = Field(0.0, ge=0)  # after a fill: no entry; 0: off
    position_timeout_s: float = Field(0.0, ge=0)  # an older position is sold; 0: off
    max_order_notional: float = Field(100_000.0, gt=0, lt=6.7e7)
    max_orders_a_day: int = Field(500, ge=1)
    symbols: dict[Symbol, SymbolRisk] = {}


class ScheduledJob(Section):
    module: str = Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$")
    cron: str = Field(pattern=r"^\S+ \S+ \S+ \S+ \S+$")  # minute hour day month weekday, UTC
    delay_s: int = Field(0, ge=0, lt=60)
    service: bool = False  # `make schedule` keeps it running; cron runs it with --once at its times
    wake: bool = False  # `make schedule` also runs it as soon as candles of the decision timeframe are in


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError("a TCP port is between 1 and 65535")
    return value


class HomeSettings(BaseSettings):
    """SEXTANT_HOME alone, whatever else is set: for what must be found without all settings being right, as caches."""

    model_config = SettingsConfigDict(env_prefix="SEXTANT_", extra="ignore", frozen=True)

    home: Path = PROJECT / ".data"

    @property
    def home_path(self) -> Path:
        """SEXTANT_HOME, absolute; a relative one counts from the project's root, wherever cron starts us."""
        return (PROJECT / self.home.expanduser()).resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlSource(settings_cls, SETTINGS_FILE) if SETTINGS_FILE.exists() else None
        dotenv = DotEnvSettingsSource(settings_cls, env_file=ENV_FILE)
        return tuple(s for s in (init_settings, env_settings, dotenv, toml) if s is not None)


class Settings(HomeSettings):
    model_config = SettingsConfigDict(
        env_prefix="SEXTANT_", env_nested_delimiter="__", extra="forbid", frozen=True, populate_by_name=True
    )

    universe: UniverseSettings = UniverseSettings()
    venues: dict[str, VenueSettings] = {}
    feed: FeedSettings = FeedSettings()
    encoder: EncoderSettings = EncoderSettings()
    llm: LlmSettings = LlmSettings()
    policy: PolicySettings = PolicySettings()
    execution: ExecutionSettings = ExecutionSettings()
    risk: RiskSettings = RiskSettings()
    exits: ExitSettings = ExitSettings()
    log: LogSettings = LogSettings()
    schedule: dict[str, ScheduledJob] = {}

    clock_url: str | None = Field(None, validation_alias="CLOCK_URL", pattern=LOCAL_URL)
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: Annotated[str | None, BeforeValidator(lambda url: url or None)] = Field(  # "" as in compose files
        None, validation_alias="OPENAI_BASE_URL", pattern=r"^https?://"
    )
    alert_urls: SecretStr | None = Field(None, validation_alias="ALERT_URLS")  # Apprise's, separated by spaces
    heartbeat_url: SecretStr | None = Field(None, validation_alias="HEARTBEAT_URL")  # {job}: the job's name
    crash_at: str | None = Field(None, validation_alias="CRASH_AT")  # name:n, of pipeline.crash alone
    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    db_host: str | None = Field(None, validation_alias="DB_HOST")
    db_port: Annotated[int, AfterValidator(_port)] = Field(5432, validation_alias="DB_PORT")
    db_name: str = Field("sextant", validation_alias="DB_NAME")
    db_user: str = Field("sextant", validation_alias="DB_USER")
    db_password: SecretStr | None = Field(None, validation_alias="DB_PASSWORD")
    db_password_candles: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_CANDLES")
    db_password_encoder: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_ENCODER")
    db_password_meta_controller: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_META_CONTROLLER")
    db_password_policy: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_POLICY")
    db_password_sender: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_SENDER")
    db_password_cli: SecretStr | None = Field(None, validation_alias="DB_PASSWORD_CLI")

    @field_validator("risk")
    @classmethod
    def _known_symbols(cls, risk: RiskSettings, info: ValidationInfo) -> RiskSettings:
        """A bound on a misspelt symbol would bound nothing."""
        known = info.data["universe"].symbols if "universe" in info.data else tuple(risk.symbols)
        unknown = sorted(set(risk.symbols) - set(known))
        if unknown:
            told = f"risk.symbols bounds {', '.join(unknown)}; universe.symbols knows {', '.join(known)}"
            raise ValueError(f"{told}: correct the name, or add it there")
        return risk

    @field_validator("exits")
    @classmethod
    def _a_stop_that_acts(cls, exits: ExitSettings, info: ValidationInfo) -> ExitSettings:
        risk = info.data.get("risk")
        if risk and exits.stop_loss >= risk.stop_distance:
            raise ValueError(
                f"a stop_loss of {exits.stop_loss:g} would never act: each live position's catastrophe stop lies "
                f"{risk.stop_distance:g} below its cost (risk.stop_distance); set a smaller one, or 0 for none"
            )
        return exits

    @property
    def external_database(self) -> bool:
        return self.database_url is not None or self.db_host is not None

    def role_password(self, layer: str) -> SecretStr | None:
        password: SecretStr | None = getattr(self, f"db_password_{layer}")
        return password


def load_settings(**overrides: Any) -> Settings:
    """All settings, checked; SettingsError names every unknown key and bad value at once."""
    _refuse_unknown_names()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{SETTINGS_FILE.name} is not valid TOML: {error}") from None
    except Exception as error:  # a value that is not even JSON where a list is wanted
        if type(error).__name__ != "SettingsError":
            raise
        raise SettingsError(f"{_not_json(str(error))}; write lists as JSON, e.g. '[\"BTC/USDT\"]'") from None


def _not_json(error: str) -> str:
    """pydantic names only the section; the culprits are its names that are set and hold JSON."""
    section = error.split('"')[1] if '"' in error else ""
    names = [f"SEXTANT_{section}".upper()]
    model = Settings.model_fields[section].annotation if section in Settings.model_fields else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        names += [
            f"{names[0]}__{key}".upper()
            for key, field in model.model_fields.items()
            if get_origin(field.annotation) is tuple
        ]
    given = {name.upper() for name, _ in _given_names()}
    return f"bad value for {' or '.join(n for n in names if n in given) or names[0]}: not JSON"


def _known_names() -> set[str]:
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(str(field.validation_alias or f"SEXTANT_{name.upper()}"))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= {f"SEXTANT_{name}__{key}".upper() for key in field.annotation.model_fields}
    return names


def _refuse_unknown_names() -> None:
    """pydantic ignores environment variables it does not know; a typo must not trade with the default."""
    known = _known_names()
    for name, where in _given_names():
        if name.upper() not in known and not name.upper().startswith(("SEXTANT_SCHEDULE__", "SEXTANT_VENUES__")):
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(known))
            raise SettingsError(f"unknown setting {name} in {where}; {hint}")


def _given_names() -> list[tuple[str, str]]:
    """Each name that is ours to know, and where it was set."""
    given = [(name, "the environment") for name in os.environ if name.upper().startswith("SEXTANT_")]
    if ENV_FILE.exists():
        lines = ENV_FILE.read_text(encoding="utf-8").splitlines()
        keys = (line.removeprefix("export ").partition("=")[0].strip() for line in lines if "=" in line)
        given += [(key, "config/.env") for key in keys if not key.startswith("#")]
    return given


def _explain(error: ValidationError) -> str:
    return "\n".join(_explain_one(detail) for detail in error.errors(include_url=False))


def _explain_one(detail: Any) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        return f"unknown setting {key}; allowed here: {', '.join(allowed)}"
    return f"bad value for {key}: {detail['msg']} (got {detail['input']!r})"


def _allowed_keys(path: list[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        if part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = get_args(annotation)[-1] if get_origin(annotation) is dict else annotation
    return sorted(model.model_fields)
