// postgres.js, which sends statements one behind the other without waiting for answers.
"use strict";

const { once } = require("node:events");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const postgres = require("postgres");
const { url, superuser, told, failure, asleep, sleeping, goesOn, main } = require("./common");

const scenarios = {};
const connected = (options = {}, at = url) => postgres(at, { max: 1, onnotice: () => {}, ...options });

const shape = (result) => ({
  command: result.command,
  count: result.count,
  rows: [...result],
  columns: result.columns?.map((column) => [column.name, column.type]),
});

scenarios.queries = async () => {
  const sql = connected();
  await sql`CREATE TABLE t (a int, b text)`;
  const found = [shape(await sql`INSERT INTO t ${sql([{ a: 1, b: "x" }, { a: 2, b: null }, { a: 3, b: "é🔑" }])} RETURNING *`)];
  found.push(shape(await sql`SELECT * FROM t WHERE a IN ${sql([1, 3])} AND ${sql("b")} = ANY (${["x", "é🔑"]}) ORDER BY a`));
  found.push(shape(await sql`UPDATE t SET ${sql({ b: "new" })} WHERE a = ${2}`));
  found.push((await sql.unsafe("SELECT 1 AS a; SELECT 2 AS b; CREATE TABLE u (); SELECT 'x' AS c").simple()).map(shape));
  found.push(await sql`SELECT 1, 2, a FROM t`.values(), await sql`SELECT a, b FROM t`.raw());
  const { types, columns } = await sql`SELECT a, ${"x"}::text AS b FROM t WHERE a = ${1}`.describe();
  found.push(types, columns.map((column) => [column.name, column.type]));
  found.push(await sql`SELECT ${"é🔑".repeat(200000)}::text AS long`.then(([row]) => row.long.length));
  found.push(await sql`SELECT ${sql`${1}::int + ${sql`${2}::int`}`} AS nested`, await sql.unsafe("SELECT $1::int AS n", [5], { prepare: true }));
  const caseless = connected({ transform: postgres.camel });
  found.push(await caseless`SELECT 1 AS "some_name"`);
  await Promise.all([sql.end(), caseless.end()]);
  return found;
};

scenarios.types = async () => {
  const sql = connected({ types: { bigint: postgres.BigInt } });
  await sql.unsafe("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text)");
  const found = [];
  for (const prepare of [true, false]) {
    const at = connected({ types: { bigint: postgres.BigInt }, prepare });
    found.push(await at`SELECT ${1}::int2 AS a, ${2n ** 60n}::int8 AS b, ${"1.50"}::numeric AS c, ${0.1}::float8 AS d, ${true}::bool AS e, ${new Date(0)}::timestamptz AS f,
      ${Buffer.from([0, 255, 92])}::bytea AS g, ${sql.json({ a: [1, null] })} AS h, ${["a", 'b"\\', "NULL", null]}::text[] AS i, ${[[1, 2], [3, 4]]}::int[] AS j,
      ${"glad"}::mood AS k, ${sql.array([1, 2, 3])} AS l, ROW(1, 'x')::pair AS m, ${null}::int AS n, ${sql.typed("10.0.0.1", 869)} AS o, ${["sad"]}::mood[] AS p`);
    found.push(await failure(at`SELECT ${"x"}::int AS wrong`), await failure(at`SELECT ${undefined}::int`));
    await at.end();
  }
  await sql.end();
  return found;
};

scenarios.errors = async () => {
  const sql = connected();
  await sql`CREATE TABLE t (a int CONSTRAINT positive CHECK (a > 0), b text UNIQUE NOT NULL)`;
  const found = [];
  for (const text of ["SELEC 1", "SELECT nothing", "SELECT 1/0", "INSERT INTO t VALUES (0, 'x')", "INSERT INTO t VALUES (1)", "SELECT 1; SELECT 1/0; SELECT 2"]) {
    found.push(await failure(sql.unsafe(text)), await failure(sql.unsafe(text, [], { prepare: true })), await failure(sql.unsafe(text).describe().then(({ columns }) => columns)));
  }
  found.push(await sql`SELECT 'still here' AS a`);
  await sql.end();
  for (const options of [{ database: "nowhere" }, { username: "nobody_at_all" }]) {
    const wrong = connected(options);
    found.push(await failure(wrong`SELECT 1`));
    await wrong.end();
  }
  return found;
};

scenarios.transactions = async () => {
  const sql = connected({ max: 3 });
  await sql`CREATE TABLE t (a int)`;
  const found = [];
  found.push(await sql.begin("isolation level serializable", async (at) => {
    await at`INSERT INTO t VALUES (1)`;
    found.push(await failure(at.savepoint("s", async (inner) => { await inner`INSERT INTO t VALUES (2)`; await inner`SELECT 1/0`; })));
    await at.savepoint((inner) => inner`INSERT INTO t VALUES (3)`);
    return at`SELECT a, current_setting('transaction_isolation') AS level FROM t`;
  }));
  found.push(await failure(sql.begin(async (at) => { await at`INSERT INTO t VALUES (4)`; throw new Error("of the application"); })));
  // All of a transaction at once.
  found.push(await sql.begin((at) => [at`INSERT INTO t VALUES (5)`, at`SELECT sum(a) FROM t`, at`SELECT ${"x"}::text AS x`]));
  found.push(await failure(sql.begin((at) => [at`INSERT INTO t VALUES (6)`, at`SELECT 1/0`, at`SELECT 1`])));
  found.push(await failure(sql.begin("read only", (at) => at`INSERT INTO t VALUES (7)`)));
  const reserved = await sql.reserve();
  await reserved`SET work_mem = '1MB'`;
  found.push(await reserved`SHOW work_mem`);
  reserved.release();
  found.push(await sql`SELECT a FROM t ORDER BY a`);
  await sql.end();
  return found;
};

