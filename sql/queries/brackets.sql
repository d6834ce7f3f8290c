-- Queries of the sender about brackets: what positions are to be left at, and how their prices have gone since. All of
-- them run as sextant_sender.

-- name: bracket
-- The bracket of a position: that of its newest entry which named one, when and at what price it was entered, the
-- least that was left after a sale since (that entry's position may have been sold, and another be held now), how the
-- price went in the candles that opened since, and what the sender did about it since.
WITH entry AS (
    SELECT o.bracket_stop, o.bracket_target, o.bracket_trail, min(f.filled_at) AS entered_at,
           sum(f.cost) / sum(f.quantity) AS price
    FROM orders o JOIN fills f ON f.order_id = o.id
    WHERE o.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s AND o.side = 'buy'
      AND num_nonnulls(o.bracket_stop, o.bracket_target, o.bracket_trail) > 0
    GROUP BY o.id ORDER BY min(f.filled_at) DESC, o.recorded_at DESC LIMIT 1),
moves AS (
    SELECT f.filled_at AS at, f.venue_trade_id AS reference,
           CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END
           - CASE WHEN f.fee_asset = split_part(i.symbol, '/', 1) THEN f.fee ELSE 0 END AS quantity
    FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
    WHERE f.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s
    UNION ALL
    SELECT c.at, c.reference, c.amount
    FROM cash_flows c JOIN wallets w ON w.id = c.wallet_id JOIN instruments i ON i.id = %(instrument_id)s
    WHERE c.wallet_id = %(wallet_id)s AND c.managed AND i.symbol = c.asset || '/' || w.quote),
left_over AS (
    SELECT min(held) AS least
    FROM (SELECT at, quantity, sum(quantity) OVER (ORDER BY at, quantity < 0, reference) AS held FROM moves) m, entry e
    WHERE m.quantity < 0 AND m.at >= e.entered_at),
since AS (
    SELECT m.as_of, m.high, m.close FROM market_data m JOIN instruments i ON i.id = m.instrument_id, entry e
    WHERE m.instrument_id = %(instrument_id)s AND m.timeframe_s = i.base_timeframe_s AND m.as_of <= %(now)s
      AND m.as_of >= e.entered_at + make_interval(secs => m.timeframe_s))
SELECT e.*, l.least, (SELECT max(high) FROM since) AS highest, s.as_of, s.high, s.close,
       EXISTS (SELECT FROM orders o WHERE o.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s
               AND o.purpose = 'protect' AND o.type IN ('stop', 'trailing_stop') AND o.recorded_at >= e.entered_at)
           AS guarded,
       (SELECT max(o.recorded_at) FROM orders o WHERE o.wallet_id = %(wallet_id)s AND o.purpose = 'protect'
        AND o.instrument_id = %(instrument_id)s AND o.type = 'limit') AS tried_at
FROM entry e CROSS JOIN left_over l LEFT JOIN LATERAL (SELECT * FROM since ORDER BY as_of DESC LIMIT 1) s ON true

-- name: trail_of
-- By how much a trailing stop trails.
SELECT trail FROM orders WHERE id = %(order_id)s

-- name: paper_brackets
-- The candles, closed by now, that may reach a level of a position whose newest entry named a bracket, each with the
-- book and the terms of its venue. ``level`` is the higher of the entry's stop and the trailing one, which trails the
-- highest price of the candles before: which of a candle's prices came first is not known. No candle counts from
-- before the position's newest fill, for it was looked at by then; nor does a bracket whose position was sold since.
WITH entry AS (
    SELECT DISTINCT ON (o.wallet_id, o.instrument_id) o.wallet_id, o.instrument_id, o.bracket_stop::float8 AS stop,
           o.bracket_target::float8 AS target, o.bracket_trail::float8 AS trail, f.filled_at AS entered_at,
           f.price::float8 AS price
    FROM orders o JOIN fills f ON f.order_id = o.id
    WHERE o.mode = 'paper' AND o.side = 'buy' AND num_nonnulls(o.bracket_stop, o.bracket_target, o.bracket_trail) > 0
    ORDER BY o.wallet_id, o.instrument_id, f.filled_at DESC, o.recorded_at DESC),
bars AS (
    SELECT e.*, m.as_of, m.as_of - make_interval(secs => m.timeframe_s) AS opened_at, m.open, m.high, m.low, m.volume,
           greatest(e.price, max(m.high) OVER (PARTITION BY e.wallet_id, e.instrument_id ORDER BY m.as_of
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS peak
    FROM entry e JOIN instruments i ON i.id = e.instrument_id
    JOIN market_data m ON m.instrument_id = i.id AND m.timeframe_s = i.base_timeframe_s
     AND m.as_of >= e.entered_at + make_interval(secs => m.timeframe_s) AND m.as_of <= %(now)s),
levels AS (SELECT b.*, greatest(b.stop, b.peak * (1::float8 - b.trail)) AS level FROM bars b)
SELECT b.wallet_id, b.instrument_id, b.opened_at, b.open, b.high, b.low, b.volume, b.level, b.target, p.quantity AS held,
       w.slippage_bps, w.impact, w.taker_fee_bps, w.quote, i.symbol, i.tick_size, i.lot_size, i.base_timeframe_s,
       v.volatility
FROM levels b JOIN positions p ON p.wallet_id = b.wallet_id AND p.instrument_id = b.instrument_id AND p.quantity > 0
JOIN wallets w ON w.id = b.wallet_id JOIN limits l ON l.wallet_id = w.id JOIN instruments i ON i.id = b.instrument_id
JOIN LATERAL (SELECT o.volatility FROM orders o JOIN decisions d ON d.id = o.decision_id
              WHERE o.wallet_id = b.wallet_id AND o.instrument_id = b.instrument_id AND d.as_of <= b.opened_at
              ORDER BY d.as_of DESC LIMIT 1) v ON true
WHERE (b.low <= b.level OR b.open <= b.level OR b.high >= b.target OR b.open >= b.target)
  AND NOT EXISTS (SELECT FROM fills f JOIN orders o ON o.id = f.order_id
                  WHERE o.wallet_id = b.wallet_id AND o.instrument_id = b.instrument_id AND f.filled_at > b.opened_at)
  AND NOT EXISTS (SELECT FROM (SELECT f.side, f.filled_at,
                                      sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END)
                                      OVER (ORDER BY f.filled_at) AS held
                               FROM fills f JOIN orders o ON o.id = f.order_id
                               WHERE o.wallet_id = b.wallet_id AND o.instrument_id = b.instrument_id) moves
                  WHERE moves.side = 'sell' AND moves.filled_at >= b.entered_at AND moves.held <= 0)
ORDER BY b.opened_at, b.wallet_id, array_position(l.symbols, i.symbol)

-- name: any_paper_bracket
-- Whether an entry of a paper wallet ever named one.
SELECT EXISTS (SELECT FROM orders WHERE mode = 'paper'
               AND num_nonnulls(bracket_stop, bracket_target, bracket_trail) > 0) AS found

-- name: insert_paper_exit
-- The order that a bracket becomes when a candle reaches it; the same one twice is one.
INSERT INTO orders (id, wallet_id, mode, instrument_id, purpose, side, type, quantity, reference_price, volatility,
                    stop_price, because, not_before, deadline, recorded_at)
VALUES (%(id)s, %(wallet_id)s, 'paper', %(instrument_id)s, 'protect', 'sell', %(type)s, %(quantity)s, %(level)s,
        %(volatility)s, %(stop_price)s, %(because)s, %(opened_at)s, %(deadline)s, %(now)s)

-- name: overtaken_orders
-- Orders without an end that were decided before a candle opened: sized for the position that is gone since.
SELECT o.id FROM orders o JOIN decisions d ON d.id = o.decision_id
WHERE o.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s AND o.purpose = 'trade'
  AND o.state IN ('intended', 'accepted') AND d.as_of <= %(opened_at)s
  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id
                  AND e.event IN ('rejected', 'filled', 'canceled', 'expired'))
