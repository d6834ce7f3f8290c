-- Queries of the ledger of LLM calls (meta_controller/llm_record.py): reserve, close, sum.

-- name: lock_ledger
-- One reservation at a time, of all processes: held until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('sextant.llm_calls', 0))

-- name: strategist_call_at
-- How the strategist's call of a moment stands; no row: there was none.
SELECT status FROM llm_calls WHERE purpose = 'strategist' AND as_of = %(as_of)s

-- name: spending
-- What the calls of the trailing hour, day and 30 days cost, or may yet cost. A clock that was set back hides none:
-- what was recorded later counts too.
SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (WHERE recorded_at > %(now)s - interval '1 hour'), 0) AS hour,
       coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (WHERE recorded_at > %(now)s - interval '1 day'), 0) AS day,
       coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS month
FROM llm_calls WHERE recorded_at > %(now)s - interval '30 days'

-- name: insert_call
-- The reservation: the call as it is about to be sent. No row comes back where the moment has its strategist call.
INSERT INTO llm_calls (purpose, as_of, model, endpoint, knowledge_cutoff, prompt, prompt_sha256, inputs, request,
                       statistics, memory_ids, config_before_id, status, reserved_usd, recorded_at)
VALUES (%(purpose)s, %(as_of)s, %(model)s, %(endpoint)s, %(knowledge_cutoff)s, %(prompt)s, %(prompt_sha256)s,
        %(inputs)s, %(request)s, %(statistics)s, %(memory_ids)s, %(config_before_id)s, 'sent', %(reserved_usd)s,
        %(recorded_at)s)
ON CONFLICT (as_of) WHERE purpose = 'strategist' DO NOTHING
RETURNING id

-- name: call_costs
-- What was reserved for a call of which purpose, and its cost if it has ended.
SELECT purpose, reserved_usd, cost_usd FROM llm_calls WHERE id = %(id)s

-- name: close_call
-- What came of a call; one that has ended keeps its end, and no row comes back.
UPDATE llm_calls
SET status = %(status)s, responses = %(responses)s, answer = %(answer)s, error = %(error)s, tokens_in = %(tokens_in)s,
    tokens_out = %(tokens_out)s, cost_usd = %(cost_usd)s, latency_s = %(latency_s)s, ended_at = %(ended_at)s,
    config_after_id = %(config_after_id)s
WHERE id = %(id)s AND status = 'sent'
RETURNING cost_usd
