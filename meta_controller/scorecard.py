"""How good were the calls of the regime? Every forecaster's, horizon by horizon, against what followed.

Input: regime_calls, regime_outcomes, llm_calls. Output: none but a PNG in <home>/reports: the reliability plot.
``python -m meta_controller.scorecard [--from --to] [--at] [--expert …] [--png FILE] [--json]``
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meta_controller.controller import LONG_HORIZON_S, VOLATILITIES, call_of
from meta_controller.scored_rows import (
    AXES,
    BEGINNING,
    EVER,
    POOL,
    Calls,
    Forecaster,
    Happened,
    Window,
    read_calls,
    read_forecasters,
    read_outcomes,
)
from meta_controller.scoring import (
    DAY_S,
    Comparison,
    Interval,
    Reliability,
    Scores,
    axis_of,
    climatology,
    common,
    compare,
    mean_interval,
    persistence,
    recalibrate_as_known,
    reliability,
    scores_of,
)
from meta_controller.usual_odds import LEAST_S, REACH_S
from shared.clock import from_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job_parser, run_job_command
from shared.rows import FloatArray, IntArray
from shared.scores import brier_loss

HAR_LOGIT = Forecaster("har_logit", None, None, contaminated=False)
CLIMATOLOGY, PERSISTENCE = "climatology", "persistence"
OTHERS = (CLIMATOLOGY, PERSISTENCE, HAR_LOGIT.label, POOL.label)  # what each is held against
BEFORE = timedelta(days=370)  # the references look a year and a horizon back
REGIMES = ("bull", "bear", "sideways", "volatile")
NOTHING = ("no call has an outcome yet: a call is scored when its horizon has passed. `make run-meta FROM=… TO=…` "
           "calls a past span and stores what followed; live, the first scores come after four hours")  # fmt: skip
WIDTHS = (80, 160)

TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Line:
    """One forecaster on one panel; ``against`` by the names in OTHERS, only where there are common moments."""

    forecaster: str
    contaminated: bool
    scores: Scores
    against: Mapping[str, Comparison]


@dataclass(frozen=True, slots=True)
class Panel:
    """One horizon and axis. ``curves``: the reliability of each forecaster that may be drawn, by expert."""

    horizon_s: int
    axis: str
    lines: Sequence[Line]
    curves: Mapping[str, Reliability]


@dataclass(frozen=True, slots=True)
class Switches:
    """How often a day the word for the regime changed between calls at most a day apart."""

    forecaster: str
    horizon_s: int
    a_day: float


@dataclass(frozen=True, slots=True)
class Separation:
    """What the 24 hours after one kind of call were like: realised volatility and log return, in units of 1."""

    by: str  # regime, or volatility
    called: str
    calls: int
    realised: Interval
    log_return: Interval


@dataclass(frozen=True, slots=True)
class Scorecard:
    first: datetime  # of the scored calls
    last: datetime
    panels: Sequence[Panel]
    switches: Sequence[Switches]
    separation_of: str  # the forecaster
    separation: Sequence[Separation]


Book = Mapping[Forecaster, Mapping[int, Calls]]  # everybody's calls, by horizon


def build(
    database: Database, at: datetime, first: datetime = BEGINNING, last: datetime = EVER, experts: Sequence[str] = ()
) -> Scorecard | None:
    """The calls made from ``first`` to ``last`` as far as their outcomes are known by ``at``; None: not one is.

    ``experts``: only these are shown (all, if empty); they are held against the same others. UsageError for a name
    that never called.
    """
    asked = Window(at, first=first, last=last)
    newest = dict(read_forecasters(database, asked))
    book = {who: read_calls(database, who, asked) for who in newest}
    past = read_outcomes(database, Window(at, first=first - BEFORE))
    shown = _chosen(list(newest), experts)
    spans = [calls.as_of[common(calls.as_of, past[h].as_of)[0]]
             for who in shown for h, calls in book[who].items() if h in past]  # fmt: skip
    moments = np.unique(np.concatenate(spans)) if spans else np.empty(0, np.int64)
    if not len(moments):
        return None
    drawn = {who.expert: who for who in sorted(shown, key=newest.__getitem__) if not who.contaminated}
    panels = [_panel(book, shown, drawn, past[h], h, axis) for h in sorted(past) for axis in range(len(AXES))]
    subject = POOL if POOL in shown else shown[0]
    return Scorecard(
        from_unix(int(moments[0])), from_unix(int(moments[-1])), [panel for panel in panels if panel.lines],
        [*_switches(book, shown)], subject.label, [*_separation(book[subject], past)],
    )  # fmt: skip


def _chosen(forecasters: Sequence[Forecaster], experts: Sequence[str]) -> list[Forecaster]:
    """Those asked for: the pool first, then by name, the LLM and what does not count last."""
    known = {who.expert for who in forecasters}
    if unknown := [name for name in experts if name not in known]:
        there = ", ".join(sorted(known)) or "nobody yet (`make run-meta`)"
        raise UsageError(f"{', '.join(unknown)} made no call in this span; who did: {there}")
    chosen = [who for who in forecasters if not experts or who.expert in experts]
    return sorted(chosen, key=lambda who: (who.contaminated, who.expert == "llm", who.expert != "pool", who.label))


def _panel(
    book: Book, shown: Sequence[Forecaster], drawn: Mapping[str, Forecaster], past: Happened, horizon_s: int, axis: int
) -> Panel:
    """Who has no scored call for the horizon has no line."""
    scored = {
        who: one for who in book if horizon_s in book[who] and len(one := _scored(book[who][horizon_s], past, axis))
    }
    calling = [who for who in shown if who in scored]
    references = partial(_references, past=past, horizon_s=horizon_s, axis=axis)
    others = {who.label: scored[who] for who in (HAR_LOGIT, POOL) if who in scored}
    lines = []
    for who in calling:
        against = references(scored[who].as_of) | others
        lines += [_line(label, who.contaminated, one, against) for label, one in _versions(who, scored[who])]
    counted = [scored[who].as_of for who in calling if not who.contaminated]
    usual = references(np.unique(np.concatenate(counted))) if counted else {}
    lines += [_line(name, False, one, usual) for name, one in usual.items()]
    curves = {who.expert: reliability(scored[who].p, scored[who].happened, scored[who].as_of)
              for who in drawn.values() if who in scored}  # fmt: skip
    return Panel(horizon_s, AXES[axis], lines, curves)


@dataclass(frozen=True, slots=True)
class Scored:
    """Calls of one horizon and axis with their outcomes: [n], [n, 3], [n], [n]."""

    as_of: IntArray
    p: FloatArray
    happened: IntArray
    known_from: IntArray

    def __len__(self) -> int:
        return len(self.as_of)


def _scored(calls: Calls, past: Happened, axis: int) -> Scored:
    of_call, of_past = common(calls.as_of, past.as_of)
    return _with_outcomes(calls.as_of[of_call], axis_of(calls.p, axis)[of_call], past, of_past, axis)


def _with_outcomes(at: IntArray, p: FloatArray, past: Happened, of_past: IntArray, axis: int) -> Scored:
    return Scored(at, p, past.classes[of_past, axis], past.known_from[of_past])


def _references(at: IntArray, past: Happened, horizon_s: int, axis: int) -> dict[str, Scored]:
    """What climatology and persistence would have called at the moments ``at``, which all have outcomes."""
    calls = {CLIMATOLOGY: climatology(past, axis, at), PERSISTENCE: persistence(past, axis, horizon_s, at)}
    of_past = common(at, past.as_of)[1]
    return {name: _with_outcomes(at, p, past, of_past, axis) for name, p in calls.items()}


def _versions(who: Forecaster, one: Scored) -> Iterator[tuple[str, Scored]]:
    """The calls as they were made; the LLM's also as its record so far would have them corrected."""
    yield who.label, one
    if who.expert == "llm" and not who.contaminated:
        better = recalibrate_as_known(one.p, one.happened, one.as_of, one.known_from)
        yield f"{who.label} recalibrated", replace(one, p=better)


