-- Reading embeddings, for every layer.

-- name: read_embeddings
-- Each instrument's series as byte strings of big-endian numbers: numpy reads them without a Python object a row.
SELECT instrument_id,
       string_agg(int8send(extract(epoch FROM as_of)::bigint), '' ORDER BY as_of) AS as_of,
       string_agg(vector_send(embedding), '' ORDER BY as_of) AS embedding,
       string_agg(float8send(ood), '' ORDER BY as_of) AS ood
FROM embeddings
WHERE model_id = %(model_id)s AND instrument_id = ANY (%(instrument_ids)s) AND timeframe_s = %(timeframe_s)s
  AND as_of > %(after)s AND as_of <= %(until)s
  AND (%(known_by)s::timestamptz IS NULL OR known_from <= %(known_by)s)
GROUP BY instrument_id

-- name: exported_encoder
-- One encoder, or (NULL) the active one, without its bytes.
SELECT id, sha256, known_from, (schema ->> 'timeframe_s')::integer AS timeframe_s FROM models
WHERE kind = 'encoder' AND CASE WHEN %(model_id)s::bigint IS NULL THEN status = 'active' ELSE id = %(model_id)s END
