"""The soak itself: virtual time goes from due moment to due moment, jobs run, mishaps happen, and all is counted."""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.commands import issue_command
from pipeline.crash.venue import VenueTrouble
from pipeline.schedule import MISFIRE_GRACE_S
from pipeline.soak.jobs import Jobs, Times
from pipeline.soak.plan import DAY, HOUR, QUIET_S, Mishap
from pipeline.soak.world import ACCOUNT, LIVE, START, World
from policy.execution import crashpoints
from policy.execution.live_sender import look
from shared.clock import from_unix
from shared.db import load_queries
from shared.kill_file import write_stop
from shared.settings import LAYERS

log = logging.getLogger("sextant.soak")
STEP_S = 300.0
WAKES_AT_S = 8 * HOUR  # the operator looks at what is stopped, every day
NEW_SENDER_S = HOUR  # a sender stays no longer than that; a new one takes the wallet over
TIDIES_S = 6 * HOUR
SETTLES_S = 10.0  # what was sent before a stop may arrive until then
NS = 1_000_000_000


class Killed(BaseException):
    """The sender's process ends here: no except clause of it may catch that."""


def resident_kib() -> int:
    """Of this process, in which the jobs run; neither the database's server nor the venue."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@dataclass
class Counts:
    """By job: runs that were due, that came to an end of their own, with how long they took (seconds)."""

    due: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)  # while the machine slept
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reasons: Counter[str] = field(default_factory=Counter)  # of failures, by job and kind
    mishaps: Counter[str] = field(default_factory=Counter)
    quiet_failures: list[str] = field(default_factory=list)  # when nothing went wrong any more


@dataclass(frozen=True, slots=True)
class Stopped:
    """The live wallet was stopped from ``since_ns`` to ``until_ns``, by the venue's clock."""

    mandate: str
    since_ns: int
    until_ns: int


