-- Queries of the encoder.

-- name: newest_embeddings
-- How far each instrument's series of embeddings goes, seen from a moment.
SELECT instrument_id, max(as_of) AS as_of
FROM embeddings
WHERE model_id = %(model_id)s AND timeframe_s = %(timeframe_s)s AND as_of <= %(until)s
GROUP BY instrument_id

-- name: insert_embedding
-- One window's embedding; what was written stays as it was.
INSERT INTO embeddings (model_id, instrument_id, timeframe_s, as_of, embedding, ood, known_from, recorded_at)
VALUES (%(model_id)s, %(instrument_id)s, %(timeframe_s)s, %(as_of)s, %(embedding)s::vector, %(ood)s, %(known_from)s,
        %(recorded_at)s)
ON CONFLICT (model_id, instrument_id, timeframe_s, as_of) DO NOTHING
