"""The story of one decision on a terminal, at most WIDTH columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
Story = Mapping[str, Any]
BAR = 20  # columns of the longest bar
LONGEST = 300  # of an answer, where it is not asked for in full


def print_explanation(story: Story, console: Console, prompt: bool = False) -> None:
    d = story["decision"]
    _plain(console, f"{d['wallet']} ({d['mode']}) {d['symbol']} at {d['as_of']:%Y-%m-%d %H:%M} UTC: decision {d['id']}",
           style="bold")  # fmt: skip
    _plain(console, f"→ {story['outcome']}", style="bold")
    for change in story["changed"]:
        _plain(console, f"{change}: what is worked out again below may differ from what was decided", style="dim")
    _baseline(story, console)
    _residual(story, console)
    _blend(story, console)
    _clamps(story, console)
    _plan(story, console)
    _order(story, console)
    _steering(story, console, prompt)


def _plain(console: Console, line: str, indent: int = 0, style: str = "") -> None:
    """As people and venues wrote it, with its brackets and colons; folded, not cut."""
    for part in Text(line, style=style).wrap(console, max(console.width - indent, 20)):
        console.print(Text(" " * indent).append_text(part))


def _heading(console: Console, text: str) -> None:
    console.print()
    _plain(console, text, style="bold cyan")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", no_wrap=n == 0)
    return table


def _baseline(story: Story, console: Console) -> None:
    signals, d = story["signals"], story["decision"]
    steering = signals["steering"]
    _heading(console, f"1  Baseline: trend × volatility target = {d['baseline_weight']:.4f}")
    for line in (
        f"trend {signals['trend']:+.3f}, volatility {signals['volatility']:.1%} a year; price {d['price']:g}",
        f"a full position is {signals['full_weight']:.4f}: target volatility {steering['target_volatility']:.1%}, risk "
        f"aversion {steering['risk_aversion']:g}, {signals['instruments']} instruments",
        f"at most {steering['max_position']:.3g} a position and {steering['max_exposure']:.3g} together; steered by "
        f"{signals['steered_by']}",
    ):
        _plain(console, line, 3)


def _residual(story: Story, console: Console) -> None:
    residual = story["residual"]
    if residual is None:
        _heading(console, "2  Model: none spoke; the baseline stands")
        return
    _heading(console, f"2  Model {story['decision']['model_id']}")
    if not residual["observation_hash_matches"]:
        _plain(console, "THE OBSERVATION CANNOT BE REBUILT: its hash is not the decision's. A candle was revised, or "
               "settings or allow-list changed since; what follows is of the observation as it would be today.", 3,
               style="bold red")  # fmt: skip
    if "refused" in residual:
        _plain(console, f"it cannot be asked any more: {residual['refused']}", 3)
        return
    _plain(console, f"action {residual['action']:+.4f} × reach {residual['reach']:g}, agreement "
           f"{residual['agreement']:.3f}, its residual counts {residual['residual_scale']:g} ×", 3)  # fmt: skip
    _plain(console, f"each block against its mean over {residual['means_of']}:", 3)
    action, weight = residual["parts"]["action"], residual["parts"]["weight"]
    baseline = story["decision"]["baseline_weight"]
    table = _table("", "action", "weight", "")
    longest = max(map(abs, weight["blocks"].values())) or 1.0
    table.add_row("baseline", "", f"{baseline:.4f}", "")
    table.add_row("model, all blocks at their means", f"{action['at_means']:+.4f}",
                  f"{weight['at_means'] - baseline:+.4f}", "")  # fmt: skip
    for name, part in sorted(weight["blocks"].items(), key=lambda item: -abs(item[1])):
        bar = ("+" if part > 0 else "−") * round(BAR * abs(part) / longest)
        table.add_row(name, f"{action['blocks'][name]:+.4f}", f"{part:+.4f}", Text(bar, justify="left"))
    table.add_row("left over (rounding)", f"{action['remainder']:+.0e}", f"{weight['remainder']:+.0e}", "")
    table.add_row("what the model wants", f"{action['total']:+.4f}", f"{weight['total']:.4f}", "")
    console.print(table)


def _blend(story: Story, console: Console) -> None:
    d, config = story["decision"], story["config"]
    shares = (config or {}).get("strategy_weights") or {}
    _heading(console, f"3  Blend of the strategies = {d['wanted_weight']:.4f}")
    for name, part in d["contributions"].items():
        share = f", by a weight of {shares[name]:g}" if name in shares else ""
        _plain(console, f"{name}: {part:.4f}{share}", 3)


def _clamps(story: Story, console: Console) -> None:
    d = story["decision"]
    _heading(console, f"4  Risk allows {d['allowed_weight']:.4f} of {d['wanted_weight']:.4f}")
    for clamp in d["clamps"]:
        _plain(console, f"{clamp['rule']}: {clamp['before']:.4f} → {clamp['after']:.4f}: {clamp['because']}", 3)
    if not d["clamps"]:
        _plain(console, "no rule cut it", 3)


def _plan(story: Story, console: Console) -> None:
    d, signals, said = story["decision"], story["signals"], story["circumstances"]
    change = d["allowed_weight"] - signals["held_weight"]
    _heading(console, f"5  From {signals['held_weight']:.4f} held to {d['allowed_weight']:.4f}: {change:+.4f}")
    _plain(console, f"band {signals['band']:.4f}; least order {d['min_notional'].normalize():f} {d['quote']}, lots of "
           f"{d['lot_size'].normalize():f}; the change is {abs(change) * d['equity']:,.2f} {d['quote']} of "
           f"{d['equity']:,.2f}", 3)  # fmt: skip
    _plain(console, f"the trader said: {d['reason']}", 3)
    _plain(console, f"the operator's word then: {said['mandate']} ({said['command'] or 'nothing yet'})", 3)
    if said["risk_stop"]:
        _plain(console, f"risk had stopped the wallet: {said['risk_stop']}", 3)


def _order(story: Story, console: Console) -> None:
    order = story["order"]
    if order is None:
        _heading(console, "6  No order")
        return
    state = order["events"][-1]["event"] if order["events"] else order["state"]  # the trader settles the row later
    _heading(console, f"6  Order {order['id']}: {state}")
    limit = f" at {order['limit_price'].normalize():f} or better" if order["limit_price"] else ""
    _plain(console, f"{order['side']} {order['quantity'].normalize():f}, {order['type']}{limit}, sized at "
           f"{order['reference_price']:g}; to be sent before {order['deadline']:%m-%d %H:%M:%S}", 3)  # fmt: skip
    if exits := _exits(order):
        _plain(console, f"its position is to be left at {exits}", 3)
    approved = order["approved_at"]
    _plain(console, f"approved at {approved:%m-%d %H:%M:%S}" if approved else "never approved", 3)
    for event in order["events"]:
        _plain(console, f"{event['at']:%m-%d %H:%M:%S}  {event['event']}: {event['detail']}", 3)
    for fill in order["fills"]:
        _plain(console, f"{fill['filled_at']:%m-%d %H:%M:%S}  {fill['quantity'].normalize():f} at "
               f"{fill['price'].normalize():f}, fee {fill['fee'].normalize():f} {fill['fee_asset']}; "
               f"{fill['shortfall_bps']:+.1f} bps against the close it was sized at", 3)  # fmt: skip


def _exits(order: Story) -> str:
    """What the entry's bracket says; nothing where it names none."""
    named = [
        f"{order['bracket_stop'].normalize():f} or below" if order["bracket_stop"] else "",
        f"{order['bracket_target'].normalize():f} or above" if order["bracket_target"] else "",
        f"{order['bracket_trail']:.2%} below its highest price" if order["bracket_trail"] else "",
    ]
    return ", ".join(filter(None, named))


