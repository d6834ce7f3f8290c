"""How fast the environment steps, beside gym-anytrading and gym-trading-env in whatever vectorisation is their
fastest.

One thread, CPU seconds, random actions, 84 floats an observation, one bar a step, in one run: the sides take turns,
medians. Each side may choose how many environments it steps at once (of those tried), the peers also whether they are
vectorised at all. What a step does differs: a peer moves one position at the close, without lots, spread or limits;
ours observes, decides by steering and limits, rounds to tick and lot, fills at the next open, and rewards. The aim is
3 million a core; 4 instruments × 12 bars, which no peer can do, has none.
"""

from __future__ import annotations

import statistics

from bench.peers.installed import Peer
from bench.peers.rl import vec_steps_a_second
from bench.peers.rl_peer import VECTORISATIONS
from bench.peers.sextant import portfolio_env
from bench.workbench import Row, print_rows

PEERS = ("gym-anytrading", "gym-trading-env")
BOOKS = (64, 256, 1024, 4096)
PROBE_S, ROUND_S, ROUNDS = 0.5, 1.0, 5
AIM = 3e6


def fastest_vectorisation(peer: Peer) -> str:
    rates = {kind: peer.ask("rate", vectorisation=kind, seconds=PROBE_S) for kind in VECTORISATIONS}
    peer.ask("close")
    print(f"{peer.name}: " + ", ".join(f"{kind} {rate:,.0f}" for kind, rate in rates.items()), flush=True)
    return max(rates, key=lambda kind: float(rates[kind]))


def fastest_batch(instruments: int, bars: int) -> int:
    rates = {n: vec_steps_a_second(portfolio_env(n, instruments, bars), PROBE_S) for n in BOOKS}
    print(f"{instruments} × {bars}: " + ", ".join(f"{n} books {rate:,.0f}" for n, rate in rates.items()), flush=True)
    return max(rates, key=lambda n: rates[n])


def main() -> None:
    shapes = {"1 instrument, 1 bar a step": (1, 1), "4 instruments, 12 bars a step": (4, 12)}
    own = {name: portfolio_env(fastest_batch(*shape), *shape) for name, shape in shapes.items()}
    rates: dict[str, list[float]] = {name: [] for name in (*own, *PEERS)}
    with Peer(PEERS[0]) as first, Peer(PEERS[1]) as second:
        kinds = {peer: fastest_vectorisation(peer) for peer in (first, second)}
        for _ in range(ROUNDS):
            for name, env in own.items():
                rates[name].append(vec_steps_a_second(env, ROUND_S))
            for peer, kind in kinds.items():
                rates[peer.name].append(peer.ask("rate", vectorisation=kind, seconds=ROUND_S))
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    named = {peer.name: f"{peer.name}, {kind}, 1 instrument, 1 bar a step" for peer, kind in kinds.items()}
    references = [(named[peer], medians[peer]) for peer in PEERS]
    print_rows([
        Row(f"{name}, {own[name].num_envs} rows", medians[name], "steps/s", reference, value, medians[name] / value)
        for name in own
        for reference, value in references + [("the aim", AIM)] * (name == next(iter(own)))
    ])  # fmt: skip


if __name__ == "__main__":
    main()
