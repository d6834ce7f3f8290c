-- Queries of policy/run_trader_loop.py.

-- name: listen
-- From now on this connection is told of new candles and new embeddings.
LISTEN candles; LISTEN embeddings

-- name: inputs
-- What the next decision waits for, and what came in last. awaited: instruments of a wallet's portfolio whose candle of
-- the decision clock, or whose embedding by the active policy's encoder, is not there yet. newest: changes with each
-- new candle or embedding, for those whose notification was missed.
SELECT count(*) FILTER (WHERE NOT decided AND (candle IS DISTINCT FROM %(as_of)s
                                               OR (encoder_id IS NOT NULL AND embedding IS DISTINCT FROM %(as_of)s)))
           AS awaited,
       coalesce(bool_and(decided), true) AS decided, max(base) AS candle, max(embedding) AS embedding
FROM (SELECT DISTINCT ON (i.id) i.id, coalesce(d.as_of >= %(as_of)s, false) AS decided, c.as_of AS candle,
             b.as_of AS base, m.encoder_id, e.as_of AS embedding
      FROM wallets w JOIN limits l ON l.wallet_id = w.id
      JOIN instruments i ON i.venue = w.venue AND i.symbol = ANY (l.symbols)
      LEFT JOIN LATERAL (SELECT as_of FROM decisions x WHERE x.wallet_id = w.id ORDER BY as_of DESC LIMIT 1) d ON true
      LEFT JOIN models m ON m.kind = 'policy' AND m.status = 'active'
      LEFT JOIN LATERAL (SELECT as_of FROM market_data x
                         WHERE x.instrument_id = i.id AND x.timeframe_s = %(timeframe_s)s AND x.as_of <= %(as_of)s
                         ORDER BY as_of DESC LIMIT 1) c ON true
      LEFT JOIN LATERAL (SELECT as_of FROM market_data x
                         WHERE x.instrument_id = i.id AND x.timeframe_s = i.base_timeframe_s
                         ORDER BY as_of DESC LIMIT 1) b ON true
      LEFT JOIN LATERAL (SELECT as_of FROM embeddings x
                         WHERE x.model_id = m.encoder_id AND x.instrument_id = i.id
                           AND x.timeframe_s = %(timeframe_s)s AND x.as_of <= %(as_of)s
                         ORDER BY as_of DESC LIMIT 1) e ON true
      ORDER BY i.id, decided) portfolios
