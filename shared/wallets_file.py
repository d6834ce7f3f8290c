"""config/wallets.json: the live wallets, and the names of the environment variables that hold their keys.

No key is in it, and none may be: what looks like one is refused, and no message repeats what it refuses. The sender
alone reads the variables (policy/execution/wallet_keys.py).
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.errors import SextantError
from shared.settings import PROJECT, SYMBOL_PATTERN

WALLETS_FILE = PROJECT / "config" / "wallets.json"
VARIABLE = r"[A-Z][A-Z0-9_]*"
KEY_LENGTH = 20  # letters and digits in a row: the names of variables have no such words, keys have
LARGEST = Decimal(10) ** 20  # NUMERIC(28,8) holds less than this

Track = Literal["live", "rules", "llm", "static"]


class WalletsFileError(SextantError):
    """A wallets file that cannot be used; the message names each field and what is wanted, and no value."""


def _variable_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(VARIABLE, name):
        raise ValueError(
            "name an environment variable here, in A-Z, 0-9 and _ (KRAKEN_MAIN_KEY), never a key itself; if this is "
            "a key, it has been in a file: revoke it at the venue and make a new one"
        )
    if name.startswith("SEXTANT_"):
        raise ValueError("SEXTANT_… are Sextant's own settings, and an unknown one is refused: choose another name")
    if any(len(word) >= KEY_LENGTH for word in name.split("_")):
        raise ValueError(
            f"{KEY_LENGTH} and more letters and digits in a row look like a key itself: name the environment variable "
            "that holds it (KRAKEN_MAIN_KEY); if this is a key, revoke it at the venue and make a new one"
        )
    return name


def parse_amount(value: Any) -> Decimal:
    """An amount of money as NUMERIC(28,8) keeps it; ValueError for what is none, or could not be kept exactly."""
    try:
        amount = Decimal(value if isinstance(value, int | str | Decimal) and not isinstance(value, bool) else "NaN")
    except ArithmeticError:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise ValueError('not an amount: write it as "5000" or 5000')
    if not 0 < amount < LARGEST:
        raise ValueError(f"must be above 0 and below {LARGEST:,.0f}")
    if amount != amount.quantize(Decimal("1E-8")):
        raise ValueError("has more than 8 decimals")
    return amount


def _listed(value: Any) -> Any:
    """JSON has lists only, and these are never changed."""
    if not isinstance(value, list):
        raise ValueError("a list is wanted, in [ ]")
    return tuple(value)


VariableName = Annotated[str, BeforeValidator(_variable_name)]
Amount = Annotated[Decimal, BeforeValidator(parse_amount)]


def _capital(value: Any) -> Any:
    return value if value == "all" else parse_amount(value)


def _tradable(symbols: tuple[str, ...]) -> tuple[str, ...]:
    if not symbols:
        raise ValueError("name at least one symbol")
    if len(set(symbols)) < len(symbols):
        raise ValueError("each symbol may be named once")
    if len({symbol.partition("/")[2] for symbol in symbols}) > 1:
        raise ValueError("a wallet has one quote currency: all symbols end alike, as BTC/USDT and ETH/USDT do")
    return symbols


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WalletLimits(Section):
    """The operator's hard limits with which the wallet begins; `make limits` changes them later."""

    max_order_notional: Amount
    max_orders_a_day: int | None = Field(None, ge=1)  # absent: [risk] of the settings
    max_day_notional: Amount | None = None
    max_position_notional: Amount | None = None
    ramp_days: int = Field(14, ge=0)
    ramp_exposure: Annotated[Decimal, BeforeValidator(parse_amount), Field(le=1)] = Decimal("0.02")


