-- mechanism: look-alikes
-- expect: nothing
-- protocol: simple

-- @run
BEGIN; SAVEPOINT secrets_getter; COMMIT
