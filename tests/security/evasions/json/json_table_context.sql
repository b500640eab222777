-- mechanism: SQL/JSON and XML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 17

-- @run
SELECT * FROM JSON_TABLE(jsonb_build_array(length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))), '$[*]' COLUMNS (a int PATH '$'))
