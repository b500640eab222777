-- mechanism: a group of rows that the log does not take
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=masked:*, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=behind-it, operation=read

-- @run
DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', repeat(md5('x'), 30000)); END $$

DO $$ BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''behind-it'')'; END $$
