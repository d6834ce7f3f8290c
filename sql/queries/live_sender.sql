-- Queries of the sender about live wallets: what it knows of an account, and what it writes down. All of them run as
-- sextant_sender.

-- name: live_wallets
-- Live wallets that have limits, each with its last resume and whether its account was imported.
SELECT w.id, w.name, w.venue, w.quote, l.symbols, s.connected_at,
       (SELECT max(issued_at) FROM commands c
        WHERE c.wallet_id = w.id AND c.command = 'resume' AND c.issued_at <= %(now)s) AS resumed_at
FROM wallets w JOIN limits l ON l.wallet_id = w.id LEFT JOIN sender_sessions s ON s.wallet_id = w.id
WHERE w.mode = 'live' AND w.recorded_at <= %(now)s ORDER BY w.id

-- name: listen
-- From now on this connection is told of new intents and commands.
LISTEN intents; LISTEN commands

-- name: lock_wallet
-- One sender a wallet, for as long as this connection lives; so long its statements, which ask for few rows by their keys,
-- are planned once and not for their values.
SELECT pg_try_advisory_lock(hashtext('sextant-sender'), %(wallet_id)s) AS locked,
       set_config('plan_cache_mode', 'force_generic_plan', false)

-- name: unlock_wallet
-- Leaves the wallet to the next sender.
SELECT pg_advisory_unlock(hashtext('sextant-sender'), %(wallet_id)s)

-- name: begin_epoch
-- Takes over: from now on no other sender's approvals and nonces count.
SELECT begin_epoch(%(wallet_id)s, %(holder)s, %(at)s) AS epoch

-- name: take_nonce
-- The next nonce; NULL where another sender has taken over.
SELECT take_nonce(%(wallet_id)s, %(epoch)s, %(at)s) AS nonce

-- name: connected
-- The account's history was imported.
UPDATE sender_sessions SET connected_at = %(at)s WHERE wallet_id = %(wallet_id)s AND connected_at IS NULL

-- name: mandate
-- What the operator's commands let the wallet do, and the newest that asks for its positions to be sold.
SELECT mandate_of(%(wallet_id)s, %(at)s) AS mandate,
       (SELECT max(id) FROM commands WHERE command = 'flatten' AND issued_at <= %(at)s
        AND (wallet_id = %(wallet_id)s OR wallet_id IS NULL)) AS flatten_id

-- name: open_orders
-- Orders of the wallet that may still trade, oldest first, each with when it was sent, and what its newest event says:
-- when, and of an amendment what was asked for.
SELECT r.*, i.symbol, n.at AS changed_at, n.quantity AS asked_quantity, n.stop_price AS asked_stop_price,
       (SELECT min(e.at) FROM order_events e WHERE e.order_id = r.order_id AND e.event = 'sending') AS sent_at
FROM open_risk r JOIN instruments i ON i.id = r.instrument_id
CROSS JOIN LATERAL (SELECT at, quantity, stop_price FROM order_events e WHERE e.order_id = r.order_id
                    ORDER BY id DESC LIMIT 1) n
WHERE r.wallet_id = %(wallet_id)s AND r.mode = 'live' ORDER BY r.recorded_at, r.order_id

-- name: order_of_client_id
-- An order of ours by the id that the venue was given.
SELECT o.id AS order_id, o.instrument_id, o.side, i.symbol, o.quantity,
       coalesce((SELECT event FROM order_events e WHERE e.order_id = o.id ORDER BY id DESC LIMIT 1), 'intended') AS state
FROM orders o JOIN instruments i ON i.id = o.instrument_id
WHERE o.id = %(order_id)s AND o.wallet_id = %(wallet_id)s

-- name: order_of_venue_id
-- An order of ours by the id that the venue gave it.
SELECT o.id AS order_id, o.instrument_id, o.side, i.symbol, o.quantity,
       (SELECT event FROM order_events x WHERE x.order_id = o.id ORDER BY id DESC LIMIT 1) AS state
