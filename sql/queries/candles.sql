-- Queries of the candles layer.

-- name: add_instrument
-- A new instrument, or a finer base timeframe of a known one; none comes back for one of another provenance.
INSERT INTO instruments (venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, min_quantity, status,
                         provenance, recorded_at)
VALUES (%(venue)s, %(symbol)s, %(timeframe_s)s, %(tick_size)s, %(lot_size)s, %(min_notional)s, %(min_quantity)s,
        %(status)s, %(provenance)s, %(recorded_at)s)
ON CONFLICT (venue, symbol) DO UPDATE SET base_timeframe_s = LEAST(instruments.base_timeframe_s, excluded.base_timeframe_s)
WHERE instruments.provenance = excluded.provenance
RETURNING id, venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, min_quantity, status, provenance

-- name: refresh_rules
-- What the venue demands of an order from now on; a trigger keeps each version of it. A job whose clock was set back
-- (--at) does not make it older than it is.
UPDATE instruments
SET tick_size = %(tick_size)s, lot_size = %(lot_size)s, min_notional = %(min_notional)s,
    min_quantity = %(min_quantity)s, status = %(status)s, recorded_at = greatest(recorded_at, %(recorded_at)s)
WHERE id = %(id)s

-- name: instruments_of
-- All instruments of a venue.
SELECT id, venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, min_quantity, status, provenance
FROM instruments WHERE venue = %(venue)s ORDER BY symbol

-- name: known_series
-- The known instruments of a venue, each with the last close stored at this timeframe.
SELECT i.id, i.venue, i.symbol, i.base_timeframe_s, i.tick_size, i.lot_size, i.min_notional, i.min_quantity,
       i.status, i.provenance,
       (SELECT max(as_of) FROM market_data m WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s) AS last
FROM instruments i WHERE i.venue = %(venue)s AND i.symbol = ANY (%(symbols)s)

-- name: lock_series
-- One writer at a time an instrument, until the transaction ends: what is stored cannot change between the look
-- at it and the write.
SELECT pg_advisory_xact_lock(1397184340, %(instrument_id)s)

-- name: stored_candles
-- Like read_candles; after each candle a byte with the rank of its source (candles/store.py).
SELECT string_agg(timestamptz_send(as_of) || float8send(open) || float8send(high) || float8send(low)
                  || float8send(close) || float8send(volume) || int4send(coalesce(trades, -1))
                  || CASE WHEN source LIKE 'derived:%%' THEN '\x00'::bytea WHEN source LIKE 'file:%%' THEN '\x01'::bytea
                          ELSE '\x02'::bytea END, '' ORDER BY as_of)
FROM market_data
WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of >= %(first)s AND as_of <= %(last)s

-- name: copy_candles
-- New candles (candles/binary_copy.py).
COPY market_data (instrument_id, timeframe_s, as_of, open, high, low, close, volume, trades, recorded_at, source)
FROM STDIN (FORMAT BINARY)

-- name: revise_candles
-- Stored candles take other values; their former ones are kept. A job whose clock was set back (--at) may revise
-- what was recorded later than its now: the former values held until then.
WITH changed AS (
    SELECT to_timestamp(c.as_of) AS as_of, c.open, c.high, c.low, c.close, c.volume, nullif(c.trades, -1) AS trades
    FROM unnest(%(as_of)s::bigint[], %(open)s::float8[], %(high)s::float8[], %(low)s::float8[], %(close)s::float8[],
                %(volume)s::float8[], %(trades)s::int[]) AS c (as_of, open, high, low, close, volume, trades)
), former AS (
    INSERT INTO candle_revisions (instrument_id, timeframe_s, as_of, open, high, low, close, volume, trades, source,
                                  recorded_at, replaced_at)
    SELECT m.instrument_id, m.timeframe_s, m.as_of, m.open, m.high, m.low, m.close, m.volume, m.trades, m.source,
           m.recorded_at, greatest(%(recorded_at)s, m.recorded_at)
    FROM changed JOIN market_data m USING (as_of)
    WHERE m.instrument_id = %(instrument_id)s AND m.timeframe_s = %(timeframe_s)s
    ORDER BY m.as_of
)
UPDATE market_data m
SET open = c.open, high = c.high, low = c.low, close = c.close, volume = c.volume, trades = c.trades,
    source = %(source)s, recorded_at = %(recorded_at)s
