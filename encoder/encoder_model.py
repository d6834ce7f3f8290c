"""The encoder as a torch module: a causal convolutional network over patches of candles (training only).

Patches as in PatchTST (arXiv 2211.14730), dilated causal residual blocks as in TCN (arXiv 1803.01271), a
variance and covariance term against collapse as in VICReg (arXiv 2105.04906). Shapes: B windows, C
channels, L = 96 candles, T = 16 patches, D features inside.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.novelty import Novelty, summarise
from encoder.schema import EMBEDDING_SIZE
from shared.features import FEATURES, WINDOW

PATCH = 6  # candles
PATCHES = WINDOW // PATCH
WIDTH = 96
DILATIONS = (1, 2, 4, 8)  # two taps each: the last patch sees exactly the 16 patches of its window
DROPOUT = 0.1
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
LABELS = 3  # encoder.dataset says which
OPSET = 18


class Block(nn.Module):
    """One dilated causal residual block: [B, T, D] → [B, T, D], no patch sees a later one."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        earlier = F.pad(y, (0, 0, self.dilation, 0))[:, :PATCHES]
        mixed: Tensor = self.out(F.gelu(self.mix(torch.cat([earlier, y], dim=-1))))
        return x + mixed


class Encoder(nn.Module):
    """Windows [B, C, L] → hidden states [B, T, D] and embeddings [B, 64] of length 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        """``mean`` and ``scale``: [C], each channel's mean and standard deviation over the training windows."""
        super().__init__()
        self.register_buffer("mean", mean.reshape(1, -1, 1))
        self.register_buffer("scale", scale.reshape(1, -1, 1))
        self.patch = nn.Linear(len(FEATURES) * PATCH, WIDTH)
        self.position = nn.Parameter(torch.zeros(PATCHES, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, dilation) for dilation in DILATIONS)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Dropout(DROPOUT), nn.Linear(WIDTH, EMBEDDING_SIZE))

    def standardise(self, windows: Tensor) -> Tensor:
        return (windows - self.mean) / self.scale

    def patches(self, windows: Tensor) -> Tensor:
        """[B, C, L] → standardised [B, T, C·6]."""
        x = self.standardise(windows)
        return x.reshape(-1, len(FEATURES), PATCHES, PATCH).transpose(1, 2).flatten(2)

    def forward(self, windows: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``masked``: bool [B, T], the patches to hide."""
        x = self.patch(self.patches(windows))
        if masked is not None:
            x = torch.where(masked.unsqueeze(-1), self.mask_token, x)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        return x, F.normalize(self.head(x[:, -1]), dim=-1)


class Heads(nn.Module):
    """What training asks of the encoder, thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH + EMBEDDING_SIZE, len(FEATURES) * PATCH)
        self.future = nn.Linear(EMBEDDING_SIZE, LABELS * len(QUANTILES))

    def reconstruct(self, hidden: Tensor, embedding: Tensor, masked: Tensor) -> Tensor:
        """The M hidden patches [M, C·6] from [B, T, D] and [B, 64]: what the past cannot tell, the embedding must."""
        whole = embedding.unsqueeze(1).expand(-1, PATCHES, -1)
        rebuilt: Tensor = self.patch(torch.cat([hidden[masked], whole[masked]], dim=-1))
        return rebuilt

    def forecast(self, embedding: Tensor) -> Tensor:
        """Quantiles of the standardised labels: [B, labels, quantiles]."""
        quantiles: Tensor = self.future(embedding)
        return quantiles.reshape(-1, LABELS, len(QUANTILES))


class Losses(NamedTuple):
    reconstruction: Tensor
    future: Tensor
    spread: Tensor

    def total(self) -> Tensor:
        return self.reconstruction + self.future + 0.1 * self.spread


def losses(encoder: Encoder, heads: Heads, seen: Tensor, windows: Tensor, labels: Tensor, masked: Tensor) -> Losses:
    """The three self-supervised losses of one batch.

    ``seen``: [B, C, L], ``windows`` with noise; ``masked``: bool [B, T], the patches to hide and to rebuild
    without the noise; ``labels``: [B, 3], standardised.
    """
    hidden, embedding = encoder(seen, masked)
    rebuilt = heads.reconstruct(hidden, embedding, masked)
    return Losses(
        reconstruction=F.huber_loss(rebuilt, encoder.patches(windows)[masked]),
        future=pinball(heads.forecast(embedding), labels),
        spread=spread(embedding),
    )


def pinball(forecast: Tensor, labels: Tensor) -> Tensor:
    """Mean quantile loss; ``forecast`` [B, labels, quantiles], ``labels`` [B, labels]."""
    levels = torch.tensor(QUANTILES)
    error = labels.unsqueeze(-1) - forecast
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def spread(embedding: Tensor) -> Tensor:
    """VICReg's variance and covariance terms: no dimension may collapse and no two may say the same."""
    x = (embedding - embedding.mean(0)) * EMBEDDING_SIZE**0.5
    covariance = x.T @ x / (len(x) - 1)
    deviation = torch.sqrt(torch.diagonal(covariance) + 1e-4)
    other = covariance - torch.diag(torch.diagonal(covariance))
    collapse: Tensor = F.relu(1 - deviation).mean() + other.square().sum() / EMBEDDING_SIZE
    return collapse


class Exported(nn.Module):
    """The graph that is stored: window [1, C, L] → embedding [1, 64] and ood [1]."""

    def __init__(self, encoder: Encoder, novelty: Novelty) -> None:
        super().__init__()
        self.encoder = encoder
        self.novelty = novelty

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        _, embedding = self.encoder(window)
        return embedding, self.novelty(embedding, summarise(self.encoder.standardise(window)))


def export_onnx(model: Exported) -> bytes:
    """One self-contained file; equal weights give equal bytes."""
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (torch.zeros(1, len(FEATURES), WINDOW),),
            input_names=["window"],
            output_names=["embedding", "ood"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _strip(program.model_proto)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports packages, passes and Python internals that are none of the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: Any) -> bytes:
    """Takes out what depends on where and with what it was made: file paths, traces, versions."""
    graph = model.graph
    model.ClearField("producer_version")
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    graph.ClearField("value_info")
    stripped: bytes = model.SerializeToString(deterministic=True)
    return stripped
