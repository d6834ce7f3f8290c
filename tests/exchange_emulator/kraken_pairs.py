"""Kraken's names for assets and pairs, and what it tells about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.rows import InstrumentRules

# Assets of the early years carry a class letter in their id; later ones are called what they are called.
LETTERED = {
    "BTC": "XXBT", "ETH": "XETH", "LTC": "XLTC", "XRP": "XXRP", "XLM": "XXLM", "ETC": "XETC", "XMR": "XXMR",
    "ZEC": "XZEC", "DOGE": "XXDG", "USD": "ZUSD", "EUR": "ZEUR", "GBP": "ZGBP", "CAD": "ZCAD", "JPY": "ZJPY",
}  # fmt: skip
NO_LETTERS_IN_PAIRS = ("DOGE",)  # an old asset whose pairs came later: XDGUSD
MONEY = ("USD", "EUR", "GBP", "CAD", "JPY")
LOT_DECIMALS = 8
FEES = [[0, 0.4], [10_000, 0.35]]  # taker percent from a volume of 30 days on
FEES_MAKER = [[0, 0.25], [10_000, 0.2]]


def asset_id(asset: str) -> str:
    return LETTERED.get(asset, asset)


def balance_id(asset: str) -> str:
    """As in Balance and Ledgers: XXBT, and XBT.S for what is staked."""
    name, dot, kind = asset.partition(".")
    return f"{asset_altname(name)}.{kind}" if dot else asset_id(name)


def asset_altname(asset: str) -> str:
    return LETTERED[asset][1:] if asset in LETTERED else asset


@dataclass(frozen=True, slots=True)
class Pair:
    symbol: str  # common: BTC/USD

    @property
    def assets(self) -> tuple[str, str]:
        base, quote = self.symbol.split("/")
        return base, quote

    @property
    def altname(self) -> str:
        return "".join(map(asset_altname, self.assets))

    @property
    def wsname(self) -> str:
        return "/".join(map(asset_altname, self.assets))

    @property
    def id(self) -> str:
        """Lettered where both assets are: XXBTZUSD, but XBTUSDT and SOLUSD."""
        lettered = all(asset in LETTERED and asset not in NO_LETTERS_IN_PAIRS for asset in self.assets)
        return "".join(map(asset_id, self.assets)) if lettered else self.altname

    @property
    def names(self) -> tuple[str, ...]:
        """By which it may be asked for."""
        return self.id, self.altname, self.wsname, self.symbol

    def info(self, rules: InstrumentRules) -> dict[str, Any]:
        """As in AssetPairs."""
        base, quote = self.assets
        return {
            "altname": self.altname,
            "wsname": self.wsname,
            "aclass_base": "currency",
            "base": asset_id(base),
            "aclass_quote": "currency",
            "quote": asset_id(quote),
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": -int(rules.tick_size.as_tuple().exponent),
            "lot_decimals": LOT_DECIMALS,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": FEES,
            "fees_maker": FEES_MAKER,
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": str(rules.min_quantity),
            "costmin": str(rules.min_notional),
            "tick_size": str(rules.tick_size),
            "status": "online",
        }


def asset_info(asset: str) -> dict[str, Any]:
    """As in Assets."""
    decimals, shown = (4, 2) if asset in MONEY else (10, 5)
    return {
        "aclass": "currency",
        "altname": asset_altname(asset),
        "decimals": decimals,
        "display_decimals": shown,
        "status": "enabled",
    }
