-- Queries of pipeline/explain.py: one decision with the rows that it was made from, and what came of it.

-- name: decision
-- One decision with its wallet and its instrument.
SELECT d.*, w.name AS wallet, w.mode, w.venue, w.track, w.quote, w.taker_fee_bps, w.slippage_bps, i.symbol, i.lot_size,
       i.tick_size, i.min_notional, i.min_quantity, i.status AS instrument_status, l.symbols, l.max_order_notional
FROM decisions d JOIN wallets w ON w.id = d.wallet_id JOIN instruments i ON i.id = d.instrument_id
LEFT JOIN limits l ON l.wallet_id = w.id
WHERE d.id = %(id)s

-- name: wallets_of_symbol
-- The wallets that have a symbol in their portfolio, or once decided about it.
SELECT w.id, w.name, w.venue, w.recorded_at, coalesce(%(symbol)s = ANY (l.symbols), false) AS listed,
       i.id AS instrument_id
FROM wallets w LEFT JOIN limits l ON l.wallet_id = w.id
LEFT JOIN instruments i ON i.venue = w.venue AND i.symbol = %(symbol)s
WHERE (%(wallet)s::text IS NULL OR w.name = %(wallet)s)
  AND (%(symbol)s = ANY (l.symbols)
       OR EXISTS (SELECT FROM decisions d WHERE d.wallet_id = w.id AND d.instrument_id = i.id))
ORDER BY w.id

-- name: nearest_decisions
-- The last decision at or before a moment, and the first after it.
SELECT (SELECT id FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.instrument_id = %(instrument_id)s
        AND d.as_of <= %(at)s ORDER BY d.as_of DESC LIMIT 1) AS before,
       (SELECT as_of FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.instrument_id = %(instrument_id)s
        AND d.as_of <= %(at)s ORDER BY d.as_of DESC LIMIT 1) AS before_at,
       (SELECT id FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.instrument_id = %(instrument_id)s
        AND d.as_of > %(at)s ORDER BY d.as_of LIMIT 1) AS after,
       (SELECT as_of FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.instrument_id = %(instrument_id)s
        AND d.as_of > %(at)s ORDER BY d.as_of LIMIT 1) AS after_at

-- name: why_none
-- What is known about a candle that was not decided about: the wallet's last resume before its decision, whether the
-- candle is there and since when, and what the trader's runs of that time came to.
SELECT (SELECT max(issued_at) FROM commands c
        WHERE c.wallet_id = %(wallet_id)s AND c.command = 'resume' AND c.issued_at <= %(until)s) AS resumed_at,
       (SELECT recorded_at FROM market_data m WHERE m.instrument_id = %(instrument_id)s
        AND m.timeframe_s = %(timeframe_s)s AND m.as_of = %(as_of)s) AS candle_recorded_at,
       (SELECT count(*) FROM job_runs r WHERE r.job = 'run_trader' AND r.clock_at >= %(due)s
        AND r.clock_at < %(until)s) AS runs,
       (SELECT error FROM job_runs r WHERE r.job = 'run_trader' AND r.clock_at >= %(due)s AND r.clock_at < %(until)s
        AND r.status = 'failed' ORDER BY id DESC LIMIT 1) AS error,
       (SELECT r.result -> 'failures' ->> %(wallet)s FROM job_runs r WHERE r.job = 'run_trader'
        AND r.clock_at >= %(due)s AND r.clock_at < %(until)s AND r.result ? 'failures' ORDER BY id DESC LIMIT 1) AS trouble

-- name: portfolio_decisions
-- What a wallet decided in a span, oldest first, each moment's instruments in the order in which they were seen.
SELECT as_of, recorded_at, instrument_id, price, quantity_held, cash, equity, units, encoder_id, policy_config_id
FROM decisions
WHERE wallet_id = %(wallet_id)s AND source = %(source)s AND as_of >= %(first)s AND as_of <= %(last)s
ORDER BY as_of, id

