"""What training does to a batch so that it learns the market's shape and not the months by heart.

80 days of hourly candles of two coins hold perhaps a hundred independent days, and a network learns those by
heart: measured on four such spans of BTC and ETH (2023-2024), R² of tomorrow's ln volatility out of sample was
-0.03 without this and +0.20 with it; HAR regression 0.13, persistence -0.32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encoder.dataset import LOG_VOLATILITY_LABELS, PATH_LABEL
from shared.features import FEATURES

LEVEL_SHIFT = 0.5  # standard deviation of the change of ln volatility
NOISE = 0.5  # of each channel's standard deviation
MASKED = 0.4  # of the patches

ROW = {name: row for row, name in enumerate(FEATURES)}
MIRRORED = [ROW[name] for name in ("scaled_return", "close_location", "trend")]
WICKS = [ROW["upper_wick"], ROW["lower_wick"]]


def augment(windows: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch [B, C, L] and its labels [B, 3] as another market would have shown them, equally true."""
    windows, labels = windows.clone(), labels.clone()
    _mirror(windows, labels, torch.rand(len(windows), generator=generator) < 0.5)
    _shift_level(windows, labels, LEVEL_SHIFT * torch.randn(len(windows), generator=generator))
    return windows, labels


def add_noise(windows: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """What the encoder gets to see of them; ``scale``: [1, C, 1], each channel's standard deviation."""
    return windows + NOISE * scale * torch.randn(windows.shape, generator=generator)


def draw_mask(batch: int, patches: int, generator: torch.Generator) -> Tensor:
    """bool [B, T]: the patches to hide and to rebuild; in running none is hidden."""
    return torch.rand(batch, patches, generator=generator) < MASKED


def _mirror(windows: Tensor, labels: Tensor, chosen: Tensor) -> None:
    """Turns rises into falls: the price's logarithm upside down."""
    sign = torch.where(chosen, -1.0, 1.0)
    windows[:, MIRRORED] *= sign[:, None, None]
    wicks = windows[:, WICKS]
    windows[:, WICKS] = torch.where(chosen[:, None, None], wicks.flip(1), wicks)
    labels[:, PATH_LABEL] *= sign


def _shift_level(windows: Tensor, labels: Tensor, by: Tensor) -> None:
    """Multiplies every return, past and future, by exp(``by``): only ln sigma and ln volatility notice."""
    windows[:, ROW["log_sigma"]] += by[:, None]
    labels[:, LOG_VOLATILITY_LABELS] += by[:, None]
