-- One login role a layer; each may write its own tables only, and read what its job needs. Run by the owner
-- after 000_init.sql; running it twice changes nothing. Passwords are set by shared/schema.py, never here.
-- No role is a member of another, so SET ROLE and RESET ROLE gain nothing.

DO $$
DECLARE
    layer text;
BEGIN
    FOREACH layer IN ARRAY ARRAY['candles', 'encoder', 'meta_controller', 'policy', 'sender', 'cli'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sextant_' || layer) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', 'sextant_' || layer);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO sextant_candles, sextant_encoder, sextant_meta_controller,
                    sextant_policy, sextant_sender, sextant_cli', current_database());
END $$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO sextant_candles, sextant_encoder, sextant_meta_controller,
                                sextant_policy, sextant_sender, sextant_cli;
REVOKE ALL ON FUNCTION approve(uuid, timestamptz, bigint), refusal_of(uuid, timestamptz, bigint),
                       begin_epoch(integer, text, timestamptz), take_nonce(integer, bigint, timestamptz),
                       mandate_of(integer, timestamptz), keep_instrument_rules(),
                       build_analog_index(bigint), drop_analog_index(bigint),
                       promote_policy(bigint, bigint, bigint, text, text, timestamptz) FROM PUBLIC;

-- Reading: everybody reads what flows towards it. Model bytes and the operator's tables are no secret here.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sextant_cli, sextant_policy, sextant_meta_controller, sextant_encoder,
                                               sextant_candles;
GRANT SELECT ON installation, instruments, instrument_rules, market_data, wallets, limits, cash_flows, commands,
                live_grants, decisions, risk_events, orders, sender_sessions, approvals, order_events, order_lookups,
                fills, external_fills, reconciliations, key_checks, positions, cash, unmanaged, open_risk, equity, job_runs, alerts
    TO sextant_sender;
GRANT EXECUTE ON FUNCTION mandate_of(integer, timestamptz), refusal_of(uuid, timestamptz, bigint)
    TO sextant_policy, sextant_sender, sextant_cli;

-- Writing: own tables only. Facts are append-only: no role may update or delete what it has recorded, except
-- where a column list says so.
GRANT INSERT ON instruments, market_data, candle_revisions, quarantine, gap_checks, venue_checks TO sextant_candles;
GRANT UPDATE (base_timeframe_s, tick_size, lot_size, min_notional, min_quantity, status, recorded_at) ON instruments
    TO sextant_candles;
GRANT UPDATE (open, high, low, close, volume, trades, source, recorded_at) ON market_data TO sextant_candles;
GRANT INSERT ON embeddings, encoder_checks, encoder_evaluations, trainings TO sextant_encoder;
GRANT UPDATE (status, started_at, ended_at, attempts, model_id, error) ON trainings TO sextant_encoder;
GRANT EXECUTE ON FUNCTION build_analog_index(bigint), drop_analog_index(bigint) TO sextant_encoder;
GRANT INSERT ON market_state, policy_config, regime_fits, regime_calls, regime_outcomes, llm_calls, memory_logs,
                news_items, news_sentiment, onchain_data, llm_trust TO sextant_meta_controller;
GRANT UPDATE (config_after_id, status, responses, answer, error, tokens_in, tokens_out, cost_usd, latency_s, ended_at)
    ON llm_calls TO sextant_meta_controller;
GRANT UPDATE (outcome, outcome_known_from, outcome_recorded_at) ON memory_logs TO sextant_meta_controller;
GRANT INSERT ON decisions, orders, risk_events, backtests, evaluation_folds, evaluations, canary_runs TO sextant_policy;
GRANT UPDATE (state) ON orders TO sextant_policy;
GRANT INSERT ON orders, order_events, order_lookups, fills, external_fills, reconciliations, key_checks, cash_flows
    TO sextant_sender;
