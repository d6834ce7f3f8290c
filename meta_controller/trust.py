"""How much of the live steering the LLM has earned: an anytime-valid test against the pool, and a fixed rule. Pure.

The LLM bets on every counted call that its Brier score will be lower than the pool's. Its wealth after n calls,
Π (1 + λ_i d_i), is a test martingale: if no call has an expected advantage given the past, wealth never reaches 20
with a chance of 95 %, however often one looks (Ville). Betting: Waudby-Smith and Ramdas, Journal of the Royal
Statistical Society B 86, 2024; wealth is shared out over constant bets, so nothing is estimated and nothing looks
ahead. One bet risks at most half the wealth: λ_i ≤ 0.5 / (the most that call i can lose), which both forecasts say
before the outcome. To divide by the most that any call can lose would be as valid, and four times as slow.

Counted is one call a horizon, that on the horizon's own grid (0, 4, 8 … o'clock; midnight): none overlap, and at a
midnight all of them are settled, which the chance above needs when two horizons are looked at together. The two
horizons' wealths are averaged, which is valid whatever their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.scoring import fit_temperature, recalibrate
from shared.rows import FloatArray, IntArray

Mode = Literal["off", "shadow", "trusted", "full"]

DAY_S = 86_400
BETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # λ on d in [-1, 1]: wealth is shared out over them in equal parts
AT_STAKE = 0.5  # of the wealth in one bet, at most
LARGEST_LOG = 690.0  # of a wealth: a double ends at 709
TINY = 1e-12  # a smaller disagreement is rounding
FITTED_S = 90 * DAY_S  # what the temperature is fitted on
WORSE_S = tuple(days * DAY_S for days in (15, 30, 60, 120))  # what may demote: the last year's success excuses nothing
ENOUGH = 20.0  # e-value: as rare as 5 % by luck
LEAST_DAYS = 120.0
BOOK_AHEAD, BOOK_BEHIND = 0.95, 0.5
STEP, MOST = 0.1, 0.5  # of the weight, a day and at all
SILENT_DAYS = 7.0


@dataclass(frozen=True, slots=True)
class Scored:
    """The counted calls of one horizon, oldest first: ``as_of`` [n] Unix seconds, probabilities [n, 2, 3] (trend,
    volatility) as they were called, and which class happened [n, 2]."""

    horizon_s: int
    as_of: IntArray
    llm: FloatArray
    pool: FloatArray
    happened: IntArray

    def __len__(self) -> int:
        return len(self.as_of)

    @property
    def settled(self) -> IntArray:
        return self.as_of + self.horizon_s


@dataclass(frozen=True, slots=True)
class Bets:
    """One bet a call, each [n]: ``gain`` = (the pool's Brier score - the LLM's) / 4, both axes summed, in [-1, 1];
    ``most_lost`` and ``most_won``: its bounds over all outcomes, at least 0, known before the outcome."""

    gain: FloatArray
    most_lost: FloatArray
    most_won: FloatArray


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the LLM's worth on one day. ``skill``: 1 - its Brier score / the pool's, recalibrated, over all
    counted calls; ``silent_days`` since the last of them was settled. None: there are no such calls, or books."""

    calls: int
    days: float
    e_better: float
    e_worse: float
    p_book: float | None
    temperature: float
    skill: float | None
    silent_days: float | None


