-- Sextant: the whole system as tables, in the order in which data flows through them.
--
--   candles -> market_data -> encoder -> embeddings -> meta_controller -> market_state, policy_config
--           -> policy -> decisions, orders -> sender -> order_events, fills -> (the next tick reads the fills)
--
-- Every table names its writer; who may write what is enforced in roles.sql. Two rules hold everywhere:
--   * a row knows when it was known: as_of = the candle close it speaks about, known_from = the earliest
--     moment at which anybody could have had it, recorded_at = the writing job's clock (never now() here);
--   * statistics and candles are double precision, money is NUMERIC(28,8), times are timestamptz in UTC.
--
-- Applied by the owner role `sextant`. Applying it twice changes nothing.

CREATE EXTENSION IF NOT EXISTS vector;

-- One row: the identity under which this installation derives its order ids (uuid5), so that two
-- installations on one venue account can never produce the same id. schema_sha256 is of this file as it was when it
-- made the tables (shared/schema.py): IF NOT EXISTS would pass over a table that another version made.
CREATE TABLE IF NOT EXISTS installation (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    schema_sha256 text
);
INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING;

-- ─────────────────────────────────────────────────────────────────────────────────────────────── candles ──

-- What can be traded, and what its venue demands of an order. Written by candles; read by all.
CREATE TABLE IF NOT EXISTS instruments (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue            text NOT NULL CHECK (venue ~ '^[a-z0-9_]+$'),
    symbol           text NOT NULL CHECK (symbol ~ '^[A-Z0-9-]+/[A-Z0-9]+$'),
    base_timeframe_s integer NOT NULL CHECK (base_timeframe_s > 0),      -- the finest timeframe stored
    tick_size        numeric(28,8) NOT NULL CHECK (tick_size > 0),
    lot_size         numeric(28,8) NOT NULL CHECK (lot_size > 0),
    min_notional     numeric(28,8) NOT NULL CHECK (min_notional >= 0),   -- in the quote currency
    min_quantity     numeric(28,8) NOT NULL DEFAULT 0 CHECK (min_quantity >= 0),   -- in the base currency
    status           text NOT NULL DEFAULT 'online'             -- of this market, as its venue says
                     CHECK (status IN ('online', 'cancel_only', 'post_only', 'reduce_only', 'delisted')),
    provenance       text NOT NULL CHECK (provenance IN ('real', 'simulated')),
    recorded_at      timestamptz NOT NULL,
    UNIQUE (venue, symbol)
);

-- What a venue demanded of orders, and since when: the row of instruments as it was after each change of it.
-- Written by a trigger, so that no change goes unrecorded; read by all.
CREATE TABLE IF NOT EXISTS instrument_rules (
    instrument_id integer NOT NULL REFERENCES instruments,
    tick_size     numeric(28,8) NOT NULL,
    lot_size      numeric(28,8) NOT NULL,
    min_notional  numeric(28,8) NOT NULL,
    min_quantity  numeric(28,8) NOT NULL,
    status        text NOT NULL,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (instrument_id, recorded_at)
);

CREATE OR REPLACE FUNCTION keep_instrument_rules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.tick_size, NEW.lot_size, NEW.min_notional, NEW.min_quantity, NEW.status)
       IS DISTINCT FROM (OLD.tick_size, OLD.lot_size, OLD.min_notional, OLD.min_quantity, OLD.status) THEN
        INSERT INTO instrument_rules
        VALUES (NEW.id, NEW.tick_size, NEW.lot_size, NEW.min_notional, NEW.min_quantity, NEW.status, NEW.recorded_at)
        ON CONFLICT (instrument_id, recorded_at) DO UPDATE
        SET (tick_size, lot_size, min_notional, min_quantity, status)
          = (EXCLUDED.tick_size, EXCLUDED.lot_size, EXCLUDED.min_notional, EXCLUDED.min_quantity, EXCLUDED.status);
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER rules_are_versioned AFTER INSERT OR UPDATE ON instruments
    FOR EACH ROW EXECUTE FUNCTION keep_instrument_rules();

-- One closed candle of one instrument and timeframe. as_of is its close; open time = as_of - timeframe_s.
-- Written by candles (the finest timeframe as the venue gave it; coarser ones derived from it, source
-- 'derived:<seconds>'); read by encoder, meta_controller, policy, sender.
CREATE TABLE IF NOT EXISTS market_data (
    instrument_id integer NOT NULL REFERENCES instruments,
    timeframe_s   integer NOT NULL CHECK (timeframe_s > 0),
    as_of         timestamptz NOT NULL,
    open          double precision NOT NULL,
    high          double precision NOT NULL,
    low           double precision NOT NULL,
    close         double precision NOT NULL,
    volume        double precision NOT NULL,
    trades        integer CHECK (trades >= 0),
    source        text NOT NULL,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (instrument_id, timeframe_s, as_of),
    CONSTRAINT prices_are_positive CHECK (low > 0 AND high < 'infinity'),   -- NaN sorts above infinity: refused too
    CONSTRAINT high_and_low_bound_the_candle CHECK (low <= LEAST(open, close) AND high >= GREATEST(open, close)),
    CONSTRAINT volume_is_a_number CHECK (volume >= 0 AND volume < 'infinity'),
    CONSTRAINT close_is_on_the_grid CHECK (extract(epoch FROM as_of)::bigint % timeframe_s = 0
                                           AND date_trunc('second', as_of, 'UTC') = as_of),
    CONSTRAINT recorded_after_it_closed CHECK (recorded_at >= as_of)
);

-- What a candle said before the venue revised it: its former values, and when they stopped to hold.
-- Written by candles.
CREATE TABLE IF NOT EXISTS candle_revisions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instrument_id integer NOT NULL,
    timeframe_s   integer NOT NULL,
    as_of         timestamptz NOT NULL,
    open          double precision NOT NULL,
    high          double precision NOT NULL,
    low           double precision NOT NULL,
    close         double precision NOT NULL,
    volume        double precision NOT NULL,
    trades        integer,
    source        text NOT NULL,
    recorded_at   timestamptz NOT NULL,
    replaced_at   timestamptz NOT NULL,
    FOREIGN KEY (instrument_id, timeframe_s, as_of) REFERENCES market_data,
    CHECK (replaced_at >= recorded_at)
);
CREATE INDEX IF NOT EXISTS revisions_of_a_candle ON candle_revisions (instrument_id, timeframe_s, as_of);

-- Input that was refused, with its reason: a file's line, a venue's candle. Written by candles; read by people.
CREATE TABLE IF NOT EXISTS quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue       text NOT NULL,
    symbol      text NOT NULL,
    timeframe_s integer NOT NULL,
    source      text NOT NULL,                   -- 'file:<name>', or the venue's name
    line        bigint,                          -- of a file, from 1
    reason      text NOT NULL,                   -- one stable word (candles/validate.py)
    raw         text NOT NULL CHECK (length(raw) <= 200),
    recorded_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (venue, symbol, timeframe_s, source, line, reason, raw)
);

-- That the venue was asked for these candles (after < as_of <= until) and does not have them, or cannot serve
-- them any more. Written by candles.
CREATE TABLE IF NOT EXISTS gap_checks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instrument_id integer NOT NULL REFERENCES instruments,
    timeframe_s   integer NOT NULL,
    after         timestamptz NOT NULL,
    until         timestamptz NOT NULL,
    finding       text NOT NULL,                 -- 'none': it has no such candles; 'out-of-reach': it serves none so old
    recorded_at   timestamptz NOT NULL,
    CHECK (until > after)
);
CREATE INDEX IF NOT EXISTS checks_of_a_series ON gap_checks (instrument_id, timeframe_s, after);
CREATE INDEX IF NOT EXISTS checks_around_a_hole ON gap_checks
    USING gist (int4range(instrument_id, instrument_id, '[]'), tstzrange(after, until, '(]'));

-- The holes inside each series: candles with after < as_of <= until are missing; finding is NULL until the
-- venue was asked about the whole of the hole.
CREATE OR REPLACE VIEW candle_gaps AS
SELECT g.instrument_id, g.timeframe_s, g.after, g.until,
       (extract(epoch FROM g.until - g.after) / g.timeframe_s)::bigint AS missing, c.finding, c.recorded_at AS checked_at
FROM (SELECT instrument_id, timeframe_s, as_of AS after,
             lead(as_of) OVER (PARTITION BY instrument_id, timeframe_s ORDER BY as_of)
                 - make_interval(secs => timeframe_s) AS until
      FROM market_data) g
LEFT JOIN LATERAL (SELECT finding, recorded_at FROM gap_checks c
                   WHERE int4range(c.instrument_id, c.instrument_id, '[]') @> g.instrument_id
                     AND tstzrange(c.after, c.until, '(]') @> tstzrange(g.after, g.until, '(]')
                     AND c.timeframe_s = g.timeframe_s
                   ORDER BY c.id DESC LIMIT 1) c ON true
WHERE g.until > g.after;

-- How a venue was when it was looked at: whether it trades, and how far its clock and ours are apart. The
-- trader makes no entries on a clock that is wrong. Written by candles; read by policy.
CREATE TABLE IF NOT EXISTS venue_checks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue        text NOT NULL,
    status       text NOT NULL CHECK (status IN ('online', 'maintenance', 'cancel_only', 'post_only', 'unreachable')),
    clock_skew_s double precision,               -- our clock minus the venue's; NULL where it tells no time
    round_trip_s double precision,
    recorded_at  timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS newest_check_of_a_venue ON venue_checks (venue, recorded_at DESC);

-- ──────────────────────────────────────────────────────────────────────────────────── models and encoder ──