scenarios.pipelining = async () => {
  const sql = connected({ max_pipeline: 60 });
  await sql`CREATE TABLE t (a int)`;
  const waiting = [];
  for (let n = 0; n < 400; n++) {
    if (n % 20 === 7) waiting.push(failure(sql`SELECT ${n}::int / 0 AS q`));
    else if (n % 20 === 11) waiting.push(failure(sql.unsafe(`SELECT ${n} FROM nothing`, [], { prepare: true })));
    else if (n % 20 === 13) waiting.push(sql.unsafe(`SELECT ${n} AS a; SELECT 2 AS b`).simple().then((several) => several.map(shape)));
    else if (n % 20 === 17) waiting.push(sql`INSERT INTO t VALUES (${n}) RETURNING a`);
    else if (n % 20 === 19) waiting.push(sql`SELECT repeat('x', ${n * 500}) AS x`.then(([row]) => row.x.length));
    else waiting.push(sql`SELECT ${n}::int AS n, ${`é${n}`}::text AS t`.execute());
  }
  const found = await Promise.all(waiting);
  found.push(await sql`SELECT count(*)::int AS n FROM pg_prepared_statements`, await sql`SELECT count(*)::int AS n FROM t`);
  await sql.end();
  return found;
};

scenarios.cursor = async () => {
  const sql = connected();
  const found = [];
  await sql`SELECT n FROM generate_series(1, ${95}::int) n`.cursor(10, async (rows) => void found.push(rows.map((row) => row.n)));
  await sql`SELECT n FROM generate_series(1, 1000000) n`.cursor(3, (rows) => (rows[0].n > 6 ? sql.CLOSE : void found.push(rows)));
  for await (const rows of sql`SELECT n FROM generate_series(1, 100) n`.cursor(30)) {
    found.push(rows.length);
    if (found.length > 14) break;
  }
  found.push(await failure(sql`SELECT 10 / (50 - n) AS q FROM generate_series(1, 100) n`.cursor(7, (rows) => void found.push(rows.length))));
  let sum = 0;
  await sql`SELECT n FROM generate_series(1, ${20000}::int) n`.forEach((row) => (sum += row.n));
  const behind = sql`SELECT 'was waiting' AS a`.execute();
  found.push(sum, await behind);
  await sql.end();
  return found;
};

scenarios.copy = async () => {
  const sql = connected();
  await sql`CREATE TABLE t (a int, b text)`;
  function* lines() { for (let n = 0; n < 20000; n++) yield `${n}\t${"row ".repeat(n % 20)}\n`; }
  await pipeline(Readable.from(lines()), await sql`COPY t FROM STDIN`.writable());
  const found = [await sql`SELECT count(*)::int AS n FROM t`];
  let text = "";
  // Read as it flows: with backpressure the driver forgets, every other time, to go on.
  const readable = await sql`COPY (SELECT * FROM t WHERE a < 2000 ORDER BY a) TO STDOUT`.readable();
  readable.on("data", (chunk) => (text += chunk));
  await once(readable, "end");
  found.push(text);
  found.push(await failure(sql`COPY nothing FROM STDIN`.writable()));
  found.push(await sql`SELECT count(*)::int AS n FROM t`);
  await sql.end();
  return found;
};

scenarios.large_objects = async () => {
  const sql = connected();
  const large = await sql.largeObject();
  await pipeline(Readable.from(Array.from({ length: 300 }, (_, n) => Buffer.alloc(5000, n % 256))), await large.writable());
  const found = [await large.size(), await large.tell()];
  await large.seek(4990);
  found.push((await large.read(20))[0].data);
  let length = 0;
  for await (const chunk of await large.readable({ highWaterMark: 16384, start: 1000 })) length += chunk.length;
  await large.truncate(7);
  found.push(length, await large.size());
  await large.close();
  await sql.end();
  return found;
};

scenarios.notifications = async () => {
  const notices = [];
  const sql = connected({ onnotice: (notice) => notices.push([notice.severity, notice.code, notice.message]) });
  const heard = [];
  let enough;
  const all = new Promise((resolve) => (enough = resolve));
  const listening = await sql.listen("news", (payload) => heard.push(payload) === 100 && enough());
  const more = await sql.listen("Other News", (payload) => heard.push(`other ${payload}`));
  await sql.notify("Other News", "first");
  await Promise.all(Array.from({ length: 99 }, (_, n) => sql.notify("news", `${n}`)));
  await all;
  await Promise.all([listening.unlisten(), more.unlisten()]);
  await sql`DO $$ BEGIN RAISE NOTICE 'noted'; END $$`;
  await sql.end();
  return [heard, notices, Object.keys(listening.state).sort()];
};

