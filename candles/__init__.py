"""Exchanges and files -> market_data. The only layer that writes candles."""
