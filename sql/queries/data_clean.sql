-- What data_clean deletes, table by table in an order that keeps references whole. Each query is named by its table.

-- name: job_runs
-- Runs that have ended; one that is marked running is the next run's to judge.
DELETE FROM job_runs WHERE started_at < %(before)s AND status <> 'running'

-- name: venue_checks
-- How venues were; the newest look at each stays.
DELETE FROM venue_checks c WHERE recorded_at < %(before)s
AND EXISTS (SELECT FROM venue_checks n WHERE n.venue = c.venue AND n.recorded_at > c.recorded_at)

-- name: alert_deliveries
-- Of alerts that go, too.
DELETE FROM alert_deliveries d USING alerts a WHERE a.id = d.alert_id AND a.recorded_at < %(before)s

-- name: alerts
-- What a person should have looked at.
DELETE FROM alerts WHERE recorded_at < %(before)s