FROM order_events e JOIN orders o ON o.id = e.order_id JOIN instruments i ON i.id = o.instrument_id
WHERE e.venue_order_id = %(venue_order_id)s AND o.wallet_id = %(wallet_id)s LIMIT 1

-- name: insert_event
-- What was done about an order, or what the venue said.
INSERT INTO order_events (order_id, event, detail, venue_order_id, quantity, stop_price, at, recorded_at)
VALUES (%(order_id)s, %(event)s, %(detail)s, %(venue_order_id)s, %(quantity)s, %(stop_price)s, %(at)s, %(recorded_at)s)

-- name: insert_lookup
-- The venue was asked about an order, and answered.
INSERT INTO order_lookups (order_id, found, recorded_at) VALUES (%(order_id)s, %(found)s, %(at)s)

-- name: misses
-- How often and since when a venue that answered did not have an order.
SELECT count(*) AS misses, min(recorded_at) AS first, max(recorded_at) AS last FROM order_lookups
WHERE order_id = %(order_id)s AND NOT found AND recorded_at >= %(since)s

-- name: insert_fill
-- What was exchanged; the same trade told twice is one row.
INSERT INTO fills (wallet_id, venue_trade_id, order_id, side, quantity, price, cost, fee, fee_asset, filled_at,
                   recorded_at)
VALUES (%(wallet_id)s, %(venue_trade_id)s, %(order_id)s, %(side)s, %(quantity)s, %(price)s, %(cost)s, %(fee)s,
        %(fee_asset)s, %(filled_at)s, %(recorded_at)s)
ON CONFLICT (wallet_id, venue_trade_id) DO NOTHING

-- name: insert_external_fill
-- A trade on the account that no order of ours made.
INSERT INTO external_fills (wallet_id, venue_trade_id, venue_order_id, client_order_id, symbol, side, quantity, price,
                            cost, fee, fee_asset, filled_at, recorded_at)
VALUES (%(wallet_id)s, %(venue_trade_id)s, %(venue_order_id)s, %(client_order_id)s, %(symbol)s, %(side)s, %(quantity)s,
        %(price)s, %(cost)s, %(fee)s, %(fee_asset)s, %(filled_at)s, %(recorded_at)s)
ON CONFLICT (wallet_id, venue_trade_id) DO NOTHING

-- name: known_fill
-- What is known here of a trade of the account, whoever made it.
SELECT side, quantity, price, cost, fee, fee_asset FROM fills
WHERE wallet_id = %(wallet_id)s AND venue_trade_id = %(venue_trade_id)s
UNION ALL
SELECT side, quantity, price, cost, fee, fee_asset FROM external_fills
WHERE wallet_id = %(wallet_id)s AND venue_trade_id = %(venue_trade_id)s

-- name: filled_of
-- How much of an order is filled as known here.
SELECT coalesce(sum(quantity), 0) AS filled FROM fills WHERE order_id = %(order_id)s

-- name: insert_flow
-- Money that came or went; the same movement told twice is one row.
INSERT INTO cash_flows (wallet_id, asset, amount, kind, managed, value, reference, at, recorded_at)
VALUES (%(wallet_id)s, %(asset)s, %(amount)s, %(kind)s, %(managed)s, %(value)s, %(reference)s, %(at)s, %(recorded_at)s)
ON CONFLICT (wallet_id, reference) DO NOTHING

-- name: unmanaged
-- What lies on the account and is not ours to trade, by asset.
SELECT asset, amount FROM unmanaged WHERE wallet_id = %(wallet_id)s

-- name: cash
-- The wallet's own cash.
SELECT amount FROM cash WHERE wallet_id = %(wallet_id)s

-- name: holdings
-- What the wallet itself holds, by instrument, with what its venue demands of orders, the newest close, and whether an
-- entry ever named a bracket.
SELECT i.id AS instrument_id, i.symbol, p.quantity, i.tick_size, i.lot_size, i.min_notional, i.min_quantity, i.status,
       m.close,
       EXISTS (SELECT FROM orders o WHERE o.wallet_id = p.wallet_id AND o.instrument_id = p.instrument_id
               AND num_nonnulls(o.bracket_stop, o.bracket_target, o.bracket_trail) > 0) AS bracketed
