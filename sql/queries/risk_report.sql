-- Queries of `make risk`: what a wallet was worth, day by day.

-- name: values_at_midnight
-- What one unit of a wallet was worth at each UTC midnight that it decided at: money that comes or goes changes units.
SELECT DISTINCT ON (as_of) extract(epoch FROM as_of)::bigint / 86400 AS day, equity / units AS value
FROM decisions
WHERE wallet_id = %(wallet_id)s AND as_of > %(since)s AND as_of <= %(as_of)s
  AND extract(epoch FROM as_of)::bigint %% 86400 = 0
ORDER BY as_of, id
