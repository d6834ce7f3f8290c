"""The rows of every track at one moment: market_state and policy_config, by the rules and by the LLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from meta_controller import rules
from meta_controller.bounds import check
from meta_controller.controller import HorizonCall, Proposal
from meta_controller.regime_run import POOL, RegimeRun
from meta_controller.steering import Past, blend, config_row, moved_by, operators_choice, state_rows
from meta_controller.strategist import Consultation
from shared.clock import from_unix
from shared.job import JobError
from shared.rows import MarketState, PolicyConfig
from shared.settings import RiskSettings, Settings

LLM = "llm"


@dataclass(slots=True)
class TrackRows:
    states: list[MarketState] = field(default_factory=list)
    configs: list[PolicyConfig] = field(default_factory=list)


def rule_rows(
    rows: TrackRows, run: RegimeRun, past: Past, as_of: int, risk: RiskSettings, answered_by_rules: bool
) -> None:
    """The tracks rules and static; with ``answered_by_rules`` (no LLM is asked) llm and live too, which then follow
    the rules. JobError if the rules are out of bounds."""
    proposal = rules.propose(run.calls(as_of), run.instruments[as_of], risk)
    if problems := check(proposal):
        raise JobError(f"the rules at {from_unix(as_of).isoformat()} are out of bounds: {'; '.join(problems)}")
    _follow_rules(rows, run, past, as_of, "rules", proposal)
    at = from_unix(as_of)
    if not past.has("static", at):
        wanted = operators_choice(at, risk)
        moved = past.move("static", at, wanted)
        told = moved_by("the operator's static steering", wanted, moved)
        rows.configs.append(config_row("static", at, "operator", moved, told, run.timeframe_s))
        rows.states += state_rows("static", at, POOL, proposal.calls)
    if answered_by_rules:
        for track in ("llm", "live"):
            _follow_rules(rows, run, past, as_of, track, proposal)


def _follow_rules(
    rows: TrackRows, run: RegimeRun, past: Past, as_of: int, track: str, proposal: Proposal, because: str = ""
) -> None:
    at = from_unix(as_of)
    if past.has(track, at):
        return
    moved = past.move(track, at, proposal.steering)
    told = moved_by(because + proposal.reasons, proposal.steering, moved)
    rows.configs.append(config_row(track, at, rules.SOURCE, moved, told, run.timeframe_s))
    rows.states += state_rows(track, at, POOL, proposal.calls)


def llm_rows(
    rows: TrackRows, run: RegimeRun, past: Past, as_of: int, settings: Settings, consultation: Consultation
) -> None:
    """The tracks llm and live after the LLM was asked, or was not to be: without a proposal both follow the rules, and
    their rows say why."""
    at = from_unix(as_of)
    ruled = rules.propose(run.calls(as_of), run.instruments[as_of], settings.risk)
    answer = consultation.proposal
    if answer is None:
        for track in ("llm", "live"):
            _follow_rules(rows, run, past, as_of, track, ruled, f"no word of the LLM ({consultation.reason}): ")
        return
    if not past.has("llm", at):
        moved = past.move("llm", at, answer.steering)  # its change is within an hour's already
        rows.configs.append(config_row("llm", at, LLM, moved, answer.reasons, run.timeframe_s))
        rows.states += state_rows("llm", at, LLM, consultation.recalibrated)
    _live_rows(rows, run, past, as_of, ruled, consultation)


def _live_rows(
    rows: TrackRows, run: RegimeRun, past: Past, as_of: int, ruled: Proposal, consultation: Consultation
) -> None:
    answer, weight, at = consultation.proposal, consultation.weight, from_unix(as_of)
    if answer is None or weight == 0.0:
        because = f"the LLM's weight is 0 ({consultation.reason}): "
        _follow_rules(rows, run, past, as_of, "live", ruled, because)
        return
    if past.has("live", at):
        return
    wanted = blend(ruled.steering, answer.steering, weight)
    moved = past.move("live", at, wanted)
    told = moved_by(f"{weight:.2f} of the LLM ({answer.reasons}) and the rest of {ruled.reasons}", wanted, moved)
    rows.configs.append(config_row("live", at, "rules+llm", moved, told, run.timeframe_s))
    calls: tuple[HorizonCall, ...] = consultation.pooled or ruled.calls
    rows.states += state_rows("live", at, f"{POOL}+{LLM}" if consultation.pooled else POOL, calls)