def gather(scored: Sequence[Scored], as_of: int, promoted: int | None, p_book: float | None) -> Evidence:
    """All evidence at ``as_of`` (Unix seconds, a midnight); calls that were not settled by then are left out.

    That the LLM is worse is counted from its promotion on, if it is promoted, and over each of WORSE_S at most: the
    mean of four e-values is one, and who turned bad a month ago is not saved by the months before.
    """
    known = [_until(one, as_of) for one in scored]
    used, newest = temperatures(known, as_of)
    bets = [bets_of(one, t) for one, t in zip(known, used, strict=True)]
    better = [final_wealth(b.gain, b.most_lost) for b in bets]
    starts = [as_of - span if promoted is None else max(promoted, as_of - span) for span in WORSE_S]
    worse = [_worse_since(start, known, bets) for start in starts]
    moments = np.concatenate([one.as_of for one in known] or [np.empty(0, np.int64)])
    settled = [int(one.settled[-1]) for one in known if len(one)]
    return Evidence(
        calls=len(moments),
        days=float(np.ptp(moments)) / DAY_S if len(moments) else 0.0,
        e_better=combined(better),
        e_worse=sum(worse) / len(worse),
        p_book=p_book,
        temperature=newest,
        skill=_skill(bets, known),
        silent_days=(as_of - max(settled)) / DAY_S if settled else None,
    )


def _worse_since(start: int, scored: Sequence[Scored], bets: Sequence[Bets]) -> float:
    """The e-value of the mirrored bet, that the pool's Brier score is lower, over the calls from ``start`` on."""
    recent = [(b, one.as_of >= start) for b, one in zip(bets, scored, strict=True)]
    return combined([final_wealth(-b.gain[chosen], b.most_won[chosen]) for b, chosen in recent])


