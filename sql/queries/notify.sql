-- Queries of the notify job: what is still to be told to whom, and the summary of a day.

-- name: due_alerts
-- The alerts of these severities that a channel has not taken yet and may be sent now, the worst first. A delivery
-- with neither an end nor an error was broken off: whether it arrived nobody knows. since: when the run of days on
-- which this alert was raised began.
SELECT a.id, a.layer, a.severity, a.key, a.message, coalesce(d.attempts, 0) AS attempts,
       (SELECT min(recorded_at)
        FROM (SELECT b.recorded_at, b.day + (row_number() OVER (ORDER BY b.day DESC))::int AS run FROM alerts b
              WHERE b.layer = a.layer AND b.key = a.key AND b.day <= a.day) days
        WHERE run = a.day + 1) AS since
FROM alerts a LEFT JOIN alert_deliveries d ON d.alert_id = a.id AND d.channel = %(channel)s
WHERE a.severity = ANY (%(severities)s) AND a.recorded_at > %(oldest)s AND a.recorded_at <= %(now)s
  AND d.delivered_at IS NULL
  AND (d.alert_id IS NULL
       OR (d.recorded_at + make_interval(secs => (%(waits_s)s::int[])[d.attempts]) <= %(now)s
           AND (d.error IS NOT NULL OR a.severity = 'critical')))
ORDER BY array_position(ARRAY['critical', 'warning', 'info'], a.severity), a.id LIMIT %(most)s

-- name: claim_delivery
-- Takes an alert for a channel before it is sent; no row comes back when somebody else took this attempt.
INSERT INTO alert_deliveries AS d (alert_id, channel, attempts, recorded_at)
VALUES (%(alert_id)s, %(channel)s, 1, %(now)s)
ON CONFLICT (alert_id, channel) DO UPDATE SET attempts = d.attempts + 1, error = NULL
WHERE d.attempts = %(attempts)s AND d.delivered_at IS NULL
RETURNING attempts

-- name: end_delivery
-- What became of it: taken at this moment, or refused with a reason.
UPDATE alert_deliveries SET delivered_at = %(delivered_at)s, error = %(error)s
WHERE alert_id = %(alert_id)s AND channel = %(channel)s

-- name: insert_operator_check
-- What an operator's tool did and found.
INSERT INTO operator_checks (kind, passed, details, recorded_at)
VALUES (%(kind)s, %(passed)s, %(details)s, %(at)s)

-- name: is_told
-- Whether the summary of a day is an alert already.
SELECT FROM alerts WHERE layer = 'cli' AND key = %(key)s AND day = %(day)s

-- name: day_of_wallets
-- Each wallet over the day that ends at to_time: its equity, and what a unit of it (deposits buy some, withdrawals
-- sell some) was worth at the last decisions before that day and before its end.
SELECT w.name, w.mode, w.quote, e.equity, ended.as_of AS last_decision, ended.value AS end_value,
       begun.value AS start_value,
       (SELECT string_agg(trim_scale(p.quantity) || ' ' || i.symbol, ', ' ORDER BY i.symbol)
        FROM positions p JOIN instruments i ON i.id = p.instrument_id
        WHERE p.wallet_id = w.id AND p.quantity <> 0) AS held
FROM wallets w JOIN equity e ON e.wallet_id = w.id
LEFT JOIN LATERAL (SELECT as_of, equity / units AS value FROM decisions d
                   WHERE d.wallet_id = w.id AND d.as_of <= %(to_time)s ORDER BY as_of DESC, id DESC LIMIT 1) ended ON true
LEFT JOIN LATERAL (SELECT equity / units AS value FROM decisions d
                   WHERE d.wallet_id = w.id AND d.as_of <= %(from_time)s ORDER BY as_of DESC, id DESC LIMIT 1) begun ON true
ORDER BY w.id

-- name: day_of_jobs
-- How often each job ran on a day, by its own clock, and how often it failed.
SELECT job, count(*) AS runs, count(*) FILTER (WHERE status = 'failed') AS failed
FROM job_runs WHERE clock_at >= %(from_time)s AND clock_at < %(to_time)s GROUP BY job ORDER BY job

-- name: day_of_alerts
-- How many alerts of each severity a day had.
SELECT severity, count(*) AS alerts FROM alerts
WHERE recorded_at >= %(from_time)s AND recorded_at < %(to_time)s AND severity <> 'info' GROUP BY severity