GRANT UPDATE (connected_at) ON sender_sessions TO sextant_sender;
GRANT EXECUTE ON FUNCTION approve(uuid, timestamptz, bigint), begin_epoch(integer, text, timestamptz),
                          take_nonce(integer, bigint, timestamptz) TO sextant_sender;
GRANT INSERT ON wallets, limits, cash_flows, commands, live_grants, operator_checks, alert_deliveries TO sextant_cli;
GRANT UPDATE (attempts, delivered_at, error) ON alert_deliveries TO sextant_cli;
GRANT UPDATE (voided_at) ON commands TO sextant_cli;
GRANT EXECUTE ON FUNCTION promote_policy(bigint, bigint, bigint, text, text, timestamptz) TO sextant_cli;
GRANT UPDATE (symbols, max_order_notional, max_orders_a_day, max_day_notional, max_position_notional, ramp_days,
              ramp_exposure, recorded_at) ON limits TO sextant_cli;

-- Shared tables, split by row: a layer writes its own rows and no others.
GRANT INSERT ON models TO sextant_encoder, sextant_policy;
GRANT UPDATE (status) ON models TO sextant_encoder, sextant_policy;
GRANT INSERT ON job_runs, alerts TO sextant_candles, sextant_encoder, sextant_meta_controller, sextant_policy,
                                    sextant_sender, sextant_cli;
GRANT UPDATE (ended_at, status, result, error) ON job_runs TO sextant_candles, sextant_encoder,
                                    sextant_meta_controller, sextant_policy, sextant_sender, sextant_cli;

ALTER TABLE models ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE alerts ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE cash_flows ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS all_read ON models;
DROP POLICY IF EXISTS own_insert ON models;
DROP POLICY IF EXISTS own_update ON models;
CREATE POLICY all_read ON models FOR SELECT USING (true);
CREATE POLICY own_insert ON models FOR INSERT WITH CHECK ('sextant_' || kind = current_user);
CREATE POLICY own_update ON models FOR UPDATE USING ('sextant_' || kind = current_user)
                                              WITH CHECK ('sextant_' || kind = current_user);
DROP POLICY IF EXISTS all_read ON job_runs;
DROP POLICY IF EXISTS own_insert ON job_runs;
DROP POLICY IF EXISTS own_update ON job_runs;
CREATE POLICY all_read ON job_runs FOR SELECT USING (true);
CREATE POLICY own_insert ON job_runs FOR INSERT WITH CHECK ('sextant_' || layer = current_user);
CREATE POLICY own_update ON job_runs FOR UPDATE USING ('sextant_' || layer = current_user);

DROP POLICY IF EXISTS all_read ON alerts;
DROP POLICY IF EXISTS own_insert ON alerts;
CREATE POLICY all_read ON alerts FOR SELECT USING (true);
CREATE POLICY own_insert ON alerts FOR INSERT WITH CHECK ('sextant_' || layer = current_user);

DROP POLICY IF EXISTS all_read ON orders;
DROP POLICY IF EXISTS own_insert ON orders;
DROP POLICY IF EXISTS settled_by_policy ON orders;
CREATE POLICY all_read ON orders FOR SELECT USING (true);
CREATE POLICY own_insert ON orders FOR INSERT WITH CHECK ('sextant_' || author = current_user);
CREATE POLICY settled_by_policy ON orders FOR UPDATE USING (current_user = 'sextant_policy');

-- What a venue's ledger tells is the sender's to write down, what an operator decides is cli's; a paper wallet has no
-- venue, so its deposits are the operator's too.
DROP POLICY IF EXISTS all_read ON cash_flows;
DROP POLICY IF EXISTS own_insert ON cash_flows;
CREATE POLICY all_read ON cash_flows FOR SELECT USING (true);
CREATE POLICY own_insert ON cash_flows FOR INSERT WITH CHECK (
    CASE WHEN kind IN ('adoption', 'release') OR (SELECT mode FROM wallets WHERE id = wallet_id) = 'paper'
         THEN current_user = 'sextant_cli' ELSE current_user = 'sextant_sender' END);
