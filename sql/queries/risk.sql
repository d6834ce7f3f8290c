-- What the risk rules look at beside the market and the book: a wallet's own fills and open orders.

-- name: reserved_cash
-- The most that a wallet's open buy orders may still cost, in quote.
SELECT coalesce(sum(rest * greatest(reference_price::numeric, limit_price)), 0) AS reserved
FROM open_risk WHERE wallet_id = %(wallet_id)s AND side = 'buy'

-- name: traded_instruments
-- Of each instrument that a wallet ever traded: its last fill up to a moment; since when more than a lot of it has been
-- held, NULL where no more is; what the order that this began with bought, at what price, and the average price of all
-- that was bought from it on; and whether its last stop was followed by no decision that wanted none of it.
WITH moves AS (
    SELECT o.instrument_id, f.filled_at, i.lot_size, o.purpose, o.type, f.order_id, f.side, f.quantity, f.price,
           sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END
               - CASE WHEN f.fee_asset = split_part(i.symbol, '/', 1) THEN f.fee ELSE 0 END)
               OVER (PARTITION BY o.instrument_id ORDER BY f.filled_at, f.recorded_at, f.venue_trade_id) AS held
    FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
    WHERE f.wallet_id = %(wallet_id)s AND f.filled_at <= %(at)s
), traded AS (
    SELECT instrument_id, max(filled_at) AS last_fill, max(filled_at) FILTER (WHERE purpose = 'protect' AND type <> 'take_profit') AS last_stop,
           max(filled_at) FILTER (WHERE held <= lot_size) AS last_flat
    FROM moves GROUP BY instrument_id
), begun AS (
    SELECT DISTINCT ON (m.instrument_id) m.instrument_id, m.filled_at AS held_since, m.order_id
    FROM moves m JOIN traded t ON t.instrument_id = m.instrument_id
    WHERE m.held > m.lot_size AND m.filled_at > coalesce(t.last_flat, '-infinity')
    ORDER BY m.instrument_id, m.filled_at
)
SELECT t.instrument_id, t.last_fill, b.held_since, bought.entry_quantity, bought.entry_price, bought.average_price,
       t.last_stop IS NOT NULL AND NOT EXISTS (
           SELECT FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.instrument_id = t.instrument_id
           AND d.as_of > t.last_stop AND d.as_of <= %(at)s AND d.wanted_weight = 0) AS stopped_out
FROM traded t LEFT JOIN begun b ON b.instrument_id = t.instrument_id
LEFT JOIN LATERAL (
    SELECT sum(m.quantity) FILTER (WHERE m.order_id = b.order_id) AS entry_quantity,
           sum(m.price * m.quantity) FILTER (WHERE m.order_id = b.order_id)
               / sum(m.quantity) FILTER (WHERE m.order_id = b.order_id) AS entry_price,
           sum(m.price * m.quantity) / sum(m.quantity) AS average_price
    FROM moves m
    WHERE m.instrument_id = b.instrument_id AND m.side = 'buy'
      AND (m.filled_at >= b.held_since OR m.order_id = b.order_id)) bought ON true