FROM changed c
WHERE m.instrument_id = %(instrument_id)s AND m.timeframe_s = %(timeframe_s)s AND m.as_of = c.as_of

-- name: announce_candles
-- Wakes whoever waits for candles, when the transaction commits: <instrument id>:<timeframe>:<newest close written>.
SELECT pg_notify('candles', concat_ws(':', %(instrument_id)s::integer, %(timeframe_s)s::integer, %(newest)s::bigint))

-- name: quarantine_rows
-- What was refused, each once, however often the same file or answer comes.
INSERT INTO quarantine (venue, symbol, timeframe_s, source, line, reason, raw, recorded_at)
SELECT %(venue)s, %(symbol)s, %(timeframe_s)s, %(source)s, r.line, r.reason, r.raw, %(recorded_at)s
FROM unnest(%(line)s::bigint[], %(reason)s::text[], %(raw)s::text[]) AS r (line, reason, raw)
ON CONFLICT DO NOTHING

-- name: held_and_checked
-- The stored closes of a span with the one before it and the one after it, and the checks that reach in between,
-- as two byte strings of binary times.
WITH around AS MATERIALIZED (
    SELECT coalesce((SELECT max(as_of) FROM market_data WHERE instrument_id = %(instrument_id)s
                     AND timeframe_s = %(timeframe_s)s AND as_of <= %(after)s), %(after)s) AS first,
           coalesce((SELECT min(as_of) FROM market_data WHERE instrument_id = %(instrument_id)s
                     AND timeframe_s = %(timeframe_s)s AND as_of > %(until)s), %(until)s) AS last
)
SELECT (SELECT string_agg(timestamptz_send(as_of), '' ORDER BY as_of) FROM market_data
        WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
          AND as_of >= (SELECT first FROM around) AND as_of <= (SELECT last FROM around)) AS held,
       (SELECT string_agg(timestamptz_send(after) || timestamptz_send(until), '')
        FROM gap_checks WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
          AND after < (SELECT last FROM around) AND until > (SELECT first FROM around)) AS checked

-- name: close_before
-- The close before a candle, if one is stored that is not too old to be compared with it.
SELECT close FROM market_data
WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of >= %(oldest)s AND as_of < %(before)s
ORDER BY as_of DESC LIMIT 1

-- name: record_gap_checks
-- What the venue does not have, as it said.
INSERT INTO gap_checks (instrument_id, timeframe_s, after, until, finding, recorded_at)
SELECT %(instrument_id)s, %(timeframe_s)s, to_timestamp(s.after), to_timestamp(s.until), %(finding)s, %(recorded_at)s
FROM unnest(%(after)s::bigint[], %(until)s::bigint[]) AS s (after, until)

-- name: join_gap_checks
-- Holes that several checks cover together are checked as a whole; the weaker finding holds for all of it.
INSERT INTO gap_checks (instrument_id, timeframe_s, after, until, finding, recorded_at)
SELECT %(instrument_id)s, %(timeframe_s)s, to_timestamp(hole.after), to_timestamp(hole.until),
       (SELECT max(c.finding) FROM gap_checks c
        WHERE c.instrument_id = %(instrument_id)s AND c.timeframe_s = %(timeframe_s)s
          AND c.after < to_timestamp(hole.until) AND c.until > to_timestamp(hole.after)), %(recorded_at)s
FROM unnest(%(after)s::bigint[], %(until)s::bigint[]) AS hole (after, until)

-- name: add_venue_check
-- How a venue was when it was looked at.
INSERT INTO venue_checks (venue, status, clock_skew_s, round_trip_s, recorded_at)
VALUES (%(venue)s, %(status)s, %(clock_skew_s)s, %(round_trip_s)s, %(recorded_at)s)

-- name: hold_job_lock
-- Takes a job's lock again on a new connection, as start_job_run took it on the one that broke.
SELECT pg_try_advisory_lock(1397184339, (%(lock)s::bigint - 2147483648)::int) AS taken

