"""The same market seen otherwise: in a mirror, and under another name. For asking whether a model reads its table
(meta_controller/probe_llm.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIGNED = ("ret", "t")  # negated; prices, unlike volatilities, have a direction
OPPOSITES = {"up": "down", "down": "up"}
CALLS = ("experts", "base_rates")  # lists of six probabilities, down first and up third


def mirrored(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a market whose log returns all had the other sign: every direction is turned (returns, trends,
    distances from high and low, calls, classes, news, memories), every volatility stays. Its own inverse.

    Figures of a chain, books, scores and steering have no direction of the market and stay.
    """
    turned = dict(statistics)
    turned["market"] = _series(statistics["market"])
    turned["assets"] = {
        name: _series(part) if isinstance(part, dict) else part for name, part in statistics["assets"].items()
    }
    for name in CALLS:
        turned[name] = _calls(statistics[name])
    turned["happened"] = _classes(statistics["happened"])
    turned["analogs"] = _analogs(statistics["analogs"])
    if isinstance(news := statistics["news"], dict):
        turned["news"] = {topic: [n, _negated(mood), weight] for topic, (n, mood, weight) in news.items()}
    if isinstance(memories := statistics.get("memories"), list):
        turned["memories"] = [_classes(memory) for memory in memories]
    return turned


def _series(section: Mapping[str, Any]) -> dict[str, Any]:
    turned = {key: _negated(part) if key in SIGNED else part for key, part in section.items()}
    if "below_high" in section:
        turned["below_high"] = _negated(section["above_low"])
        turned["above_low"] = _negated(section["below_high"])
    return turned


def _negated(value: Any) -> Any:
    """Of a list, which is ordered from low to high, also the order."""
    if isinstance(value, dict):
        return {key: _negated(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_negated(part) for part in reversed(value)]
    return -value if value else value  # neither -0.0 nor -None


def _calls(section: Any) -> Any:
    if isinstance(section, dict):
        return {key: _calls(part) for key, part in section.items()}
    if isinstance(section, list):
        down, flat, up, *volatility = section
        return [up, flat, down, *volatility]
    return section


def _classes(section: Any) -> Any:
    """Words for a direction become the opposite ones, and conviction changes its sign."""
    if isinstance(section, dict):
        return {key: _negated(part) if key == "conviction" else _classes(part) for key, part in section.items()}
    if isinstance(section, str):
        return ", ".join(OPPOSITES.get(word, word) for word in section.split(", "))
    return section


def _analogs(section: Any) -> Any:
    return section | {"ret_24h": _negated(section["ret_24h"])} if isinstance(section, dict) else section


def renamed(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The same table under another identity: its assets in the other order under other names, at another hour of
    another day (in another year, with other prices, where it is not anonymous). What is said of the market, and so
    what should be answered, is the same."""
    assets = statistics["assets"]
    sections = [part for part in assets.values() if isinstance(part, dict)]
    others = {name: part for name, part in assets.items() if not isinstance(part, dict)}
    single = len(sections) == 1 and next(iter(assets)).startswith("lowest")
    names = list(assets)[:1] if single else _other_names(list(assets)[: len(sections)])
    turned = {name: _other_price(part) for name, part in zip(names, reversed(sections), strict=True)}
    return {**statistics, "time": _other_time(statistics["time"]), "assets": turned | others}


def _other_names(names: list[str]) -> list[str]:
    if names[0].startswith("asset "):
        return [f"asset {chr(ord('A') + n)}" for n in range(len(names))]
    return [f"{ticker}/USDT" for ticker in ("QNT", "ZEC", "KSM", "ICX")[: len(names)]]


def _other_price(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: f"{float(part) * 7.3:.6g}" if key == "price" else part for key, part in section.items()}


def _other_time(time: Any) -> Any:
    if isinstance(time, str):
        return f"{int(time[:4]) + 3}{time[4:]}"
    return {"weekday": "Tue" if time["weekday"] != "Tue" else "Thu", "hour_utc": (time["hour_utc"] + 7) % 24}
