-- Queries of the encoder.

-- name: encoders_in_use
-- The encoders whose embeddings are read, now or soon: active, 'of the policy' (the one the active policy learnt from,
-- whatever its status), shadow.
SELECT e.id, CASE WHEN e.status <> 'active' AND e.id = p.encoder_id THEN 'of the policy' ELSE e.status END AS used_as
FROM models e LEFT JOIN models p ON p.kind = 'policy' AND p.status = 'active'
WHERE e.kind = 'encoder' AND (e.status IN ('active', 'shadow') OR e.id = p.encoder_id)
ORDER BY e.status <> 'active', e.id

-- name: series_to_embed
-- The instruments that have candles of a timeframe, each one's first, and how far its embeddings go, seen from a moment.
SELECT i.id AS instrument_id, i.venue || ':' || i.symbol AS name, oldest.as_of AS oldest, newest.as_of AS newest
FROM instruments i
CROSS JOIN LATERAL (SELECT as_of FROM market_data m
                    WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s AND m.as_of <= %(until)s
                    ORDER BY as_of LIMIT 1) oldest
LEFT JOIN LATERAL (SELECT as_of FROM embeddings e
                   WHERE e.model_id = %(model_id)s AND e.instrument_id = i.id AND e.timeframe_s = %(timeframe_s)s
                     AND e.as_of <= %(until)s
                   ORDER BY as_of DESC LIMIT 1) newest ON true
ORDER BY i.id

-- name: embedded_closes
-- The moments of an instrument that a model has embedded, as one byte string of big-endian Unix seconds.
SELECT string_agg(int8send(extract(epoch FROM as_of)::bigint), '' ORDER BY as_of) FROM embeddings
WHERE model_id = %(model_id)s AND instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of >= %(first)s AND as_of <= %(last)s

-- name: take_turn_at_embeddings
-- Waits for other writers of embeddings, until the transaction ends: COPY cannot pass over rows that are there.
SELECT pg_advisory_xact_lock(1397184340)

-- name: copy_embeddings
-- Embeddings as binary rows (encoder/embedding_rows.py).
COPY embeddings (model_id, instrument_id, timeframe_s, as_of, embedding, ood, known_from, recorded_at)
FROM STDIN (FORMAT binary)

-- name: encoder_versions
-- Every encoder, oldest first, without its bytes.
SELECT id, status, trained_from, trained_to, known_from, schema_hash, metrics, provenance
FROM models WHERE kind = 'encoder' ORDER BY id

-- name: change_status
-- Moves one encoder from a status to another; no row when it has it no longer.
UPDATE models SET status = %(new)s WHERE id = %(model_id)s AND kind = 'encoder' AND status = %(old)s RETURNING id

-- name: policy_encoder
-- Which encoder the active policy learnt from.
SELECT id AS policy_id, encoder_id FROM models WHERE kind = 'policy' AND status = 'active'

-- name: embedded_span
-- From when to when a model has embeddings.
SELECT min(as_of) AS first, max(as_of) AS last FROM embeddings WHERE model_id = %(model_id)s

-- name: first_embedding
-- The first moment after another that a model has embedded.
SELECT min(as_of) AS as_of FROM embeddings WHERE model_id = %(model_id)s AND as_of > %(after)s

-- name: build_analog_index_of_active
-- The index that browsing the active encoder's embeddings uses, unless it is there.
SELECT build_analog_index(id) FROM models
WHERE kind = 'encoder' AND status = 'active' AND to_regclass('embeddings_of_' || id) IS NULL

-- name: drop_analog_indexes_of_retired
-- Nobody browses a retired encoder; its rows stay, for decisions cite them.
SELECT drop_analog_index(id) FROM models
WHERE kind = 'encoder' AND status = 'retired' AND to_regclass('embeddings_of_' || id) IS NOT NULL

-- name: instruments_of_model
-- The instruments that a model has embeddings of, in a span.
SELECT DISTINCT instrument_id FROM embeddings
WHERE model_id = %(model_id)s AND as_of > %(after)s AND as_of <= %(until)s ORDER BY instrument_id

-- name: insert_check
-- What the daily look at an encoder found; a day is looked at once.
INSERT INTO encoder_checks (model_id, as_of, stale_days, drift_share, psi_max, ood_share, error_ratio, verdict,
                            recorded_at)
VALUES (%(model_id)s, %(as_of)s, %(stale_days)s, %(drift_share)s, %(psi_max)s, %(ood_share)s, %(error_ratio)s,
        %(verdict)s, %(recorded_at)s)
ON CONFLICT (model_id, as_of) DO NOTHING

-- name: was_checked
-- Whether a model was looked at on this day.
SELECT verdict FROM encoder_checks WHERE model_id = %(model_id)s AND as_of = %(as_of)s

-- name: request_training
-- Asks for a new encoder; none while one is open, or while a newer one than the active has been waiting, not for too
-- long, to be switched to.
INSERT INTO trainings (kind, reason, requested_by, status, requested_at)
SELECT 'encoder', %(reason)s, %(requested_by)s, 'queued', %(at)s
WHERE NOT EXISTS (SELECT FROM trainings WHERE kind = 'encoder' AND status NOT IN ('done', 'failed'))
  AND NOT EXISTS (SELECT FROM models WHERE kind = 'encoder' AND status IN ('candidate', 'shadow')
                  AND trained_to > (SELECT trained_to FROM models WHERE kind = 'encoder' AND status = 'active')
                  AND recorded_at >= %(at)s - %(longest_wait)s)
ON CONFLICT (kind) WHERE command_id IS NULL AND status NOT IN ('done', 'failed') DO NOTHING

-- name: claim_commands
-- Each unexpired command for a new encoder becomes a training, once.
INSERT INTO trainings (kind, reason, requested_by, command_id, status, requested_at)
SELECT 'encoder', reason, issuer, id, 'queued', issued_at FROM commands
WHERE command = 'retrain-encoder' AND issued_at <= %(now)s AND expires_at > %(now)s
ORDER BY id
ON CONFLICT (command_id) DO NOTHING

-- name: give_up_trainings
-- Trainings whose workers died too often; what they left is not tried again.
UPDATE trainings SET status = 'failed', ended_at = %(now)s,
       error = coalesce(error || '; ', '') || 'its worker died: it was tried ' || attempts || ' times'
WHERE kind = 'encoder' AND status = 'running' AND attempts >= %(most_attempts)s
RETURNING id, error

-- name: take_training
-- One open training for one worker: what was begun comes first, then what waits longest.
UPDATE trainings SET status = 'running', attempts = attempts + 1, started_at = coalesce(started_at, %(now)s)
WHERE id = (SELECT id FROM trainings WHERE kind = 'encoder' AND status IN ('running', 'stopped', 'queued')
            ORDER BY status = 'queued', id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, reason, requested_by, attempts

-- name: end_training
-- How an attempt ended: done with its model, failed, or to be gone on with.
UPDATE trainings SET status = %(status)s, ended_at = %(ended_at)s, model_id = %(model_id)s, error = %(error)s,
       attempts = %(attempts)s
WHERE id = %(id)s

-- name: announce_embeddings
-- Wakes whoever waits for embeddings, when the transaction commits: the model's id.
SELECT pg_notify('embeddings', %(model_id)s::text)
