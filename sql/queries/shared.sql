-- Queries that every layer uses.

-- name: read_candles
-- One series as one byte string, a candle after the other (shared/market_data.py: SENT_CANDLE): numpy reads it
-- without a Python object a row.
SELECT string_agg(timestamptz_send(as_of) || float8send(open) || float8send(high) || float8send(low)
                  || float8send(close) || float8send(volume) || int4send(coalesce(trades, -1)), '' ORDER BY as_of)
FROM market_data
WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of > %(after)s AND as_of <= %(until)s

-- name: find_instruments
-- The instruments of a venue by symbol.
SELECT id, venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, min_quantity, status, provenance
FROM instruments WHERE venue = %(venue)s AND symbol = ANY (%(symbols)s)

-- name: raise_alert
-- One row a layer, key and day; what is worse than that day's row said is a row of its own, for the first was told.
INSERT INTO alerts (severity, key, message, day, recorded_at)
SELECT %(severity)s,
       CASE WHEN EXISTS (SELECT FROM alerts a WHERE a.layer = replace(current_user, 'sextant_', '')
                         AND a.key = %(key)s AND a.day = %(day)s
                         AND array_position(ARRAY['info', 'warning', 'critical'], a.severity)
                             < array_position(ARRAY['info', 'warning', 'critical'], %(severity)s::text))
            THEN %(key)s || ':' || %(severity)s ELSE %(key)s END,
       %(message)s, %(day)s, %(recorded_at)s
ON CONFLICT (layer, key, day) DO NOTHING

-- name: start_job_run
-- Takes the job's lock and writes its row; no row comes back when another instance holds the lock. Holding
-- it proves that an older run still marked running is dead.
-- The row is bookkeeping: it does not wait for the disk (a crash may lose the last moments of job_runs, and
-- nothing else).
WITH mine AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true), pg_try_advisory_lock(1397184339, (%(lock)s::bigint - 2147483648)::int) AS taken),
dead AS (
    UPDATE job_runs SET status = 'failed', ended_at = %(started_at)s, error = 'did not finish: killed or crashed'
    WHERE job = %(job)s AND status = 'running' AND (SELECT taken FROM mine)
)
INSERT INTO job_runs (job, clock_at, started_at, status)
SELECT %(job)s, %(clock_at)s, %(started_at)s, 'running' FROM mine WHERE taken
RETURNING id

-- name: end_job_run
-- Writes how the run ended and gives the lock back; does not wait for the disk either.
WITH ended AS (
    UPDATE job_runs SET status = %(status)s, result = %(result)s, ended_at = %(ended_at)s, error = %(error)s
    WHERE id = %(id)s
)
SELECT set_config('synchronous_commit', 'off', true),
       pg_advisory_unlock(1397184339, (%(lock)s::bigint - 2147483648)::int)

-- name: active_model
-- Which model of a kind is active; its bytes are fetched once, by id.
SELECT id, sha256 FROM models WHERE kind = %(kind)s AND status = 'active'

-- name: model_hash
-- Whether a model is still the one that was loaded.
SELECT sha256 FROM models WHERE id = %(id)s

-- name: model_by_id
-- One model, with its bytes.
SELECT * FROM models WHERE id = %(id)s

-- name: retire_active_models
-- Makes room for a new active model of this kind.
UPDATE models SET status = 'retired' WHERE kind = %(kind)s AND status = 'active'

-- name: insert_model
-- A trained model; the same bytes trained on the same span are the same model, and a model in use stays in use.
INSERT INTO models (kind, onnx, sha256, schema, schema_hash, trained_from, trained_to, label_horizon_s, known_from,
                    provenance, encoder_id, metrics, status, recorded_at)
VALUES (%(kind)s, %(onnx)s, %(sha256)s, %(schema)s, %(schema_hash)s, %(trained_from)s, %(trained_to)s,
        %(label_horizon_s)s, %(known_from)s, %(provenance)s, %(encoder_id)s, %(metrics)s, %(status)s, %(recorded_at)s)
ON CONFLICT (kind, sha256, trained_from, trained_to) DO UPDATE
SET status = CASE WHEN excluded.status = 'candidate' AND models.status IN ('active', 'shadow') THEN models.status
                  ELSE excluded.status END
RETURNING id
