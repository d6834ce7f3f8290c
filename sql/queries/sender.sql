-- Queries of the sender about paper wallets; those about live ones are in live_sender.sql.

-- name: new_intents
-- Orders of which the venue has heard nothing yet, oldest first.
SELECT o.id, o.side, w.name AS wallet FROM orders o JOIN wallets w ON w.id = o.wallet_id
WHERE o.mode = 'paper' AND o.state = 'intended' AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
ORDER BY o.recorded_at, o.command_id, o.instrument_id

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
SELECT o.id, o.wallet_id, o.instrument_id, o.side, o.quantity, o.limit_price, o.volatility, o.deadline, w.slippage_bps,
       w.impact, w.taker_fee_bps, w.quote, i.tick_size, i.lot_size, i.base_timeframe_s, c.open, c.volume, c.opened_at
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

-- name: stopped_entries
-- Entries without an end of wallets whose entry orders a kill cancels, and since when: at a venue they would be gone then.
SELECT o.id, k.mandate, (SELECT min(c.issued_at) FROM commands c
                         WHERE (c.wallet_id = o.wallet_id OR c.wallet_id IS NULL) AND c.command IN ('kill', 'flatten')
                           AND c.id > coalesce((SELECT max(r.id) FROM commands r
                                                WHERE r.wallet_id = o.wallet_id AND r.command = 'resume'), 0)) AS since
FROM orders o CROSS JOIN LATERAL (SELECT mandate_of(o.wallet_id, %(now)s) AS mandate) k
WHERE o.mode = 'paper' AND o.side = 'buy' AND o.state IN ('intended', 'accepted') AND k.mandate IN ('kill', 'flatten')
  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id
                  AND e.event IN ('rejected', 'filled', 'canceled', 'expired'))

-- name: paper_wallets
-- Paper wallets, each with what its operator's commands let it do.
SELECT id, name, mandate_of(id, %(now)s) AS mandate FROM wallets WHERE mode = 'paper'

-- name: holdings_to_flatten
-- What such a wallet holds that no sale is under way for.
SELECT p.instrument_id, floor(p.quantity / i.lot_size) * i.lot_size AS quantity, m.close,
       coalesce((SELECT o.volatility FROM orders o WHERE o.wallet_id = p.wallet_id AND o.instrument_id = p.instrument_id
                 ORDER BY o.recorded_at DESC LIMIT 1), 0) AS volatility
FROM positions p JOIN instruments i ON i.id = p.instrument_id
CROSS JOIN LATERAL (SELECT close FROM market_data d WHERE d.instrument_id = i.id AND d.timeframe_s = i.base_timeframe_s
                    AND d.as_of <= %(now)s ORDER BY as_of DESC LIMIT 1) m
WHERE p.wallet_id = %(wallet_id)s AND p.quantity >= i.lot_size
  AND NOT EXISTS (SELECT FROM orders o WHERE o.wallet_id = p.wallet_id AND o.instrument_id = p.instrument_id
                  AND o.side = 'sell' AND o.state IN ('intended', 'accepted')
                  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id
                                  AND e.event IN ('rejected', 'filled', 'canceled', 'expired')))

-- name: insert_flatten
-- The sale of all that is held, at the market, by the operator's word.
INSERT INTO orders (id, wallet_id, mode, instrument_id, purpose, side, type, quantity, reference_price, volatility,
                    because, not_before, deadline, recorded_at)
VALUES (%(id)s, %(wallet_id)s, 'paper', %(instrument_id)s, 'flatten', 'sell', 'market', %(quantity)s, %(close)s,
        %(volatility)s, 'the operator flattens', %(now)s, %(deadline)s, %(now)s)