class Soak:
    """``plan``: what goes wrong. ``restart`` restarts the database's server, or does to connections what that would do.
    ``day_is_over`` hears of each simulated day's end. In the last ``quiet_s`` seconds nothing goes wrong, and what
    fails in them, but for the first half, is told."""

    def __init__(
        self,
        world: World,
        plan: Sequence[Mishap],
        days: float,
        restart: Callable[[], object],
        day_is_over: Callable[[int], object] = lambda day: None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self.world, self.days, self.jobs, self.counts = world, days, Jobs(world), Counts()
        self.stops: list[Stopped] = []
        self._restart, self._day_is_over = restart, day_is_over
        self._end = START + days * DAY
        self._healed_at = self._end - quiet_s / 2
        self._blows: list[Mishap] = []  # that wait for the sender to pass their point
        self._passed = 0
        self.early_kib = self.late_kib = 0  # resident memory after the first tenth, and at the end
        self._times = {name: Times(job) for name, job in world.settings.schedule.items()}
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._made = 0
        self._stop: tuple[str, int] | None = None
        for mishap in plan:
            self._at(START + mishap.at, self._happening(mishap))
        for name in self._times:
            self._plan_job(name, from_unix(START))
        for number in range(1, int(days) + 2):
            self._at(START + (number - 1) * DAY + WAKES_AT_S, self._operator_wakes)
            self._at(START + number * DAY, lambda day=number: self._day_is_over(day))  # type: ignore[misc]
        for number in range(int(days * DAY / NEW_SENDER_S)):
            self._at(START + number * NEW_SENDER_S, self.jobs.new_sender)
        for number in range(int(days * DAY / TIDIES_S)):
            self._at(START + number * TIDIES_S, self._forget_spent_faults)
        self._at(self._end - quiet_s, self._all_is_well)
        self._at(START + days * DAY / 10, self._first_tenth_is_over)

    def run(self, deadline: float) -> bool:
        """Until the last day is over; False where ``deadline`` (time.monotonic) came first."""
        crashpoints.hook = self._pass_point
        try:
            while self._agenda and self._agenda[0][0] <= self._end:
                if time.monotonic() > deadline:
                    return False
                at, _, act = heapq.heappop(self._agenda)
                self._sleep_until(at)
                act()
        finally:
            crashpoints.hook = None
            self.late_kib = resident_kib()
        return True

    # --- time ---

    def _at(self, at: float, act: Callable[[], object]) -> None:
        self._made += 1
        heapq.heappush(self._agenda, (at, self._made, act))

    def _sleep_until(self, at: float) -> None:
        if at > self.world.venue.now:
            self.world.venue.advance(at - self.world.venue.now)

    # --- jobs ---

    def _plan_job(self, name: str, after: datetime) -> None:
        due = self._times[name].after(after)
        self._at(due.timestamp(), lambda: self._due(name, due))

    def _due(self, name: str, due: datetime) -> None:
        """As the scheduler: what is due while the machine sleeps, or later than its grace, is not made up for."""
        self._plan_job(name, due)
        self.counts.due[name] += 1
        if self.world.venue.now - due.timestamp() > MISFIRE_GRACE_S:
            self.counts.missed[name] += 1
        else:
            self.run_job(name)

    def run_job(self, name: str) -> None:
        started = time.monotonic()
        try:
            outcome = self.jobs.by_name[name]()
        except Killed:
            self._failed(name, "killed")
            self.jobs.new_sender()
        except Exception as error:  # one job's end is the others' business as little as in life
            self._failed(name, type(error).__name__, error)
        else:
            failures = outcome.result.get("failures") or {}
            for told in failures.values():
                self._failed(name, str(told).partition(":")[0], told)
            if not failures:
                self.counts.succeeded[name] += 1
        self.counts.seconds[name] += time.monotonic() - started

    def _failed(self, name: str, kind: str, told: object = "") -> None:
        self.counts.failed[name] += 1
        self.counts.reasons[f"{name}: {kind}"] += 1
        log.info("failed", extra={"job": name, "at": str(self.world.clock.now()), "why": str(told)})
        if self.world.venue.now >= self._healed_at:
            self.counts.quiet_failures.append(f"{name}: {kind} {told}")

    # --- what goes wrong ---

    def _happening(self, mishap: Mishap) -> Callable[[], None]:
        happen: dict[str, Callable[[Mishap], object]] = {
            "venue": self._arm_venue,
            "kill": self._blows.append,
            "database": self._blows.append,
            "clock": self._set_clock,
            "asleep": self._sleep,
            "money": self._move_money,
            "stop": self._stop_wallet,
            "resume": lambda _mishap: self._operator_wakes(),
        }

        def act() -> None:
            happen[mishap.kind](mishap)

        return act

    def _arm_venue(self, mishap: Mishap) -> None:
        rule, now = dict(mishap.rule), self.world.venue.now
        if rule.get("parameter") == "next close":
            rule["parameter"] = (now // STEP_S + 1) * STEP_S
        if mishap.lasts_s is not None:
            rule["ends"] = now + mishap.lasts_s
        self.world.venue.ask("POST", "faults", rule)

    def _forget_spent_faults(self) -> None:
        """The emulator looks at each rule for each order of each question: spent ones would make it ever slower."""
        ask, now = self.world.venue.ask, self.world.venue.now
        rules = ask("GET", "faults")["rules"]
        ask("DELETE", "faults")
        for rule in rules:
            left = rule["left"]
            if left != 0 and (rule["ends"] is None or rule["ends"] > now):
                ask("POST", "faults", {k: v for k, v in rule.items() if k not in ("id", "left")} | {"times": left})

    def _set_clock(self, mishap: Mishap) -> None:
        self.world.clock.wrong_by = mishap.number
        self.counts.mishaps["clock set wrong"] += mishap.number != 0

    def _sleep(self, mishap: Mishap) -> None:
        """The machine, not the venue."""
        self.world.venue.advance(mishap.number)
        self.counts.mishaps["asleep"] += 1

    def _move_money(self, mishap: Mishap) -> None:
        kind, amount = ("deposit" if mishap.number > 0 else "withdrawal"), f"{abs(mishap.number):.2f}"
        try:
            self.world.venue.ask(
                "POST", "money", {"account": ACCOUNT, "kind": kind, "asset": "USD", "amount": amount}
            )  # fmt: skip
        except VenueTrouble:
            kind = f"refused {kind}"  # all of it is invested
        self.counts.mishaps[kind] += 1

    def _pass_point(self, name: str) -> None:
        """The sender passes a point: the oldest blow that waits falls after as many of them as it says."""
        if not self._blows or "import" in name:
            return
        self._passed += 1
        if self._passed < int(self._blows[0].number):
            return
        self._passed = 0
        blow = self._blows.pop(0)
        self.counts.mishaps[f"sender: {blow.kind}"] += 1
        if blow.kind == "kill":
            raise Killed
        self._strike_database()

    def _strike_database(self) -> None:
        """Whoever is at work meets it; all others find connections anew, as each run of a job does."""
        self._restart()
        self.world.drop_connections(*(layer for layer in LAYERS if layer != "sender"))

    # --- people ---

    def _stop_wallet(self, mishap: Mishap) -> None:
        """As `make pause|kill|halt`: the file first, then the row."""
        world, why = self.world, "the soak's operator"
        write_stop(world.settings.home_path, LIVE, mishap.word, why, "cli:soak", world.clock.now())
        issue_command(world.database("cli"), world.clock.now(), LIVE, mishap.word, why, "cli:soak")
        self._end_stop()
        self._stop = (mishap.word, int(world.venue.now * NS))
        self.counts.mishaps[f"operator: {mishap.word}"] += 1

    def _end_stop(self) -> None:
        if self._stop is not None:
            self.stops.append(Stopped(*self._stop, int(self.world.venue.now * NS)))
            self._stop = None

    def _operator_wakes(self) -> None:
        """Looks at what is stopped, by whom ever, and lets it trade again."""
        asked = {"now": self.world.clock.now()}
        for row in self.world.database("cli").fetch(load_queries("operator")["wallet_stops"], asked):
            if row["risk"]:
                self.counts.mishaps[f"risk stopped {row['name']}"] += 1
            if row["own"] or row["risk"]:
                self._end_stop()
                self.world.resume(row["name"], "looked at")

    def _all_is_well(self) -> None:
        """From here on nothing goes wrong any more, and everything has to heal."""
        self.world.venue.ask("DELETE", "faults")
        self.world.clock.wrong_by = 0.0
        self._blows.clear()
        self._operator_wakes()

    def _first_tenth_is_over(self) -> None:
        self.early_kib = resident_kib()

    def reconcile(self) -> None:
        """What `make reconcile` does, at the very end."""
        database = self.world.database("sender")
        self.jobs.new_sender()
        live = load_queries("live_sender")["live_wallets"]
        for wallet in database.fetch(live, {"now": self.world.clock.now()}):
            self.jobs.live.with_desk(self.world.clock, database, wallet, look)
