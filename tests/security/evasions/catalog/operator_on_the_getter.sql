-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_delete(uuid,text), owner=00000000-0000-4000-8000-00000000000a, names=gone, operation=delete

-- @setup
CREATE OPERATOR ==> (LEFTARG = uuid, RIGHTARG = text, FUNCTION = encrypted_secrets.secrets_delete)

-- @run
SELECT '00000000-0000-4000-8000-00000000000a'::uuid ==> 'gone'
