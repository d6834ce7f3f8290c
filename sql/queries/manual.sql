-- Queries of the sender about orders by hand: the operator's places. All of them run as sextant_sender.

-- name: places_to_take
-- Places that hold now and that nobody took up yet, oldest first, each with what its order is made from: the newest close,
-- and how volatile the instrument was over the last hundred candles, annualised (paper is filled by it).
SELECT c.id, c.wallet_id, w.name AS wallet, c.instrument_id, i.symbol, c.side, c.quantity, c.limit_price, c.expires_at,
       i.tick_size, i.base_timeframe_s, m.close, coalesce(v.volatility, 0) AS volatility
FROM commands c JOIN wallets w ON w.id = c.wallet_id JOIN instruments i ON i.id = c.instrument_id
LEFT JOIN LATERAL (SELECT close FROM market_data d WHERE d.instrument_id = i.id AND d.timeframe_s = i.base_timeframe_s
                   AND d.as_of <= %(now)s ORDER BY d.as_of DESC LIMIT 1) m ON true
LEFT JOIN LATERAL (
    SELECT stddev_samp(x.moved) * sqrt(31536000.0 / i.base_timeframe_s) AS volatility
    FROM (SELECT ln(close / lag(close) OVER (ORDER BY as_of)) AS moved
          FROM (SELECT as_of, close FROM market_data d WHERE d.instrument_id = i.id AND d.as_of <= %(now)s
                AND d.timeframe_s = i.base_timeframe_s ORDER BY d.as_of DESC LIMIT 101) newest) x) v ON true
WHERE c.command = 'place' AND w.mode = %(mode)s AND (%(wallet_id)s::integer IS NULL OR w.id = %(wallet_id)s)
  AND c.issued_at <= %(now)s AND c.expires_at > %(now)s AND c.voided_at IS NULL
  AND NOT EXISTS (SELECT FROM orders o WHERE o.command_id = c.id)
ORDER BY c.id

-- name: installation
-- The identity under which order ids are derived.
SELECT id FROM installation

-- name: insert_order
-- The one order that a place becomes, in the command's own words; taken up twice it is still one.
INSERT INTO orders (id, command_id, wallet_id, mode, instrument_id, purpose, side, type, time_in_force, quantity,
                    reference_price, volatility, limit_price, because, not_before, deadline, recorded_at)
SELECT %(order_id)s, c.id, c.wallet_id, w.mode, c.instrument_id, 'manual', c.side, %(type)s, %(time_in_force)s, c.quantity,
       %(reference_price)s, %(volatility)s, %(limit_price)s, 'by hand, ' || c.issuer || ': ' || c.reason, %(now)s,
       %(deadline)s, %(now)s
FROM commands c JOIN wallets w ON w.id = c.wallet_id WHERE c.id = %(id)s AND c.voided_at IS NULL
ON CONFLICT DO NOTHING
