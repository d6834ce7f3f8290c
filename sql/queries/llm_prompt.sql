-- What the language model is shown. Every query gives what was recorded by a moment (recorded_by) and could be known
-- at another (as_of), so that a prompt can be built again from rows, whatever was written since.

-- name: candles_as_recorded
-- One series as it stood at recorded_by, revisions since undone: one byte string (shared/market_data.py: SENT_CANDLE).
-- What was replaced later held until then, whatever an earlier moment a clock that was set back gave to the new values.
SELECT string_agg(timestamptz_send(as_of) || float8send(open) || float8send(high) || float8send(low)
                  || float8send(close) || float8send(volume) || int4send(coalesce(trades, -1)), '' ORDER BY as_of)
FROM (SELECT as_of, open, high, low, close, volume, trades FROM market_data m
      WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
        AND as_of > %(after)s AND as_of <= %(as_of)s AND recorded_at <= %(recorded_by)s
        AND NOT EXISTS (SELECT FROM candle_revisions r
                        WHERE r.instrument_id = m.instrument_id AND r.timeframe_s = m.timeframe_s
                          AND r.as_of = m.as_of AND r.replaced_at > %(recorded_by)s)
      UNION ALL
      SELECT as_of, open, high, low, close, volume, trades FROM candle_revisions
      WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
        AND as_of > %(after)s AND as_of <= %(as_of)s
        AND recorded_at <= %(recorded_by)s AND replaced_at > %(recorded_by)s) c

-- name: calls_at
-- What the regime experts and their pool say about the moment; the language model's own calls are not among them.
SELECT expert, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high FROM regime_calls
WHERE as_of = %(as_of)s AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s AND expert <> 'llm'
ORDER BY horizon_s, expert <> 'pool', expert

-- name: newest_outcomes
-- What happened over the last horizons that have passed.
SELECT DISTINCT ON (horizon_s) horizon_s, trend, volatility FROM regime_outcomes
WHERE known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s
ORDER BY horizon_s, as_of DESC

-- name: base_rates
-- How often each class happened in the year before.
SELECT horizon_s, count(*) AS n,
       count(*) FILTER (WHERE trend = 'down') AS down, count(*) FILTER (WHERE trend = 'flat') AS flat,
       count(*) FILTER (WHERE trend = 'up') AS up, count(*) FILTER (WHERE volatility = 'low') AS vol_low,
       count(*) FILTER (WHERE volatility = 'mid') AS vol_mid, count(*) FILTER (WHERE volatility = 'high') AS vol_high
FROM regime_outcomes
WHERE known_from <= %(as_of)s AND known_from > %(as_of)s - interval '365 days' AND recorded_at <= %(recorded_by)s
GROUP BY horizon_s ORDER BY horizon_s

-- name: steering_before
-- The newest steering of a track that is at least an hour old: what the trigger no_jerk compares a new row with.
SELECT DISTINCT ON (track) track, as_of, risk_aversion, turnover_penalty, drawdown_penalty, target_volatility,
       max_exposure, max_position, daily_loss_limit, max_drawdown, pause, strategy_weights
FROM policy_config
WHERE track = ANY (ARRAY['llm', 'rules']) AND as_of <= %(as_of)s - interval '1 hour'
  AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s
ORDER BY track, policy_config.as_of DESC

-- name: equity_of_books
-- The paper wallets' equity at each decision of the last 30 days, by track. Not at the moment itself: the trader may be
-- writing that now.
SELECT w.track, d.wallet_id, d.as_of, min(d.equity) AS equity
FROM decisions d JOIN wallets w ON w.id = d.wallet_id
WHERE w.mode = 'paper' AND w.track = ANY (ARRAY['llm', 'rules', 'static']) AND d.as_of < %(as_of)s
  AND d.as_of >= %(as_of)s - interval '30 days' AND d.recorded_at <= %(recorded_by)s
GROUP BY w.track, d.wallet_id, d.as_of ORDER BY w.track, d.wallet_id, d.as_of

-- name: flows_of_books
-- What was paid into them or out of them meanwhile: no return of theirs.
SELECT c.wallet_id, c.at, c.amount::float8 AS amount
FROM cash_flows c JOIN wallets w ON w.id = c.wallet_id
WHERE w.mode = 'paper' AND w.track = ANY (ARRAY['llm', 'rules', 'static']) AND c.asset = w.quote
  AND c.at <= %(as_of)s AND c.at > %(as_of)s - interval '30 days' AND c.recorded_at <= %(recorded_by)s
ORDER BY c.wallet_id, c.at, c.id

-- name: newest_trust
-- How much the model with this prompt has earned.
SELECT weight, days, e_better FROM llm_trust
WHERE model = %(model)s AND prompt = %(prompt)s AND as_of <= %(as_of)s AND known_from <= %(as_of)s
  AND recorded_at <= %(recorded_by)s
ORDER BY as_of DESC LIMIT 1

-- name: news_by_topic
-- Fixed words and numbers only: no text, source or name of a third party can come this way.
SELECT s.topic, count(*) AS n, sum(s.relevance ORDER BY s.item_id) AS relevance,
       sum(s.relevance * s.sentiment ORDER BY s.item_id) AS weighted
