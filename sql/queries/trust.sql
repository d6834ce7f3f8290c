-- Queries of the LLM's trust (meta_controller/assess_llm.py writes it, meta_controller/trust_rows.py reads it).

-- name: newest_trust
-- What a model with a prompt had earned at a moment, as far as recorded by then.
SELECT as_of, weight, temperature FROM llm_trust
WHERE model = %(model)s AND prompt = %(prompt)s AND as_of <= %(as_of)s AND known_from <= %(as_of)s
  AND recorded_at <= %(recorded_by)s
ORDER BY as_of DESC LIMIT 1

-- name: was_assessed
-- Whether a model with a prompt was looked at on a day.
SELECT verdict FROM llm_trust WHERE as_of = %(as_of)s AND model = %(model)s AND prompt = %(prompt)s

-- name: was_ever_asked
-- Whether a model with a prompt has made a call that can be counted by a moment.
SELECT min(c.as_of) AS first FROM regime_calls c JOIN llm_calls l ON l.id = c.llm_call_id
WHERE c.expert = 'llm' AND NOT c.contaminated AND l.model = %(model)s AND l.prompt = %(prompt)s
  AND c.as_of <= %(as_of)s

-- name: trust_before
-- The assessment before a day, whoever was assessed, and since when its weight is above 0 (NULL: it is not).
SELECT t.as_of, t.model, t.prompt, t.weight, CASE WHEN t.weight > 0 THEN (
           SELECT min(p.as_of) FROM llm_trust p
           WHERE p.model = t.model AND p.prompt = t.prompt AND p.as_of <= t.as_of
             AND p.as_of > coalesce((SELECT max(z.as_of) FROM llm_trust z
                                     WHERE z.model = t.model AND z.prompt = t.prompt AND z.weight = 0
                                       AND z.as_of < t.as_of), '-infinity')) END AS promoted
FROM llm_trust t WHERE t.as_of < %(as_of)s ORDER BY t.as_of DESC, t.recorded_at DESC LIMIT 1

-- name: counted_calls
-- The LLM's calls and the pool's of the same moments, one a horizon (on the grid of the horizon, so that none
-- overlap), with what happened, as known at a moment. Contaminated calls never count, nor does one that was recorded
-- when its outcome could be known.
SELECT extract(epoch FROM c.as_of)::bigint AS as_of, c.horizon_s,
       ARRAY[c.p_down, c.p_flat, c.p_up, c.p_vol_low, c.p_vol_mid, c.p_vol_high] AS llm,
       ARRAY[p.p_down, p.p_flat, p.p_up, p.p_vol_low, p.p_vol_mid, p.p_vol_high] AS pool,
       array_position(ARRAY['down', 'flat', 'up'], o.trend) - 1 AS trend,
       array_position(ARRAY['low', 'mid', 'high'], o.volatility) - 1 AS volatility
FROM regime_calls c
JOIN llm_calls l ON l.id = c.llm_call_id
JOIN regime_calls p ON p.expert = 'pool' AND p.as_of = c.as_of AND p.horizon_s = c.horizon_s
JOIN regime_outcomes o ON o.as_of = c.as_of AND o.horizon_s = c.horizon_s
WHERE c.expert = 'llm' AND l.model = %(model)s AND l.prompt = %(prompt)s
  AND NOT c.contaminated AND NOT p.contaminated
  AND c.recorded_at < o.known_from AND o.known_from <= %(as_of)s
  AND extract(epoch FROM c.as_of)::bigint %% c.horizon_s = 0
ORDER BY c.as_of

-- name: steered_since
-- The moment after which track llm was steered by this model and prompt alone, about times that the model cannot have
-- read about (30 days after its knowledge cut-off, as strategist.may_have_read): the newest strategist call that was
-- another's or of such a time, else the first of this one.
SELECT coalesce(max(as_of) FILTER (WHERE (model, prompt) <> (%(model)s, %(prompt)s)
                                      OR as_of < (knowledge_cutoff + 30)::timestamp AT TIME ZONE 'UTC'),
                min(as_of)) AS since
FROM llm_calls WHERE purpose = 'strategist' AND as_of <= %(as_of)s

-- name: paired_books
-- Paper wallets on track llm, each with every one on track rules that trades the same on the same terms.
SELECT a.id AS llm, b.id AS rules
FROM wallets a JOIN limits la ON la.wallet_id = a.id
JOIN wallets b ON (b.venue, b.quote, b.taker_fee_bps, b.slippage_bps, b.impact)
                = (a.venue, a.quote, a.taker_fee_bps, a.slippage_bps, a.impact)
JOIN limits lb ON lb.wallet_id = b.id AND lb.symbols = la.symbols
WHERE a.mode = 'paper' AND b.mode = 'paper' AND a.track = 'llm' AND b.track = 'rules'
ORDER BY a.id, b.id

-- name: paired_equity
-- Both books' equity at the last moment of each day (from midnight, exclusive, to midnight) at which both decided, and
-- whether money came or went that day other than by trading.
WITH equity AS (
    SELECT DISTINCT ON (wallet_id, as_of) wallet_id, as_of, equity
    FROM decisions
    WHERE wallet_id IN (%(llm)s, %(rules)s) AND as_of >= %(since)s AND as_of <= %(as_of)s
    ORDER BY wallet_id, as_of, id
), both_books AS (
    SELECT a.as_of, a.equity AS llm, b.equity AS rules,
           date_trunc('day', a.as_of - interval '1 microsecond') AS day
    FROM equity a JOIN equity b ON b.as_of = a.as_of AND b.wallet_id = %(rules)s
    WHERE a.wallet_id = %(llm)s AND a.equity > 0 AND b.equity > 0
), ends AS (
    SELECT DISTINCT ON (day) day, as_of, llm, rules FROM both_books ORDER BY day, as_of DESC
), spans AS (
    SELECT *, lag(as_of) OVER (ORDER BY day) AS before FROM ends
)
SELECT extract(epoch FROM s.day)::bigint AS day, s.llm, s.rules,
       EXISTS (SELECT FROM cash_flows f WHERE f.wallet_id IN (%(llm)s, %(rules)s)
               AND f.at > s.before AND f.at <= s.as_of) AS flowed
FROM spans s ORDER BY s.day

-- name: insert_trust
-- What was found; a day that was assessed keeps what was found first.
INSERT INTO llm_trust (as_of, model, prompt, calls, days, e_better, e_worse, p_book, temperature, weight, verdict,
                       known_from, recorded_at)
VALUES (%(as_of)s, %(model)s, %(prompt)s, %(calls)s, %(days)s, %(e_better)s, %(e_worse)s, %(p_book)s, %(temperature)s,
        %(weight)s, %(verdict)s, %(as_of)s, %(recorded_at)s)
ON CONFLICT (as_of, model, prompt) DO NOTHING
