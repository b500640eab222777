-- Deploy secretproxy:key_proof to pg
-- requires: testimony
-- Proves to whoever holds a key that this database has the same: the proxy asks before it trusts what it hears, `secretproxy check` too.
-- The function signs a number of the caller's behind words that begin no testimony, no token and no masked name. So its answer is of no
-- other use: an HMAC reveals neither its key nor the HMAC of another message.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.key_proof(nonce pg_catalog.bytea, OUT version pg_catalog.int4, OUT signs pg_catalog.bool, OUT proof pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_column
BEGIN
    IF (pg_catalog.octet_length(key_proof.nonce) OPERATOR(pg_catalog.=) 32) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'secretproxy.key_proof() takes 32 bytes';
    END IF;
    RETURN QUERY
    SELECT k.version, k.version OPERATOR(pg_catalog.=) (SELECT c.testimony_version FROM secretproxy.context c),
           secretproxy.hmac(k.inner_pad, k.outer_pad,
                            pg_catalog.convert_to('secretproxy key proof ', 'SQL_ASCII') OPERATOR(pg_catalog.||) key_proof.nonce)
      FROM secretproxy.testimony_key k WHERE k.retired_at IS NULL ORDER BY k.version;
END
$body$;
COMMENT ON FUNCTION secretproxy.key_proof(pg_catalog.bytea) IS 'An HMAC over 32 bytes of the caller''s by each testimony key that is accepted, and which of them signs testimony';
ALTER FUNCTION secretproxy.key_proof(pg_catalog.bytea) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.key_proof(pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.key_proof(pg_catalog.bytea) TO PUBLIC;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('key_proof', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