-- name: stored_series
-- Every series there is, with its first and last close; looks into the index only, not into each candle.
WITH RECURSIVE steps AS (
    SELECT i.id, (SELECT min(timeframe_s) FROM market_data WHERE instrument_id = i.id) AS timeframe_s FROM instruments i
    UNION ALL
    SELECT s.id, (SELECT min(timeframe_s) FROM market_data WHERE instrument_id = s.id AND timeframe_s > s.timeframe_s)
    FROM steps s WHERE s.timeframe_s IS NOT NULL
)
SELECT i.id, i.venue, i.symbol, s.timeframe_s,
       (SELECT min(as_of) FROM market_data m WHERE m.instrument_id = i.id AND m.timeframe_s = s.timeframe_s) AS first,
       (SELECT max(as_of) FROM market_data m WHERE m.instrument_id = i.id AND m.timeframe_s = s.timeframe_s) AS last
FROM steps s JOIN instruments i ON i.id = s.id
WHERE s.timeframe_s IS NOT NULL
ORDER BY split_part(i.symbol, '/', 1), i.venue, i.symbol, s.timeframe_s

-- name: series_gaps
-- The holes of one series inside a span, as byte strings: their ends (big-endian Unix seconds), and whether the
-- venue was asked about them (one byte each).
SELECT string_agg(int8send(extract(epoch FROM after)::bigint) || int8send(extract(epoch FROM until)::bigint), ''
                  ORDER BY after) AS spans,
       string_agg(boolsend(finding IS NOT NULL), '' ORDER BY after) AS known
FROM candle_gaps
WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s AND after > %(after)s
  AND until + make_interval(secs => timeframe_s) <= %(until)s

-- name: series_revisions
-- The revisions of one series whose prices changed most, each against what followed it. With how many there are,
-- and how many of them are none: only the rounding of a sum of volumes moved.
SELECT as_of, change, count(*) OVER () AS count, max(volume_change) OVER () AS largest_volume_change,
       count(*) FILTER (WHERE change = 0 AND volume_change <= %(rounding)s) OVER () AS of_rounding
FROM (SELECT r.as_of, GREATEST(abs(r.next_open / r.open - 1), abs(r.next_high / r.high - 1),
                               abs(r.next_low / r.low - 1), abs(r.next_close / r.close - 1)) AS change,
             abs(r.next_volume - r.volume) / GREATEST(r.next_volume, r.volume, 1e-300) AS volume_change
      FROM (SELECT o.*, coalesce(lead(o.open) OVER later, m.open) AS next_open,
                   coalesce(lead(o.high) OVER later, m.high) AS next_high,
                   coalesce(lead(o.low) OVER later, m.low) AS next_low,
                   coalesce(lead(o.close) OVER later, m.close) AS next_close,
                   coalesce(lead(o.volume) OVER later, m.volume) AS next_volume
            FROM candle_revisions o JOIN market_data m USING (instrument_id, timeframe_s, as_of)
            WHERE o.instrument_id = %(instrument_id)s AND o.timeframe_s = %(timeframe_s)s
              AND o.as_of > %(after)s AND o.as_of <= %(until)s
            WINDOW later AS (PARTITION BY o.as_of ORDER BY o.id)) r) changes
ORDER BY change DESC, as_of LIMIT %(worst)s

-- name: quarantined
-- How many rows were refused, by series and reason. A row 'and N more rows of this file' stands for N; a file that
-- was imported in several states has several of those, of which the largest counts.
SELECT venue, symbol, timeframe_s, reason, sum(rows)::bigint AS rows
FROM (SELECT venue, symbol, timeframe_s, reason,
             count(*) FILTER (WHERE more IS NULL) + coalesce(max(more), 0) AS rows
      FROM (SELECT *, substring(raw FROM '^and ([0-9]+) more rows of this file$')::bigint AS more FROM quarantine) q
      GROUP BY venue, symbol, timeframe_s, reason, source) a_source
GROUP BY venue, symbol, timeframe_s, reason
ORDER BY venue, symbol, timeframe_s, rows DESC, reason
