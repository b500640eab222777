-- mechanism: row security
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- also: definition

-- @run
CREATE TABLE own AS SELECT 1 AS n

ALTER TABLE own ENABLE ROW LEVEL SECURITY

ALTER TABLE own FORCE ROW LEVEL SECURITY

CREATE POLICY p ON own USING (encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL)

SELECT * FROM own
