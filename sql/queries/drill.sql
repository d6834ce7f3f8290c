-- Queries of the drill (pipeline/drill.py), in a database of its own.

-- name: grant_live
-- The rehearsed wallet is let live; what going live asks for is pipeline/go_live.py's business.
INSERT INTO live_grants (wallet_id, granted, checks, capital, reason, recorded_at)
VALUES (%(wallet_id)s, true, '[]', %(capital)s, 'a drill', %(at)s)

-- name: wallet
-- The one wallet.
SELECT id FROM wallets

-- name: installation
-- The identity under which order ids are derived.
SELECT id FROM installation

-- name: newest_close
-- Of one instrument.
SELECT close FROM market_data WHERE instrument_id = %(instrument_id)s ORDER BY as_of DESC LIMIT 1

-- name: held
-- What the wallet itself holds of one instrument.
SELECT coalesce(sum(quantity), 0) AS quantity FROM positions WHERE instrument_id = %(instrument_id)s

-- name: insert_intent
-- A decision and its order, as the trader writes them.
WITH decided AS (
    INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, baseline_weight,
                           clamps, reason, price, quantity_held, cash, equity, code_version, settings_hash, recorded_at)
    VALUES (%(wallet_id)s, %(instrument_id)s, %(at)s, %(source)s, 0, 0, 0, '[]', 'a drill', %(price)s, 0, 0, 0,
            %(code_version)s, 'a drill', %(at)s)
    RETURNING id)
INSERT INTO orders (id, decision_id, wallet_id, mode, instrument_id, side, type, quantity, limit_price,
                    reference_price, volatility, not_before, deadline, recorded_at)
SELECT %(id)s, decided.id, %(wallet_id)s, 'live', %(instrument_id)s, %(side)s, %(type)s, %(quantity)s,
       %(limit_price)s, %(price)s, 0, %(at)s, %(deadline)s, %(at)s FROM decided

-- name: insert_check
-- That it was rehearsed, in the operator's own database.
INSERT INTO operator_checks (kind, passed, details, recorded_at) VALUES ('drill', %(passed)s, %(details)s, %(at)s)