-- A trained model: ONNX bytes and all that is needed to refuse it. Written by the layer whose kind it is.
-- candidate: trained, not in use; shadow: an encoder that is written beside the active one and shall follow it;
-- active: the one in use; retired: was in use, and rows may still cite it, or was refused.
CREATE TABLE IF NOT EXISTS models (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('encoder', 'policy')),
    onnx            bytea NOT NULL CHECK (octet_length(onnx) <= 20 * 1024 * 1024),
    sha256          text NOT NULL CHECK (sha256 = encode(sha256(onnx), 'hex')),
    schema          jsonb NOT NULL,              -- what goes in and what comes out, by name
    schema_hash     text NOT NULL,               -- sha256 of the canonical schema
    trained_from    timestamptz NOT NULL,
    trained_to      timestamptz NOT NULL,
    label_horizon_s integer NOT NULL CHECK (label_horizon_s >= 0),
    known_from      timestamptz NOT NULL,        -- before this moment using it would be looking ahead
    provenance      text NOT NULL CHECK (provenance IN ('real', 'simulated')),
    encoder_id      bigint REFERENCES models,    -- policy only: the encoder whose embeddings it learnt from
    metrics         jsonb NOT NULL,
    status          text NOT NULL CHECK (status IN ('candidate', 'shadow', 'active', 'retired')),
    recorded_at     timestamptz NOT NULL,
    UNIQUE (kind, sha256, trained_from, trained_to),
    CONSTRAINT known_after_training CHECK (trained_from < trained_to
        AND known_from >= trained_to + make_interval(secs => label_horizon_s)),
    CONSTRAINT a_policy_names_its_encoder CHECK ((kind = 'policy') = (encoder_id IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS one_active_model_a_kind ON models (kind) WHERE status = 'active';
CREATE UNIQUE INDEX IF NOT EXISTS one_shadow_model_a_kind ON models (kind) WHERE status = 'shadow';

-- What one model saw in the window of candles that ends at as_of, and how unusual that window was:
-- ood is the percentile (0..1) of its distance to the training sample. Written by encoder; read by
-- meta_controller and policy.
CREATE TABLE IF NOT EXISTS embeddings (
    model_id      bigint NOT NULL REFERENCES models,
    instrument_id integer NOT NULL,
    timeframe_s   integer NOT NULL,
    as_of         timestamptz NOT NULL,
    embedding     vector(64) NOT NULL,
    ood           double precision NOT NULL CHECK (ood BETWEEN 0 AND 1),
    known_from    timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (model_id, instrument_id, timeframe_s, as_of),
    FOREIGN KEY (instrument_id, timeframe_s, as_of) REFERENCES market_data,
    CHECK (known_from >= as_of)
);

CREATE OR REPLACE VIEW current_embeddings AS
SELECT DISTINCT ON (e.instrument_id, e.timeframe_s) e.*
FROM embeddings e JOIN models m ON m.id = e.model_id AND m.status = 'active'
ORDER BY e.instrument_id, e.timeframe_s, e.as_of DESC;

-- The index that browsing one encoder's embeddings uses (approximate: decisions scan exactly). Only the owner of a
-- table can index it, so these two run as the owner: for an encoder, under one name, and nothing else. Building
-- blocks whoever writes embeddings, of any encoder, until it ends (65,000 rows: 22 to 40 s on two cores); readers go
-- on. Dropping takes a moment but must be alone with the table, and while it waits for a long read all others wait
-- behind it: so it waits 5 s at most, and so does building for its turn. The memory is taken as far as it is needed:
-- a million rows that do not fit were not indexed in 9 minutes.
CREATE OR REPLACE FUNCTION build_analog_index(model bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET maintenance_work_mem = '1GB'
SET lock_timeout = '5s' AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.models WHERE id = model AND kind = 'encoder') THEN
        RAISE EXCEPTION 'model % is not an encoder of this database: there is nothing to index', model;
    END IF;
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON public.embeddings USING hnsw (embedding public.vector_cosine_ops)
                    WITH (m = 16, ef_construction = 128) WHERE model_id = %s', 'embeddings_of_' || model, model);
END $$;

CREATE OR REPLACE FUNCTION drop_analog_index(model bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.models WHERE id = model AND kind = 'encoder') THEN
        RAISE EXCEPTION 'model % is not an encoder of this database: it has no index', model;
    END IF;
    EXECUTE format('DROP INDEX IF EXISTS public.%I', 'embeddings_of_' || model);
END $$;

-- What the daily look at an encoder found: how old its training is, whether what it sees has drifted away from
-- what it saw before, and whether its embeddings say less than they did. NULL: too few rows to tell. Written by
-- encoder.
CREATE TABLE IF NOT EXISTS encoder_checks (
    model_id    bigint NOT NULL REFERENCES models,
    as_of       timestamptz NOT NULL,
    stale_days  double precision NOT NULL,                                 -- since the end of its training span
    drift_share double precision CHECK (drift_share BETWEEN 0 AND 1),      -- of the dimensions that drifted
    psi_max     double precision CHECK (psi_max >= 0),                     -- population stability index, worst of 64
    ood_share   double precision CHECK (ood_share BETWEEN 0 AND 1),        -- of the last week's windows, ood > 0.99
    error_ratio double precision CHECK (error_ratio >= 0),                 -- of the probe: last week by first month
    verdict     text NOT NULL CHECK (verdict <> ''),                       -- 'good', or what was found
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (model_id, as_of),
    CHECK (recorded_at >= as_of)
);

-- One walk-forward evaluation of a way to train encoders: what was asked, and every number. model_id: the newest
-- encoder trained by the same recipe. Written by encoder.
CREATE TABLE IF NOT EXISTS encoder_evaluations (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipe_hash    text NOT NULL,
    model_id       bigint REFERENCES models,
    timeframe_s    integer NOT NULL CHECK (timeframe_s > 0),
    symbols        text[] NOT NULL CHECK (cardinality(symbols) > 0),
    evaluated_from timestamptz NOT NULL,
    evaluated_to   timestamptz NOT NULL,
    folds          integer NOT NULL CHECK (folds > 0),
    results        jsonb NOT NULL,
    verdict        text NOT NULL CHECK (verdict <> ''),
    recorded_at    timestamptz NOT NULL,
    CHECK (evaluated_from < evaluated_to)
);

-- ───────────────────────────────────────────────────────────────────────────────────────── meta_controller ──

-- What a regime expert (meta_controller/regimes) had learnt from the candles up to fitted_at. A fit that is here is
-- used as it is, whatever a candle's revision would change about it. Written by meta_controller.
CREATE TABLE IF NOT EXISTS regime_fits (
    expert      text NOT NULL CHECK (expert ~ '^[a-z_]+$'),
    timeframe_s integer NOT NULL CHECK (timeframe_s > 0),
    fitted_at   timestamptz NOT NULL,
    bars        integer NOT NULL CHECK (bars > 0),          -- learnt from
    parameters  jsonb NOT NULL,
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (expert, timeframe_s, fitted_at),
    CHECK (known_from >= fitted_at)
);

-- One call of one forecaster for one horizon, as it was made: a regime expert, their pool, or the LLM, whose calls
-- are stored raw. What is scored. Written by meta_controller.
CREATE TABLE IF NOT EXISTS regime_calls (
    expert       text NOT NULL CHECK (expert ~ '^[a-z_]+$'),
    as_of        timestamptz NOT NULL,
    horizon_s    integer NOT NULL CHECK (horizon_s > 0),
    p_down       double precision NOT NULL CHECK (p_down BETWEEN 0 AND 1),
    p_flat       double precision NOT NULL CHECK (p_flat BETWEEN 0 AND 1),
    p_up         double precision NOT NULL CHECK (p_up BETWEEN 0 AND 1),
    p_vol_low    double precision NOT NULL CHECK (p_vol_low BETWEEN 0 AND 1),
    p_vol_mid    double precision NOT NULL CHECK (p_vol_mid BETWEEN 0 AND 1),
    p_vol_high   double precision NOT NULL CHECK (p_vol_high BETWEEN 0 AND 1),
    llm_call_id  bigint,                                    -- the LLM's only; its row is in llm_calls
    contaminated boolean NOT NULL DEFAULT false,            -- the model may have read about this time: never pooled
    known_from   timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL,
    PRIMARY KEY (expert, as_of, horizon_s),
    CONSTRAINT trend_call_sums_to_one CHECK (abs(p_down + p_flat + p_up - 1) < 1e-9),
    CONSTRAINT volatility_call_sums_to_one CHECK (abs(p_vol_low + p_vol_mid + p_vol_high - 1) < 1e-9),
    CONSTRAINT the_llm_names_its_call CHECK ((expert = 'llm') = (llm_call_id IS NOT NULL)),
    CHECK (known_from >= as_of)
);
CREATE INDEX IF NOT EXISTS calls_in_order ON regime_calls (as_of, horizon_s);

-- What followed a moment, by the fixed rule of meta_controller/outcomes.py: known when the horizon has passed, and
-- never a feature before. Written by meta_controller.
CREATE TABLE IF NOT EXISTS regime_outcomes (
    as_of       timestamptz NOT NULL,
    horizon_s   integer NOT NULL CHECK (horizon_s > 0),
    trend       text NOT NULL CHECK (trend IN ('down', 'flat', 'up')),
    volatility  text NOT NULL CHECK (volatility IN ('low', 'mid', 'high')),
    log_return  double precision NOT NULL,
    realised    double precision NOT NULL CHECK (realised >= 0),            -- √Σ of squared bar returns, not annualised
    t_statistic double precision NOT NULL,
    efficiency  double precision NOT NULL CHECK (efficiency BETWEEN 0 AND 1.000001),  -- |Σ returns| ÷ Σ |returns|
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (as_of, horizon_s),
    CONSTRAINT known_when_it_had_happened CHECK (known_from >= as_of + make_interval(secs => horizon_s))
);

-- One call of the regime for one horizon, market-wide: probabilities of trend and volatility, and the one
-- word that follows from them. Written by meta_controller; read by policy. A track is a line of steering.
CREATE TABLE IF NOT EXISTS market_state (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    track       text NOT NULL CHECK (track IN ('live', 'rules', 'llm', 'static')),
    as_of       timestamptz NOT NULL,
    horizon_s   integer NOT NULL CHECK (horizon_s > 0),
    p_down      double precision NOT NULL CHECK (p_down BETWEEN 0 AND 1),
    p_flat      double precision NOT NULL CHECK (p_flat BETWEEN 0 AND 1),
    p_up        double precision NOT NULL CHECK (p_up BETWEEN 0 AND 1),
    p_vol_low   double precision NOT NULL CHECK (p_vol_low BETWEEN 0 AND 1),
    p_vol_mid   double precision NOT NULL CHECK (p_vol_mid BETWEEN 0 AND 1),
    p_vol_high  double precision NOT NULL CHECK (p_vol_high BETWEEN 0 AND 1),
    conviction  double precision NOT NULL CHECK (conviction BETWEEN -1 AND 1),
    regime      text NOT NULL CHECK (regime IN ('bull', 'bear', 'sideways', 'volatile')),
    source      text NOT NULL,
    reasons     text NOT NULL,
    valid_until timestamptz NOT NULL,
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    UNIQUE (track, as_of, horizon_s),
    CONSTRAINT trend_probabilities_sum_to_one CHECK (abs(p_down + p_flat + p_up - 1) < 1e-9),
    CONSTRAINT volatility_probabilities_sum_to_one CHECK (abs(p_vol_low + p_vol_mid + p_vol_high - 1) < 1e-9),
    CHECK (valid_until > as_of AND known_from >= as_of)
);

CREATE OR REPLACE VIEW current_market_state AS
SELECT DISTINCT ON (track, horizon_s) * FROM market_state ORDER BY track, horizon_s, as_of DESC;

-- One version of the steering. The bounds here are the same as in meta_controller/bounds.py (tested equal),
-- so that no writer, LLM or hand, can exceed them; what a writer leaves out gets its safe default. Written by
-- meta_controller; read by policy.
CREATE TABLE IF NOT EXISTS policy_config (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    track             text NOT NULL CHECK (track IN ('live', 'rules', 'llm', 'static')),
    as_of             timestamptz NOT NULL,
    source            text NOT NULL,
    risk_aversion     double precision NOT NULL DEFAULT 5 CHECK (risk_aversion BETWEEN 0.5 AND 10),
    turnover_penalty  double precision NOT NULL DEFAULT 2 CHECK (turnover_penalty BETWEEN 0 AND 10),
    drawdown_penalty  double precision NOT NULL DEFAULT 2 CHECK (drawdown_penalty BETWEEN 0 AND 10),
    target_volatility double precision NOT NULL DEFAULT 0.25 CHECK (target_volatility BETWEEN 0.05 AND 1.0),   -- a year
    max_exposure      double precision NOT NULL DEFAULT 0.3 CHECK (max_exposure BETWEEN 0 AND 1.0),            -- of equity
    max_position      double precision NOT NULL DEFAULT 0.15 CHECK (max_position BETWEEN 0 AND 0.5),           -- of equity
    daily_loss_limit  double precision NOT NULL DEFAULT 0.03 CHECK (daily_loss_limit BETWEEN 0.005 AND 0.2),   -- of equity
    max_drawdown      double precision NOT NULL DEFAULT 0.15 CHECK (max_drawdown BETWEEN 0.02 AND 0.5),        -- from the peak
    pause             boolean NOT NULL DEFAULT false,                                                          -- no entries
    strategy_weights  jsonb NOT NULL DEFAULT '{"drl": 1.0}' CHECK (jsonb_typeof(strategy_weights) = 'object'),
    reasons           text NOT NULL,
    valid_until       timestamptz NOT NULL,
    known_from        timestamptz NOT NULL,
    recorded_at       timestamptz NOT NULL,
    UNIQUE (track, as_of),
    CHECK (valid_until > as_of AND known_from >= as_of)
);

-- Strategy weights are numbers in 0..1 that sum to 1. And the largest change of each field in one hour, against the
-- track's newest row at least an hour older (the same numbers as in meta_controller/bounds.py, tested equal): whoever
-- writes, the steering cannot be jerked. Pausing and resuming are no matter of degree.
CREATE OR REPLACE FUNCTION refuse_jerked_steering() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    before policy_config%ROWTYPE;
    hours  double precision;
    jerked text;
    shares boolean;
BEGIN
    IF jsonb_typeof(NEW.strategy_weights) <> 'object' THEN
        RETURN NEW;  -- the table's CHECK refuses it
    END IF;
    SELECT count(*) > 0 AND min(share) >= 0 AND max(share) <= 1 AND abs(sum(share) - 1) < 1e-9 INTO shares
    FROM (SELECT CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric ELSE -1 END AS share
          FROM jsonb_each(NEW.strategy_weights)) AS weight;
    IF NOT shares THEN
        RAISE EXCEPTION 'strategy_weights of track % at % are %: each must be a number in 0..1, and their sum 1',
            NEW.track, NEW.as_of, NEW.strategy_weights
            USING ERRCODE = 'check_violation', CONSTRAINT = 'strategy_weights_are_shares';
    END IF;
    SELECT * INTO before FROM policy_config
    WHERE track = NEW.track AND as_of <= NEW.as_of - interval '1 hour' ORDER BY as_of DESC LIMIT 1;
    IF before.id IS NULL THEN
        RETURN NEW;
    END IF;
    hours := extract(epoch FROM NEW.as_of - before.as_of) / 3600;
    SELECT string_agg(format('%s from %s to %s', field, was, is_now), ', ' ORDER BY field) INTO jerked
    FROM (VALUES ('risk_aversion', before.risk_aversion, NEW.risk_aversion, 1.0),
                 ('turnover_penalty', before.turnover_penalty, NEW.turnover_penalty, 1.0),
                 ('drawdown_penalty', before.drawdown_penalty, NEW.drawdown_penalty, 1.0),
                 ('target_volatility', before.target_volatility, NEW.target_volatility, 0.1),
                 ('max_exposure', before.max_exposure, NEW.max_exposure, 0.2),
                 ('max_position', before.max_position, NEW.max_position, 0.1),
                 ('daily_loss_limit', before.daily_loss_limit, NEW.daily_loss_limit, 0.01),
                 ('max_drawdown', before.max_drawdown, NEW.max_drawdown, 0.05)) AS change (field, was, is_now, step)
    WHERE abs(is_now - was) > step * hours + 1e-9;
    IF jerked IS NULL THEN
        SELECT string_agg(format('weight of %s', name), ', ' ORDER BY name) INTO jerked
        FROM jsonb_object_keys(before.strategy_weights || NEW.strategy_weights) AS name
        WHERE abs(coalesce((NEW.strategy_weights ->> name)::float8, 0)
                  - coalesce((before.strategy_weights ->> name)::float8, 0)) > 0.25 * hours + 1e-9;
    END IF;
    IF jerked IS NOT NULL THEN
        RAISE EXCEPTION 'steering of track % at % changes too fast since %: %', NEW.track, NEW.as_of, before.as_of, jerked
            USING ERRCODE = 'check_violation', CONSTRAINT = 'no_jerk';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER no_jerk BEFORE INSERT ON policy_config
    FOR EACH ROW EXECUTE FUNCTION refuse_jerked_steering();

CREATE OR REPLACE VIEW current_policy_config AS
SELECT DISTINCT ON (track) * FROM policy_config ORDER BY track, as_of DESC;

-- ─────────────────────────────────────────────────────────────────────────────── the LLM: asked and scored ──

-- One question put to a language model. The row is written first, as a reservation of the most it may cost, and
-- committed before anything is sent; then what came of it is written beside. 'sent' and no more: whoever asked died,
-- and the reservation counts as spent. Written by meta_controller.
CREATE TABLE IF NOT EXISTS llm_calls (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    purpose           text NOT NULL CHECK (purpose IN ('strategist', 'news', 'embedding', 'probe')),
    as_of             timestamptz NOT NULL,
    model             text NOT NULL CHECK (model <> ''),
    endpoint          text NOT NULL,                     -- host and port, never a key
    knowledge_cutoff  date,                              -- of the model, as the settings say
    prompt            text NOT NULL,                     -- name and version: strategist.v1
    prompt_sha256     text NOT NULL CHECK (prompt_sha256 ~ '^[0-9a-f]{64}$'),   -- of the messages as first sent
    inputs            jsonb NOT NULL,                    -- settings that shape the prompt, to build it again
    request           jsonb NOT NULL,                    -- model, messages, tools, parameters as first sent
    statistics        jsonb NOT NULL,                    -- the table in the prompt
    memory_ids        bigint[] NOT NULL DEFAULT '{}',    -- what was recalled
    config_before_id  bigint REFERENCES policy_config,   -- the steering in force when it was asked
    config_after_id   bigint REFERENCES policy_config,   -- the row that came of it, on track llm
    status            text NOT NULL CHECK (status IN ('sent', 'answered', 'rejected', 'failed')),
    responses         text,                              -- every raw response, a JSON list of texts
    answer            jsonb,                             -- the parsed object, as far as it was one within bounds
    error             text,                              -- why it was rejected or failed
    tokens_in         integer CHECK (tokens_in >= 0),
    tokens_out        integer CHECK (tokens_out >= 0),
    reserved_usd      numeric(28,8) NOT NULL CHECK (reserved_usd >= 0),
    cost_usd          numeric(28,8) CHECK (cost_usd >= 0),
    latency_s         double precision CHECK (latency_s >= 0),
    recorded_at       timestamptz NOT NULL,
    ended_at          timestamptz,
    CONSTRAINT an_ended_call_says_how CHECK ((status = 'sent') = (ended_at IS NULL) AND (status = 'sent') = (cost_usd IS NULL)),
    CONSTRAINT a_failure_says_why CHECK ((status IN ('rejected', 'failed')) = (error IS NOT NULL)),
    CONSTRAINT an_answer_is_kept CHECK (status <> 'answered' OR (answer IS NOT NULL AND responses IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS one_strategist_call_a_moment ON llm_calls (as_of) WHERE purpose = 'strategist';
CREATE INDEX IF NOT EXISTS llm_spending ON llm_calls (recorded_at);
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'regime_calls_llm_call_id_fkey') THEN
        ALTER TABLE regime_calls ADD FOREIGN KEY (llm_call_id) REFERENCES llm_calls;
    END IF;
END $$;

-- What the LLM said and what then happened: numbers and fixed words only, for these are recalled into later prompts.
-- Written by meta_controller; the outcome once, when the horizon has passed.
CREATE TABLE IF NOT EXISTS memory_logs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    llm_call_id         bigint NOT NULL UNIQUE REFERENCES llm_calls,
    as_of               timestamptz NOT NULL,
    encoder_id          bigint REFERENCES models,
    state_embedding     vector(64),                      -- mean of the encoder's embeddings; NULL: there was none
    text_embedder       text NOT NULL,                   -- 'local', or the endpoint's model
    text_embedding      vector(256) NOT NULL,            -- of the statistics in words
    decision            jsonb NOT NULL,                  -- called classes and probabilities, conviction, steering
    outcome             jsonb,                           -- happened classes, scores against the pool
    outcome_known_from  timestamptz,
    outcome_recorded_at timestamptz,
    known_from          timestamptz NOT NULL,
    recorded_at         timestamptz NOT NULL,
    CHECK (known_from >= as_of),
    CONSTRAINT an_outcome_comes_after CHECK (outcome_known_from > as_of AND outcome_recorded_at >= outcome_known_from),
    CONSTRAINT an_outcome_is_whole CHECK ((outcome IS NULL) = (outcome_known_from IS NULL)
                                          AND (outcome IS NULL) = (outcome_recorded_at IS NULL))
);

-- Text of third parties, as it was given: hostile until shown otherwise. Only the news prompt ever sees it. Written
-- by meta_controller (import_news).
CREATE TABLE IF NOT EXISTS news_items (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source       text NOT NULL CHECK (length(source) BETWEEN 1 AND 100),
    digest       text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),     -- of source, title and body: once is enough
    published_at timestamptz NOT NULL,
    title        text NOT NULL CHECK (length(title) BETWEEN 1 AND 500),
    body         text NOT NULL CHECK (length(body) <= 4000),
    known_from   timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL,
    UNIQUE (source, digest),
    CHECK (known_from >= published_at)
);
CREATE INDEX IF NOT EXISTS news_in_order ON news_items (published_at);

-- What is left of a news item after a tool-less reading: fixed words and numbers. Written by meta_controller.
CREATE TABLE IF NOT EXISTS news_sentiment (
    item_id     bigint PRIMARY KEY REFERENCES news_items,
    llm_call_id bigint NOT NULL REFERENCES llm_calls,
    topic       text NOT NULL CHECK (topic IN ('regulation', 'security', 'macro', 'adoption', 'technology', 'market', 'other')),
    sentiment   double precision NOT NULL CHECK (sentiment BETWEEN -1 AND 1),
    relevance   double precision NOT NULL CHECK (relevance BETWEEN 0 AND 1),
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL
);

-- One figure of a chain at one moment. Written by meta_controller (import_onchain).
CREATE TABLE IF NOT EXISTS onchain_data (
    chain       text NOT NULL CHECK (chain ~ '^[a-z0-9_]{1,40}$'),
    metric      text NOT NULL CHECK (metric ~ '^[a-z0-9_]{1,40}$'),
    as_of       timestamptz NOT NULL,
    value       double precision NOT NULL CHECK (value > '-infinity' AND value < 'infinity'),
    source      text NOT NULL CHECK (length(source) BETWEEN 1 AND 100),
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (chain, metric, as_of),
    CHECK (known_from >= as_of)
);

-- How much of the live steering the LLM has earned, looked at once a day. weight is the lambda of
-- live = (1 - lambda) rules + lambda LLM. The e-values are anytime-valid evidence (meta_controller/trust.py): above 20
-- is as rare as 5 % under "no better than the pool". Written by meta_controller (assess_llm).
CREATE TABLE IF NOT EXISTS llm_trust (
    as_of       timestamptz NOT NULL,
    model       text NOT NULL,
    prompt      text NOT NULL,
    calls       integer NOT NULL CHECK (calls >= 0),                  -- counted: one a horizon, none overlapping
    days        double precision NOT NULL CHECK (days >= 0),          -- between the first and the last of them
    e_better    double precision NOT NULL CHECK (e_better >= 0),
    e_worse     double precision NOT NULL CHECK (e_worse >= 0),       -- evidence that it is worse: demotes
    p_book      double precision CHECK (p_book BETWEEN 0 AND 1),      -- that its paper book is ahead; NULL: no such books
    temperature double precision NOT NULL CHECK (temperature > 0),    -- recalibrates its calls
    weight      double precision NOT NULL CHECK (weight BETWEEN 0 AND 0.5),
    verdict     text NOT NULL CHECK (verdict <> ''),
    known_from  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (as_of, model, prompt),
    CHECK (known_from >= as_of)
);

-- ─────────────────────────────────────────────────────────────────────────── the operator: wallets, limits ──

-- A purse with a purpose. mode is immutable: going live makes a new wallet. Written by cli; read by all.
CREATE TABLE IF NOT EXISTS wallets (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9_-]+$'),
    venue         text NOT NULL,                    -- whose candles and instruments it trades
    mode          text NOT NULL CHECK (mode IN ('paper', 'live')),
    quote         text NOT NULL,
    track         text NOT NULL CHECK (track IN ('live', 'rules', 'llm', 'static')),
    taker_fee_bps numeric(10,4) NOT NULL CHECK (taker_fee_bps >= 0),
    slippage_bps  numeric(10,4) NOT NULL CHECK (slippage_bps >= 0),   -- paper: half the spread, a side
    impact        numeric(10,4) NOT NULL CHECK (impact >= 0),         -- paper: of the square-root law, about 1
    recorded_at   timestamptz NOT NULL
);

CREATE OR REPLACE FUNCTION refuse_wallet_mode_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'wallet % is %: its mode never changes; make a new wallet instead', OLD.name, OLD.mode;
END $$;
CREATE OR REPLACE TRIGGER wallet_mode_is_immutable BEFORE UPDATE OF mode ON wallets
    FOR EACH ROW WHEN (OLD.mode IS DISTINCT FROM NEW.mode) EXECUTE FUNCTION refuse_wallet_mode_change();

-- The operator's hard limits, which approve() holds every order against. Written by cli only. NULL: no such limit.
CREATE TABLE IF NOT EXISTS limits (
    wallet_id             integer PRIMARY KEY REFERENCES wallets,
    symbols               text[] NOT NULL CHECK (cardinality(symbols) > 0),   -- the allow-list; also the portfolio
    max_order_notional    numeric(28,8) NOT NULL CHECK (max_order_notional > 0),
    max_orders_a_day      integer NOT NULL CHECK (max_orders_a_day > 0),
    max_day_notional      numeric(28,8) CHECK (max_day_notional > 0),         -- bought within 24 hours
    max_position_notional numeric(28,8) CHECK (max_position_notional > 0),    -- of one instrument, after the order
    ramp_days             integer NOT NULL DEFAULT 14 CHECK (ramp_days >= 0), -- of a live wallet, from its grant on:
    ramp_exposure         numeric(10,8) NOT NULL DEFAULT 0.02                 -- all positions together, of its capital
                          CHECK (ramp_exposure > 0 AND ramp_exposure <= 1),
    recorded_at           timestamptz NOT NULL
);

-- Money that came or went other than by trading. What is managed is in the wallet's cash and positions; what is not
-- lies on the same account but is never sold and never counted. An adoption is two rows, from what is not managed to what
-- is, a release two back. Written by cli (opening, adoption, release; and deposit, withdrawal of a paper wallet) and by
-- sender (the account's history at its first connection, and what its venue's ledger tells since), by row policy.
CREATE TABLE IF NOT EXISTS cash_flows (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id   integer NOT NULL REFERENCES wallets,
    asset       text NOT NULL,
    amount      numeric(28,8) NOT NULL CHECK (amount <> 0),   -- into the wallet positive, out negative
    kind        text NOT NULL DEFAULT 'opening'
                CHECK (kind IN ('opening', 'adoption', 'release', 'deposit', 'withdrawal', 'transfer', 'staking', 'found',
                                'other')),
    managed     boolean NOT NULL DEFAULT true,
    value       numeric(28,8),                                -- in the wallet's quote then; NULL: amount is in quote
    reference   text NOT NULL,                                -- the venue's ledger id, where it has one
    at          timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    UNIQUE (wallet_id, reference)
);
CREATE INDEX IF NOT EXISTS flows_in_order ON cash_flows (wallet_id, at);

-- Something an operator asks for. Written by cli (later also api); read by policy, encoder, sender and approve().
-- Of those that stop trading the strictest since a wallet's last resume holds: pause (no entries) < kill (and entry
-- orders are cancelled) < flatten (and positions are sold) < halt (nothing is sent at all). Without a wallet they are
-- for all. A wallet that was never resumed does not trade. A place is an order by hand, taken up once within a minute by
-- the wallet's sender and held against approve() like any other: what it is of stands in its last four columns.
CREATE TABLE IF NOT EXISTS commands (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id       integer REFERENCES wallets,
    command         text NOT NULL
                    CHECK (command IN ('resume', 'pause', 'kill', 'flatten', 'halt', 'place', 'retrain-encoder')),
    reason          text NOT NULL CHECK (reason <> ''),
    issuer          text NOT NULL CHECK (issuer <> ''),
    idempotency_key text NOT NULL UNIQUE,
    issued_at       timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,             -- may be taken up until then; what stops acts at once, for ever
    voided_at       timestamptz,                      -- a restored backup's: nobody may take it up any more
    instrument_id   integer REFERENCES instruments,
    side            text CHECK (side IN ('buy', 'sell')),
    quantity        numeric(28,8) CHECK (quantity > 0 AND quantity < 'NaN'),
    limit_price     numeric(28,8) CHECK (limit_price > 0 AND limit_price < 'NaN'),   -- NULL: by the sender's collar
    CHECK (expires_at > issued_at),
    CONSTRAINT a_place_holds_for_a_minute CHECK (command <> 'place' OR expires_at <= issued_at + interval '60 seconds'),
    CONSTRAINT a_place_says_what_and_nothing_else_does
        CHECK (CASE command WHEN 'place' THEN num_nulls(wallet_id, instrument_id, side, quantity) = 0
                            ELSE num_nonnulls(instrument_id, side, quantity, limit_price) = 0 END),
    CONSTRAINT a_resume_names_its_wallet CHECK (command <> 'resume' OR wallet_id IS NOT NULL),
    CONSTRAINT a_training_is_for_no_wallet CHECK (command <> 'retrain-encoder' OR wallet_id IS NULL)
);
CREATE INDEX IF NOT EXISTS commands_of_a_wallet ON commands (wallet_id, issued_at);
CREATE INDEX IF NOT EXISTS places_in_order ON commands (expires_at) WHERE command = 'place';

