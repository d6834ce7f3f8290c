"""What a canary found beside what was asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Sense = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One number of one canary; ``detail`` says what a reader of a red row wants to know next."""

    canary: str
    name: str
    value: float
    sense: Sense
    threshold: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Not for NaN, whichever way."""
        return self.value >= self.threshold if self.sense == "at least" else self.value <= self.threshold

    def row(self) -> dict[str, Any]:
        """As stored in canary_runs.results."""
        return asdict(self) | {"passed": self.passed}


def table(findings: Sequence[Finding]) -> str:
    """For a terminal: a line a finding, in the order given."""
    wide = max((len(f"{finding.canary}: {finding.name}") for finding in findings), default=0)
    lines = []
    for finding in findings:
        name = f"{finding.canary}: {finding.name}".ljust(wide)
        asked = f"{finding.sense} {finding.threshold:g}"
        state = "green" if finding.passed else "RED"
        lines.append(f"{name}  {finding.value:>9.4g}  {asked:<14} {state:<5}  {finding.detail}".rstrip())
    return "\n".join(lines)
