"""Lists sessions of the protocol, to be played directly and through the proxy.

Tables and functions that they use stand in SETUP; whatever a session changes in them it takes back.
"""

from __future__ import annotations

from tests.clients.sessions import edges, statements, streams
from tests.clients.sessions.steps import Played

SETUP = """
CREATE SCHEMA played AUTHORIZATION app_user;
SET ROLE app_user;
SET search_path = played;
CREATE TABLE items (id int PRIMARY KEY CHECK (id > 0), label text NOT NULL, at timestamptz, tags text[], doc jsonb, raw bytea);
INSERT INTO items SELECT n, 'item ' || n, timestamptz '2024-01-01 UTC' + n * interval '1 h', ARRAY['a', n::text],
  jsonb_build_object('n', n), decode(md5(n::text), 'hex') FROM generate_series(1, 50) n;
CREATE TABLE parts (item int REFERENCES items DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE written (n int);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE FUNCTION says(level text, said text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  CASE level WHEN 'debug' THEN RAISE DEBUG '%', said; WHEN 'log' THEN RAISE LOG '%', said; WHEN 'info' THEN RAISE INFO '%', said;
  WHEN 'notice' THEN RAISE NOTICE '%', said USING HINT = 'a hint', DETAIL = 'a detail', TABLE = 'a table';
  WHEN 'warning' THEN RAISE WARNING '%', said; ELSE RAISE EXCEPTION '%', said USING ERRCODE = 'XX001'; END CASE; RETURN 1; END $$;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..3 LOOP RAISE NOTICE 'round %', n; COMMIT; END LOOP; END $$;
CREATE FUNCTION adds(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT a + b';
"""


def sessions() -> list[Played]:
    """Gives all sessions."""
    found = [
        *statements.simple(), *statements.prepared(), *statements.errors(), *statements.pipelines(), *statements.portals(),
        *streams.copies(), *streams.functions(), *streams.settings(), *streams.told(),
        *edges.violations(), *edges.startups(), *edges.replication(),
    ]  # fmt: skip
    names = [played.name for played in found]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return found
