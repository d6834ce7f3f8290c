-- Queries of backup and restore, run by the owner on whole databases.

-- name: tables
-- Every table with rows of its own.
SELECT relname AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname

-- name: rights
-- Who may do what: each right on each table, column, function and the schema, and each row policy, a line each.
SELECT format('%s: %s to %s', object, privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
           AS line
FROM (SELECT 'schema public' AS object, (aclexplode(nspacl)).* FROM pg_namespace WHERE nspname = 'public'
      UNION ALL
      SELECT c.relname, (aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))).*
      FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
      UNION ALL
      SELECT c.relname || '.' || a.attname, (aclexplode(a.attacl)).*
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace
      UNION ALL
      SELECT p.oid::regprocedure::text, (aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))).*
      FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')) granted
UNION ALL
SELECT format('%s: rows are secured', relname) FROM pg_class
WHERE relrowsecurity AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT format('%s: policy %s to %s, %s %s USING %s WITH CHECK %s', tablename, policyname, roles, permissive, cmd, qual,
              with_check)
FROM pg_policies WHERE schemaname = 'public'
ORDER BY line

-- name: sessions
-- Who else is connected to a database.
SELECT usename AS role, count(*) AS sessions FROM pg_stat_activity
WHERE datname = %(name)s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
GROUP BY usename ORDER BY usename

-- name: void_commands
-- In a restored database: what would start something may not be taken up any more. What stops stays.
UPDATE commands SET voided_at = %(at)s
WHERE voided_at IS NULL AND expires_at > %(at)s AND command NOT IN ('pause', 'kill', 'flatten', 'halt')

-- name: halt_all
-- In a restored database: nothing is sent for any wallet before its operator resumes it.
INSERT INTO commands (command, reason, issuer, idempotency_key, issued_at, expires_at)
VALUES ('halt', 'restored from backup: reconcile, then resume', 'restore', %(key)s, %(at)s, %(at)s + interval '1 hour')

-- name: leave_epochs_behind
-- In a restored database: a sender that lived on from after the backup may hold a later epoch than is written here;
-- far ahead of it, nobody's epoch comes again.
UPDATE sender_sessions SET epoch = epoch + 1000000