def temperatures(scored: Sequence[Scored], as_of: int) -> tuple[list[FloatArray], float]:
    """The temperature of each call, a list of [n] beside ``scored``, and that of ``as_of``.

    Fitted anew each day, on both axes and all horizons, from the calls that were settled in the FITTED_S before the
    day began: each call is recalibrated by what was known before it.
    """
    settled = np.concatenate([one.settled for one in scored] or [np.empty(0, np.int64)])
    order = np.argsort(settled, kind="stable")
    p = np.concatenate([one.llm for one in scored] or [np.empty((0, 2, 3))])[order]
    happened = np.concatenate([one.happened for one in scored] or [np.empty((0, 2), np.int64)])[order]

    def fit(at: int) -> float:
        first, last = np.searchsorted(settled[order], [at - FITTED_S, at], "right")
        return fit_temperature(p[first:last].reshape(-1, 3), happened[first:last].ravel())

    days = [one.as_of // DAY_S for one in scored]
    of_day = {int(day): fit(int(day) * DAY_S) for day in np.unique(np.concatenate([*days, np.empty(0, np.int64)]))}
    return [np.array([of_day[int(day)] for day in of], np.float64) for of in days], fit(as_of)


def bets_of(scored: Scored, temperature: FloatArray) -> Bets:
    """The bets on recalibrated calls; ``temperature`` [n]."""
    llm = np.empty_like(scored.llm)
    for one in np.unique(temperature):
        llm[temperature == one] = recalibrate(scored.llm[temperature == one], float(one))
    # Brier of a triple: Σp² - 2·p of what happened + 1; the ones cancel.
    fixed = (scored.pool**2 - llm**2).sum(axis=(1, 2))
    apart = 2.0 * (llm - scored.pool)
    came = np.take_along_axis(apart, scored.happened[:, :, None], axis=2)[:, :, 0].sum(axis=1)
    lowest, highest = apart.min(axis=2).sum(axis=1), apart.max(axis=2).sum(axis=1)
    gain, lost, won = ((fixed + part) / 4.0 for part in (came, lowest, highest))
    return Bets(gain, np.maximum(-lost, 0.0), np.maximum(won, 0.0))


def wealth(gain: FloatArray, most_lost: FloatArray) -> FloatArray:
    """The wealth after each call, [n, ...], of one who starts with 1 and bets that ``gain`` [n, ...] is above 0;
    ``most_lost`` [n, ...] bounds each loss. Worlds beside each other are columns."""
    cap = AT_STAKE / np.maximum(most_lost, TINY)
    play = most_lost > TINY
    total = np.zeros_like(gain)
    for bet in BETS:
        logs = np.cumsum(np.where(play, np.log1p(np.minimum(bet, cap) * gain), 0.0), axis=0)
        total += np.exp(np.minimum(logs, LARGEST_LOG))
    return np.asarray(total / len(BETS))


def final_wealth(gain: FloatArray, most_lost: FloatArray) -> float:
    """1 before the first bet."""
    return float(wealth(gain, most_lost)[-1]) if len(gain) else 1.0


def combined(wealths: Sequence[float]) -> float:
    """The mean over all horizons, one without calls at its starting 1."""
    return (sum(wealths) + len(HORIZONS_S) - len(wealths)) / len(HORIZONS_S)


def weight(previous: float, evidence: Evidence, mode: Mode) -> tuple[float, str]:
    """The share of the live steering for the coming day, in [0, 0.5], and why, in a sentence.

    Rises by 0.1 a day while all is earned, falls to 0 at once. ``full`` is the operator's own choice: what is
    recorded beside it is what would have been earned.
    """
    numbers = _numbers(evidence)
    if mode in ("off", "shadow"):
        return 0.0, f"mode {mode}: the LLM is not followed ({numbers})"
    if faults := _faults(evidence):
        fallen = f"demoted from {previous:g} to 0" if previous > 0 else "not trusted"
        return 0.0, f"{fallen}: {', '.join(faults)} ({numbers})"
    if lacks := _lacks(evidence):
        return previous, f"stays at {previous:g}: {', '.join(lacks)} ({numbers})"
    risen = min(MOST, round(previous + STEP, 9))
    said = f"raised from {previous:g} to {risen:g}" if risen > previous else f"stays at {risen:g}, the most it may have"
    return risen, f"{said}: better than the pool, and its paper book ahead ({numbers})"


def _faults(evidence: Evidence) -> list[str]:
    """What demotes, each by itself."""
    found = {
        "its calls are worse than the pool's": evidence.e_worse >= ENOUGH,
        "its paper book is behind the rules'": evidence.p_book is not None and evidence.p_book < BOOK_BEHIND,
        f"no call of its own was scored in {SILENT_DAYS:g} days": (
            evidence.silent_days is None or evidence.silent_days > SILENT_DAYS
        ),
    }
    return [fault for fault, so in found.items() if so]


def _lacks(evidence: Evidence) -> list[str]:
    """What keeps the weight from rising. Skill: e-values reward being better at some moments, so that the whole
    record is better is asked for beside them."""
    found = {
        "its calls are not shown to be better than the pool's": not evidence.e_better >= ENOUGH,
        "its Brier score over all calls is no better": evidence.skill is None or not evidence.skill > 0.0,
        f"fewer than {LEAST_DAYS:g} days": not evidence.days >= LEAST_DAYS,
        "its paper book is not shown to be ahead": evidence.p_book is None or not evidence.p_book >= BOOK_AHEAD,
    }
    return [lack for lack, so in found.items() if so]


def _numbers(e: Evidence) -> str:
    book = "no books to compare" if e.p_book is None else f"P(book ahead) {e.p_book:.3f} of {BOOK_AHEAD:g}"
    skill = "no skill yet" if e.skill is None else f"Brier skill {e.skill:+.3f}"
    return (
        f"e_better {e.e_better:.3g} and e_worse {e.e_worse:.3g} of {ENOUGH:g}, {e.calls} calls in {e.days:.0f} of "
        f"{LEAST_DAYS:g} days, {book}, {skill}, temperature {e.temperature:.2f}"
    )


def _skill(bets: Sequence[Bets], scored: Sequence[Scored]) -> float | None:
    gains = sum(float(b.gain.sum()) * 4.0 for b in bets)
    lost = sum(_brier(one.pool, one.happened) for one in scored)
    return gains / lost if lost > 0.0 else None


def _brier(p: FloatArray, happened: IntArray) -> float:
    """Summed over calls and axes."""
    came = np.take_along_axis(p, happened[:, :, None], axis=2)
    return float((p**2).sum() - 2.0 * came.sum() + happened.size)


def _until(one: Scored, as_of: int) -> Scored:
    known = one.settled <= as_of
    return Scored(one.horizon_s, one.as_of[known], one.llm[known], one.pool[known], one.happened[known])