-- name: equities
-- A wallet's equity at each of its decisions up to a moment, and what was paid in by then.
SELECT DISTINCT ON (as_of) as_of, equity, units FROM decisions
WHERE wallet_id = %(wallet_id)s AND as_of <= %(last)s ORDER BY as_of, id

-- name: resumes
-- When a wallet was resumed.
SELECT issued_at FROM commands WHERE wallet_id = %(wallet_id)s AND command = 'resume' ORDER BY issued_at

-- name: paid_in
-- What was paid into a wallet by a moment, in quote.
SELECT coalesce(sum(coalesce(value, amount)), 0) AS capital FROM cash_flows
WHERE wallet_id = %(wallet_id)s AND managed AND recorded_at <= %(recorded_at)s

-- name: instruments
-- Instruments by id.
SELECT id, venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, provenance, min_quantity, status
FROM instruments WHERE id = ANY (%(ids)s)

-- name: state_by_id
-- One call of the regime.
SELECT track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, conviction, regime, source,
       reasons, valid_until, known_from, id
FROM market_state WHERE id = %(id)s

-- name: config_by_id
-- One version of the steering.
SELECT track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty, target_volatility, max_exposure,
       max_position, daily_loss_limit, max_drawdown, pause, strategy_weights, reasons, valid_until, known_from, id
FROM policy_config WHERE id = %(id)s

-- name: promotion_then
-- What a policy's residual counted at a moment.
SELECT residual, verdict FROM promotions WHERE model_id = %(model_id)s AND promoted_at <= %(at)s
ORDER BY id DESC LIMIT 1

-- name: order_of_decision
-- The order that a decision led to, with its approval, and what would be said of it now where nothing was yet.
SELECT o.id, o.side, o.type, o.quantity, o.limit_price, o.stop_price, o.reference_price, o.state, o.not_before, o.deadline,
       o.recorded_at, o.bracket_stop, o.bracket_target, o.bracket_trail, a.approved_at, a.epoch,
       CASE WHEN o.state = 'intended' THEN refusal_of(o.id, %(now)s) END AS refusal
FROM orders o LEFT JOIN approvals a ON a.order_id = o.id
WHERE o.decision_id = %(id)s AND o.purpose = 'trade'

-- name: events_of_order
-- What was done about an order and what the venue said.
SELECT event, detail, venue_order_id, at, recorded_at FROM order_events WHERE order_id = %(id)s ORDER BY id

-- name: fills_of_order
-- What was exchanged.
SELECT venue_trade_id, quantity, price, cost, fee, fee_asset, filled_at FROM fills WHERE order_id = %(id)s
ORDER BY filled_at, venue_trade_id

-- name: circumstances
-- What stopped a wallet at a moment: its operator's word, with the newest stop's reason, and risk's.
SELECT mandate_of(%(wallet_id)s, %(at)s) AS mandate,
       (SELECT command || ': ' || reason FROM commands c WHERE (c.wallet_id = %(wallet_id)s OR c.wallet_id IS NULL)
        AND c.issued_at <= %(at)s AND c.command NOT IN ('retrain-encoder', 'place') ORDER BY c.id DESC LIMIT 1) AS command,
       (SELECT rule || ': ' || because FROM risk_events r WHERE r.wallet_id = %(wallet_id)s AND r.kind = 'stop'
        AND r.recorded_at <= %(at)s AND r.recorded_at >= coalesce((SELECT max(issued_at) FROM commands c
            WHERE c.wallet_id = %(wallet_id)s AND c.command = 'resume' AND c.issued_at <= %(at)s), '-infinity')
        ORDER BY r.id DESC LIMIT 1) AS risk_stop

-- name: llm_call_of_config
-- What a language model was asked when a steering was made, and what it answered.
SELECT id, as_of, model, endpoint, prompt, status, answer, responses, error, request, statistics, cost_usd, latency_s,
       config_after_id
FROM llm_calls
WHERE purpose = 'strategist' AND (config_after_id = %(id)s OR (as_of = %(as_of)s AND %(track)s <> 'rules'))
ORDER BY config_after_id = %(id)s DESC NULLS LAST, id DESC LIMIT 1
