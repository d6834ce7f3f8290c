-- News and on-chain figures: importing them, reading items, reducing them.

-- name: insert_news_item
-- One item as it was given; one that is there stays as it is.
INSERT INTO news_items (source, digest, published_at, title, body, known_from, recorded_at)
VALUES (%(source)s, %(digest)s, %(published_at)s, %(title)s, %(body)s, %(published_at)s, %(recorded_at)s)
ON CONFLICT (source, digest) DO NOTHING

-- name: items_to_reduce
-- The newest items of a window that nobody has read and fewer than the most tries have failed on; fewer where some of
-- the hour's share is spent.
WITH tried AS (
    SELECT (statistics ->> 'item_id')::bigint AS item_id FROM llm_calls
    WHERE purpose = 'news' AND recorded_at > %(after)s
    GROUP BY item_id HAVING count(*) >= %(most_tries)s
)
SELECT i.id, i.digest, i.title, i.body FROM news_items i
WHERE i.published_at > %(after)s AND i.published_at <= %(as_of)s
  AND i.known_from <= %(as_of)s AND i.recorded_at <= %(now)s
  AND NOT EXISTS (SELECT FROM news_sentiment s WHERE s.item_id = i.id)
  AND NOT EXISTS (SELECT FROM tried t WHERE t.item_id = i.id)
ORDER BY i.published_at DESC, i.id DESC
LIMIT GREATEST(0, %(most)s - (SELECT count(*) FROM llm_calls WHERE purpose = 'news' AND recorded_at > %(after)s
                              AND as_of > %(as_of)s - interval '1 hour' AND as_of <= %(as_of)s))

-- name: insert_news_sentiment
-- What is left of an item.
INSERT INTO news_sentiment (item_id, llm_call_id, topic, sentiment, relevance, known_from, recorded_at)
VALUES (%(item_id)s, %(llm_call_id)s, %(topic)s, %(sentiment)s, %(relevance)s, %(known_from)s, %(recorded_at)s)
ON CONFLICT (item_id) DO NOTHING

-- name: stored_figures
-- The values that are there already for these chains, metrics and moments.
SELECT chain, metric, as_of, value FROM onchain_data
JOIN unnest(%(chains)s::text[], %(metrics)s::text[], %(moments)s::timestamptz[]) AS asked (chain, metric, as_of)
    USING (chain, metric, as_of)

-- name: insert_figures
-- New figures, all of one source.
INSERT INTO onchain_data (chain, metric, as_of, value, source, known_from, recorded_at)
SELECT chain, metric, as_of, value, %(source)s, known_from, %(recorded_at)s
FROM unnest(%(chains)s::text[], %(metrics)s::text[], %(moments)s::timestamptz[], %(values)s::float8[],
            %(known_from)s::timestamptz[]) AS given (chain, metric, as_of, value, known_from)
ON CONFLICT (chain, metric, as_of) DO NOTHING
