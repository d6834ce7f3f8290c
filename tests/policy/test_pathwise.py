"""The differentiable book against the kernel's, and its gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policy.canaries.markets import market_of
from policy.inputs import static_config
from policy.pathwise import Market, Paths, fill_prices, run
from policy.pathwise_episodes import draw_episodes
from policy.policy_network import ActorNet
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs
from policy.trading_env import BookBatch, Terms
from policy.training_data import TrainingData
from shared.clock import from_unix

FREE = Costs(0.0, 0.0, 0.0)
PAID = Costs(30.0, 5.0, 0.0)
STEPS, N = 60, 3


class Scripted(ActorNet):
    """Does what is in ``script`` [H, N], whatever it sees."""

    def __init__(self, script: np.ndarray) -> None:
        super().__init__((4, 4))
        self.script, self.step = torch.from_numpy(script), 0
        self.double()

    def tail(self, first: Tensor) -> Tensor:
        self.step += 1
        return self.script[self.step - 1].expand(first.shape[:-1])


def data_of(seed: int = 0, steps: int = STEPS + 2, bars_a_step: int = 2) -> TrainingData:
    rng = np.random.default_rng(seed)
    bars = steps * bars_a_step
    volatility = rng.uniform(0.3, 1.2, (steps, N))
    seen = rng.normal(size=(steps, N, 64))
    data = market_of(rng.normal(0, 0.01, (bars, N)), volatility, rng.uniform(-1, 1, (steps, N)), seen, bars_a_step,
                     wiggle=0.003, seed=seed)  # fmt: skip
    rounded = {name: np.round(getattr(data.grid, name), 6) for name in ("open", "high", "low", "close")}
    return replace(data, price=np.round(data.price, 6), grid=replace(data.grid, **rounded))


def terms_of(costs: Costs, **changes: Any) -> Terms:
    config = static_config(from_unix(0), NO_LIMITS)
    fixed = Terms(steering=config, costs=costs, delays_s=(0,), no_trade_band=0.0, max_step=1.0)
    return replace(fixed, episode_steps=STEPS + 10, **changes)


def surrogate(data: TrainingData, terms: Terms, actor: ActorNet, steps: int = STEPS) -> Paths:
    """One book from the first decision time on, in cash at first, no noise."""
    market = Market.of(data, terms.delays_s, torch.float64)
    e = draw_episodes(market, terms, 1, steps, 0.0, np.random.default_rng(0))
    e = e._replace(moment=torch.arange(steps)[:, None], slot=torch.arange(N)[None])
    with torch.no_grad():
        return run(market, actor, e, terms.reach, terms.penalties, settled=False)


def kernel(data: TrainingData, terms: Terms, act: Any, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """The same book in the environment: equity [steps + 1], rewards [steps], observations; act(observation, step)."""
    batch = BookBatch(data, 1, terms, 0, resets=False)
    seen = [batch.reset(0)[0].copy()]
    equity, rewards = [batch.books.equity[0]], []
    for step in range(steps):
        _, reward, _ = batch.step(act(seen[-1], step)[None].astype(np.float32))
        equity.append(batch.books.equity[0])
        rewards.append(reward[0])
        seen.append(batch.observation[0].copy())
    return np.array(equity) / equity[0], np.array(rewards), seen


def scripts(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (STEPS, N)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_without_frictions_the_equity_is_the_kernels(seed: int) -> None:
    data, terms, script = data_of(seed), terms_of(FREE, reach=1.0), scripts(seed)
    data = replace(data, rules=replace(data.rules, tick=np.full(N, 1e-8)))  # of prices about 100: no rounding
    equity, _, _ = kernel(data, terms, lambda _, step: script[step])
    paths = surrogate(data, terms, Scripted(script))
    np.testing.assert_allclose(paths.equity[:, 0].numpy(), equity, rtol=1e-9)


@pytest.mark.parametrize("penalties", [0.0, 1.0])
def test_with_costs_the_rewards_are_the_environments(penalties: float) -> None:
    config = replace(static_config(from_unix(0), NO_LIMITS), turnover_penalty=3.0, risk_aversion=2.0)
    data, script = data_of(), scripts()
    terms = replace(terms_of(PAID, penalties=penalties), steering=config)
    equity, rewards, _ = kernel(data, terms, lambda _, step: script[step])
    paths = surrogate(data, terms, Scripted(script))
    np.testing.assert_allclose(paths.equity[:, 0].numpy(), equity, atol=3e-6)
    np.testing.assert_allclose(paths.reward[:, 0].numpy(), rewards, atol=2e-3)
    assert np.abs(rewards).max() > 0.5


def test_what_the_net_sees_is_the_environments_observation() -> None:
    """A net that looks at everything decides the same in both."""
    torch.manual_seed(5)
    net = ActorNet((16, 8)).double()
    with torch.no_grad():
        net.linear[-1].weight.mul_(80.0)
    data, terms = data_of(2), terms_of(PAID)

    def act(observation: np.ndarray, step: int) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(observation.astype(np.float64))).numpy()

    _, _, seen = kernel(data, terms, act)
    expected = np.array([act(observation, 0) for observation in seen[:STEPS]])
    np.testing.assert_allclose(surrogate(data, terms, net).action[:, 0].numpy(), expected, atol=1e-3)
    assert expected.std() > 0.2


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    net = ActorNet((8, 8)).double()
    with torch.no_grad():
        net.linear[-1].weight.mul_(30.0)
    terms = Terms(slots=2, switch=0.05, random_book=True, no_trade_band=0.1)
    market = Market.of(data_of(3, steps=300), terms.delays_s, torch.float64)
    e = draw_episodes(market, terms, 16, 12, 0.2, np.random.default_rng(1))

    def objective() -> Tensor:
        return run(market, net, e, 0.5).reward.mean()

    objective().backward()
    rng, h = np.random.default_rng(2), 1e-6
    for parameter in net.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)  # type: ignore[union-attr]
        for k in rng.choice(len(flat), size=min(4, len(flat)), replace=False):
            before = flat[k].item()
            values = []
            for at in (before + h, before - h):
                flat[k] = at
                values.append(objective().item())
            flat[k] = before
            slope = (values[0] - values[1]) / (2 * h)
            assert gradient[k].item() == pytest.approx(slope, rel=2e-4, abs=1e-8)


def test_inside_the_band_nothing_is_traded_and_leaving_is_not_held_back() -> None:
    data, terms = data_of(), terms_of(FREE, reach=1.0, no_trade_band=0.25)
    data.trend[:] = 0.0
    data.volatility[:] = 0.5
    actions = np.zeros((6, N))
    actions[:, :] = np.array([0.5, 0.55, 0.6, 0.9, 0.9, -1.0])[:, None]
    turnover = surrogate(data, terms, Scripted(actions), 6).turnover[:, 0].numpy()
    assert turnover[0] > 0.1
    assert (turnover[[1, 2, 4]] < 0.02 * turnover[0]).all()
    assert turnover[3] > 0.5 * turnover[0]
    assert turnover[5] > turnover[0]


def test_what_is_not_seen_whole_is_not_entered_and_what_has_no_candle_is_not_traded() -> None:
    data, terms = data_of(), terms_of(FREE, reach=1.0)
    data.trend[:] = 0.5
    data.complete[:, 0] = False
    data.complete[:, 1], data.tradable[:, 1] = False, False
    paths = surrogate(data, terms, Scripted(np.ones((4, N))), 4)
    full = 0.4 / (data.volatility[0] * np.sqrt(N * (1 + (N - 1) * 0.6)))
    assert paths.exposure[0, 0].item() == pytest.approx(min(full[2], 0.5))


def test_a_delay_fills_at_a_later_open_and_one_beyond_the_interval_at_its_end() -> None:
    data = data_of(bars_a_step=4)
    opens = data.grid.open
    i = np.arange(len(data) - 1)
    np.testing.assert_array_equal(fill_prices(data, 0), opens[4 * i])
    np.testing.assert_array_equal(fill_prices(data, 1), opens[4 * i + 1])
    np.testing.assert_array_equal(fill_prices(data, 1800), opens[4 * i + 2])
    assert np.isnan(fill_prices(data, 3600)).all()
    opens[1, 0] = np.nan
    assert fill_prices(data, 900)[0, 0] == opens[2, 0]
    market = Market.of(data, (0, 3600), torch.float64)
    torch.testing.assert_close(market.to_fill[1], market.growth)


def test_higher_risk_aversion_means_smaller_weights_in_proportion() -> None:
    data, script = data_of(), np.full((STEPS, N), 0.3)
    exposures = []
    for aversion in (2.0, 4.0):
        config = replace(static_config(from_unix(0), NO_LIMITS), risk_aversion=aversion)
        terms = replace(terms_of(FREE), steering=config)
        exposures.append(surrogate(data, terms, Scripted(script)).exposure.mean().item())
    assert exposures[0] == pytest.approx(2 * exposures[1], rel=0.05)


def test_a_settled_book_pays_for_no_entry() -> None:
    data = data_of()
    data.trend[:], data.volatility[:] = 0.5, 0.5
    terms = terms_of(PAID, no_trade_band=0.1)
    market = Market.of(data, terms.delays_s, torch.float64)
    e = draw_episodes(market, terms, 4, 3, 0.0, np.random.default_rng(0))
    entered, settled = (run(market, Scripted(np.zeros((4, N))), e, 0.5, settled=how) for how in (False, True))
    assert entered.turnover[0].min() > 0.2
    assert settled.turnover[0].max() < 1e-3


def test_equal_seeds_draw_equal_episodes() -> None:
    terms = Terms(slots=2, switch=0.05, random_book=True)
    market = Market.of(data_of(), terms.delays_s)
    one, other, third = (draw_episodes(market, terms, 8, 5, 0.2, np.random.default_rng(k)) for k in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one[:6], other[:6], strict=True))
    assert not torch.equal(one.moment, third.moment)


def test_steering_stays_within_its_ranges_and_episodes_within_the_data() -> None:
    terms = Terms(slots=2, switch=0.2, random_book=True)
    market = Market.of(data_of(), terms.delays_s)
    e = draw_episodes(market, terms, 500, 20, 0.2, np.random.default_rng(0))
    for name in ("risk_aversion", "target_volatility", "max_position"):
        low, high = terms.steering_draws[name]
        values = getattr(e.steering, name)
        assert low - 1e-6 <= values.min() < values.max() <= high + 1e-6
    assert (e.steering.risk_aversion[0] != e.steering.risk_aversion[-1]).any()
    assert (e.moment[1:] == e.moment[:-1] + 1).all()
    assert e.moment.max() < len(market.growth)
    assert (e.slot[:, 0] != e.slot[:, 1]).all()


def test_a_span_in_which_nothing_is_seen_is_refused() -> None:
    data = data_of()
    data.complete[:] = False
    with pytest.raises(ValueError, match="no decision time"):
        Market.of(data)
