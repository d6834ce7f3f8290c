-- Queries of the meta-controller.

-- name: insert_market_state
-- One call of the regime; a moment, horizon and track that has one keeps it.
INSERT INTO market_state (track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high,
                          conviction, regime, source, reasons, valid_until, known_from, recorded_at)
VALUES (%(track)s, %(as_of)s, %(horizon_s)s, %(p_down)s, %(p_flat)s, %(p_up)s, %(p_vol_low)s, %(p_vol_mid)s,
        %(p_vol_high)s, %(conviction)s, %(regime)s, %(source)s, %(reasons)s, %(valid_until)s, %(known_from)s,
        %(recorded_at)s)
ON CONFLICT (track, as_of, horizon_s) DO NOTHING

-- name: insert_policy_config
-- One version of the steering; a moment and track that has one keeps it.
INSERT INTO policy_config (track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty,
                           target_volatility, max_exposure, max_position, daily_loss_limit, max_drawdown, pause,
                           strategy_weights, reasons, valid_until, known_from, recorded_at)
VALUES (%(track)s, %(as_of)s, %(source)s, %(risk_aversion)s, %(turnover_penalty)s, %(drawdown_penalty)s,
        %(target_volatility)s, %(max_exposure)s, %(max_position)s, %(daily_loss_limit)s, %(max_drawdown)s,
        %(pause)s, %(strategy_weights)s, %(reasons)s, %(valid_until)s, %(known_from)s, %(recorded_at)s)
ON CONFLICT (track, as_of) DO NOTHING