def _line(name: str, contaminated: bool, one: Scored, others: Mapping[str, Scored]) -> Line:
    against = {}
    for other, theirs in others.items():
        mine, same = common(one.as_of, theirs.as_of)
        if other != name and len(mine):
            loss = brier_loss(one.p[mine], one.happened[mine])
            against[other] = compare(loss, brier_loss(theirs.p[same], theirs.happened[same]), one.as_of[mine])
    return Line(name, contaminated, scores_of(one.p, one.happened, one.as_of), against)


def _switches(book: Book, shown: Sequence[Forecaster]) -> Iterator[Switches]:
    for who in shown:
        for horizon_s, calls in sorted(book[who].items()):
            gaps, words = np.diff(calls.as_of), np.array(regimes(calls, horizon_s))
            near = gaps <= DAY_S
            if near.any() and not who.contaminated:
                switched = int((words[1:] != words[:-1])[near].sum())
                yield Switches(who.label, horizon_s, switched * DAY_S / int(gaps[near].sum()))


def regimes(calls: Calls, horizon_s: int) -> list[str]:
    """The word for each call [n], as the controller would say it: by the odds that were usual in these calls."""
    trend = np.maximum(calls.p[:, :3], TINY)  # a language model may be sure
    moments, logs = calls.as_of, np.log(trend[:, 2] / trend[:, 0])
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    end = np.arange(len(moments))
    first = np.searchsorted(moments, moments - REACH_S)
    long_enough = (end > first) & (moments[np.minimum(first, len(moments) - 1)] <= moments - LEAST_S)
    usual = np.where(long_enough, np.exp((sums[end] - sums[first]) / np.maximum(end - first, 1)), 1.0)
    return [
        call_of(horizon_s, six, "", odds).regime for six, odds in zip(calls.p.tolist(), usual.tolist(), strict=True)
    ]


