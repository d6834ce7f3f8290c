"""Kraken's names for assets and pairs, and what AssetPairs tells of a pair's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shared.exchanges.protocol import ExchangeError
from shared.exchanges.resilience import PassingTrouble, excerpt
from shared.rows import InstrumentRules

SYMBOL = re.compile(r"[A-Z0-9.]+/[A-Z0-9.]+")
# Kraken's own names for two assets; everywhere else in Sextant they are BTC and DOGE.
COMMON_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
KRAKEN_NAMES = {common: own for own, common in COMMON_NAMES.items()}
DOLLAR_TOKENS = ("USDT", "USDC")  # whose pairs may be listed against USD only
DEFAULT_COSTMIN = "0.5"
# A pair that takes limit orders only takes post-only ones, too; of a pair in any other state nothing is known to pass.
PAIR_STATUSES = {"online": "online", "post_only": "post_only", "limit_only": "post_only", "reduce_only": "reduce_only"}
CLOSED = "cancel_only"


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    info: Mapping[str, Any]  # as AssetPairs tells it; read only when asked for, so a strange pair spoils no other

    @property
    def names(self) -> frozenset[str]:
        """What it is called in answers: by its id (trades) or its altname (orders)."""
        return frozenset({self.id, str(self.info.get("altname") or self.id)})


def canonical(symbol: str) -> str:
    """BASE/QUOTE in common names, e.g. XBT/USDT -> BTC/USDT."""
    return "/".join(COMMON_NAMES.get(asset, asset) for asset in symbol.upper().split("/"))


def common_asset(name: str) -> str:
    """XBT -> BTC, XBT.M -> BTC.M."""
    asset, dot, product = name.partition(".")
    return COMMON_NAMES.get(asset, asset) + dot + product


def both_names(symbol: str) -> str:
    common = canonical(symbol)
    own = "/".join(KRAKEN_NAMES.get(asset, asset) for asset in common.split("/"))
    return common if own == common else f"{common} ({own})"


def spellings(symbol: str) -> list[str]:
    """The canonical symbols to try, in order."""
    common = canonical(symbol)
    if not SYMBOL.fullmatch(common):
        raise ExchangeError(f"kraken lists no {symbol!r}: a symbol reads BASE/QUOTE, like BTC/USD")
    base, quote = common.split("/")
    return [common, f"{base}/USD"] if quote in DOLLAR_TOKENS else [common]


def parse_pairs(result: Mapping[str, Any]) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for pair_id, info in result.items():
        if isinstance(info, dict):
            pairs.setdefault(canonical(_listed_symbol(pair_id, info)), Pair(pair_id, info))
    if not pairs:
        raise PassingTrouble("no_result", f"no pair in {excerpt(result)}")
    return pairs


def _listed_symbol(pair_id: str, info: Mapping[str, Any]) -> str:
    """``wsname`` (XBT/USDT); where it is absent, ``altname`` (XBTUSDT) cut at the quote asset's name."""
    if info.get("wsname"):
        return str(info["wsname"])
    altname, quote = str(info.get("altname") or pair_id), str(info.get("quote", ""))
    for name in (quote, quote[1:]):  # ZUSD is spelled USD in names
        if name and altname.endswith(name) and altname != name:
            return f"{altname.removesuffix(name)}/{name}"
    return altname


def parse_assets(result: Mapping[str, Any]) -> dict[str, str]:
    """Common name by Kraken's id: XXBT -> BTC, ZUSD -> USD, XBT.M -> BTC.M."""
    if not result:
        raise PassingTrouble("no_result", "no asset at all")
    return {asset_id: common_asset(str(info["altname"])) for asset_id, info in result.items()}


def parse_rules(info: Mapping[str, Any]) -> InstrumentRules:
    tick = info.get("tick_size") or Decimal(1).scaleb(-int(info["pair_decimals"]))
    return InstrumentRules(
        tick_size=Decimal(tick),
        lot_size=Decimal(1).scaleb(-int(info["lot_decimals"])),
        min_notional=Decimal(info.get("costmin") or DEFAULT_COSTMIN),
        min_quantity=Decimal(info.get("ordermin") or 0),
        status=PAIR_STATUSES.get(str(info.get("status", "online")), CLOSED),
    )
