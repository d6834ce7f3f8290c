"""market_data → embeddings: what a window of candles looks like as one point, and how unusual it is."""
