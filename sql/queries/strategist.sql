-- Queries of what the language model's answer leaves behind.

-- name: insert_llm_calls
-- The LLM's call for one horizon, raw; what is there stays.
INSERT INTO regime_calls (expert, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, llm_call_id,
                          contaminated, known_from, recorded_at)
VALUES ('llm', %(as_of)s, %(horizon_s)s, %(p_down)s, %(p_flat)s, %(p_up)s, %(p_vol_low)s, %(p_vol_mid)s,
        %(p_vol_high)s, %(llm_call_id)s, %(contaminated)s, %(known_from)s, %(recorded_at)s)
ON CONFLICT (expert, as_of, horizon_s) DO NOTHING

-- name: name_config
-- Which steering came of a call.
UPDATE llm_calls SET config_after_id = (SELECT id FROM policy_config WHERE track = 'llm' AND as_of = %(as_of)s)
WHERE id = %(id)s
