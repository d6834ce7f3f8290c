-- Queries of policy/candle_cache.py.

-- name: news
-- For each series what came after its last kept candle (as read_candles sends it), whether something came before its
-- first, and its newest revision.
SELECT k.id, n.candles, coalesce(r.revision, 0) AS revision,
       EXISTS (SELECT FROM market_data m WHERE m.instrument_id = k.id AND m.timeframe_s = %(timeframe_s)s
               AND m.as_of > %(after)s AND m.as_of < k.first) AS earlier
FROM unnest(%(ids)s::int[], %(first)s::timestamptz[], %(last)s::timestamptz[]) AS k (id, first, last)
LEFT JOIN LATERAL (
    SELECT string_agg(timestamptz_send(as_of) || float8send(open) || float8send(high) || float8send(low)
                      || float8send(close) || float8send(volume) || int4send(coalesce(trades, -1)), '' ORDER BY as_of)
               AS candles
    FROM market_data m
    WHERE m.instrument_id = k.id AND m.timeframe_s = %(timeframe_s)s AND k.last > %(after)s
      AND m.as_of > k.last AND m.as_of <= %(until)s) n ON true
LEFT JOIN LATERAL (SELECT max(id) AS revision FROM candle_revisions c
                   WHERE c.instrument_id = k.id AND c.timeframe_s = %(timeframe_s)s) r ON true
