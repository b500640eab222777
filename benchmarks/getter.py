"""Measures secrets_getter in the backend, direct, with nothing between: format 2 with and without testimony against
format 1.

One private server, one database, one login: the original's getter over format-1 rows, ours, and ours with everything
that testifies cut out of its body. Rounds take turns, medians count; thousands of rows each, for the stretching of
format 1 is drawn at random for each row. pgbench, prepared, Unix socket. Besides calls a second it counts the CPU of
backends and client a call, which other work on the same machine disturbs less. How often format 1 fits in depends on
the processor: its cost is SHA-1 alone, half as dear where the processor has instructions for it
(`OPENSSL_ia32cap=:~0x20000000` switches them off)."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install

OWNER = "5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44"
ROWS = 5000
# The getter of the original module, by its public documentation.
FORMAT_1 = f"""
CREATE TABLE public.format_1 (LIKE secrets_schema.secrets_table INCLUDING ALL);
INSERT INTO public.format_1 (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
SELECT '{OWNER}', n::text,
       pgp_sym_encrypt(encode('a secret value', 'hex'), '{OWNER}', 'compress-algo=1, cipher-algo=aes256'), 'pgp'
  FROM generate_series(1, {ROWS}) n;
CREATE FUNCTION public.format_1_getter(secrets_owned_field uuid, secret_name text, default_value text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_row public.format_1;
BEGIN
    SELECT * INTO v_row FROM public.format_1 t
     WHERE t.name = secret_name AND t.secrets_owned_field = format_1_getter.secrets_owned_field;
    IF NOT FOUND THEN
        RETURN default_value;
    END IF;
    IF v_row.secrets_enc_field = 'crypt' THEN
        RETURN convert_from(v_row.secrets_value_field, 'SQL_ASCII');
    ELSIF v_row.secrets_enc_field = 'pgp' THEN
        RETURN convert_from(decode(pgp_sym_decrypt(v_row.secrets_value_field, v_row.secrets_owned_field::text), 'hex'), 'SQL_ASCII');
    END IF;
    RETURN convert_from(v_row.secrets_value_field, 'SQL_ASCII');
END $$;
CREATE ROLE app LOGIN IN ROLE authenticated;
GRANT SELECT ON public.format_1 TO app;
"""
# What the proxy sets in a session of its own, worked out by the owner for a session that connects without it.
TOKEN = """
CREATE FUNCTION public.token() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
SELECT set_config('secretproxy.session', '1.' || version || '.' || secretproxy.hmac(inner_pad, outer_pad,
           convert_to('SPXT1 ' || pg_backend_pid() || ' ' || secretproxy.backend_start(), 'SQL_ASCII')), false)
  FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1 $$;
"""
SCRIPTS = {
    "format 1": "SELECT public.format_1_getter('{owner}', :k)",
    "format 2, no testimony": "SELECT public.silent_getter('{owner}', :k)",
    "format 2, testimony": "SELECT encrypted_secrets.secrets_getter('{owner}', :k)",
    "SELECT 1": "SELECT 1",
}


@dataclass(frozen=True, slots=True)
class Round:
    """Calls a second, and microseconds of CPU a call in backends and in pgbench."""

    rate: float
    backend: float
    client: float

    @property
    def cpu(self) -> float:
        return self.backend + self.client


READER = "SELECT pg_get_functiondef('secretproxy.read_secret(uuid,text,text,bytea)'::regprocedure)"
SILENT = """
ALTER FUNCTION public.silent_read OWNER TO secretproxy_keys;
CREATE FUNCTION public.silent_getter(secrets_owned_field uuid, secret_name text, default_value text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN public.silent_read(
        secrets_owned_field, secret_name, default_value, secretproxy.stored_secret(secrets_owned_field, secret_name));
END $$;
ALTER FUNCTION public.silent_getter OWNER TO secretproxy_api;
"""


def silent(source: str) -> str:
    """Makes a getter without testimony from what the getter reads with (READER)."""
    body = source.replace("secretproxy.read_secret(", "public.silent_read(", 1).replace("read_secret.", "silent_read.")
    body, start = re.subn(r"secretproxy\.planned_session\(\) IS NOT NULL AND ", "", body, count=1)
    body, claims = re.subn(r"    IF coalesce\(.*?END IF;\n", "", body, count=1, flags=re.DOTALL)
    body, message = re.subn(
        r",\n\s*pg_catalog\.convert_to\(pg_catalog\.format\(.*?c\.charset\)\n", "\n", body, count=1, flags=re.DOTALL
    )
    body, columns = re.subn(r"c\.testimony_key, ", "", body, count=1)
    body, targets = re.subn(r"INTO v_signing, (.*?), v_message\n", r"INTO \1\n", body, count=1)
    body, raised = re.subn(r"        RAISE INFO .*?;\n", "", body, count=1, flags=re.DOTALL)
    body, said = re.subn(r"    PERFORM secretproxy\.begin_call\(.*?;\n", "", body, count=1, flags=re.DOTALL)
    if (start, claims, message, columns, targets, raised, said) != (1, 1, 1, 1, 1, 1, 1):
        sys.exit("benchmarks/getter.py no longer fits secretproxy.read_secret(): see silent()")
    return body + ";" + SILENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    server = PrivateServer(find_postgres())
    server.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            measure(server, Path(directory), arguments)
    finally:
        server.stop()


def prepare(server: PrivateServer, directory: Path) -> tuple[str, str]:
    """Installs, fills and grants; gives the DSN of the login and the server's version."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE app")
    asyncio.run(install(server.dsn("app"), directory / "secretproxy.key", direct_calls="log"))
    with psycopg.connect(server.dsn("app"), autocommit=True) as connection:
        connection.execute(FORMAT_1)
        connection.execute(TOKEN)
        connection.execute(
            f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', n::text, 'a secret value') FROM generate_series(1, {ROWS}) n"
        )
        connection.execute(silent(connection.execute(READER).fetchone()[0]))  # type: ignore[index]
        connection.execute("VACUUM ANALYZE")
        version = connection.info.parameter_status("server_version") or ""
    return f"host={server.socket_dir} port={server.port} dbname=app user=app", version


def children(pid: int) -> float:
    """Gives the CPU seconds of a process's ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def run(server: PrivateServer, script: Path, dsn: str, arguments: argparse.Namespace) -> Round:
    assert server.pid is not None
    before, own = children(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(server.binaries.program("pgbench")), "-n", "-M", "prepared", "-c", str(arguments.clients), "-j", "2",
         "-T", str(arguments.seconds), "-D", "done=0", "-f", str(script), dsn],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    time.sleep(0.2)  # the last backends end
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    calls = int(re.findall(r"actually processed: (\d+)", done.stdout)[-1])
    return Round(
        rate=float(re.findall(r"tps = ([\d.]+)", done.stdout)[-1]),
        backend=(children(server.pid) - before) / calls * 1e6,
        client=(used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime) / calls * 1e6,
    )


def measure(server: PrivateServer, directory: Path, arguments: argparse.Namespace) -> None:
    dsn, version = prepare(server, directory)
    rounds: dict[str, list[Round]] = {name: [] for name in SCRIPTS}
    script = directory / "script.sql"
    for number in range(arguments.rounds):
        for name, statement in SCRIPTS.items():
            greeting = "SELECT public.token();\n" if "testimony" in name else ""
            script.write_text(
                f"\\if :done\n\\else\n{greeting}\\set done 1\n\\endif\n\\set k random(1, {ROWS})\n{statement.format(owner=OWNER)};\n"
            )
            rounds[name].append(run(server, script, dsn, arguments))
        if sys.stderr.isatty():
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    base = rounds["format 1"]
    print(
        f"PostgreSQL {version}, {arguments.clients} clients, medians of {arguments.rounds} rounds of {arguments.seconds} s"
    )
    print(f"{'':26}{'calls':>10}{'of':>10}{'lowest to':>14}{'CPU us a call':>20}{'format 1':>10}")
    print(f"{'getter':26}{'a second':>10}{'format 1':>10}{'highest':>14}{'backend + client':>20}{'/ this':>10}")
    for name, found in rounds.items():
        ratios = [one.rate / other.rate for one, other in zip(found, base, strict=True)]
        cpu = statistics.median(other.cpu / one.cpu for one, other in zip(found, base, strict=True))
        spent = f"{statistics.median(one.backend for one in found):.0f} + {statistics.median(one.client for one in found):.0f}"
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{name:26}{statistics.median(one.rate for one in found):10,.0f}{statistics.median(ratios):10.2f}{span:>14}{spent:>20}{cpu:10.2f}"
        )


if __name__ == "__main__":
    main()
