"""The policy's network: one small tanh net that looks at one instrument's row and is applied to every instrument.

It knows no symbols and no number of them, so one model serves any portfolio. What it must not be steered by
(policy.observation.STRUCTURAL: the action layer scales by these) is multiplied by zero on its way in. In
Stable-Baselines3 the same net is the actor of ``InstrumentPolicy``, whose observation is the rows one after another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import STRUCTURAL, observation_names
from shared.rows import FloatArray

HIDDEN = (64, 64)
FIRST_ACTIONS = 0.01  # the last layer starts this small: at the baseline, yet with a gradient
NOISE = 0.2  # standard deviation of what training adds to an action

Weights = dict[str, NDArray[np.float32]]  # weight_0 [hidden, OBSERVATION_SIZE], bias_0 [hidden], weight_1, …
Act = Callable[[NDArray[np.float32]], FloatArray]  # observation [N, OBSERVATION_SIZE] -> action [N] in [-1, 1]


def shown_columns() -> Tensor:
    """[OBSERVATION_SIZE]: 1 for what the actor is shown, 0 for what is structural."""
    return torch.tensor([float(name not in STRUCTURAL) for name in observation_names()])


class ActorNet(nn.Module):
    """Rows [..., OBSERVATION_SIZE] -> unclipped actions [...]; the layers are ``linear``, with tanh between."""

    shown: Tensor

    def __init__(self, hidden: Sequence[int] = HIDDEN) -> None:
        super().__init__()
        sizes = [OBSERVATION_SIZE, *hidden, 1]
        pairs = itertools.pairwise(sizes)
        self.linear = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in pairs)
        self.register_buffer("shown", shown_columns())
        with torch.no_grad():
            for layer in self.linear:
                nn.init.orthogonal_(layer.weight, gain=1.0)  # type: ignore[arg-type]
                layer.bias.zero_()  # type: ignore[operator]
            self.linear[-1].weight.mul_(FIRST_ACTIONS)  # type: ignore[operator]

    def first_weight(self) -> Tensor:
        """[hidden, OBSERVATION_SIZE], zero in the columns that are not shown."""
        return self.linear[0].weight * self.shown  # type: ignore[operator]

    def latent(self, rows: Tensor) -> Tensor:
        """What goes into the last layer: [..., hidden]."""
        first = nn.functional.linear(rows, self.first_weight(), self.linear[0].bias)  # type: ignore[arg-type]
        return self._between(torch.tanh(first))

    def tail(self, first: Tensor) -> Tensor:
        """All but the first layer: its output [..., hidden] -> unclipped actions [...]."""
        return self.head(self._between(first))

    def _between(self, latent: Tensor) -> Tensor:
        for layer in list(self.linear)[1:-1]:
            latent = torch.tanh(layer(latent))
        return latent

    def head(self, latent: Tensor) -> Tensor:
        action: Tensor = self.linear[-1](latent).squeeze(-1)
        return action

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.latent(rows))

    def weights(self) -> Weights:
        """A copy, the columns that are not shown set to zero; what ``load`` and the export take."""
        arrays: Weights = {}
        for k, layer in enumerate(self.linear):
            weight = self.first_weight() if k == 0 else layer.weight
            arrays[f"weight_{k}"] = weight.detach().numpy().astype(np.float32)  # type: ignore[operator]
            arrays[f"bias_{k}"] = layer.bias.detach().numpy().astype(np.float32)  # type: ignore[operator]
        return arrays

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Takes over ``weights``; ValueError when they are of a net of another shape."""
        with torch.no_grad():
            for k, layer in enumerate(self.linear):
                for part in ("weight", "bias"):
                    own, given = getattr(layer, part), weights.get(f"{part}_{k}")
                    if given is None or tuple(own.shape) != given.shape:
                        shape = None if given is None else given.shape
                        raise ValueError(
                            f"{part}_{k} must be {tuple(own.shape)}, is {shape}; train with the same sizes"
                        )
                    own.copy_(torch.from_numpy(np.ascontiguousarray(given)))


def depth(weights: Mapping[str, Any]) -> int:
    """The number of layers."""
    return sum(name.startswith("weight_") for name in weights)


def baseline_of(weights: Mapping[str, NDArray[np.float32]]) -> Weights:
    """The same net with its last layer at zero: every action is 0, which is the baseline, exactly."""
    return shrunk(weights, 0.0)


def shrunk(weights: Mapping[str, NDArray[np.float32]], share: float) -> Weights:
    """The same net with its actions multiplied by ``share``, before they are clipped: nearer to the baseline."""
    last, factor = depth(weights) - 1, np.float32(share)
    return {name: array * factor if name.endswith(f"_{last}") else array.copy() for name, array in weights.items()}


def act_of(weights: Mapping[str, NDArray[np.float32]]) -> Act:
    """The net in numpy: observation [N, OBSERVATION_SIZE] -> action [N] within ±1."""
    layers = [(weights[f"weight_{k}"].T.copy(), weights[f"bias_{k}"]) for k in range(depth(weights))]

    def act(observation: NDArray[np.float32]) -> FloatArray:
        latent = observation
        for weight, bias in layers[:-1]:
            latent = np.tanh(latent @ weight + bias)
        weight, bias = layers[-1]
        action: FloatArray = np.clip(latent @ weight + bias, -1.0, 1.0)[:, 0].astype(np.float64)
        return action

    return act


class _Critic(nn.Module):
    """The value of a book: what is seen of each instrument, averaged. It is shown everything."""

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [OBSERVATION_SIZE, *hidden]
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> Tensor:
        pooled: Tensor = self.body(rows).mean(dim=-2)
        return pooled


class _Extractor(nn.Module):
    """What Stable-Baselines3 calls between features and heads: features [B, N · OBSERVATION_SIZE]."""

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        self.actor, self.critic = ActorNet(hidden), _Critic(hidden)
        self.latent_dim_pi = self.latent_dim_vf = hidden[-1]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.actor.latent(features.view(len(features), -1, OBSERVATION_SIZE))

    def forward_critic(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.critic(features.view(len(features), -1, OBSERVATION_SIZE))
        return pooled


class _Head(nn.Module):
    """The actor's last layer, for every instrument: latent [B, N, hidden] -> mean actions [B, N]."""

    def __init__(self, actor: ActorNet) -> None:
        super().__init__()
        self._actor = [actor]  # in a list: its parameters are the extractor's, and counted there

    def forward(self, latent: Tensor) -> Tensor:
        return self._actor[0].head(latent)


class InstrumentPolicy(ActorCriticPolicy):
    """``ActorNet`` on every instrument of a flattened observation; ``net_arch`` holds the hidden sizes.

    The noise on actions has one standard deviation an instrument, whatever is observed."""

    def _build(self, lr_schedule: Any) -> None:
        hidden = list(self.net_arch) if isinstance(self.net_arch, (list, tuple)) and self.net_arch else list(HIDDEN)
        self.mlp_extractor = _Extractor(hidden)  # type: ignore[assignment]
        self.action_net = _Head(self.actor)
        self.log_std = nn.Parameter(torch.full(self.action_space.shape or (1,), float(self.log_std_init)))
        self.value_net = nn.Linear(hidden[-1], 1)
        with torch.no_grad():
            nn.init.orthogonal_(self.value_net.weight)
            self.value_net.bias.zero_()
        self.optimizer = self.optimizer_class(self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs})

    @property
    def actor(self) -> ActorNet:
        actor = self.mlp_extractor.actor
        assert isinstance(actor, ActorNet)
        return actor
