-- Queries of the scorecard: calls, and what then happened. Calls and outcomes come as one byte string each, a record
-- after the other (meta_controller/scored_rows.py: SENT_CALL, SENT_OUTCOME), so that numpy reads years of hours at once.

-- name: forecasters
-- Who called in a span, the LLM once for each model and prompt, and for calls it may have read about; how often.
SELECT c.expert, l.model, l.prompt, c.contaminated, count(*) AS calls, max(c.as_of) AS last_as_of
FROM regime_calls c LEFT JOIN llm_calls l ON l.id = c.llm_call_id
WHERE c.as_of BETWEEN %(first)s AND %(last)s AND c.known_from <= %(known_by)s AND c.recorded_at <= %(recorded_by)s
GROUP BY c.expert, l.model, l.prompt, c.contaminated
ORDER BY c.expert, l.model, l.prompt, c.contaminated

-- name: calls
-- One forecaster's calls in a span, oldest first.
SELECT string_agg(timestamptz_send(c.as_of) || int4send(c.horizon_s)
                  || float8send(c.p_down) || float8send(c.p_flat) || float8send(c.p_up)
                  || float8send(c.p_vol_low) || float8send(c.p_vol_mid) || float8send(c.p_vol_high), ''
                  ORDER BY c.as_of, c.horizon_s)
FROM regime_calls c LEFT JOIN llm_calls l ON l.id = c.llm_call_id
WHERE c.expert = %(expert)s AND l.model IS NOT DISTINCT FROM %(model)s AND l.prompt IS NOT DISTINCT FROM %(prompt)s
  AND c.contaminated = %(contaminated)s
  AND c.as_of BETWEEN %(first)s AND %(last)s AND c.known_from <= %(known_by)s AND c.recorded_at <= %(recorded_by)s

-- name: outcomes
-- What followed the moments of a span, as far as it is known; oldest first. Classes are numbered in their order.
SELECT string_agg(timestamptz_send(as_of) || int4send(horizon_s)
                  || int4send(array_position(ARRAY['down', 'flat', 'up'], trend) - 1)
                  || int4send(array_position(ARRAY['low', 'mid', 'high'], volatility) - 1)
                  || float8send(log_return) || float8send(realised) || timestamptz_send(known_from), ''
                  ORDER BY as_of, horizon_s)
FROM regime_outcomes
WHERE as_of BETWEEN %(first)s AND %(last)s AND known_from <= %(known_by)s AND recorded_at <= %(recorded_by)s
