"""How fast SB3's PPO learns on our environment and on the peers': identical settings, then each side's best.

The same network (MlpPolicy [64, 64]), 84 floats an observation, one thread, CPU seconds, one run, medians of rounds in
which the sides take turns. *Identical*: 8 environments × 256 steps, batch 512, 10 epochs; the aim is 1.5 times the
fastest peer. *Best*: every side is given the same list of settings (bench/peers/rl.py) and counts with its fastest,
with four epochs of use for each step and, apart, with one; the aim is 10 times the fastest peer. Ours is trained by
policy.lean_ppo, as training has it; the peers by SB3's PPO, as their users have it.

Tried for the aim of 10 times (own steps a CPU second, gym-anytrading by SB3 with the same settings; one shared core):

- SB3's PPO on our environment: 12,000 and 10,000 identical, 70,000 and 46,000 with four epochs.
- LeanPPO (no objects, no logged scalars, one copy a minibatch, fused Adam): 19,000 identical, 100,000 to 109,000 with
  four epochs (the peer 46,000 to 57,000), 230,000 to 300,000 with one (60,000 to 83,000).
- 1,024 books × 16 steps: 310,000 with one epoch in batches of 4,096, 285,000 in batches of 2,048.

Two nets [84, 64, 64, 1] take 38 thousand floating-point operations a step forward and three times that in each epoch:
109,000 steps with four epochs are 54 billion a second, 300,000 with one 46 billion, where this core multiplies such
matrices at 160 billion. So ten times the peer is beyond the core with four epochs (280 billion), and with one (127)
would leave next to nothing for tanh, Adam and the environment. Not tried: a backward pass by hand, a compiled graph.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bench.peers.installed import Peer
from bench.peers.rl import FOUR_EPOCHS, IDENTICAL, ONE_EPOCH, PpoSettings, Trainings
from bench.peers.sextant import portfolio_env
from bench.workbench import Row, print_rows
from policy.lean_ppo import LeanPPO

PEERS = ("gym-anytrading", "gym-trading-env")
ROUNDS = 5
STEPS = 16_384  # at least, of a round
Side = Callable[[PpoSettings], float]  # trains for a round; environment steps a second


def iterations(settings: PpoSettings) -> int:
    return max(STEPS // (settings.envs * settings.steps), 1)


def side_of(peer: Peer) -> Side:
    return lambda settings: float(peer.ask("ppo", iterations=iterations(settings), **settings.details()))


def fastest(side: Side, grid: Sequence[PpoSettings]) -> PpoSettings:
    return max(grid, key=side)


def medians(sides: dict[str, Side], settings: dict[str, PpoSettings]) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            rates[name].append(side(settings[name]))
    return {name: statistics.median(rate) for name, rate in rates.items()}


def compared(title: str, sides: dict[str, Side], grid: Sequence[PpoSettings]) -> list[Row]:
    """Our side beside each peer, each with its fastest of ``grid``."""
    chosen = {name: fastest(side, grid) for name, side in sides.items()}
    rate = medians(sides, chosen)
    return [
        Row(f"PPO, {title} ({chosen['own']})", rate["own"], "steps/s", f"{name} ({chosen[name]})", rate[name],
            rate["own"] / rate[name])
        for name in PEERS
    ]  # fmt: skip


def main() -> None:
    trainings = Trainings(lambda envs: portfolio_env(envs, instruments=1, bars_a_step=1), LeanPPO)
    with ExitStack() as stack:
        sides: dict[str, Side] = {"own": lambda settings: trainings.steps_a_second(settings, iterations(settings))}
        sides |= {name: side_of(stack.enter_context(Peer(name))) for name in PEERS}
        rows = compared("identical settings", sides, [IDENTICAL])
        rows += compared("best settings of four epochs", sides, FOUR_EPOCHS)
        rows += compared("best settings of one epoch", sides, ONE_EPOCH)
    print_rows(rows)


if __name__ == "__main__":
    main()
