-- Queries of the sender about paper wallets; those about live ones are in live_sender.sql.

-- name: new_intents
-- Orders of which the venue has heard nothing yet, oldest first.
SELECT o.id FROM orders o
WHERE o.mode = 'paper' AND o.state = 'intended' AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
ORDER BY o.recorded_at, o.instrument_id

-- name: approve
-- The database's own verdict; NULL = may be sent.
SELECT approve(%(id)s, %(at)s) AS refusal

-- name: insert_event
-- What the venue said.
INSERT INTO order_events (order_id, event, detail, venue_order_id, at, recorded_at)
VALUES (%(order_id)s, %(event)s, %(detail)s, %(venue_order_id)s, %(at)s, %(recorded_at)s)

-- name: working_orders
-- Accepted paper orders without an end, each with the first candle that may fill it: one that opened after the
-- venue accepted it. In the order in which the venue meets them: time, sells first, the portfolio's order.
SELECT o.id, o.wallet_id, o.instrument_id, o.side, o.quantity, o.volatility, o.deadline, w.slippage_bps, w.impact,
       w.taker_fee_bps, w.quote, i.tick_size, i.lot_size, i.base_timeframe_s, c.open, c.volume, c.opened_at
FROM orders o
JOIN order_events a ON a.order_id = o.id AND a.event = 'accepted'
JOIN wallets w ON w.id = o.wallet_id
JOIN limits l ON l.wallet_id = w.id
JOIN instruments i ON i.id = o.instrument_id
LEFT JOIN LATERAL (
    SELECT open, volume, as_of - make_interval(secs => timeframe_s) AS opened_at
    FROM market_data m
    WHERE m.instrument_id = i.id AND m.timeframe_s = i.base_timeframe_s AND m.as_of <= %(now)s
      AND m.as_of >= GREATEST(o.not_before, a.at) + make_interval(secs => i.base_timeframe_s)
      AND m.as_of < o.deadline + make_interval(secs => i.base_timeframe_s)
    ORDER BY m.as_of LIMIT 1) c ON true
WHERE o.mode = 'paper' AND o.state IN ('intended', 'accepted')
  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id AND e.event IN ('filled', 'canceled', 'expired'))
ORDER BY c.opened_at NULLS LAST, o.side DESC, array_position(l.symbols, i.symbol)

-- name: book
-- A wallet's cash and what it holds of one instrument.
SELECT c.amount AS cash,
       coalesce((SELECT quantity FROM positions p
                 WHERE p.wallet_id = c.wallet_id AND p.instrument_id = %(instrument_id)s), 0) AS held
FROM cash c WHERE c.wallet_id = %(wallet_id)s

-- name: insert_fill
-- What was exchanged; the same trade told twice is one row.
INSERT INTO fills (wallet_id, venue_trade_id, order_id, side, quantity, price, cost, fee, fee_asset, filled_at,
                   recorded_at)
VALUES (%(wallet_id)s, %(venue_trade_id)s, %(order_id)s, %(side)s, %(quantity)s, %(price)s, %(cost)s, %(fee)s,
        %(fee_asset)s, %(filled_at)s, %(recorded_at)s)
ON CONFLICT (wallet_id, venue_trade_id) DO NOTHING
