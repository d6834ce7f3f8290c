-- What the LLM remembers: memory_logs, and the embeddings that it is searched by.

-- name: stored_embedding
-- What an endpoint's model made of a text, once it had answered.
SELECT answer -> 'embedding' AS embedding FROM llm_calls
WHERE purpose = 'embedding' AND status = 'answered' AND model = %(model)s AND prompt_sha256 = %(text_sha256)s
  AND recorded_at <= %(recorded_by)s AND ended_at <= %(recorded_by)s
ORDER BY id LIMIT 1

-- name: active_encoder
-- The encoder in use, unless it was not recorded or not known by then.
SELECT id FROM models
WHERE kind = 'encoder' AND status = 'active' AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s

-- name: state_embeddings
-- What one encoder saw of each instrument at one moment.
SELECT embedding::real[] AS embedding FROM embeddings
WHERE model_id = %(encoder_id)s AND instrument_id = ANY (%(instrument_ids)s) AND timeframe_s = %(timeframe_s)s
  AND as_of = %(as_of)s AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s
ORDER BY instrument_id

-- name: insert_memory
-- One decision of the LLM; a call that is remembered stays as it is.
INSERT INTO memory_logs (llm_call_id, as_of, encoder_id, state_embedding, text_embedder, text_embedding, decision,
                         known_from, recorded_at)
VALUES (%(llm_call_id)s, %(as_of)s, %(encoder_id)s, %(state_embedding)s, %(text_embedder)s, %(text_embedding)s,
        %(decision)s, %(known_from)s, %(recorded_at)s)
ON CONFLICT (llm_call_id) DO NOTHING

-- name: memories_to_settle
-- Memories without an outcome whose horizons have all passed: what the LLM and the pool had called, and what happened.
SELECT m.id, o.horizon_s, o.trend, o.volatility, GREATEST(o.known_from, l.known_from, p.known_from) AS known_from,
       ARRAY[l.p_down, l.p_flat, l.p_up] AS llm_trend, ARRAY[l.p_vol_low, l.p_vol_mid, l.p_vol_high] AS llm_volatility,
       CASE WHEN p.expert IS NOT NULL THEN ARRAY[p.p_down, p.p_flat, p.p_up] END AS pool_trend,
       CASE WHEN p.expert IS NOT NULL THEN ARRAY[p.p_vol_low, p.p_vol_mid, p.p_vol_high] END AS pool_volatility
FROM memory_logs m
JOIN regime_calls l ON l.expert = 'llm' AND l.as_of = m.as_of AND l.llm_call_id = m.llm_call_id
JOIN regime_outcomes o ON o.as_of = m.as_of AND o.horizon_s = l.horizon_s
LEFT JOIN regime_calls p ON p.expert = 'pool' AND p.as_of = m.as_of AND p.horizon_s = l.horizon_s
                        AND p.recorded_at <= %(now)s
WHERE m.outcome IS NULL AND m.as_of <= %(last)s AND m.recorded_at <= %(now)s
  AND o.known_from <= %(now)s AND o.recorded_at <= %(now)s
ORDER BY m.id, o.horizon_s

-- name: settle_memory
-- What happened, once.
UPDATE memory_logs SET outcome = %(outcome)s, outcome_known_from = %(known_from)s, outcome_recorded_at = %(recorded_at)s
WHERE id = %(id)s AND outcome IS NULL

-- name: recall
-- The memories most like a moment, of those whose outcome was known by then: an exact scan. Only what one encoder, or
-- one embedder, made can be compared; age halves what is left every half_life_days. Rounded, so that machines that add
-- up in another order agree.
WITH alike AS (
    SELECT id, as_of,
           CASE WHEN encoder_id = %(encoder_id)s::bigint
                THEN 1 - (state_embedding <=> %(state)s::vector) END AS of_state,
           CASE WHEN text_embedder = %(embedder)s
                THEN 1 - (text_embedding <=> %(text)s::vector) END AS of_text
    FROM memory_logs
    WHERE outcome_known_from <= %(as_of)s AND outcome_recorded_at <= %(recorded_by)s
), scored AS (
    SELECT id, round((coalesce(of_state, of_text) + coalesce(of_text, of_state)) / 2 * 1e6) / 1e6 AS similarity,
           power(0.5, extract(epoch FROM %(as_of)s - as_of)::float8 / 86400 / %(half_life_days)s) AS freshness
    FROM alike WHERE of_state IS NOT NULL OR of_text IS NOT NULL
), best AS (
    SELECT id, similarity, round(GREATEST(similarity, 0) * freshness * 1e6) / 1e6 AS score
    FROM scored ORDER BY score DESC, id LIMIT %(shortlist)s
)
SELECT b.id, b.similarity, b.score, m.as_of, m.encoder_id, m.state_embedding::real[] AS state, m.text_embedder,
       m.text_embedding::real[] AS text, m.decision, m.outcome
FROM best b JOIN memory_logs m USING (id)
ORDER BY b.score DESC, b.id
