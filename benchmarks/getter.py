"""Measures secrets_getter in the backend, direct, with nothing between: format 2 with and without testimony against format 1.

One private server, three databases' worth of functions in one run: the original's getter over format-1 rows, ours, and ours with
everything that testifies cut out of its body. Rounds take turns, medians count; 200 rows each, for the stretching of format 1 is
drawn at random for each row. pgbench, prepared, Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install

OWNER = "5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44"
ROWS = 200
# The getter of the original module, by its public documentation.
FORMAT_1 = f"""
CREATE TABLE public.format_1 (LIKE secrets_schema.secrets_table INCLUDING ALL);
INSERT INTO public.format_1 (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
SELECT '{OWNER}', 'key ' || n,
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
"""
TOKEN = """
SELECT set_config('secretproxy.session', '1.' || version || '.' || secretproxy.hmac(inner_pad, outer_pad,
           convert_to('SPXT1 ' || pg_backend_pid() || ' ' || secretproxy.backend_start(), 'SQL_ASCII')), false) IS NOT NULL
  FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1;
"""


def silent(source: str) -> str:
    """The getter's definition without what testifies."""
    body = source.replace("encrypted_secrets.secrets_getter(", "public.silent_getter(", 1).replace(
        "secrets_getter.", "silent_getter."
    )
    body, cut = re.subn(r"    BEGIN\n        v_start := .*?\n    END;\n", "", body, count=1, flags=re.DOTALL)
    body, message = re.subn(r",\n\s*convert_to\(concat_ws\(.*?'SQL_ASCII'\)\n", "\n", body, count=1, flags=re.DOTALL)
    body, said = re.subn(r"    IF v_start > 0 .*?    END IF;\n", "", body, count=1, flags=re.DOTALL)
    if (cut, message, said) != (1, 1, 1):
        sys.exit("benchmarks/getter.py no longer fits secrets_getter(): see silent()")
    return body.replace(", v_message", "", 1)


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


def measure(server: PrivateServer, directory: Path, arguments: argparse.Namespace) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE app")
    asyncio.run(install(server.dsn("app"), directory / "secretproxy.key"))
    with psycopg.connect(server.dsn("app"), autocommit=True) as connection:
        connection.execute(FORMAT_1)
        connection.execute(
            f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'key ' || n, 'a secret value') FROM generate_series(1, {ROWS}) n"
        )
        found = connection.execute("SELECT pg_get_functiondef('encrypted_secrets.secrets_getter(uuid,text,text)'::regprocedure)")
        connection.execute(silent(found.fetchone()[0]))  # type: ignore[index]
        connection.execute("ALTER FUNCTION public.silent_getter OWNER TO secretproxy_owner")
        connection.execute("ANALYZE")
        socket = connection.execute("SHOW unix_socket_directories").fetchone()[0]  # type: ignore[index]
        port = connection.info.port
        version = connection.info.parameter_status("server_version")
    dsn = f"host={socket} port={port} dbname=app user=postgres"
    scripts = {
        "format 1": "SELECT public.format_1_getter('{owner}', 'key ' || :k)",
        "format 2, no testimony": "SELECT public.silent_getter('{owner}', 'key ' || :k)",
        "format 2, testimony": "SELECT encrypted_secrets.secrets_getter('{owner}', 'key ' || :k)",
        "SELECT 1": "SELECT 1",
    }
    rates: dict[str, list[float]] = {name: [] for name in scripts}
    for number in range(arguments.rounds):
        for name, statement in scripts.items():
            script = directory / "script.sql"
            greeting = TOKEN if "testimony" in name else ""
            script.write_text(
                f"\\if :done\n\\else\n{greeting}\\set done 1\n\\endif\n\\set k random(1, {ROWS})\n{statement.format(owner=OWNER)};\n"
            )
            command = [
                "-n",
                "-M",
                "prepared",
                "-c",
                str(arguments.clients),
                "-j",
                "2",
                "-T",
                str(arguments.seconds),
                "-D",
                "done=0",
            ]
            done = subprocess.run(
                [str(server.binaries.program("pgbench")), *command, "-f", str(script), dsn],
                check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            rates[name].append(float(re.findall(r"tps = ([\d.]+)", done.stdout)[-1]))
        if sys.stderr.isatty():
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    base = rates["format 1"]
    print(f"PostgreSQL {version}, {arguments.clients} clients, medians of {arguments.rounds} rounds of {arguments.seconds} s")
    print(f"{'getter':26}{'calls a second':>16}{'of format 1':>14}{'lowest':>10}{'highest':>10}")
    for name, found_rates in rates.items():
        ratios = [rate / other for rate, other in zip(found_rates, base, strict=True)]
        print(
            f"{name:26}{statistics.median(found_rates):16,.0f}{statistics.median(ratios):14.2f}{min(ratios):10.2f}{max(ratios):10.2f}"
        )


if __name__ == "__main__":
    main()
