-- Queries of the meta-controller's hourly job.

-- name: stored_fits
-- What the experts have learnt, of fits made in a span.
SELECT expert, extract(epoch FROM fitted_at)::bigint AS fitted_at, bars, parameters FROM regime_fits
WHERE timeframe_s = %(timeframe_s)s AND fitted_at >= %(first)s AND fitted_at <= %(last)s

-- name: insert_fit
-- A fit; one that is there stays.
INSERT INTO regime_fits (expert, timeframe_s, fitted_at, bars, parameters, known_from, recorded_at)
VALUES (%(expert)s, %(timeframe_s)s, %(fitted_at)s, %(bars)s, %(parameters)s, %(fitted_at)s, %(recorded_at)s)
ON CONFLICT (expert, timeframe_s, fitted_at) DO NOTHING

-- name: read_calls
-- One expert's calls that may be pooled, as one byte string (meta_controller/call_rows.py: SENT_CALL).
SELECT string_agg(timestamptz_send(as_of) || int4send(horizon_s) || float8send(p_down) || float8send(p_flat)
                  || float8send(p_up) || float8send(p_vol_low) || float8send(p_vol_mid) || float8send(p_vol_high), ''
                  ORDER BY as_of, horizon_s)
FROM regime_calls
WHERE expert = %(expert)s AND as_of >= %(first)s AND as_of <= %(last)s AND NOT contaminated

-- name: read_llm_calls
-- The same of one language model under one prompt.
SELECT string_agg(timestamptz_send(r.as_of) || int4send(r.horizon_s) || float8send(r.p_down) || float8send(r.p_flat)
                  || float8send(r.p_up) || float8send(r.p_vol_low) || float8send(r.p_vol_mid)
                  || float8send(r.p_vol_high), '' ORDER BY r.as_of, r.horizon_s)
FROM regime_calls r JOIN llm_calls c ON c.id = r.llm_call_id
WHERE r.expert = 'llm' AND r.as_of >= %(first)s AND r.as_of <= %(last)s AND NOT r.contaminated
  AND c.model = %(model)s AND c.prompt = %(prompt)s

-- name: read_outcomes
-- What followed, as one byte string (meta_controller/call_rows.py: SENT_OUTCOME).
SELECT string_agg(timestamptz_send(as_of) || int4send(horizon_s)
                  || int4send(array_position(ARRAY['down', 'flat', 'up'], trend) - 1)
                  || int4send(array_position(ARRAY['low', 'mid', 'high'], volatility) - 1), '' ORDER BY as_of, horizon_s)
FROM regime_outcomes WHERE as_of >= %(first)s AND as_of <= %(last)s

-- name: copy_calls
-- New calls; the job's lock keeps others from writing the same.
COPY regime_calls (expert, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, llm_call_id,
                   contaminated, known_from, recorded_at) FROM STDIN

-- name: copy_outcomes
-- New outcomes.
COPY regime_outcomes (as_of, horizon_s, trend, volatility, log_return, realised, t_statistic, efficiency, known_from,
                      recorded_at) FROM STDIN

-- name: insert_market_state
-- One call of the regime; a moment, horizon and track that has one keeps it.
INSERT INTO market_state (track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high,
                          conviction, regime, source, reasons, valid_until, known_from, recorded_at)
VALUES (%(track)s, %(as_of)s, %(horizon_s)s, %(p_down)s, %(p_flat)s, %(p_up)s, %(p_vol_low)s, %(p_vol_mid)s,
        %(p_vol_high)s, %(conviction)s, %(regime)s, %(source)s, %(reasons)s, %(valid_until)s, %(known_from)s,
        %(recorded_at)s)
ON CONFLICT (track, as_of, horizon_s) DO NOTHING

-- name: steering_so_far
-- Each track's steering in a span and in the hour before it, and the newest that is an hour older than the span: what
-- the trigger refuse_jerked_steering compares with.
SELECT p.* FROM policy_config p WHERE p.as_of > %(first)s - interval '1 hour' AND p.as_of <= %(last)s
UNION ALL
SELECT b.* FROM unnest(%(tracks)s::text[]) AS t (track)
CROSS JOIN LATERAL (SELECT * FROM policy_config c WHERE c.track = t.track AND c.as_of <= %(first)s - interval '1 hour'
                    ORDER BY c.as_of DESC LIMIT 1) b
ORDER BY as_of

-- name: insert_policy_config
-- One version of the steering; a moment and track that has one keeps it.
INSERT INTO policy_config (track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty,
                           target_volatility, max_exposure, max_position, daily_loss_limit, max_drawdown, pause,
                           strategy_weights, reasons, valid_until, known_from, recorded_at)
VALUES (%(track)s, %(as_of)s, %(source)s, %(risk_aversion)s, %(turnover_penalty)s, %(drawdown_penalty)s,
        %(target_volatility)s, %(max_exposure)s, %(max_position)s, %(daily_loss_limit)s, %(max_drawdown)s,
        %(pause)s, %(strategy_weights)s, %(reasons)s, %(valid_until)s, %(known_from)s, %(recorded_at)s)
ON CONFLICT (track, as_of) DO NOTHING
