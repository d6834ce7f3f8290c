"""A Kraken and a Binance on 127.0.0.1, on a virtual clock, serving the simulated market, with a fault switchboard.

The documented shapes only: no live venue was asked, no recorded answer is replayed.
"""
