"""The operator's own steering: what the static track follows, and what is left when nobody steers."""

from __future__ import annotations

from datetime import datetime, timedelta

from shared.rows import PolicyConfig

TARGET_VOLATILITY = 0.4  # a year


def static_steering(
    as_of: datetime,
    max_position: float,
    max_exposure: float,
    daily_loss_limit: float,
    max_drawdown: float,
    share: float = 1.0,
) -> PolicyConfig:
    """The limits as they are, at ``share`` of the exposure that the operator allows; fractions of equity."""
    return PolicyConfig(
        track="static",
        as_of=as_of,
        source="operator",
        risk_aversion=1.0,
        turnover_penalty=1.0,
        drawdown_penalty=1.0,
        target_volatility=TARGET_VOLATILITY * share,
        max_exposure=max_exposure * share,
        max_position=min(max_position, 0.5),
        daily_loss_limit=daily_loss_limit,
        max_drawdown=max_drawdown,
        pause=False,
        strategy_weights={"drl": 1.0},
        reasons="the operator's static steering",
        valid_until=as_of + timedelta(hours=1),
        known_from=as_of,
    )