FROM news_sentiment s JOIN news_items i ON i.id = s.item_id
WHERE i.published_at > %(as_of)s - make_interval(hours => %(hours)s) AND i.published_at <= %(as_of)s
  AND s.known_from <= %(as_of)s AND s.recorded_at <= %(recorded_by)s
  AND i.known_from <= %(as_of)s AND i.recorded_at <= %(recorded_by)s
GROUP BY s.topic ORDER BY s.topic

-- name: has_news
-- Whether any news was ever read: none in a day is not the same as none at all.
SELECT EXISTS (SELECT FROM news_sentiment WHERE known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s) AS found

-- name: onchain_series
-- Each wanted figure of each chain over 90 days, oldest first.
SELECT chain, metric, array_agg(value ORDER BY as_of) AS values, max(as_of) AS newest
FROM onchain_data
WHERE metric = ANY (%(metrics)s) AND as_of <= %(as_of)s AND as_of > %(as_of)s - interval '90 days'
  AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s
GROUP BY chain, metric

-- name: encoder_of_moment
-- The encoder in use, once what it saw at the moment is there to be read. It runs beside the hourly job and stamps its
-- rows before it commits them: a prompt that names it without them could not be built again.
SELECT id FROM models m
WHERE kind = 'encoder' AND status = 'active' AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s
  AND EXISTS (SELECT FROM instruments i
              JOIN embeddings e ON e.model_id = m.id AND e.instrument_id = i.id AND e.timeframe_s = %(timeframe_s)s
                               AND e.as_of = %(as_of)s
              WHERE i.venue = %(venue)s AND i.symbol = ANY (%(symbols)s) AND e.recorded_at <= %(recorded_by)s)

-- name: embedding_as_recorded
-- What one encoder saw at the moment.
SELECT vector_send(embedding) FROM embeddings
WHERE model_id = %(model_id)s AND instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s
  AND as_of = %(as_of)s AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s

-- name: moments_as_recorded
-- Every moment of these instruments whose outcome was known, with its cosine similarity, as one byte string
-- (shared/analogs.py: SENT_MOMENT) in no order. An aggregate without ORDER BY uses no approximate index: it is exact.
SELECT string_agg(int4send(instrument_id) || timestamptz_send(as_of)
                  || float8send(1 - (embedding <=> %(embedding)s::vector)), '')
FROM embeddings
WHERE model_id = %(model_id)s AND timeframe_s = %(timeframe_s)s AND instrument_id = ANY (%(instrument_ids)s)
  AND as_of <= %(until)s AND known_from <= %(as_of)s AND recorded_at <= %(recorded_by)s

-- name: closes_around
-- The closes from a week before each of several moments to a day after it, as they stood at recorded_by, as one byte
-- string: the moment's number, seconds from it, close.
SELECT string_agg(int4send(m.n::integer) || float8send(extract(epoch FROM c.as_of - m.as_of)::float8)
                  || float8send(c.close), '' ORDER BY m.n, c.as_of)
FROM unnest(%(instrument_ids)s::integer[], %(moments)s::timestamptz[]) WITH ORDINALITY AS m (instrument_id, as_of, n)
CROSS JOIN LATERAL (
    SELECT d.as_of, d.close FROM market_data d
    WHERE d.instrument_id = m.instrument_id AND d.timeframe_s = %(timeframe_s)s
      AND d.as_of >= m.as_of - interval '7 days' AND d.as_of <= m.as_of + interval '1 day' AND d.as_of <= %(as_of)s
      AND d.recorded_at <= %(recorded_by)s
      AND NOT EXISTS (SELECT FROM candle_revisions r
                      WHERE r.instrument_id = d.instrument_id AND r.timeframe_s = d.timeframe_s
                        AND r.as_of = d.as_of AND r.replaced_at > %(recorded_by)s)
    UNION ALL
    SELECT r.as_of, r.close FROM candle_revisions r
    WHERE r.instrument_id = m.instrument_id AND r.timeframe_s = %(timeframe_s)s
      AND r.as_of >= m.as_of - interval '7 days' AND r.as_of <= m.as_of + interval '1 day' AND r.as_of <= %(as_of)s
      AND r.recorded_at <= %(recorded_by)s AND r.replaced_at > %(recorded_by)s) c

-- name: call_to_replay
-- One stored call, with all that rebuilds it.
SELECT id, purpose, as_of, prompt, prompt_sha256, inputs, statistics, status, responses, answer, error, recorded_at,
       config_after_id
FROM llm_calls WHERE id = %(id)s

-- name: config_of_call
-- The steering that came of a call.
SELECT risk_aversion, turnover_penalty, drawdown_penalty, target_volatility, max_exposure, max_position,
       daily_loss_limit, max_drawdown, pause, strategy_weights
FROM policy_config WHERE id = %(id)s

-- name: calls_to_replay
-- The strategist's calls that ended, oldest first, after one.
SELECT id, purpose, as_of, prompt, prompt_sha256, inputs, statistics, status, responses, answer, error, recorded_at,
       config_after_id
FROM llm_calls WHERE purpose = 'strategist' AND status <> 'sent' AND id > %(after)s ORDER BY id LIMIT %(most)s
