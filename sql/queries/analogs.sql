-- Past moments most like one. Every query is about one model's embeddings: those of two are never comparable.

-- name: active_encoder
-- What must be known of the active encoder to search among its embeddings; its bytes stay where they are.
SELECT id, known_from, provenance, (schema ->> 'timeframe_s')::integer AS timeframe_s
FROM models WHERE kind = 'encoder' AND status = 'active'

-- name: newest_embedding
-- Up to which close an instrument was embedded, seen from a moment.
SELECT max(as_of) AS as_of FROM embeddings
WHERE model_id = %(model_id)s AND instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of <= %(until)s

-- name: embedded_instruments
-- Whose moments can be found.
SELECT i.id, i.venue, i.symbol, i.base_timeframe_s, i.tick_size, i.lot_size, i.min_notional, i.min_quantity,
       i.status, i.provenance
FROM instruments i
WHERE EXISTS (SELECT FROM embeddings e WHERE e.model_id = %(model_id)s AND e.instrument_id = i.id
                                         AND e.timeframe_s = %(timeframe_s)s)
ORDER BY i.id

-- name: instruments_like
-- Those of an instrument's provenance: what a simulated market does says nothing about a real one.
SELECT id FROM instruments
WHERE provenance = (SELECT provenance FROM instruments WHERE id = %(instrument_id)s)

-- name: embedding_at
-- What one model saw at one close.
SELECT vector_send(embedding) FROM embeddings
WHERE model_id = %(model_id)s AND instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of = %(at)s AND known_from <= %(known_by)s

-- name: scan_moments
-- Every moment whose outcome was known, with its cosine similarity, as one byte string (shared/analogs.py:
-- SENT_MOMENT) in no order. An aggregate without ORDER BY cannot use an approximate index: this is exact.
SELECT string_agg(int4send(instrument_id) || timestamptz_send(as_of)
                  || float8send(1 - (embedding <=> %(embedding)s::vector)), '')
FROM embeddings
WHERE model_id = %(model_id)s AND timeframe_s = %(timeframe_s)s AND as_of <= %(until)s AND known_from <= %(known_by)s

-- name: search_moments
-- The nearest of them as the model's HNSW index finds them, approximately. The index is partial, so the model's
-- id is written into the statement: with a parameter, a generic plan could not use it.
SELECT string_agg(int4send(instrument_id) || timestamptz_send(as_of) || float8send(1 - distance), '')
FROM (SELECT instrument_id, as_of, embedding <=> %(embedding)s::vector AS distance
      FROM embeddings
      WHERE model_id = {model_id} AND timeframe_s = %(timeframe_s)s AND as_of <= %(until)s
        AND known_from <= %(known_by)s
      ORDER BY embedding <=> %(embedding)s::vector
      LIMIT %(most)s) nearest

-- name: set_search
-- For this transaction: how widely the index searches, and that it goes on until the filters leave enough rows.
SELECT set_config('hnsw.ef_search', %(ef_search)s::text, true), set_config('hnsw.iterative_scan', 'relaxed_order', true)

-- name: outcomes
-- The log return over each horizon after each moment, in order; NaN where a close is missing.
SELECT string_agg(float8send(coalesce(ln(later.close / sooner.close), 'NaN')), '' ORDER BY m.n, h.n)
FROM unnest(%(instrument_ids)s::integer[], %(as_of)s::timestamptz[]) WITH ORDINALITY AS m (instrument_id, as_of, n)
CROSS JOIN unnest(%(horizons_s)s::integer[]) WITH ORDINALITY AS h (horizon_s, n)
LEFT JOIN market_data sooner ON sooner.instrument_id = m.instrument_id AND sooner.timeframe_s = %(timeframe_s)s
    AND sooner.as_of = m.as_of
LEFT JOIN market_data later ON later.instrument_id = m.instrument_id AND later.timeframe_s = %(timeframe_s)s
    AND later.as_of = m.as_of + make_interval(secs => h.horizon_s)

-- name: is_indexed
-- Whether a model's embeddings have their HNSW index.
SELECT to_regclass('embeddings_of_' || %(model_id)s::text) IS NOT NULL AS indexed

-- name: some_embeddings
-- Some of a model's embeddings, the same ones each time, as one byte string.
SELECT string_agg(vector_send(embedding), '')
FROM (SELECT embedding FROM embeddings
      WHERE model_id = %(model_id)s AND timeframe_s = %(timeframe_s)s AND as_of <= %(until)s AND known_from <= %(known_by)s
      ORDER BY md5(instrument_id::text || as_of::text), instrument_id, as_of LIMIT %(most)s) chosen
