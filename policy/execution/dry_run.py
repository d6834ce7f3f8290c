"""`make run-sender DRY_RUN=1`: everything but the send, for live wallets: the account is read and compared, each intent
is held against approve()'s own checks, and what a real pass would send is printed. Nothing goes out, no state changes
but what the account itself tells."""

from __future__ import annotations

from decimal import Decimal

from policy.execution.desk import Desk
from policy.execution.live_sender import decided_elsewhere, doubt_of, look


def dry_pass(desk: Desk) -> None:
    """Prints what a pass over this wallet would do now."""
    unmatched = look(desk)
    mandate, doubt = desk.mandate(), doubt_of(desk, desk.venue.status())
    print(f"{desk.wallet['name']}: mandate {mandate}; {unmatched} unmatched; {doubt or 'nothing in doubt'}")
    for intent in desk.ask("intents", now=desk.now()):
        verdict = desk.ask_one("refusal", id=intent["order_id"], at=desk.now(), epoch=desk.session.epoch)
        assert verdict is not None
        why = verdict["refusal"] or (decided_elsewhere(intent) or doubt if intent["side"] == "buy" else "")
        told = f"would not be sent: {why}" if why else "would be sent"
        print(f"  {intent['side']} {intent['quantity']} {intent['symbol']} ({intent['type']}): {told}")
    for holding in desk.ask("holdings", now=desk.now()):
        stops = [o for o in desk.ask("open_orders") if o["purpose"] == "protect"
                 and o["instrument_id"] == holding["instrument_id"]]  # fmt: skip
        resting = sum((o["rest"] for o in stops), Decimal(0))
        print(f"  {holding['symbol']}: {holding['quantity']} held, {resting} of it has a stop at the venue")