def _steering(story: Story, console: Console, prompt: bool) -> None:
    _heading(console, f"7  Steering: {story['signals']['steered_by']}")
    _plain(console, story["signals"]["steering_reasons"], 3)
    for state in story["states"]:
        _plain(console, f"{state['horizon_s'] // 3600} h ahead: {state['regime']} (down {state['p_down']:.2f}, flat "
               f"{state['p_flat']:.2f}, up {state['p_up']:.2f}; conviction {state['conviction']:+.2f}), by "
               f"{state['source']}: {state['reasons']}", 3)  # fmt: skip
    call = story["llm_call"]
    if call is None:
        return
    _heading(
        console, f"8  Language model: {call['model']}, prompt {call['prompt']}, {call['status']} (call {call['id']})"
    )
    if call["error"]:
        _plain(console, f"error: {call['error']}", 3)
    answer = json.dumps(call["answer"], ensure_ascii=False, indent=2 if prompt else None)
    _plain(console, f"answer: {answer if prompt else shorten(answer, LONGEST)}", 3)
    if not prompt:
        _plain(console, "--prompt (PROMPT=1) prints the prompt and every response in full", 3)
        return
    for message in call["request"].get("messages", []):
        _heading(console, f"{message.get('role')}:")
        _plain(console, str(message.get("content")))
    _heading(console, "responses:")
    _plain(console, call["responses"] or "none")