CREATE OR REPLACE FUNCTION tell_of_command() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('commands', NEW.command);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER commands_are_told AFTER INSERT ON commands FOR EACH ROW EXECUTE FUNCTION tell_of_command();

-- What a wallet may do by its operator's word: 'trade', or the strictest of what stops it.
CREATE OR REPLACE FUNCTION mandate_of(wallet integer, at_time timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT CASE
        WHEN r.id IS NULL AND s.strictest IS NULL THEN 'pause'
        ELSE coalesce(s.strictest, 'trade')
    END
    FROM (SELECT max(id) AS id FROM commands
          WHERE wallet_id = wallet AND command = 'resume' AND issued_at <= at_time) r
    CROSS JOIN LATERAL (
        SELECT (ARRAY['pause', 'kill', 'flatten', 'halt'])
               [max(array_position(ARRAY['pause', 'kill', 'flatten', 'halt'], command))] AS strictest
        FROM commands WHERE (wallet_id = wallet OR wallet_id IS NULL) AND issued_at <= at_time
          AND id > coalesce(r.id, 0) AND command IN ('pause', 'kill', 'flatten', 'halt')) s
$$;

-- The checklist of going live, as it was found: every item with what was seen. One that passed lets a live wallet
-- trade until it is revoked; a new check that fails revokes it. Written by cli.
CREATE TABLE IF NOT EXISTS live_grants (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id   integer NOT NULL REFERENCES wallets,
    granted     boolean NOT NULL,
    checks      jsonb NOT NULL,              -- [{name, passed, seen}]
    capital     numeric(28,8) NOT NULL,      -- what the ramp's share is of, in quote
    reason      text NOT NULL CHECK (reason <> ''),
    recorded_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS grants_of_a_wallet ON live_grants (wallet_id, id DESC);

-- What an operator's tools did and found: a backup, a backup restored to be looked at, a test of the alert channels.
-- Written by cli; going live asks for recent ones.
CREATE TABLE IF NOT EXISTS operator_checks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('backup', 'restore-test', 'restore', 'alert-test', 'drill')),
    passed      boolean NOT NULL,
    details     jsonb NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS newest_operator_check ON operator_checks (kind, id DESC);

-- A training that somebody asked for: an operator's command, or the daily check. One worker takes it (SKIP
-- LOCKED) and goes on where a dead one stopped. Written by encoder.
CREATE TABLE IF NOT EXISTS trainings (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('encoder')),
    reason       text NOT NULL CHECK (reason <> ''),
    requested_by text NOT NULL CHECK (requested_by <> ''),
    command_id   bigint UNIQUE REFERENCES commands,      -- NULL: the daily check asked
    status       text NOT NULL CHECK (status IN ('queued', 'running', 'stopped', 'done', 'failed')),
    requested_at timestamptz NOT NULL,
    started_at   timestamptz,                            -- of the first attempt
    ended_at     timestamptz,
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    model_id     bigint REFERENCES models,
    error        text,                                   -- of the last attempt
    CONSTRAINT an_ended_training_says_when CHECK ((status IN ('done', 'failed')) = (ended_at IS NOT NULL)),
    CONSTRAINT a_done_training_names_its_model CHECK ((status = 'done') = (model_id IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS one_open_training_of_the_check ON trainings (kind)
    WHERE command_id IS NULL AND status NOT IN ('done', 'failed');

-- ──────────────────────────────────────────────────────────────────────────────────────────────── policy ──

-- For one wallet, instrument and candle: what was wanted, what was allowed, what clamped it, and the exact
-- rows it was made from. Written by policy; read by the sender's approve(), status, replay.
CREATE TABLE IF NOT EXISTS decisions (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id              integer NOT NULL REFERENCES wallets,
    instrument_id          integer NOT NULL REFERENCES instruments,
    as_of                  timestamptz NOT NULL,
    source                 text NOT NULL,               -- 'policy', or the fallback that spoke in its place
    wanted_weight          double precision NOT NULL CHECK (wanted_weight BETWEEN 0 AND 1),
    allowed_weight         double precision NOT NULL CHECK (allowed_weight BETWEEN 0 AND 1),
    baseline_weight        double precision NOT NULL CHECK (baseline_weight BETWEEN 0 AND 1),   -- trend x volatility's
    action                 double precision CHECK (action BETWEEN -1 AND 1),       -- what the model adds to it, in
    agreement              double precision CHECK (agreement BETWEEN 0 AND 1),     -- shares; NULL: it was not asked
    contributions          jsonb NOT NULL DEFAULT '{}',  -- each strategy's part of wanted_weight, by name
    clamps                 jsonb NOT NULL,               -- [{rule, before, after, because}] in the order applied
    reason                 text NOT NULL,                -- why an order follows, or the one reason why none does
    price                  double precision NOT NULL CHECK (price > 0),
    quantity_held          numeric(28,8) NOT NULL CHECK (quantity_held >= 0),
    cash                   numeric(28,8) NOT NULL,
    equity                 double precision NOT NULL,
    units                  double precision NOT NULL DEFAULT 1 CHECK (units > 0),  -- as a fund's shares: deposits buy
                                                        -- some, withdrawals sell some; returns are of equity ÷ units
    paid_in                numeric(28,8),               -- by all managed flows that its cash knew of, in quote; the next
                                                        -- decision's units follow from what came since. NULL: a drill's
    model_id               bigint REFERENCES models,
    encoder_id             bigint REFERENCES models,
    market_state_id        bigint REFERENCES market_state,         -- the 24h call
    market_state_short_id  bigint REFERENCES market_state,         -- the 4h call
    policy_config_id       bigint REFERENCES policy_config,
    observation_hash       text,                                   -- sha256 of the float32 vector the model saw
    code_version           text NOT NULL CHECK (code_version <> ''),   -- of the code that decided, and of what it was
    settings_hash          text NOT NULL CHECK (settings_hash <> ''),  -- told (shared/version.py): a sender of other
                                                                       -- code sends no entry of it
    recorded_at            timestamptz NOT NULL,
    UNIQUE (wallet_id, instrument_id, as_of, source),
    UNIQUE (id, wallet_id, instrument_id),
    CONSTRAINT risk_only_shrinks CHECK (allowed_weight <= wanted_weight),
    CONSTRAINT an_action_is_a_models CHECK ((action IS NULL) = (agreement IS NULL)
                                            AND (action IS NULL OR model_id IS NOT NULL))
);

CREATE INDEX IF NOT EXISTS decisions_of_a_wallet ON decisions (wallet_id, as_of);

-- Where risk spoke: a rule cut a wanted weight (clamp), or a trigger stopped a wallet until its operator resumes it
-- with a reason (stop). Written by policy; approve() lets no entry pass a stop.
CREATE TABLE IF NOT EXISTS risk_events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id     integer NOT NULL REFERENCES wallets,
    instrument_id integer REFERENCES instruments,            -- NULL: of the whole wallet
    decision_id   bigint REFERENCES decisions,
    kind          text NOT NULL CHECK (kind IN ('clamp', 'stop')),
    rule          text NOT NULL,
    as_of         timestamptz NOT NULL,
    before        double precision,                          -- weights, of a clamp
    after         double precision,
    because       text NOT NULL,
    recorded_at   timestamptz NOT NULL,
    CONSTRAINT a_clamp_shrinks CHECK (kind <> 'clamp' OR after < before)
);
CREATE INDEX IF NOT EXISTS stops_of_a_wallet ON risk_events (wallet_id, recorded_at) WHERE kind = 'stop';

-- An intent, written down before it is sent. id = uuid5(installation, what it follows from). Written by policy (what
-- a decision wants: one order at most) and by sender (what protects or ends a position, which follows from fills and
-- commands, not from a decision: it can only sell; and what an operator's place says, word for word); by row policy. state
-- follows order_events when the trader settles.
CREATE TABLE IF NOT EXISTS orders (
    id              uuid PRIMARY KEY,
    decision_id     bigint,
    command_id      bigint UNIQUE REFERENCES commands,        -- of an order by hand: a place becomes one order at most
    wallet_id       integer NOT NULL REFERENCES wallets,
    mode            text NOT NULL CHECK (mode IN ('paper', 'live')),
    instrument_id   integer NOT NULL REFERENCES instruments,
    author          text NOT NULL DEFAULT replace(current_user, 'sextant_', ''),
    purpose         text NOT NULL DEFAULT 'trade' CHECK (purpose IN ('trade', 'protect', 'flatten', 'manual')),
    side            text NOT NULL CHECK (side IN ('buy', 'sell')),
    type            text NOT NULL CHECK (type IN ('market', 'limit', 'stop', 'take_profit', 'trailing_stop')),
    time_in_force   text NOT NULL DEFAULT 'gtc' CHECK (time_in_force IN ('gtc', 'ioc', 'fok')),
    post_only       boolean NOT NULL DEFAULT false,
    quantity        numeric(28,8) NOT NULL CHECK (quantity > 0),
    reference_price double precision NOT NULL CHECK (reference_price > 0),   -- the close it was sized at
    volatility      double precision NOT NULL                                -- of the instrument then, annualised
                    CHECK (volatility >= 0 AND volatility < 'Infinity'),
    limit_price     numeric(28,8) CHECK (limit_price > 0),
    stop_price      numeric(28,8) CHECK (stop_price > 0),     -- at which a stop or take-profit becomes a market order
    trail           numeric(10,8) CHECK (trail > 0 AND trail < 1),   -- below the highest price since, as a fraction
    sibling_id      uuid REFERENCES orders,                   -- one cancels the other
    bracket_stop    numeric(28,8) CHECK (bracket_stop > 0),   -- what an entry's position is to be left at: below,
    bracket_target  numeric(28,8) CHECK (bracket_target > 0), -- above,
    bracket_trail   numeric(10,8) CHECK (bracket_trail > 0 AND bracket_trail < 1),   -- or so far below its highest price
    because         text NOT NULL DEFAULT '',                 -- why the sender wrote it; a decision says it for policy's
    state           text NOT NULL DEFAULT 'intended'
                    CHECK (state IN ('intended', 'sending', 'accepted', 'canceling', 'amending', 'rejected', 'filled',
                                     'canceled', 'expired', 'unknown')),
    not_before      timestamptz NOT NULL,   -- decision + delay: no fill may be older than this
    deadline        timestamptz NOT NULL,   -- paper: a fill candle must open before this; live: it is sent before this
    recorded_at     timestamptz NOT NULL,
    FOREIGN KEY (decision_id, wallet_id, instrument_id) REFERENCES decisions (id, wallet_id, instrument_id),
    CHECK (deadline > not_before),
    CONSTRAINT a_trade_follows_a_decision CHECK (purpose <> 'trade' OR (decision_id IS NOT NULL AND author <> 'sender')),
    CONSTRAINT an_order_by_hand_follows_a_command
        CHECK ((purpose = 'manual') = (command_id IS NOT NULL)
               AND (purpose <> 'manual' OR (decision_id IS NULL AND author = 'sender'))),
    CONSTRAINT the_sender_can_only_sell
        CHECK (author <> 'sender' OR ((side = 'sell' OR command_id IS NOT NULL) AND because <> '')),
    CONSTRAINT a_limit_order_has_its_price CHECK ((type = 'limit') = (limit_price IS NOT NULL)),
    CONSTRAINT a_trigger_has_its_price CHECK ((type IN ('stop', 'take_profit')) = (stop_price IS NOT NULL)),
    CONSTRAINT a_trailing_stop_trails CHECK ((type = 'trailing_stop') = (trail IS NOT NULL)),
    CONSTRAINT only_a_limit_order_can_wait_or_not CHECK (type = 'limit' OR (time_in_force = 'gtc' AND NOT post_only)),
    CONSTRAINT post_only_waits CHECK (NOT post_only OR time_in_force = 'gtc'),
    CONSTRAINT only_an_entry_has_a_bracket
        CHECK (side = 'buy' OR (bracket_stop IS NULL AND bracket_target IS NULL AND bracket_trail IS NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS one_order_a_decision ON orders (decision_id) WHERE purpose = 'trade';
CREATE INDEX IF NOT EXISTS orders_of_an_instrument ON orders (wallet_id, instrument_id, purpose);
CREATE INDEX IF NOT EXISTS bracketed_orders ON orders (wallet_id, instrument_id)
    WHERE num_nonnulls(bracket_stop, bracket_target, bracket_trail) > 0;
CREATE INDEX IF NOT EXISTS open_orders ON orders (wallet_id, instrument_id)
    WHERE state IN ('intended', 'sending', 'accepted', 'canceling', 'amending', 'unknown');

-- An order by hand is what its command says: a sender cannot make one up, change one, or take up what is over.
CREATE OR REPLACE FUNCTION refuse_order_beside_its_command() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    c commands%ROWTYPE;
    wrong text;
BEGIN
    SELECT * INTO c FROM commands WHERE id = NEW.command_id;
    wrong := CASE
        WHEN c.command IS DISTINCT FROM 'place' THEN 'it is no place'
        WHEN c.voided_at IS NOT NULL THEN 'it is voided'
        WHEN NEW.recorded_at < c.issued_at OR NEW.recorded_at >= c.expires_at THEN 'it does not hold then'
        WHEN NEW.mode = 'live' AND NEW.deadline > c.expires_at THEN 'it ends before the order does'
        WHEN (NEW.wallet_id, NEW.instrument_id, NEW.side, NEW.quantity)
             IS DISTINCT FROM (c.wallet_id, c.instrument_id, c.side, c.quantity) THEN 'it says something else'
        WHEN NEW.limit_price IS DISTINCT FROM c.limit_price AND c.limit_price IS NOT NULL THEN 'it has another limit'
        WHEN NOT (NEW.type = 'limit' AND NEW.time_in_force = 'ioc' AND NOT NEW.post_only)
             AND NOT (NEW.type = 'market' AND NEW.mode = 'paper') THEN 'nothing of it may rest'
        WHEN num_nonnulls(NEW.bracket_stop, NEW.bracket_target, NEW.bracket_trail, NEW.sibling_id) > 0
            THEN 'it names no bracket'
    END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'order % is not what command % says: %', NEW.id, NEW.command_id, wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'an_order_by_hand_is_what_its_command_says';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER an_order_by_hand_is_what_its_command_says BEFORE INSERT ON orders
    FOR EACH ROW WHEN (NEW.command_id IS NOT NULL) EXECUTE FUNCTION refuse_order_beside_its_command();

-- ──────────────────────────────────────────────────────────────────────────────────────────────── sender ──

-- Who sends for a wallet: each sender that takes over begins a new epoch, and an older one's approve() and nonces are
-- refused from then on. The nonce counts the signed calls of the wallet's key, in nanoseconds, and never falls.
-- Written by sender; fencing and nonces are decided by the two functions below.
CREATE TABLE IF NOT EXISTS sender_sessions (
    wallet_id    integer PRIMARY KEY REFERENCES wallets,
    epoch        bigint NOT NULL CHECK (epoch > 0),
    nonce        bigint NOT NULL CHECK (nonce > 0),
    holder       text NOT NULL,                       -- host and process, for people
    connected_at timestamptz,                         -- when its account's history was first imported
    started_at   timestamptz NOT NULL
);

-- Begins the next epoch of a wallet and returns it.
CREATE OR REPLACE FUNCTION begin_epoch(wallet integer, holder text, at_time timestamptz) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO sender_sessions AS s (wallet_id, epoch, nonce, holder, started_at)
    VALUES (begin_epoch.wallet, 1, greatest((extract(epoch FROM at_time) * 1000000)::bigint * 1000, 1),
            begin_epoch.holder, at_time)
    ON CONFLICT (wallet_id) DO UPDATE
    SET epoch = s.epoch + 1, holder = EXCLUDED.holder, started_at = EXCLUDED.started_at
    RETURNING epoch
$$;

-- The next nonce for a signed call in this epoch; NULL where another sender has taken over.
CREATE OR REPLACE FUNCTION take_nonce(wallet integer, in_epoch bigint, at_time timestamptz) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE sender_sessions
    SET nonce = greatest(nonce + 1, (extract(epoch FROM at_time) * 1000000)::bigint * 1000)
    WHERE wallet_id = wallet AND epoch = in_epoch
    RETURNING nonce
$$;

-- What approve() let through: one row an order, ever. Written by approve() alone.
CREATE TABLE IF NOT EXISTS approvals (
    order_id           uuid PRIMARY KEY REFERENCES orders,
    epoch              bigint,                   -- of the sender that may send it; NULL: a paper wallet's
    limits_recorded_at timestamptz NOT NULL,     -- which version of the limits it was held against
    approved_at        timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS newest_approvals ON approvals (approved_at);

-- What was done about an order and what the venue said, append-only. Written by sender; read by policy. quantity and
-- stop_price: what an amendment asks for (amending), or what the venue holds now (accepted after it).
CREATE TABLE IF NOT EXISTS order_events (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id       uuid NOT NULL REFERENCES orders,
    event          text NOT NULL CHECK (event IN ('sending', 'accepted', 'canceling', 'amending', 'rejected', 'filled',
                                                  'canceled', 'expired', 'unknown')),
    detail         text NOT NULL,
    venue_order_id text,
    quantity       numeric(28,8) CHECK (quantity > 0),
    stop_price     numeric(28,8) CHECK (stop_price > 0),
    at             timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    CONSTRAINT an_amendment_says_what CHECK (event <> 'amending' OR quantity IS NOT NULL)
);
-- Sent at most once, ended at most once.
CREATE UNIQUE INDEX IF NOT EXISTS at_most_once ON order_events (order_id, event)
    WHERE event IN ('sending', 'rejected', 'filled', 'canceled', 'expired');
CREATE INDEX IF NOT EXISTS events_of_an_order ON order_events (order_id, id);
CREATE INDEX IF NOT EXISTS ended_lately ON order_events (at)
    WHERE event IN ('rejected', 'filled', 'canceled', 'expired');
CREATE INDEX IF NOT EXISTS orders_by_venue_id ON order_events (venue_order_id) WHERE venue_order_id IS NOT NULL;

-- Only legal transitions (policy/execution/order_states.py draws them; tested equal), and nothing goes out that
-- approve() did not let through.
CREATE OR REPLACE FUNCTION refuse_illegal_order_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    paper boolean := (SELECT mode = 'paper' FROM orders WHERE id = NEW.order_id);
    last text := coalesce((SELECT event FROM order_events WHERE order_id = NEW.order_id ORDER BY id DESC LIMIT 1),
                          'intended');
    allowed text[] := CASE last
        WHEN 'intended'  THEN ARRAY['rejected', 'canceled', 'expired', CASE WHEN paper THEN 'accepted' ELSE 'sending' END]
        WHEN 'sending'   THEN ARRAY['accepted', 'rejected', 'unknown']
        WHEN 'unknown'   THEN ARRAY['accepted', 'rejected', 'filled', 'canceled', 'expired']
        WHEN 'accepted'  THEN ARRAY['filled', 'canceled', 'expired', 'canceling', 'amending']
        WHEN 'canceling' THEN ARRAY['accepted', 'filled', 'canceled', 'expired']
        WHEN 'amending'  THEN ARRAY['accepted', 'filled', 'canceled', 'expired']
        ELSE ARRAY[]::text[]
    END;
BEGIN
    IF NOT NEW.event = ANY (allowed) THEN
        RAISE EXCEPTION 'order % is %: it cannot become %', NEW.order_id, last, NEW.event;
    END IF;
    IF (NEW.event = 'sending' OR (paper AND NEW.event = 'accepted'))
       AND NOT EXISTS (SELECT FROM approvals WHERE order_id = NEW.order_id) THEN
        RAISE EXCEPTION 'order % was never approved: it cannot become %', NEW.order_id, NEW.event;
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER order_events_are_legal BEFORE INSERT ON order_events
    FOR EACH ROW EXECUTE FUNCTION refuse_illegal_order_event();

-- Each time that a venue was asked about an order whose outcome is unknown, and answered. "Could not ask" is no row.
-- Written by sender.
CREATE TABLE IF NOT EXISTS order_lookups (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    uuid NOT NULL REFERENCES orders,
    found       boolean NOT NULL,          -- in its open or closed orders, or among its fills
    recorded_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS lookups_of_an_order ON order_lookups (order_id, id);

-- What was exchanged, append-only, keyed as the venue keys it. cost is the quote amount that moved, as the
-- venue states it (its ledger, where it has one: rounded to the asset's decimals). Written by sender; positions and
-- cash are sums over it, never stored twice.
CREATE TABLE IF NOT EXISTS fills (
    wallet_id      integer NOT NULL REFERENCES wallets,
    venue_trade_id text NOT NULL,
    order_id       uuid NOT NULL REFERENCES orders,
    side           text NOT NULL CHECK (side IN ('buy', 'sell')),
    quantity       numeric(28,8) NOT NULL CHECK (quantity > 0),
    price          numeric(28,8) NOT NULL CHECK (price > 0),
    cost           numeric(28,8) NOT NULL CHECK (cost >= 0),
    fee            numeric(28,8) NOT NULL CHECK (fee >= 0),
    fee_asset      text NOT NULL,
    filled_at      timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (wallet_id, venue_trade_id),
    CONSTRAINT cost_is_quantity_times_price CHECK (abs(cost - quantity * price) <= 0.01 + 1e-9 * cost)
);
CREATE INDEX IF NOT EXISTS fills_of_an_order ON fills (order_id);

-- Trades on a wallet's account that no order of ours made: by hand, by another program. Recorded, alarmed about, part
-- of what is unmanaged. Written by sender.
CREATE TABLE IF NOT EXISTS external_fills (
    wallet_id       integer NOT NULL REFERENCES wallets,
    venue_trade_id  text NOT NULL,
    venue_order_id  text NOT NULL,
    client_order_id text,                  -- one of our own format is another installation's, or a lost ledger's
    symbol          text NOT NULL,         -- BASE/QUOTE
    side            text NOT NULL CHECK (side IN ('buy', 'sell')),
    quantity        numeric(28,8) NOT NULL CHECK (quantity > 0),
    price           numeric(28,8) NOT NULL CHECK (price > 0),
    cost            numeric(28,8) NOT NULL CHECK (cost >= 0),
    fee             numeric(28,8) NOT NULL CHECK (fee >= 0),
    fee_asset       text NOT NULL,
    filled_at       timestamptz NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (wallet_id, venue_trade_id)
);

-- What our ledger and the venue's account say of each other: every order, fill and balance that agrees, and every one
-- that does not. Entries wait until a later one is clean. Written by sender.
CREATE TABLE IF NOT EXISTS reconciliations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id   integer NOT NULL REFERENCES wallets,
    matched     integer NOT NULL CHECK (matched >= 0),
    unmatched   integer NOT NULL CHECK (unmatched >= 0),
    findings    jsonb NOT NULL,            -- [{kind, what, ours, theirs}], of what does not agree
    lasting     boolean NOT NULL DEFAULT false,   -- no later comparison heals it: the operator must resume the wallet
    recorded_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS newest_reconciliation ON reconciliations (wallet_id, id DESC);

-- What a wallet's key may do, as its venue tells; NULL: it does not. Written by sender, at its start and hourly.
CREATE TABLE IF NOT EXISTS key_checks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id     integer NOT NULL REFERENCES wallets,
    trade         boolean,
    withdraw      boolean,
    ip_restricted boolean,
    nonce_window  integer,
    recorded_at   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS newest_key_check ON key_checks (wallet_id, id DESC);

-- What a wallet holds of an instrument: bought less sold, less fees taken in its base currency, plus what was adopted.
CREATE OR REPLACE VIEW positions AS
SELECT wallet_id, instrument_id, sum(quantity) AS quantity
FROM (SELECT f.wallet_id, o.instrument_id,
             CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END
             - CASE WHEN f.fee_asset = split_part(i.symbol, '/', 1) THEN f.fee ELSE 0 END AS quantity
      FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
      UNION ALL
      SELECT c.wallet_id, i.id, c.amount
      FROM cash_flows c JOIN wallets w ON w.id = c.wallet_id
      JOIN instruments i ON i.venue = w.venue AND i.symbol = c.asset || '/' || w.quote
      WHERE c.managed AND c.asset <> w.quote) moves
GROUP BY wallet_id, instrument_id;

CREATE OR REPLACE VIEW cash AS
SELECT w.id AS wallet_id,
       coalesce((SELECT sum(amount) FROM cash_flows c
                 WHERE c.wallet_id = w.id AND c.asset = w.quote AND c.managed), 0)
     + coalesce((SELECT sum(CASE f.side WHEN 'buy' THEN -f.cost ELSE f.cost END
                            - CASE WHEN f.fee_asset = w.quote THEN f.fee ELSE 0 END)
                 FROM fills f WHERE f.wallet_id = w.id), 0) AS amount
FROM wallets w;

-- What lies on a wallet's account and is not Sextant's: found there, came there unasked, or traded by others.
CREATE OR REPLACE VIEW unmanaged AS
SELECT wallet_id, asset, sum(amount) AS amount
FROM (SELECT wallet_id, asset, amount FROM cash_flows WHERE NOT managed
      UNION ALL
      SELECT wallet_id, split_part(symbol, '/', 1), CASE side WHEN 'buy' THEN quantity ELSE -quantity END
      FROM external_fills
      UNION ALL
      SELECT wallet_id, split_part(symbol, '/', 2), CASE side WHEN 'buy' THEN -cost ELSE cost END FROM external_fills
      UNION ALL
      SELECT wallet_id, fee_asset, -fee FROM external_fills
      UNION ALL  -- a fee taken in a third asset is paid from what lies there
      SELECT f.wallet_id, f.fee_asset, -f.fee
      FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
      WHERE f.fee_asset <> split_part(i.symbol, '/', 1) AND f.fee_asset <> split_part(i.symbol, '/', 2)) moves
GROUP BY wallet_id, asset;

-- Orders that may still trade, each with the state that its newest event tells and the most that it may still trade:
-- while an amendment is under way, by the larger of both sizes.
CREATE OR REPLACE VIEW open_risk AS
SELECT o.id AS order_id, o.wallet_id, o.mode, o.instrument_id, o.author, o.purpose, o.side, o.type, o.reference_price,
       o.limit_price, o.sibling_id, o.recorded_at, e.event AS state, a.venue_order_id, f.filled,
       coalesce(a.stop_price, o.stop_price) AS stop_price, coalesce(a.quantity, o.quantity) AS quantity,
       greatest(coalesce(a.quantity, o.quantity), CASE WHEN e.event = 'amending' THEN e.quantity END) - f.filled AS rest
FROM orders o
JOIN LATERAL (SELECT event, quantity FROM order_events WHERE order_id = o.id ORDER BY id DESC LIMIT 1) e
    ON e.event IN ('sending', 'accepted', 'canceling', 'amending', 'unknown')
LEFT JOIN LATERAL (SELECT venue_order_id, quantity, stop_price FROM order_events
                   WHERE order_id = o.id AND event = 'accepted' ORDER BY id DESC LIMIT 1) a ON true
CROSS JOIN LATERAL (SELECT coalesce(sum(quantity), 0) AS filled FROM fills WHERE order_id = o.id) f
WHERE o.state IN ('intended', 'sending', 'accepted', 'canceling', 'amending', 'unknown');

-- Cash plus positions at the newest close of each instrument's finest timeframe.
CREATE OR REPLACE VIEW equity AS
SELECT c.wallet_id, c.amount AS cash, coalesce(p.value, 0) AS position_value,
       c.amount + coalesce(p.value, 0) AS equity, p.as_of
FROM cash c LEFT JOIN (
    SELECT p.wallet_id, sum(p.quantity * m.close::numeric) AS value, min(m.as_of) AS as_of
    FROM positions p JOIN instruments i ON i.id = p.instrument_id
    CROSS JOIN LATERAL (SELECT close, as_of FROM market_data d
                        WHERE d.instrument_id = i.id AND d.timeframe_s = i.base_timeframe_s
                        ORDER BY as_of DESC LIMIT 1) m
    GROUP BY p.wallet_id) p USING (wallet_id);

-- Why this intent may not be sent; NULL = it may. Reads only: refusal_of() is asked by approve() and by whoever wants
-- to know. The policy writes intents but cannot change this function, the limits or the commands that it reads.
-- What the policy could misstate to slip through (its price, its time) is held against what others wrote: the
-- newest close, the sender's own events. Exits skip the limits, never the sanity checks.
CREATE OR REPLACE FUNCTION refusal_of(intent uuid, at_time timestamptz, in_epoch bigint DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT CASE
        WHEN o.id IS NULL THEN 'there is no such order'
        WHEN w.mode <> o.mode THEN format('order says %s, wallet is %s', o.mode, w.mode)
        WHEN o.state <> 'intended' THEN format('order is already %s', o.state)
        WHEN EXISTS (SELECT FROM approvals a WHERE a.order_id = o.id) THEN 'it was approved before: nothing is sent twice'
        WHEN at_time >= o.deadline THEN 'its deadline has passed'
        WHEN h.voided_at IS NOT NULL THEN 'its command was voided: a backup was restored since'
        WHEN at_time >= h.expires_at THEN 'its command has expired: ask again'
        WHEN h.issued_at < x.resumed_at THEN 'it was asked for before the wallet was resumed: ask again'
        WHEN l.wallet_id IS NULL THEN 'the operator set no limits for this wallet'
        WHEN i.venue <> w.venue THEN format('%s is not on venue %s', i.symbol, w.venue)
        WHEN k.mandate = 'halt' THEN 'the wallet is halted: nothing is sent'
        WHEN w.mode = 'live' AND in_epoch IS DISTINCT FROM s.epoch
            THEN format('epoch %s is over: another sender has taken over', coalesce(in_epoch::text, 'of nobody'))
        WHEN w.mode = 'live' AND (g.granted IS NULL OR o.side = 'buy' AND NOT g.granted)
            THEN 'the wallet was not let live: make go-live WALLET=…'
        WHEN i.status = 'delisted' THEN format('%s is delisted', i.symbol)
        WHEN (w.mode = 'live' OR h.id IS NOT NULL) AND o.quantity % i.lot_size <> 0
            THEN format('a quantity of %s is not in whole lots of %s', o.quantity, i.lot_size)
        WHEN h.limit_price % i.tick_size <> 0
            THEN format('a limit of %s is not in whole ticks of %s', h.limit_price, i.tick_size)
        WHEN h.id IS NOT NULL AND o.quantity < i.min_quantity
            THEN format('less than the %s that %s takes', i.min_quantity, i.venue)
        WHEN h.id IS NOT NULL AND o.quantity * coalesce(o.limit_price, o.reference_price::numeric) < i.min_notional
            THEN format('worth less than the %s that %s takes', i.min_notional, i.venue)
        WHEN o.side = 'sell' AND o.quantity > coalesce(p.quantity, 0) THEN 'sells more than is held'
        WHEN w.mode = 'live' AND o.side = 'sell' AND (o.purpose <> 'protect' OR o.type IN ('limit', 'market'))
             AND o.quantity > coalesce(p.quantity, 0) - coalesce(b.selling, 0)
            THEN 'sells more than is held less what other orders sell'
        WHEN o.side = 'sell' THEN NULL
        WHEN NOT i.symbol = ANY (l.symbols) THEN format('%s is not on the allow-list', i.symbol)
        WHEN k.mandate = 'pause' THEN 'the wallet is paused: no entries'
        WHEN k.mandate <> 'trade' THEN format('the wallet is stopped (%s): no entries', k.mandate)
        WHEN t.because IS NOT NULL THEN format('the wallet is stopped (%s): no entries until it is resumed', t.because)
        WHEN w.mode = 'live' AND n.unmatched IS DISTINCT FROM 0
            THEN 'the last reconciliation found what does not match: no entries'
        WHEN w.mode = 'live' AND EXISTS (SELECT FROM reconciliations r WHERE r.wallet_id = w.id AND r.lasting
                                         AND r.recorded_at >= coalesce(x.resumed_at, '-infinity'))
            THEN 'a reconciliation found what only an operator can judge: look at make reconcile, then make resume'
        WHEN i.status <> 'online' THEN format('%s is %s: no entries', i.symbol, replace(i.status, '_', ' '))
        WHEN o.quantity * greatest(o.reference_price::numeric, h.limit_price) > l.max_order_notional
            THEN format('notional above the limit of %s', l.max_order_notional)
        WHEN m.close IS NULL OR abs(o.reference_price / m.close - 1) > 0.1
            THEN format('sized at a price of %s, which is not near the newest close of %s', o.reference_price, m.close)
        WHEN o.limit_price IS NOT NULL AND o.limit_price::float8 > m.close * 1.1
            THEN format('its limit of %s is far above the newest close of %s', o.limit_price, m.close)
        WHEN d.orders >= l.max_orders_a_day THEN format('more than %s orders within 24 hours', l.max_orders_a_day)
        WHEN d.notional + o.quantity * o.reference_price::numeric > l.max_day_notional
            THEN format('bought more than %s within 24 hours', l.max_day_notional)
        WHEN (coalesce(p.quantity, 0) + coalesce(b.buying, 0) + o.quantity) * m.close::numeric > l.max_position_notional
            THEN format('position above the limit of %s', l.max_position_notional)
        WHEN w.mode = 'live' AND b.reserved + o.quantity * greatest(o.reference_price::numeric, o.limit_price)
                                 * (1 + w.taker_fee_bps / 10000) > c.amount
            THEN 'costs more than the cash that no other order has reserved'
        WHEN w.mode = 'live' AND at_time < g.since + make_interval(days => l.ramp_days)
             AND coalesce(e.position_value, 0) + b.entering + o.quantity * o.reference_price::numeric
                 > l.ramp_exposure * g.capital
            THEN format('in its first %s live days a wallet may hold %s of its capital', l.ramp_days,
                        trim_scale(l.ramp_exposure))
    END
    FROM (SELECT intent) asked
    LEFT JOIN orders o ON o.id = asked.intent
    LEFT JOIN wallets w ON w.id = o.wallet_id
    LEFT JOIN instruments i ON i.id = o.instrument_id
    LEFT JOIN limits l ON l.wallet_id = w.id
    LEFT JOIN positions p ON p.wallet_id = w.id AND p.instrument_id = i.id
    LEFT JOIN cash c ON c.wallet_id = w.id
    LEFT JOIN equity e ON e.wallet_id = w.id
    LEFT JOIN sender_sessions s ON s.wallet_id = w.id
    LEFT JOIN commands h ON h.id = o.command_id
    LEFT JOIN LATERAL (SELECT mandate_of(w.id, at_time) AS mandate) k ON true
    LEFT JOIN LATERAL (SELECT granted, capital, (SELECT min(recorded_at) FROM live_grants f
                                                 WHERE f.wallet_id = w.id AND f.granted) AS since
                       FROM live_grants f WHERE f.wallet_id = w.id AND f.recorded_at <= at_time
                       ORDER BY id DESC LIMIT 1) g ON true
    LEFT JOIN LATERAL (SELECT max(issued_at) AS resumed_at FROM commands r WHERE r.wallet_id = w.id
                       AND r.command = 'resume' AND r.issued_at <= at_time) x ON true
    LEFT JOIN LATERAL (SELECT because FROM risk_events r WHERE r.wallet_id = w.id AND r.kind = 'stop'
                       AND r.recorded_at <= at_time AND r.recorded_at >= coalesce(x.resumed_at, '-infinity')
                       ORDER BY r.id DESC LIMIT 1) t ON true
    LEFT JOIN LATERAL (SELECT unmatched FROM reconciliations r WHERE r.wallet_id = w.id ORDER BY id DESC LIMIT 1) n ON true
    LEFT JOIN LATERAL (SELECT close FROM market_data d WHERE d.instrument_id = i.id
                       AND d.timeframe_s = i.base_timeframe_s AND d.as_of <= at_time
                       ORDER BY d.as_of DESC LIMIT 1) m ON true
    LEFT JOIN LATERAL (
        SELECT coalesce(sum(z.rest) FILTER (WHERE z.side = 'buy' AND z.instrument_id = i.id), 0) AS buying,
               coalesce(sum(z.rest) FILTER (WHERE z.side = 'sell' AND z.instrument_id = i.id
                                            AND (z.purpose <> 'protect' OR z.type IN ('limit', 'market'))), 0)
                   AS selling,
               coalesce(sum(z.rest * greatest(z.reference_price::numeric, z.limit_price))
                        FILTER (WHERE z.side = 'buy'), 0) AS reserved,
               coalesce(sum(z.rest * z.reference_price::numeric) FILTER (WHERE z.side = 'buy'), 0) AS entering
        FROM open_risk z WHERE z.wallet_id = w.id AND z.order_id <> o.id) b ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS orders,
               coalesce(sum(y.quantity * y.reference_price::numeric) FILTER (WHERE y.side = 'buy'), 0) AS notional
        FROM approvals v JOIN orders y ON y.id = v.order_id
        WHERE v.approved_at > at_time - interval '1 day' AND v.approved_at <= at_time AND y.wallet_id = w.id) d ON true
$$;

-- Lets an intent through, once: NULL, and its approval is a row; else the one reason why not, and nothing is written.
-- The sender sends only what passes here.
CREATE OR REPLACE FUNCTION approve(intent uuid, at_time timestamptz, in_epoch bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    refusal text;
BEGIN
    -- two senders, or two orders of one wallet at once, are held against the limits one after the other
    PERFORM FROM limits WHERE wallet_id = (SELECT wallet_id FROM orders WHERE id = intent) FOR UPDATE;
    refusal := refusal_of(intent, at_time, in_epoch);
    IF refusal IS NULL THEN
        INSERT INTO approvals (order_id, epoch, limits_recorded_at, approved_at)
        SELECT o.id, in_epoch, l.recorded_at, at_time FROM orders o JOIN limits l USING (wallet_id) WHERE o.id = intent;
    END IF;
    RETURN refusal;
END $$;

-- ───────────────────────────────────────────────────────────────────────────────────── beside the spine ──

-- One run of one job. Each layer writes its own rows (row policy in roles.sql).
CREATE TABLE IF NOT EXISTS job_runs (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    layer      text NOT NULL DEFAULT replace(current_user, 'sextant_', ''),
    job        text NOT NULL,
    clock_at   timestamptz NOT NULL,       -- what the job took for now; differs from started_at in a replay
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    status     text NOT NULL CHECK (status IN ('running', 'done', 'nothing', 'refused', 'failed')),
    result     jsonb NOT NULL DEFAULT '{}',
    error      text
);
CREATE INDEX IF NOT EXISTS newest_run_of_a_job ON job_runs (job, id DESC);
CREATE INDEX IF NOT EXISTS unfinished_runs ON job_runs (job) WHERE status = 'running';

-- What a person should look at. Written by every layer (row policy); one row a key and day.
CREATE TABLE IF NOT EXISTS alerts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    layer       text NOT NULL DEFAULT replace(current_user, 'sextant_', ''),
    severity    text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    key         text NOT NULL,
    message     text NOT NULL,
    day         date NOT NULL,
    recorded_at timestamptz NOT NULL,
    UNIQUE (layer, key, day)
);

-- An alert on its way to one of the operator's channels, which are named by a short hash of their address, for the
-- address is a secret. Written by cli (the notify job); the row is claimed before anything is sent.
CREATE TABLE IF NOT EXISTS alert_deliveries (
    alert_id     bigint NOT NULL REFERENCES alerts,
    channel      text NOT NULL,
    attempts     integer NOT NULL CHECK (attempts > 0),
    delivered_at timestamptz,                    -- NULL: not yet, or never
    error        text,
    recorded_at  timestamptz NOT NULL,
    PRIMARY KEY (alert_id, channel)
);

-- One backtest with all that is needed to run it again. Written by policy.
CREATE TABLE IF NOT EXISTS backtests (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    span_from   timestamptz NOT NULL,
    span_to     timestamptz NOT NULL,
    parameters  jsonb NOT NULL,
    in_sample   boolean NOT NULL,
    metrics     jsonb NOT NULL,
    recorded_at timestamptz NOT NULL,
    CHECK (span_from < span_to)
);

-- ──────────────────────────────────────────────────────────────────────────────── evaluation and promotion ──

-- One contestant of one fold of a walk-forward evaluation: what it earned out of sample, day by day. key: sha256 of
-- candles, settings, code and profile; a killed evaluation goes on from the rows of its key. Written by policy.
CREATE TABLE IF NOT EXISTS evaluation_folds (
    key         text NOT NULL,
    fold        integer NOT NULL CHECK (fold > 0),
    contestant  text NOT NULL CHECK (contestant <> ''),        -- 'seed 7', 'ensemble', or a strategy's name
    kind        text NOT NULL CHECK (kind IN ('seed', 'ensemble', 'baseline')),
    symbols     text[] NOT NULL CHECK (cardinality(symbols) > 0),
    test_from   timestamptz NOT NULL,
    test_to     timestamptz NOT NULL,
    returns     double precision[] NOT NULL,                   -- a day each from test_from, net of headline costs
    metrics     jsonb NOT NULL,
    model       bytea,                                         -- a seed: its weights (npz); the ensemble: its ONNX
    seconds     double precision NOT NULL CHECK (seconds >= 0),
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (key, fold, contestant),
    CHECK (test_from < test_to),
    CONSTRAINT a_baseline_has_no_model CHECK ((kind = 'baseline') = (model IS NULL))
);

-- One walk-forward evaluation of the recipe that makes policies, with every number. Only the full profile has a
-- verdict. Written by policy.
CREATE TABLE IF NOT EXISTS evaluations (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key            text NOT NULL,
    recipe_hash    text NOT NULL,                -- of kernel, decision path and training code (policy/recipe.py)
    profile        text NOT NULL CHECK (profile IN ('quick', 'full')),
    provenance     text NOT NULL CHECK (provenance IN ('real', 'simulated')),
    evaluated_from timestamptz NOT NULL,
    evaluated_to   timestamptz NOT NULL,
    folds          integer NOT NULL CHECK (folds > 0),
    seeds          integer NOT NULL CHECK (seeds > 0),
    results        jsonb NOT NULL,
    verdict        text CHECK (verdict IN ('beats', 'not worse', 'baseline wins')),
    recorded_at    timestamptz NOT NULL,
    CHECK (evaluated_from < evaluated_to),
    CONSTRAINT only_full_and_real_has_a_verdict CHECK (verdict IS NULL OR (profile = 'full' AND provenance = 'real'))
);

-- One run of the canaries (policy/canaries): the proofs that the recipe learns what is there and nothing else.
-- Written by policy.
CREATE TABLE IF NOT EXISTS canary_runs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipe_hash text NOT NULL,
    green       boolean NOT NULL,
    results     jsonb NOT NULL,                  -- by canary: what was found, what was asked for
    seconds     double precision NOT NULL CHECK (seconds >= 0),
    recorded_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS canaries_of_a_recipe ON canary_runs (recipe_hash, id DESC);

-- That an operator let a policy trade, on what evidence. residual: what of it counts beside the baseline; 0 where the
-- evaluation said "baseline wins". Written by promote_policy() only.
CREATE TABLE IF NOT EXISTS promotions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id      bigint NOT NULL REFERENCES models,
    evaluation_id bigint NOT NULL REFERENCES evaluations,
    canary_run_id bigint NOT NULL REFERENCES canary_runs,
    verdict       text NOT NULL CHECK (verdict IN ('beats', 'not worse', 'baseline wins')),
    residual      double precision NOT NULL,
    reason        text NOT NULL CHECK (reason <> ''),
    issuer        text NOT NULL CHECK (issuer <> ''),
    promoted_at   timestamptz NOT NULL,
    CONSTRAINT a_beaten_policy_adds_nothing CHECK (residual = CASE verdict WHEN 'baseline wins' THEN 0 ELSE 1 END)
);
CREATE INDEX IF NOT EXISTS newest_promotion_of_a_model ON promotions (model_id, id DESC);

-- Promotes a policy and makes it the active one, or raises with the reason: the last word, whatever program asks.
-- (pipeline/promote.py looks first, and says what to run next.)
CREATE OR REPLACE FUNCTION promote_policy(
    model bigint, evaluation bigint, canary_run bigint, because text, who text, at_time timestamptz
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    m models%ROWTYPE;
    e evaluations%ROWTYPE;
    c canary_runs%ROWTYPE;
    made bigint;
BEGIN
    SELECT * INTO m FROM models WHERE id = model AND kind = 'policy';
    SELECT * INTO e FROM evaluations WHERE id = evaluation;
    SELECT * INTO c FROM canary_runs WHERE id = canary_run;
    IF m.id IS NULL OR e.id IS NULL OR c.id IS NULL THEN
        RAISE EXCEPTION 'there is no policy %, evaluation % or canary run %', model, evaluation, canary_run;
    ELSIF m.provenance <> 'real' OR (SELECT provenance FROM models WHERE id = m.encoder_id) <> 'real' THEN
        RAISE EXCEPTION 'policy % learnt from simulated candles', model;
    ELSIF e.verdict IS NULL THEN
        RAISE EXCEPTION 'evaluation % has no verdict: its profile is %, its candles are %', evaluation, e.profile, e.provenance;
    ELSIF NOT c.green THEN
        RAISE EXCEPTION 'canary run % is not green', canary_run;
    ELSIF c.recipe_hash <> e.recipe_hash OR m.metrics ->> 'recipe' IS DISTINCT FROM e.recipe_hash THEN
        RAISE EXCEPTION 'policy %, evaluation % and canary run % are of different recipes', model, evaluation, canary_run;
    ELSIF m.metrics -> 'training' IS DISTINCT FROM e.results -> 'training' THEN
        RAISE EXCEPTION 'policy % was not trained as long as those of evaluation %', model, evaluation;
    ELSIF coalesce((e.results -> 'p_earns' ->> CASE e.verdict WHEN 'baseline wins' THEN 'baseline' ELSE 'policy' END)
                   ::float8, 0) < 0.9 THEN
        RAISE EXCEPTION 'evaluation % does not show that what would trade earns more than cash', evaluation;
    END IF;
    UPDATE models SET status = 'retired' WHERE kind = 'policy' AND status = 'active' AND id <> model;
    UPDATE models SET status = 'active' WHERE id = model;
    INSERT INTO promotions (model_id, evaluation_id, canary_run_id, verdict, residual, reason, issuer, promoted_at)
    VALUES (model, evaluation, canary_run, e.verdict, CASE e.verdict WHEN 'baseline wins' THEN 0 ELSE 1 END, because,
            who, at_time)
    RETURNING id INTO made;
    RETURN made;
END $$;
