-- Queries of the encoder's evaluation (encoder/evaluate.py).

-- name: evaluated_instruments
-- Every instrument with candles of a timeframe.
SELECT id, venue, symbol FROM instruments i
WHERE EXISTS (SELECT FROM market_data m WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s)
ORDER BY venue, symbol

-- name: insert_evaluation
-- One evaluation, beside the newest encoder of its timeframe that was made by the same recipe in as many steps
-- (steps null: the folds differ in theirs, and no encoder is like all of them).
INSERT INTO encoder_evaluations (recipe_hash, model_id, timeframe_s, symbols, evaluated_from, evaluated_to, folds,
                                 results, verdict, recorded_at)
SELECT %(recipe_hash)s,
       (SELECT max(id) FROM models
        WHERE kind = 'encoder' AND metrics->>'recipe' = %(recipe_hash)s
          AND (metrics->>'steps')::bigint = %(steps)s::bigint
          AND (schema->>'timeframe_s')::integer = %(timeframe_s)s),
       %(timeframe_s)s, %(symbols)s, %(evaluated_from)s, %(evaluated_to)s, %(folds)s, %(results)s, %(verdict)s,
       %(recorded_at)s
RETURNING id, model_id
