"""What the operator has the trader's entries left at, and averaging: section [exits] of the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

COLDEST = 0.25  # of stop_loss, where the trend says nothing: policy.exits has the rest of the scale


def _rising(levels: tuple[float, ...]) -> tuple[float, ...]:
    if list(levels) != sorted(set(levels)):
        raise ValueError("each level lies further below the entry than the one before")
    return levels


class ExitSettings(BaseModel):
    """What the trader has its entries left at, as fractions of their price; 0 is off. What each does is said in
    policy.exits and policy.averaging."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stop_loss: float = Field(0.0, ge=0, lt=1)
    take_profit: float = Field(0.0, ge=0, le=10)
    trailing_stop: float = Field(0.0, ge=0, lt=1)  # below the highest price since the entry
    temperature_tightens: bool = False  # the weaker the trend at the entry, the nearer its stop
    averaging: bool = False  # buys more of what fell (DCA) instead of leaving it
    averaging_levels: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], AfterValidator(_rising)] = Field(
        (0.025, 0.05, 0.1, 0.2, 0.3), min_length=1, max_length=10
    )  # below the first entry
    averaging_multiplier: float = Field(2.0, gt=0, le=4)  # each buy to the one before
    averaging_a_day: int = Field(2, ge=1, le=10)  # levels in any 24 hours, at most

    @property
    def nearest_stop(self) -> float:
        """The least that a stop is ever away from its entry; 0 where none is set."""
        stop = self.stop_loss * (COLDEST if self.temperature_tightens else 1.0)
        return min((share for share in (stop, self.trailing_stop) if share), default=0.0)

    @model_validator(mode="after")
    def _none_hides_another(self) -> ExitSettings:
        first = self.averaging_levels[0]
        if self.temperature_tightens and not self.stop_loss:
            raise ValueError("temperature_tightens has no stop_loss to tighten: set one, or leave it off")
        if self.averaging and 0.0 < self.nearest_stop <= first:
            raise ValueError(
                f"a stop {self.nearest_stop:.4g} below the entry always fires before averaging's first level of "
                f"{first:g}: set stop_loss and trailing_stop to 0 or beyond it, or turn averaging off"
            )
        return self
