-- Queries of policy/execution/cost_basis.py: what came into a wallet's positions and what left them.

-- name: moves
-- Each fill, and each managed flow of a coin, as it moved one instrument of a wallet (all of them, or the one asked
-- for): the quantity and the quote amount, both signed; oldest first, what came in before what went out of the same
-- moment. A fee in a third asset is paid from what is not managed, and is in neither.
SELECT instrument_id, symbol, at, reference, quantity, cash
FROM (SELECT o.instrument_id, i.symbol, f.filled_at AS at, f.venue_trade_id AS reference,
             CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END
             - CASE WHEN f.fee_asset = split_part(i.symbol, '/', 1) THEN f.fee ELSE 0 END AS quantity,
             CASE f.side WHEN 'buy' THEN -f.cost ELSE f.cost END
             - CASE WHEN f.fee_asset = w.quote THEN f.fee ELSE 0 END AS cash
      FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
      JOIN wallets w ON w.id = f.wallet_id
      WHERE f.wallet_id = %(wallet_id)s AND f.filled_at <= %(until)s
        AND (%(instrument_id)s::integer IS NULL OR o.instrument_id = %(instrument_id)s)
      UNION ALL
      SELECT i.id, i.symbol, c.at, c.reference, c.amount, -sign(c.amount) * abs(c.value)
      FROM cash_flows c JOIN wallets w ON w.id = c.wallet_id
      JOIN instruments i ON i.venue = w.venue AND i.symbol = c.asset || '/' || w.quote
      WHERE c.wallet_id = %(wallet_id)s AND c.managed AND c.asset <> w.quote AND c.at <= %(until)s
        AND (%(instrument_id)s::integer IS NULL OR i.id = %(instrument_id)s)) moved
ORDER BY at, quantity < 0, reference
