"""The oracle: what really happened, one JSON object a line, each in the file before anybody is told of it.

A line is one moment of the engine, whole: all that changed together. So a kill leaves whole moments, at worst with
half a line at the end, which a restart cuts off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from io import BufferedRandom
from pathlib import Path
from typing import Any

from tests.exchange_emulator.records import Account, ApiKey, Entry, Fees, Fill, Order


@dataclass(slots=True)
class Moment:
    """What changed at ``at_ns``. ``switches``: by account, when its dead man's switch cancels all (None: it is off).

    ``events``: how many there were so far.
    """

    at_ns: int
    events: int = 0
    accounts: list[Account] = field(default_factory=list)
    keys: list[ApiKey] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    switches: dict[str, int | None] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.accounts or self.keys or self.orders or self.fills or self.entries or self.switches)


KINDS: dict[str, type] = {"accounts": Account, "keys": ApiKey, "orders": Order, "fills": Fill, "entries": Entry}


def plain(value: Any) -> Any:
    """As JSON has it: Decimals as strings, records as objects."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def record(kind: Any, raw: Mapping[str, Any]) -> Any:
    return kind(**{item.name: _value(str(item.type), raw[item.name]) for item in fields(kind)})


def _value(declared: str, raw: Any) -> Any:
    if raw is None:
        return None
    if "Decimal" in declared:
        return Decimal(raw)
    if declared == "Fees":
        return record(Fees, raw)
    if declared.startswith(("frozenset", "tuple")):
        return frozenset(raw) if declared.startswith("frozenset") else tuple(raw)
    return raw


class Journal:
    """A file of moments under a first line that names the market: ValueError where it is another market's."""

    def __init__(self, path: Path, market: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._file: BufferedRandom = path.open("r+b")
        lines = self._file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        self._file.seek(0, 2)
        self._lines = lines[1:]
        if not lines:
            self._write({"market": market})
        elif (known := json.loads(lines[0]).get("market")) != market:
            self._file.close()
            raise ValueError(f"{path} is the journal of {known}, not of {dict(market)}: name another file or market")

    def moments(self) -> Iterator[Moment]:
        """What was in the file when it was opened, oldest first."""
        for line in self._lines:
            raw = json.loads(line)
            kept: dict[str, Any] = {
                name: [record(kind, item) for item in raw.get(name, ())] for name, kind in KINDS.items()
            }
            yield Moment(raw["at_ns"], raw["events"], **kept, switches=raw.get("switches", {}))

    def add(self, moment: Moment) -> None:
        self._write({name: value for name, value in plain(moment).items() if value or name in ("at_ns", "events")})

    def close(self) -> None:
        self._file.close()

    def _write(self, value: Any) -> None:
        """In the kernel's hands when this returns: a SIGKILL of the emulator loses nothing."""
        self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