class WalletEntry(Section):
    """One live wallet. ``managed_capital``: what of the account's quote currency is managed, an amount or "all";
    absent: nothing, until `make wallet-adopt`."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    venue: str = Field(pattern=r"^[a-z0-9_]+$")
    symbols: Annotated[
        tuple[Annotated[str, Field(pattern=SYMBOL_PATTERN)], ...],
        BeforeValidator(_listed),
        AfterValidator(_tradable),
    ]
    key_env: VariableName
    secret_env: VariableName
    limits: WalletLimits
    managed_capital: Annotated[Decimal | Literal["all"] | None, BeforeValidator(_capital)] = None
    track: Track = "live"

    @property
    def quote(self) -> str:
        return self.symbols[0].partition("/")[2]


class WalletsFile(Section):
    wallets: Annotated[tuple[WalletEntry, ...], BeforeValidator(_listed)]

    def entry(self, name: str) -> WalletEntry:
        for wallet in self.wallets:
            if wallet.name == name:
                return wallet
        known = ", ".join(w.name for w in self.wallets) or "none"
        raise WalletsFileError(f"config/wallets.json names no wallet {name!r}; it names {known}")


def entry_if_named(name: str) -> WalletEntry | None:
    """One wallet; None where the file is not there or does not name it. WalletsFileError for a file that is wrong."""
    wallets = load_wallets().wallets if WALLETS_FILE.exists() else ()
    return next((wallet for wallet in wallets if wallet.name == name), None)


def load_wallets(path: Path | None = None) -> WalletsFile:
    """The live wallets; WalletsFileError where there is no such file, or with all that is wrong with it at once."""
    try:
        text = (path or WALLETS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WalletsFileError(
            "there is no config/wallets.json, which names the live wallets and the environment variables of their "
            "keys: copy config/wallets.example.json and change it (docs/live-trading.md)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WalletsFileError(f"config/wallets.json cannot be read: {type(error).__name__}") from None
    return parse_wallets(text)


def parse_wallets(text: str) -> WalletsFile:
    """WalletsFileError as ``load_wallets``."""
    try:
        content = json.loads(text, parse_float=Decimal, object_pairs_hook=_no_name_twice)
    except json.JSONDecodeError as error:
        raise WalletsFileError(
            f"config/wallets.json is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    try:
        file = WalletsFile.model_validate(content)
    except ValidationError as error:
        raise WalletsFileError("\n".join(_explain(content, detail) for detail in error.errors())) from None
    _refuse_shared(file)
    return file


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise WalletsFileError("config/wallets.json says something twice in one wallet: JSON would drop the first")
    return dict(pairs)


def _refuse_shared(file: WalletsFile) -> None:
    """One wallet, one key, one nonce, one writer: two senders on one key refuse each other's calls."""
    seen: dict[str, str] = {}
    names = [wallet.name for wallet in file.wallets]
    if len(set(names)) < len(names):
        raise WalletsFileError(f"config/wallets.json names a wallet twice: {', '.join(names)}")
    for wallet in file.wallets:
        for variable in (wallet.key_env, wallet.secret_env):
            if variable in seen:
                raise WalletsFileError(
                    f"{variable} is named twice in config/wallets.json, by {seen[variable]} and {wallet.name}: each "
                    "wallet needs a key of its own, or two senders would refuse each other's nonces; make one more at "
                    "the venue"
                )
            seen[variable] = wallet.name


def _explain(content: Any, detail: Any) -> str:
    """Where, and what is wanted; never the value, which may be a key."""
    place = list(detail["loc"])
    where = "config/wallets.json"
    if len(place) >= 2 and place[0] == "wallets":
        entry = content["wallets"][place[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        known = isinstance(name, str) and re.fullmatch(r"[a-z0-9_-]{1,19}", name)
        where += f", wallet {name if known else place[1] + 1}"
        place = place[2:]
    if detail["type"] == "extra_forbidden":
        allowed = WalletLimits if place[:-1] else WalletEntry if where != "config/wallets.json" else WalletsFile
        name = str(place[-1]) if re.fullmatch(r"[a-z_]{1,30}", str(place[-1])) else "of a strange name"
        return (
            f"{where}: unknown field {name}; allowed here are {', '.join(allowed.model_fields)}. A key never belongs "
            "into this file: put it into an environment variable and name that"
        )
    field = ".".join(str(part) for part in place if isinstance(part, str) and part in KNOWN_FIELDS)
    return f"{where}{': ' + field if field else ''}: {detail['msg'].removeprefix('Value error, ')}"


KNOWN_FIELDS = {*WalletsFile.model_fields, *WalletEntry.model_fields, *WalletLimits.model_fields}