FROM positions p JOIN instruments i ON i.id = p.instrument_id
LEFT JOIN LATERAL (SELECT close FROM market_data d WHERE d.instrument_id = i.id AND d.timeframe_s = i.base_timeframe_s
                   AND d.as_of <= %(now)s ORDER BY d.as_of DESC LIMIT 1) m ON true
WHERE p.wallet_id = %(wallet_id)s AND p.quantity > 0 ORDER BY i.id

-- name: intents
-- Orders of a live wallet that nothing was said about yet and whose time has come, each with the code that decided it
-- (NULL: no trader did): exits first, then oldest first.
SELECT o.id AS order_id, o.instrument_id, i.symbol, i.lot_size, o.side, o.purpose, o.type, o.time_in_force, o.post_only,
       o.quantity, o.limit_price, o.stop_price, o.trail, o.deadline, d.code_version
FROM orders o JOIN instruments i ON i.id = o.instrument_id LEFT JOIN decisions d ON d.id = o.decision_id
WHERE o.wallet_id = %(wallet_id)s AND o.mode = 'live' AND o.state = 'intended' AND o.not_before <= %(now)s
  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
ORDER BY o.side DESC, o.recorded_at, o.command_id, o.id

-- name: overtaken_intents
-- Intents, due or not, that a stop has overtaken: all of them while ``halted``; else the entries that were written down
-- before the wallet was resumed, for whoever resumed it ended what was decided before.
SELECT o.id AS order_id FROM orders o
WHERE o.wallet_id = %(wallet_id)s AND o.mode = 'live' AND o.state = 'intended'
  AND (%(halted)s OR (o.side = 'buy' AND o.recorded_at < %(resumed_at)s))
  AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
ORDER BY o.recorded_at, o.id

-- name: approve
-- The database's own verdict; NULL = may be sent, once.
SELECT approve(%(id)s, %(at)s, %(epoch)s) AS refusal

-- name: refusal
-- What approve() would say, without letting anything through.
SELECT refusal_of(%(id)s, %(at)s, %(epoch)s) AS refusal

-- name: installation
-- The identity under which order ids are derived.
SELECT id FROM installation

-- name: count_orders_like
-- How many orders the sender wrote of one purpose for an instrument: the next one's number.
SELECT count(*) AS number FROM orders
WHERE wallet_id = %(wallet_id)s AND instrument_id = %(instrument_id)s AND purpose = %(purpose)s

-- name: insert_order
-- What the sender itself intends: to protect a position, or to end it.
INSERT INTO orders (id, wallet_id, mode, instrument_id, purpose, side, type, time_in_force, quantity, reference_price,
                    volatility, limit_price, stop_price, trail, sibling_id, because, not_before, deadline, recorded_at)
VALUES (%(id)s, %(wallet_id)s, 'live', %(instrument_id)s, %(purpose)s, 'sell', %(type)s, %(time_in_force)s,
        %(quantity)s, %(reference_price)s, 0, %(limit_price)s, %(stop_price)s, %(trail)s, %(sibling_id)s, %(because)s,
        %(at)s, %(deadline)s, %(at)s)
ON CONFLICT (id) DO NOTHING

-- name: newest_reconciliation
-- When ledger and account were compared last.
SELECT recorded_at, matched, unmatched, findings FROM reconciliations WHERE wallet_id = %(wallet_id)s
ORDER BY id DESC LIMIT 1

-- name: insert_reconciliation
-- What ledger and account say of each other.
INSERT INTO reconciliations (wallet_id, matched, unmatched, findings, lasting, recorded_at)
VALUES (%(wallet_id)s, %(matched)s, %(unmatched)s, %(findings)s, %(lasting)s, %(at)s)

-- name: was_judged
-- Whether an operator resumed the wallet knowing of this finding.
SELECT EXISTS (SELECT FROM reconciliations WHERE wallet_id = %(wallet_id)s AND recorded_at < %(resumed_at)s
               AND findings @> %(findings)s::jsonb) AS judged