scenarios.cancel = async () => {
  const [sql, admin] = [connected(), connected({}, superuser)];
  const [{ pid }] = await sql`SELECT pg_backend_pid() AS pid`;
  const found = [];
  for (let round = 0; round < 3; round++) {
    const begin = () => {
      const query = sql`SELECT pg_sleep(${60})`.execute();
      return { query, ended: failure(query) };
    };
    const { query, ended } = await sleeping(begin, async (text, values) => (await admin.unsafe(text, values))[0].n, pid);
    await query.cancel();
    found.push(await ended, await goesOn(() => sql`SELECT 'goes on' AS a`));
  }
  await Promise.all([sql.end(), admin.end()]);
  return found;
};

scenarios.reconnection = async () => {
  const [sql, admin] = [connected({ backoff: 0 }), connected({}, superuser)];
  const [{ pid }] = await sql`SELECT pg_backend_pid() AS pid`;
  const running = failure(sql`SELECT pg_sleep(60)`);
  await asleep(async (text, values) => (await admin.unsafe(text, values))[0].n, pid);
  await admin`SELECT pg_terminate_backend(${pid}, 10000)`;
  const found = [await running];
  // The driver gives the first statement of its new connection the error of the last one.
  for (let n = 0; n < 2; n++) found.push(await failure(sql`SELECT 'a new session' AS a, pg_backend_pid() <> ${pid} AS other`));
  const writing = connected({ target_session_attrs: "read-write" });
  found.push(await writing`SELECT 1 AS a`);
  await Promise.all([sql.end(), admin.end(), writing.end()]);
  return found;
};

// Logical replication of a table's changes.
scenarios.subscribe = async () => {
  const admin = connected({ publications: "of_scenario" }, superuser);
  await admin.unsafe("DROP PUBLICATION IF EXISTS of_scenario; CREATE TABLE t (a int PRIMARY KEY, b text); CREATE PUBLICATION of_scenario FOR TABLE t");
  const found = [];
  let enough;
  const all = new Promise((resolve) => (enough = resolve));
  const { unsubscribe } = await admin.subscribe("*", (row, { command, old }) => found.push([command, row, old ?? null]) === 503 && enough());
  await admin`INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 500) n`;
  await admin`UPDATE t SET b = 'changed' WHERE a = 3`;
  await admin`DELETE FROM t WHERE a = 4`;
  await admin.begin(async (at) => { await at`INSERT INTO t VALUES (1000, 'never')`; throw new Error("rolled back"); }).catch(() => {});
  await admin`UPDATE t SET a = 2000 WHERE a = 5`;
  await all;
  unsubscribe();
  await admin`DROP PUBLICATION of_scenario`;
  await admin.end();
  return found;
};

scenarios.secrets = async () => {
  const sql = connected({ connection: { application_name: process.env.SCENARIO_NAME } });
  const [owner, other, value] = [process.env.SCENARIO_OWNER, "0d5d3f0c-54a0-4b1f-9c8e-7a1d7a3e1b2e", process.env.SCENARIO_VALUE];
  // All of them on their way at once.
  const found = await Promise.all([
    sql`SELECT encrypted_secrets.secrets_upsert(${owner}, ${"api"}, ${value})`,
    sql`SELECT encrypted_secrets.secrets_upsert(${owner}::uuid, ${"password"}, ${value}, ${"crypt"})`,
    sql`SELECT encrypted_secrets.secrets_getter(${owner}, ${"api"}) = ${value} AS same`,
    sql`SELECT encrypted_secrets.secrets_getter(${owner}, ${"absent"})`,
    sql`SELECT encrypted_secrets.secrets_verify(${owner}, ${"password"}, ${value})`,
    sql`SELECT encrypted_secrets.secrets_getter(${other}, ${"absent"}, ${value}) = ${value} AS fell_back`,
    ...["api", "b"].map((name) => sql`SELECT encrypted_secrets.secrets_getter(${other}, ${name}) AS v`),
  ]);
  const simple = `SELECT encrypted_secrets.secrets_getter('${owner}', 'api') = '${value.replaceAll("'", "''")}' AS simple`;
  found.push(await sql.unsafe(simple).simple());
  await sql`SELECT encrypted_secrets.secrets_getter(${owner}, 'api') = ${value} AS same FROM generate_series(1, 3)`.cursor(2, (rows) => void found.push(rows));
  found.push(await failure(sql`SELECT encrypted_secrets.secrets_getter(${owner}, ${"api"}), 1/0`));
  found.push(await sql`SELECT encrypted_secrets.secrets_delete(${owner}, ${["password", "b"]}::text[])`);
  found.push(await sql`SELECT encrypted_secrets.secrets_delete(${owner}::uuid, ${"api"}::text)`);
  await sql.end();
  return found;
};

main(scenarios).catch((error) => { console.error(error); process.exit(1); });
