"""What a soak came to: figures for people, and the laws that it broke."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.crash.laws import broken_laws_when_settled
from pipeline.soak.soak import NS, SETTLES_S, Soak
from pipeline.soak.world import START, SYMBOLS, World

MOST_RSS = 1.1  # at the end, times that after the first tenth
BASE_S = 300
SINGLE_NAMES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[A-Z0-9]{5,7}(-[A-Z0-9]{5,7})+\b|\d+")
LEDGER = ("orders", "fills", "external_fills", "money", "positions", "reconciliation")
COLUMNS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Report:
    lines: list[str]
    broken: list[str]


def report(soak: Soak, finished: bool, wall_s: float) -> Report:
    """After soak.reconcile()."""
    world = soak.world
    ledger = {query: world.rows(query) for query in LEDGER}
    truth = world.truth()
    broken = [] if finished else ["the time ran out before the last day was over"]
    broken += broken_laws_when_settled(truth, ledger)
    broken += _sent_while_stopped(soak, truth["orders"])
    broken += [f"failed when all was well: {told}" for told in soak.counts.quiet_failures]
    broken += _candles_apart(world)
    broken += [f"{row['late']} paper orders are {row['state']} past their deadline" for row in _paper(world)
               if row["late"]]  # fmt: skip
    ratio = soak.late_kib / soak.early_kib if soak.early_kib else float("inf")
    if ratio > MOST_RSS:
        broken.append(f"memory grew to {ratio:.2f} × what it was after the first tenth")
    lines = [
        f"{soak.days:g} simulated days in {wall_s:.0f} s ({time.process_time():.0f} s of them this process computed)",
        "",
        *_job_lines(soak),
        "",
        *_order_lines(ledger["orders"], len(ledger["fills"]), world),
        *_world_lines(soak, world),
        f"memory: {soak.early_kib / 1024:.1f} MiB after the first tenth, {soak.late_kib / 1024:.1f} MiB at the end: "
        f"{ratio:.3f} ×",
        *_alert_lines(world),
    ]
    return Report(lines, broken)


def _job_lines(soak: Soak) -> Iterator[str]:
    counts = soak.counts
    yield f"{'job':<14} {'due':>6} {'succeeded':>9} {'failed':>6} {'missed':>6} {'ms a run':>8}"
    for name in sorted(counts.due):
        ran = max(counts.due[name] - counts.missed[name], 1)
        yield (f"{name:<14} {counts.due[name]:>6} {counts.succeeded[name]:>9} {counts.failed[name]:>6} "
               f"{counts.missed[name]:>6} {counts.seconds[name] / ran * 1e3:>8.1f}")  # fmt: skip
    total = {name: sum(getattr(counts, name).values()) for name in ("due", "succeeded", "failed", "missed")}
    yield f"{'all':<14} {total['due']:>6} {total['succeeded']:>9} {total['failed']:>6} {total['missed']:>6}"
    yield f"failed because: {_counted(counts.reasons)}"


def _order_lines(orders: Sequence[Mapping[str, Any]], fills: int, world: World) -> Iterator[str]:
    sent = [order["events"] for order in orders if "sending" in order["events"]]
    ends = Counter(events[-1] for events in sent)
    unknown = Counter(events[events.index("unknown") + 1 :][-1] if events[-1] != "unknown" else "unknown"
                      for events in sent if "unknown" in events)  # fmt: skip
    unsent = Counter(order["events"][-1] if order["events"] else "intended" for order in orders
                     if "sending" not in order["events"])  # fmt: skip
    purposes = Counter(order["purpose"] for order in orders)
    yield f"live orders: {len(orders)} intended ({_counted(purposes)}), {len(sent)} sent, {fills} fills"
    yield f"  ended as: {_counted(ends)}; never sent: {_counted(unsent)}"
    yield f"  once unknown: {sum(unknown.values())}, resolved to: {_counted(unknown)}"
    yield "paper orders: " + _counted(Counter({row["state"]: row["number"] for row in _paper(world)}))


def _world_lines(soak: Soak, world: World) -> Iterator[str]:
    served = Counter({name: int(number) for name, number in world.venue.ask("GET", "faults")["served"].items()})
    yield f"venue's faults served: {served.total()}: {_counted(served)}"
    yield f"other mishaps: {_counted(+soak.counts.mishaps)}"
    found, newest = world.rows("reconciliations")[0], world.rows("reconciliation")[0]
    yield (f"reconciliations: {found['number']}, of which {found['unmatched']} found something; the last one: "
           f"{newest['matched']} matched, {newest['unmatched']} unmatched")  # fmt: skip


def _alert_lines(world: World) -> Iterator[str]:
    """Keys without the names of single orders, trades and payments."""
    numbers: Counter[str] = Counter()
    for row in world.rows("alerts"):
        numbers[SINGLE_NAMES.sub("…", row["key"])] += row["number"]
    yield f"alerts (days × keys), {numbers.total()}:"
    for key, number in numbers.most_common():
        yield f"  {number:>5}  {key}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"


def _paper(world: World) -> list[dict[str, Any]]:
    return world.rows("paper_orders", at=world.clock.now())


def _sent_while_stopped(soak: Soak, orders: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """After a halt nothing, after any other stop no entry, but for what had been sent before."""
    for stop in soak.stops:
        for order in orders:
            forbidden = stop.mandate == "halt" or order["side"] == "buy"
            if forbidden and stop.since_ns + SETTLES_S * NS < order["opened_ns"] < stop.until_ns:
                yield f"{order['side']} {order['symbol']} {order['client_id']} came to the venue after a {stop.mandate}"


def _candles_apart(world: World) -> Iterator[str]:
    """The stored candles of the soak against the market's own."""
    until = int(world.venue.now) // BASE_S * BASE_S - BASE_S
    for symbol in SYMBOLS:
        door = f"truth?symbol={symbol}&timeframe={BASE_S}&since={int(START)}&until={until}"
        told = world.venue.ask("GET", door)
        real = {at: tuple(told[name][n] for name in COLUMNS) for n, at in enumerate(told["as_of"])}
        stored = {row["as_of"]: tuple(row[name] for name in COLUMNS) for row in
                  world.rows("candles", symbol=symbol, timeframe_s=BASE_S)}  # fmt: skip
        missing = sorted(real.keys() - stored.keys())
        wrong = sorted(at for at in real.keys() & stored.keys() if real[at] != stored[at])
        if missing:
            yield f"{symbol}: {len(missing)} candles of {len(real)} are missing, the first closes at {missing[0]}"
        if wrong:
            yield f"{symbol}: {len(wrong)} candles of {len(real)} are not the market's, the first closes at {wrong[0]}"
