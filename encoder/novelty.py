"""How unusual a window is: the percentile of its distance to the training windows, computed inside the graph.

Distance = mean distance to the 16 nearest of a fixed training sample (kNN, arXiv 2204.06507), in two spaces of the
window's features: each feature in its own standard deviations, and all of them in their joint spread (Mahalanobis),
where features that contradict each other are far though each alone is usual. Whichever is farther out counts.

Not of embeddings: they lie on a sphere and are trained to ignore what does not matter. Trained on ten coins 2019-2021
and scored on 2022-2023, the mean area under the ROC curve over 26 injected faults was 0.92 with features in their own
deviations, 0.94 with both spaces of features. Embeddings were only tried with another sample and standardisation; they
found fewer of the faults and took from features when added to them, but no number of theirs compares with these.

Beyond the 99th percentile of the calibration windows the percentile goes on as an exponential tail (peaks over
threshold; Balkema & de Haan 1974, Pickands 1975), so that once in a thousand and once in a million differ.

The windows held out are the last 15 % of the span: after a short one some days, in which the market hardly changed.
So each third of the training span is also compared with the other two, and the wider of both calibrations counts.
Measured on hourly candles of BTC and ETH, 2018-2024, the same hours with windows held out alone and with thirds:
exposure that policy/risk/out_of_distribution.py takes from the clean hours after training, mean and worst start.

    span (starts)   45 days (40)  60 days (81)  75 days (80)  quarter (40)  half a year (26)  year (23)  3 years (6)
    scored after    45 days       60 days       60 days       quarter       quarter           half       year
    held out        15 %, 52 %    13 %, 70 %    7.5 %, 36 %   6.4 %, 31 %   2.1 %, 21 %       1.0, 13    0.6, 1.3
    with thirds     2.8 %, 34 %   1.3 %, 35 %   0.5 %, 5.8 %  0.7 %, 13 %   0.2 %, 2.7 %      0.2, 2.9   0.1, 0.2

Of ten coins, 75 days or more (3 to 14 starts): 0.2 % at most, worst 1.0 %. Less than 60 days do not tell how the market
changes; there the tail's excess is doubled: after 45 days 1.2 % (worst 21 %), after 30 days 1.6 % (15 %), for 5.0 %.
The price is paid where a fault is small: six hours without volume are above 0.999 in 83 % after 75 days of two coins
(58 % after 45) instead of 98 %, in 92 % after three years of ten coins instead of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.rows import IntArray

NEIGHBOURS = 16
RIDGE = 0.1  # added to each standardised feature's variance: directions without any would measure rounding
LEAST_SAMPLE = 4 * NEIGHBOURS  # windows
TAIL = 0.01  # of the calibration windows lie in the tail
LEAST_IN_TAIL = 10  # windows, or its mean excess is made of nothing
LEAST_CALIBRATION = 2 * LEAST_IN_TAIL  # windows
BLOCKS = 3  # of the training span
SHORT_S = 60 * 86_400  # of candles: a shorter span says nothing about how the market changes
SHORT_STRETCH = 2.0  # of the tail's mean excess then
SMALLEST_EXCESS = 1e-3  # of a distance in standard deviations: equal windows must not make all others infinitely far
ALIGNED = 16  # numbers a row: see encoder.inference on sums that depend on where a row lies


class Novelty(nn.Module):
    """Standardised features [B, F] → ood [B] in [0, 1]: the share of windows that lie no farther out."""

    whitening: Tensor
    own: Tensor
    joint: Tensor
    start: Tensor
    excess: Tensor
    body: Tensor
    tail_share: Tensor
    tail_excess: Tensor

    def __init__(self, features: Tensor) -> None:
        """``features``: [S, F] of the training sample; ValueError for fewer than 64 windows."""
        super().__init__()
        if len(features) < LEAST_SAMPLE:
            raise ValueError(f"a sample of {len(features)} windows is too small; at least {LEAST_SAMPLE} are needed")
        self.register_buffer("whitening", _whitening(features))
        self.register_buffer("own", _align(features).T.contiguous())
        self.register_buffer("joint", _align(features @ self.whitening).T.contiguous())
        self.register_buffer("start", torch.zeros(2))
        self.register_buffer("excess", torch.ones(2))
        self.register_buffer("body", torch.zeros(1))
        self.register_buffer("tail_share", torch.ones(1))
        self.register_buffer("tail_excess", torch.ones(1))

    def calibrate(self, features: Tensor, elsewhere: Tensor | None = None, stretch: float = 1.0) -> None:
        """Takes its measures from windows that were not trained on; ValueError for fewer than 20.

        ``elsewhere``: ``distances_between_blocks``, if they too may calibrate; the wider of both counts, at each
        percentile. ``stretch``: what the tail's mean excess is multiplied by.
        """
        if len(features) < LEAST_CALIBRATION:
            raise ValueError(f"{len(features)} windows can't calibrate; at least {LEAST_CALIBRATION} are needed")
        groups = [self.distances(features)]
        if elsewhere is not None and len(elsewhere) >= LEAST_CALIBRATION:
            groups.append(elsewhere)
        share = max(TAIL, LEAST_IN_TAIL / min(map(len, groups)))
        _, self.start, self.excess = _widest_tail(groups, share)
        self.body, _, tail_excess = _widest_tail([self._depths(group).unsqueeze(-1) for group in groups], share)
        self.tail_excess = stretch * tail_excess
        self.tail_share = torch.tensor([share])

    def distances(self, features: Tensor) -> Tensor:
        """[B, 2]: mean distance to the nearest neighbours, in each of the two spaces."""
        own, joint = _align(features), _align(features @ self.whitening)
        nearest = [_nearest_squares(own, self.own), _nearest_squares(joint, self.joint)]
        return (torch.stack(nearest, dim=1) / features.shape[-1]).sqrt().mean(-1)

    def depths(self, features: Tensor) -> Tensor:
        """[B]: mean excesses into the tail of the space where it is farther out; negative before the tail."""
        return self._depths(self.distances(features))

    def _depths(self, distances: Tensor) -> Tensor:
        return ((distances - self.start) / self.excess).amax(-1)

    def forward(self, features: Tensor) -> Tensor:
        depth = self.depths(features)
        body = (self.body <= depth.unsqueeze(-1)).to(torch.float32).mean(dim=-1)
        beyond = 1 - torch.exp(-(depth - self.body[-1]).clamp_min(0) / self.tail_excess)
        ood: Tensor = (1 - self.tail_share) * body + self.tail_share * beyond
        return ood


def _align(x: Tensor) -> Tensor:
    """Filled up with zeros to a multiple of 16 numbers a row."""
    return F.pad(x, (0, -x.shape[-1] % ALIGNED))


def _nearest_squares(x: Tensor, sample: Tensor) -> Tensor:
    """[B, 16]: the smallest squared distances of x [B, F'] to the columns of ``sample`` [F', S]."""
    squares = x.square().sum(-1, keepdim=True) + sample.square().sum(0) - 2 * x @ sample
    return squares.topk(NEIGHBOURS, dim=-1, largest=False).values.clamp_min(0)


def _whitening(features: Tensor) -> Tensor:
    """[F, F]: W with W Wᵀ = the inverse of the features' covariance, so that |x W| is Mahalanobis's length of x."""
    x = features.double()
    covariance = torch.cov(x.T) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    inverse: Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return inverse.T.float().contiguous()


def _widest_tail(groups: Sequence[Tensor], share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of values [n, k], column by column: quantiles of those before the tail, the ``share`` largest, [m]; the last of
    them; and the mean excess of the tail over it. Of several groups the largest, each for itself."""
    bodies, excesses = [], []
    count = max(map(len, groups))
    for values in groups:
        ordered = values.sort(dim=0).values
        size = round(share * len(values))
        bodies.append(ordered[:-size])
        excesses.append((ordered[-size:] - ordered[-size - 1]).mean(0))
    levels = torch.linspace(0, 1, count - round(share * count))
    body = torch.stack([body if len(body) == len(levels) else body.quantile(levels, dim=0) for body in bodies]).amax(0)
    return body.squeeze(-1), body[-1], torch.stack(excesses).amax(0).clamp_min(SMALLEST_EXCESS)


def distances_between_blocks(features: Tensor, as_of: IntArray, apart_s: float, size: int) -> Tensor:
    """[n, 2]: how far windows of one time are from a sample of another, which shows how much the market changes.

    ``features`` [N, F] and their closes ``as_of`` [N] in order of time. Each third is measured against at most
    ``size`` of the other windows, those at least ``apart_s`` (or a quarter of the span, if that is less) before or
    after it. Thirds for which these are fewer than 64 are left out.
    """
    gap = min(apart_s, float(as_of[-1] - as_of[0]) / 4)
    found = []
    for block in torch.arange(len(features)).tensor_split(BLOCKS):
        first, last = as_of[block[0]], as_of[block[-1]]
        others = torch.from_numpy((as_of < first - gap) | (as_of > last + gap)).nonzero().flatten()
        if len(others) > size:
            others = others[torch.linspace(0, len(others) - 1, size, dtype=torch.float64).long()]
        if len(others) >= LEAST_SAMPLE:
            found.append(Novelty(features[others]).distances(features[block]))
    return torch.cat(found) if found else features.new_empty(0, 2)
