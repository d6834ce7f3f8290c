"""The colours of a report by name, for daylight and for the dark; charts and page share them as CSS variables."""

from __future__ import annotations

COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1d2733", "#e3e9ef"),
    "muted": ("#5d6b7a", "#9daab7"),
    "rule": ("#dfe4e9", "#2d3843"),
    "grid": ("#e4e8ec", "#2a3540"),
    "paper": ("#f6f7f5", "#0f1418"),
    "card": ("#ffffff", "#182027"),
    "own": ("#0f5c7a", "#63c0e6"),
    "baseline": ("#7a4fa3", "#bd9df0"),
    "benchmark": ("#c9822b", "#eab063"),
    "shifts": ("#7f868d", "#8e979f"),
    "price": ("#8794a1", "#8391a0"),
    "axis": ("#97a3af", "#65727f"),
    "buy": ("#1d7a5f", "#4fcaa2"),
    "sell": ("#b4483a", "#f08a7a"),
    "other-0": ("#5b8c6a", "#8ec7a0"),
    "other-1": ("#a65d7b", "#e095b4"),
    "other-2": ("#6d7f3f", "#b5c97b"),
    "other-3": ("#4a6fa5", "#8fb2e6"),
    "held-0": ("#2c6e8f", "#5fb0d6"),
    "held-1": ("#dca35a", "#e3b377"),
    "held-2": ("#6fa287", "#86c2a3"),
    "held-3": ("#8e7cb5", "#ac9bd4"),
    "held-4": ("#c47d6d", "#dc998a"),
    "held-5": ("#8fb3c9", "#a9cadd"),
    "held-6": ("#b7a86b", "#cfc187"),
    "held-7": ("#9c8579", "#b8a294"),
}
OTHERS = tuple(name for name in COLOURS if name.startswith("other-"))
HELD = tuple(name for name in COLOURS if name.startswith("held-"))
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
NAMES = {light: name for name, light in LIGHT.items()}


def variables(dark: bool) -> str:
    """The declarations of all colours, for one of the two."""
    return " ".join(f"--{name}: {both[dark]};" for name, both in COLOURS.items())
