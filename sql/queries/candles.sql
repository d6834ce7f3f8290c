-- Queries of the candles layer.

-- name: add_instrument
-- A new instrument, or a finer base timeframe of a known one.
INSERT INTO instruments (venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, provenance, recorded_at)
VALUES (%(venue)s, %(symbol)s, %(timeframe_s)s, %(tick_size)s, %(lot_size)s, %(min_notional)s, %(provenance)s,
        %(recorded_at)s)
ON CONFLICT (venue, symbol) DO UPDATE SET base_timeframe_s = LEAST(instruments.base_timeframe_s, excluded.base_timeframe_s)
RETURNING id, venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, provenance

-- name: known_series
-- The known instruments of a venue, each with the last close stored at this timeframe.
SELECT i.id, i.venue, i.symbol, i.base_timeframe_s, i.tick_size, i.lot_size, i.min_notional, i.provenance,
       (SELECT max(as_of) FROM market_data m WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s) AS last
FROM instruments i WHERE i.venue = %(venue)s AND i.symbol = ANY (%(symbols)s)

-- name: write_candles
-- New candles are inserted, changed ones revised, equal ones left alone. A derived candle never replaces one
-- that the venue gave. Returns one row a candle written: true for a new one.
INSERT INTO market_data (instrument_id, timeframe_s, as_of, open, high, low, close, volume, trades, source, recorded_at)
SELECT %(instrument_id)s, %(timeframe_s)s, to_timestamp(c.as_of), c.open, c.high, c.low, c.close, c.volume,
       nullif(c.trades, -1), %(source)s, %(recorded_at)s
FROM unnest(%(as_of)s::bigint[], %(open)s::float8[], %(high)s::float8[], %(low)s::float8[], %(close)s::float8[],
            %(volume)s::float8[], %(trades)s::int[]) AS c (as_of, open, high, low, close, volume, trades)
ON CONFLICT (instrument_id, timeframe_s, as_of) DO UPDATE
SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, source = excluded.source, recorded_at = excluded.recorded_at
WHERE (market_data.open, market_data.high, market_data.low, market_data.close, market_data.volume)
      IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume)
  AND (excluded.source NOT LIKE 'derived:%%' OR market_data.source LIKE 'derived:%%')
RETURNING xmax = 0 AS is_new

-- name: quarantine_rows
-- What was refused, each once, however often the same file or answer comes.
INSERT INTO quarantine (venue, symbol, timeframe_s, source, line, reason, raw, recorded_at)
SELECT %(venue)s, %(symbol)s, %(timeframe_s)s, %(source)s, r.line, r.reason, r.raw, %(recorded_at)s
FROM unnest(%(line)s::bigint[], %(reason)s::text[], %(raw)s::text[]) AS r (line, reason, raw)
ON CONFLICT DO NOTHING
