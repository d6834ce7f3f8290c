-- Queries of the policy's evaluation and promotion (pipeline/evaluate.py, pipeline/promote.py).

-- name: stored_series
-- Every series of a venue with its finest timeframe.
SELECT id, venue, symbol, base_timeframe_s, provenance FROM instruments i
WHERE EXISTS (SELECT FROM market_data m WHERE m.instrument_id = i.id)
ORDER BY venue, symbol

-- name: fold_rows
-- What is there of an evaluation.
SELECT fold, contestant, kind, symbols, test_from, test_to, returns, metrics, model, seconds
FROM evaluation_folds WHERE key = %(key)s ORDER BY fold, contestant

-- name: insert_fold_row
-- One contestant of one fold; it stays as it was when it is there.
INSERT INTO evaluation_folds (key, fold, contestant, kind, symbols, test_from, test_to, returns, metrics, model, seconds,
                              recorded_at)
VALUES (%(key)s, %(fold)s, %(contestant)s, %(kind)s, %(symbols)s, %(test_from)s, %(test_to)s, %(returns)s, %(metrics)s,
        %(model)s, %(seconds)s, %(recorded_at)s)
ON CONFLICT (key, fold, contestant) DO NOTHING

-- name: insert_evaluation
-- One evaluation with all its numbers; the same one again, with the same numbers, is the row that is there.
WITH there AS (
    SELECT id FROM evaluations WHERE key = %(key)s AND results = %(results)s::jsonb ORDER BY id DESC LIMIT 1
), made AS (
    INSERT INTO evaluations (key, recipe_hash, profile, provenance, evaluated_from, evaluated_to, folds, seeds, results,
                             verdict, recorded_at)
    SELECT %(key)s, %(recipe_hash)s, %(profile)s, %(provenance)s, %(evaluated_from)s, %(evaluated_to)s, %(folds)s,
           %(seeds)s, %(results)s, %(verdict)s, %(recorded_at)s
    WHERE NOT EXISTS (SELECT FROM there)
    RETURNING id
)
SELECT id, false AS new FROM there UNION ALL SELECT id, true FROM made

-- name: insert_canary_run
-- One run of the canaries.
INSERT INTO canary_runs (recipe_hash, green, results, seconds, recorded_at)
VALUES (%(recipe_hash)s, %(green)s, %(results)s, %(seconds)s, %(recorded_at)s)
RETURNING id

-- name: policy_to_promote
-- A policy with where it and its encoder come from.
SELECT p.id, p.status, p.provenance, e.provenance AS encoder_provenance, p.metrics->>'recipe' AS recipe_hash,
       p.metrics->'training' AS training
FROM models p JOIN models e ON e.id = p.encoder_id
WHERE p.id = %(model_id)s AND p.kind = 'policy'

-- name: newest_canary_run
-- The newest run of the canaries of a recipe.
SELECT id, green, recorded_at FROM canary_runs WHERE recipe_hash = %(recipe_hash)s ORDER BY id DESC LIMIT 1

-- name: newest_verdict
-- The newest full evaluation of a recipe.
SELECT id, verdict, results->'training' AS training, results->'p_earns' AS p_earns, recorded_at FROM evaluations
WHERE recipe_hash = %(recipe_hash)s AND verdict IS NOT NULL ORDER BY id DESC LIMIT 1

-- name: promote
-- Writes the promotion and makes the policy the active one.
SELECT promote_policy(%(model_id)s, %(evaluation_id)s, %(canary_run_id)s, %(reason)s, %(issuer)s, %(at)s) AS id

-- name: newest_promotion
-- On what terms a policy was promoted last; no row when it never was.
SELECT id, evaluation_id, verdict, residual, reason, issuer, promoted_at FROM promotions
WHERE model_id = %(model_id)s ORDER BY id DESC LIMIT 1