-- name: newest_key_check
-- When the key's rights were looked at last.
SELECT recorded_at FROM key_checks WHERE wallet_id = %(wallet_id)s ORDER BY id DESC LIMIT 1

-- name: insert_key_check
-- What the venue says that the key may do.
INSERT INTO key_checks (wallet_id, trade, withdraw, ip_restricted, nonce_window, recorded_at)
VALUES (%(wallet_id)s, %(trade)s, %(withdraw)s, %(ip_restricted)s, %(nonce_window)s, %(at)s)

-- name: ended_orders
-- Orders of the wallet that were sent and ended lately by the venue's word, with what is filled of them as known here.
SELECT o.id AS order_id, e.event, e.venue_order_id, i.symbol,
       greatest(o.quantity, (SELECT max(quantity) FROM order_events x WHERE x.order_id = o.id)) AS ordered,
       (SELECT coalesce(sum(quantity), 0) FROM fills f WHERE f.order_id = o.id) AS filled
FROM order_events e JOIN orders o ON o.id = e.order_id JOIN instruments i ON i.id = o.instrument_id
WHERE e.event IN ('filled', 'canceled', 'expired', 'rejected') AND e.at >= %(since)s
  AND o.wallet_id = %(wallet_id)s AND o.mode = 'live'
  AND EXISTS (SELECT FROM order_events x WHERE x.order_id = o.id AND x.event = 'sending')
ORDER BY o.recorded_at, o.id

-- name: rejected_exits
-- The newest exit of the sender's own that was rejected for an instrument (not one at a target, which is tried once a
-- candle), and how many were in a row: since one was taken, a trade changed the position, or the venue's rules changed.
-- No row: none.
WITH exits AS (
    SELECT o.type, o.quantity, coalesce(o.stop_price, o.reference_price::numeric) AS level, o.recorded_at,
           (SELECT bool_or(event = 'accepted') FROM order_events e WHERE e.order_id = o.id) AS taken,
           (SELECT bool_or(event = 'rejected') FROM order_events e WHERE e.order_id = o.id) AS rejected
    FROM orders o
    WHERE o.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s AND o.purpose = 'protect'
      AND o.type <> 'limit'),
since AS (
    SELECT greatest((SELECT max(recorded_at) FROM exits WHERE taken),
                    (SELECT max(f.recorded_at) FROM fills f JOIN orders o ON o.id = f.order_id
                     WHERE o.wallet_id = %(wallet_id)s AND o.instrument_id = %(instrument_id)s),
                    (SELECT max(recorded_at) FROM instrument_rules WHERE instrument_id = %(instrument_id)s)) AS at)
SELECT x.type, x.quantity, x.level, x.recorded_at, count(*) OVER () AS rejections
FROM exits x, since s WHERE x.rejected AND (s.at IS NULL OR x.recorded_at >= s.at)
ORDER BY x.recorded_at DESC LIMIT 1

-- name: refused_changes
-- The newest change of a resting order that was asked for, and how many in a row did not come about: since one did.
-- No row: none. A cancellation asks for no quantity.
WITH changes AS (
    SELECT e.id, e.event, e.quantity, e.stop_price, e.at,
           lag(e.event) OVER w AS before, lag(e.quantity) OVER w AS wanted, lag(e.stop_price) OVER w AS wanted_price
    FROM order_events e WHERE e.order_id = %(order_id)s WINDOW w AS (ORDER BY e.id)),
done AS (
    SELECT max(id) AS id FROM changes
    WHERE event = 'accepted' AND before = 'amending'
      AND (quantity, stop_price) IS NOT DISTINCT FROM (wanted, wanted_price))
SELECT c.quantity, c.stop_price, c.at, count(*) OVER () AS refusals
FROM changes c, done d WHERE c.event IN ('amending', 'canceling') AND (d.id IS NULL OR c.id > d.id)
ORDER BY c.id DESC LIMIT 1
