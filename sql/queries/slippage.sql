-- Queries of pipeline/slippage_report.py.

-- name: wallet_named
-- Whether there is such a wallet.
SELECT id FROM wallets WHERE name = %(wallet)s

-- name: fills
-- Fills in [first, last), oldest first, with the order and the wallet's terms that the kernel predicts from, and the
-- base candle that was open when it was filled; NULLs where that is not stored (yet).
SELECT i.symbol, f.side, f.price, f.filled_at, o.type, o.time_in_force, o.quantity AS order_quantity, o.reference_price, o.volatility,
       o.recorded_at AS intended_at, w.slippage_bps, w.impact, i.base_timeframe_s AS timeframe_s, c.open, c.close,
       c.volume, c.as_of
FROM fills f JOIN orders o ON o.id = f.order_id JOIN wallets w ON w.id = f.wallet_id
JOIN instruments i ON i.id = o.instrument_id
LEFT JOIN LATERAL (
    SELECT open, close, volume, as_of FROM market_data m
    WHERE m.instrument_id = i.id AND m.timeframe_s = i.base_timeframe_s AND m.as_of > f.filled_at
      AND m.as_of <= f.filled_at + make_interval(secs => i.base_timeframe_s)) c ON true
WHERE f.filled_at >= %(first)s AND f.filled_at < %(last)s
  AND (%(wallet)s::text IS NULL OR w.name = %(wallet)s)
ORDER BY f.filled_at, f.venue_trade_id