def _separation(calls_by_horizon: Mapping[int, Calls], past: Mapping[int, Happened]) -> Iterator[Separation]:
    calls, followed = calls_by_horizon.get(LONG_HORIZON_S), past.get(LONG_HORIZON_S)
    if calls is None or followed is None:
        return
    of_call, of_past = common(calls.as_of, followed.as_of)
    regime = np.array(regimes(calls, LONG_HORIZON_S))[of_call]
    activity = np.array(VOLATILITIES)[axis_of(calls.p, 1).argmax(axis=1)][of_call]
    for by, called, words in (("regime", regime, REGIMES), ("volatility", activity, VOLATILITIES)):
        for word in words:
            at = called == word
            when, rows = calls.as_of[of_call][at], of_past[at]
            yield Separation(by, word, len(when), mean_interval(followed.realised[rows], when),
                             mean_interval(followed.log_return[rows], when))  # fmt: skip


def as_json(card: Scorecard) -> str:
    """All of it but the curves; what is unknown is null."""
    told = dataclasses.asdict(card) | {"first": card.first.isoformat(), "last": card.last.isoformat()}
    for panel in told["panels"]:
        del panel["curves"]
    return json.dumps(_without_nan(told), indent=2)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _work(context: Context) -> Outcome:
    from meta_controller.scorecard_plot import write_plot
    from meta_controller.scorecard_text import as_text

    asked, now = context.arguments, context.clock.now()
    first, last = asked.span_from or BEGINNING, asked.span_to or EVER
    if first > last:
        raise UsageError(f"--from {first.isoformat()} lies after --to {last.isoformat()}; swap them")
    card = build(context.database, now, first, last, asked.expert)
    if card is None:
        print(json.dumps({"panels": [], "reason": NOTHING}) if asked.json else NOTHING)
        return Outcome("nothing", {"reason": "no call has an outcome yet"})
    path = asked.png or context.settings.home_path / "reports" / f"scorecard-{card.last:%Y%m%dT%H%M}.png"
    width = min(max(shutil.get_terminal_size((120, 24)).columns, WIDTHS[0]), WIDTHS[1])
    print(as_json(card) if asked.json else as_text(card, width))
    try:
        write_plot(card, path)
    except OSError as error:
        raise JobError(f"the picture cannot be written to {path}: {error.strerror}; name a file by --png") from None
    if not asked.json:
        print(f"picture: {path}")
    return Outcome("done", {"picture": str(path)})


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Score the calls of the regime against what followed.", span=True)
    parser.add_argument("--expert", nargs="+", default=(), help="only these: pool, har_logit, llm, …")
    parser.add_argument("--png", type=Path, help="where to write the reliability plot (default: <home>/reports)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
