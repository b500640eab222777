// node-postgres with its pool, cursors, streams and COPY.
"use strict";

const { once } = require("node:events");
const { createHash } = require("node:crypto");
const { Readable, Transform, Writable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const { Client, Pool, types } = require("pg");
const Cursor = require("pg-cursor");
const QueryStream = require("pg-query-stream");
const { from: copyFrom, to: copyTo } = require("pg-copy-streams");
const { url, superuser, told, failure, asleep, sleeping, goesOn, main } = require("./common");

const scenarios = {};

async function connected(options = {}) {
  const client = new Client({ connectionString: url, ...options });
  await client.connect();
  return client;
}

const shape = (result) => ({
  command: result.command,
  count: result.rowCount,
  rows: result.rows,
  fields: result.fields.map((field) => [field.name, field.dataTypeID, field.dataTypeSize, field.dataTypeModifier, field.format]),
});

scenarios.queries = async () => {
  const client = await connected();
  const several = await client.query("SELECT 1 AS a; SELECT 'x' AS b, NULL AS c; CREATE TABLE t (a int, b text); SELECT generate_series(1, 3)");
  const found = [several.map(shape)];
  found.push(shape(await client.query("INSERT INTO t SELECT n, $1 || n FROM generate_series(1, $2::int) n RETURNING *", ["row ", 5])));
  found.push(shape(await client.query({ text: "SELECT a, b FROM t WHERE a = ANY ($1) ORDER BY a", values: [[2, 4]], rowMode: "array" })));
  for (const text of ["", "-- nothing", ";;", "UPDATE t SET b = NULL WHERE a > 3", "EXPLAIN (COSTS off) SELECT 1"]) found.push(await client.query(text));
  found.push((await client.query("SELECT $1::text AS long", ["é🔑".repeat(200000)])).rows[0].long.length);
  await client.end();
  return JSON.parse(JSON.stringify(found, (key, value) => (key.startsWith("_") ? undefined : value)));
};

scenarios.types = async () => {
  const client = await connected();
  await client.query("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text)");
  const text = `SELECT $1::int2, $2::int8, $3::numeric, $4::float8, $5::bool, $6::timestamptz, $7::date, $8::bytea, $9::jsonb, $10::text[],
    $11::int[], $12::mood, $13::uuid, $14::inet, $15::interval, ROW(1, 'x')::pair, point(1, 2), int4range(1, 5), $16::bytea[]`;
  const values = [
    1, "9007199254740993", "1.50", 0.1, true, new Date(0), "2024-02-29", Buffer.from([0, 255, 92]), { a: [1, null] }, ["a", 'b"\\', null],
    [[1, 2], [3, 4]], "glad", "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2e", "10.0.0.1", "1 day 02:03:04.5", [Buffer.from("x")],
  ];
  const found = [await client.query({ text, values, rowMode: "array" }), await client.query(text, values.map(() => null))];
  const binary = "SELECT $1::int4 AS a, $2::int8 AS b, $3::bytea AS c, $4::bool AS d, $5::float8 AS e, $6::text AS f, $7::timestamptz AS g";
  found.push(await client.query({ text: binary, values: [1, 2, Buffer.from([0, 1]), true, 1.5, "x", new Date(0)], binary: true }));
  const parsed = { getTypeParser: (oid, format) => (oid === 20 ? BigInt : types.getTypeParser(oid, format)) };
  found.push(await client.query({ text: "SELECT 2::int8 ^ 62 AS a, count(*) AS b FROM pg_am WHERE amname = $1", values: ["btree"], types: parsed }));
  await client.end();
  return found.map((result) => result.rows);
};

scenarios.prepared = async () => {
  const [client, other] = [await connected(), await connected()];
  await client.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)");
  const found = [];
  for (let n = 0; n < 8; n++) found.push((await client.query({ name: "add", text: "SELECT a + $1::int AS s FROM t", values: [n] })).rows);
  found.push((await client.query("SELECT name, statement, parameter_types FROM pg_prepared_statements")).rows);
  found.push(await failure(client.query({ name: "add", text: "SELECT 'another text'", values: [] })));
  await client.query({ name: "all", text: "SELECT * FROM t" });
  await other.query("ALTER TABLE t ADD b text DEFAULT 'new'");
  found.push(await failure(client.query({ name: "all", text: "SELECT * FROM t" })));
  found.push(await failure(client.query({ name: "broken", text: "SELECT nothing FROM t" })));
  found.push(await failure(client.query({ name: "broken", text: "SELECT nothing FROM t" })));
  await client.query("DEALLOCATE ALL");
  found.push(await failure(client.query({ name: "all", text: "SELECT * FROM t" })));
  await Promise.all([client.end(), other.end()]);
  return found;
};

scenarios.errors = async () => {
  const client = await connected();
  await client.query("CREATE TABLE t (a int CONSTRAINT positive CHECK (a > 0), b text UNIQUE NOT NULL)");
  const found = [];
  for (const text of ["SELEC 1", "SELECT nothing", "SELECT 1/0", "INSERT INTO t VALUES (0, 'x')", "INSERT INTO t VALUES (1)", "SELECT 1; SELECT 1/0; SELECT 2",
    "DO $$ BEGIN RAISE EXCEPTION 'said' USING ERRCODE = 'AB123', HINT = 'a hint', DETAIL = 'a detail'; END $$"]) {
    found.push(await failure(client.query(text)));
    if (!text.includes(";")) found.push(await failure(client.query({ text, values: [] })), await failure(client.query({ text, name: text.slice(0, 30) })));
  }
  found.push(await failure(client.query("SELECT $1::int", ["x"])), await failure(client.query("SELECT $1::int", [])), await failure(client.query("SELECT 1", [1])));
  found.push((await client.query("SELECT 'still here' AS a")).rows);
  await client.query("SET statement_timeout = 50");
  found.push(await failure(client.query("SELECT pg_sleep(60)")));
  await client.end();
  const { hostname: host, port } = new URL(url);
  for (const wrong of [{ database: "nowhere", user: "app_user" }, { database: "app", user: "nobody_at_all" }]) {
    const refused = new Client({ host, port, ...wrong });
    found.push(await failure(refused.connect()));
    await refused.end();
  }
  return found;
};

scenarios.transactions = async () => {
  const client = await connected();
  await client.query("CREATE TABLE t (a int)");
  const found = [];
  await client.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
  await client.query("INSERT INTO t VALUES ($1)", [1]);
  await client.query("SAVEPOINT s");
  found.push(await failure(client.query("SELECT $1::int / 0", [1])), await failure(client.query("SELECT 1")));
  await client.query("ROLLBACK TO s");
  found.push(shape(await client.query("SELECT a, current_setting('transaction_isolation') AS level FROM t")));
  found.push((await client.query("COMMIT")).command);
  await client.query("BEGIN");
  await client.query("INSERT INTO t VALUES (2)");
  found.push(await failure(client.query("SELECT nothing")));
  found.push((await client.query("COMMIT")).command, (await client.query("SELECT * FROM t")).rows);
  await client.query("BEGIN READ ONLY");
  found.push(await failure(client.query("INSERT INTO t VALUES (3)")));
  await client.end();
  return found;
};

scenarios.pool = async () => {
  const pool = new Pool({ connectionString: url, max: 3, idleTimeoutMillis: 10000, maxUses: 20 });
  const found = await Promise.all(Array.from({ length: 60 }, async (_, n) => (await pool.query("SELECT $1::int AS n", [n])).rows[0].n));
  const one = await pool.connect();
  await one.query("SET work_mem = '1MB'");
  one.release(true);
  await pool.end();
  // Without maxUses: whether a session has been used up depends on who got which query.
  const steady = new Pool({ connectionString: url, max: 3, idleTimeoutMillis: 10000 });
  const many = await Promise.all(Array.from({ length: 3 }, () => steady.connect()));
  found.push(await failure(many[0].query("SELECT 1/0")));
  found.push((await many[0].query("SHOW work_mem")).rows.length);
  // A session of the pool that is ended while it is idle is the pool's to replace.
  const ended = once(steady, "error");
  const admin = await connected({ connectionString: superuser });
  const pid = many[1].processID;
  many.forEach((client) => client.release());
  await admin.query("SELECT pg_terminate_backend($1, 10000)", [pid]);
  found.push(told((await ended)[0]));
  found.push((await Promise.all([1, 2, 3, 4].map((n) => steady.query("SELECT $1::text AS n", [n])))).map((result) => result.rows));
  await Promise.all([steady.end(), admin.end()]);
  return found;
};

scenarios.cursor = async () => {
  const client = await connected();
  const found = [];
  const cursor = client.query(new Cursor("SELECT n, repeat('x', n) AS x FROM generate_series(1, $1::int) n", [95]));
  for (let rows; (rows = await cursor.read(10)).length; ) found.push(rows);
  await cursor.close();
  const early = client.query(new Cursor("SELECT * FROM generate_series(1, 1000000)"));
  found.push(await early.read(3));
  const behind = client.query("SELECT 'was waiting' AS a");
  await early.close();
  found.push((await behind).rows);
  const broken = client.query(new Cursor("SELECT 10 / (5 - n) AS q FROM generate_series(1, 10) n"));
  found.push(await broken.read(3), await failure(broken.read(10)));
  await broken.close();
  await client.query("BEGIN");
  const inside = client.query(new Cursor("SELECT * FROM generate_series(1, 5) n", [], { rowMode: "array" }));
  found.push(await inside.read(2), await inside.read(2), await inside.read(2));
  await inside.close();
  found.push((await client.query("COMMIT")).command);
  await client.end();
  return found;
};

scenarios.stream = async () => {
  const client = await connected();
  const found = [];
  let [rows, sum, waiting, most] = [0, 0, 0, 0];
  const slow = new Writable({
    objectMode: true,
    highWaterMark: 4,
    write(row, _, done) {
      rows++;
      sum += row.n;
      waiting--;
      setImmediate(done);
    },
  });
  const counted = new Transform({ objectMode: true, highWaterMark: 4, transform(row, _, done) { most = Math.max(most, ++waiting); done(null, row); } });
  const text = "SELECT n, repeat(md5(n::text), 20) AS x FROM generate_series(1, $1::int) n";
  await pipeline(client.query(new QueryStream(text, [20000], { batchSize: 50, highWaterMark: 50 })), counted, slow);
  found.push(rows, sum, most < 100);
  const early = client.query(new QueryStream(text, [100000], { batchSize: 10 }));
  for await (const row of early) {
    found.push(row);
    if (row.n === 5) break;
  }
  found.push((await client.query("SELECT 'free again' AS a")).rows);
  const broken = client.query(new QueryStream("SELECT 10 / (50 - n) AS q FROM generate_series(1, 100) n", [], { batchSize: 7 }));
  found.push(await failure((async () => { for await (const row of broken) rows += row.q; })()), rows);
  await client.end();
  return found;
};

scenarios.copy = async () => {
  const client = await connected();
  await client.query("CREATE TABLE t (a int, b text)");
  function* lines() { for (let n = 0; n < 30000; n++) yield `${n}\t${"row ".repeat(n % 20)}\n`; }
  const into = client.query(copyFrom("COPY t FROM STDIN"));
  await pipeline(Readable.from(lines()), into);
  const found = [into.rowCount];
  const hash = createHash("sha256");
  const out = client.query(copyTo("COPY (SELECT * FROM t ORDER BY a) TO STDOUT"));
  await pipeline(out, new Writable({ highWaterMark: 1000, write(chunk, _, done) { hash.update(chunk); setImmediate(done); } }));
  found.push(out.rowCount, hash.digest("hex"));
  found.push(await failure(pipeline(Readable.from(["x\ty\n"]), client.query(copyFrom("COPY t FROM STDIN")))));
  found.push(await failure(pipeline(client.query(copyTo("COPY nothing TO STDOUT")), new Writable())));
  const given = client.query(copyFrom("COPY t FROM STDIN"));
  given.write("1\tx\n");
  const closed = once(given, "error").then(([error]) => told(error));
  given.destroy(new Error("thought better of it"));
  found.push(await closed);
  found.push((await client.query("SELECT count(*)::int AS n FROM t")).rows);
  const binary = [];
  const source = client.query(copyTo("COPY (SELECT a, b FROM t WHERE a < 5 ORDER BY a) TO STDOUT (FORMAT binary)"));
  for await (const chunk of source) binary.push(chunk);
  found.push(Buffer.concat(binary));
  await pipeline(Readable.from(binary), client.query(copyFrom("COPY t FROM STDIN (FORMAT binary)")));
  found.push((await client.query("SELECT count(*)::int AS n FROM t")).rows);
  await client.end();
  return found;
};

scenarios.notifications = async () => {
  const [client, other] = [await connected(), await connected()];
  const [heard, notices] = [[], []];
  let enough;
  const all = new Promise((resolve) => (enough = resolve));
  client.on("notification", ({ channel, payload }) => heard.push([channel, payload]) === 103 && enough());
  client.on("notice", (notice) => notices.push(told(notice)));
  await client.query('LISTEN news; LISTEN "Other News"');
  for (let n = 0; n < 100; n++) await other.query("SELECT pg_notify('news', $1)", [`${n}`]);
  await other.query("BEGIN; NOTIFY news, 'one'; NOTIFY \"Other News\", 'two'; COMMIT");
  await other.query("BEGIN; NOTIFY news, 'never'; ROLLBACK");
  await client.query("SELECT pg_notify('news', 'to itself')");
  await all;
  await client.query("DO $$ BEGIN RAISE NOTICE 'noted'; RAISE WARNING 'warned' USING HINT = 'a hint'; END $$");
  await Promise.all([client.end(), other.end()]);
  return [heard, notices];
};

scenarios.cancel = async () => {
  const [client, admin] = [await connected(), await connected({ connectionString: superuser })];
  const found = [];
  for (const values of [undefined, [60]]) {
    const begin = () => {
      const query = new (require("pg").Query)(values ? { text: "SELECT pg_sleep($1)", values } : "SELECT pg_sleep(60)");
      const ended = new Promise((resolve) => query.on("error", (error) => resolve(told(error))));
      client.query(query);
      return { query, ended };
    };
    const count = async (text, given) => (await admin.query(text, given)).rows[0].n;
    const { query, ended } = await sleeping(begin, count, client.processID);
    new Client({ connectionString: url }).cancel(client, query);
    found.push(await ended);
    found.push((await goesOn(() => client.query("SELECT 'goes on' AS a"))).rows);
  }
  await Promise.all([client.end(), admin.end()]);
  return found;
};

scenarios.queue = async () => queued(await connected());

scenarios.pipeline = async () => queued(await connected({ pipeline: true }));

async function queued(client) {
  const waiting = [];
  for (let n = 0; n < 200; n++) {
    if (n % 20 === 7) waiting.push(failure(client.query("SELECT $1::int / 0", [n])));
    else if (n % 20 === 13) waiting.push(client.query({ name: `named ${n % 3}`, text: `SELECT $1::int + ${n % 3} AS n`, values: [n] }).then(shape));
    else waiting.push(client.query("SELECT $1::int AS n", [n]).then((result) => result.rows[0].n));
  }
  const found = await Promise.all(waiting);
  await client.end();
  found.push(await failure(client.query("SELECT 1")));
  return found;
}

scenarios.terminated = async () => {
  const [client, admin] = [await connected(), await connected({ connectionString: superuser })];
  const errors = [];
  client.on("error", (error) => errors.push(told(error)));
  const end = new Promise((resolve) => client.on("end", resolve));
  const running = failure(client.query("SELECT pg_sleep(60)"));
  await asleep(async (text, given) => (await admin.query(text, given)).rows[0].n, client.processID);
  await admin.query("SELECT pg_terminate_backend($1, 10000)", [client.processID]);
  await Promise.all([running, end, admin.end()]);
  return [await running, errors];
};

scenarios.secrets = async () => {
  const client = await connected({ application_name: process.env.SCENARIO_NAME });
  const [owner, other, value] = [process.env.SCENARIO_OWNER, "0d5d3f0c-54a0-4b1f-9c8e-7a1d7a3e1b2e", process.env.SCENARIO_VALUE];
  const rows = async (query, values) => (await client.query(query, values)).rows;
  const found = [];
  found.push(await rows("SELECT encrypted_secrets.secrets_upsert($1, $2, $3)", [owner, "api", value]));
  found.push(await rows("SELECT encrypted_secrets.secrets_upsert($1::uuid, $2, $3, $4)", [owner, "password", value, "crypt"]));
  const getter = { name: "getter", text: "SELECT encrypted_secrets.secrets_getter($1, $2) AS v" };
  for (const name of ["api", "absent"]) found.push((await rows({ ...getter, values: [owner, name] }))[0].v === value);
  found.push(await rows({ text: "SELECT encrypted_secrets.secrets_verify($1, $2, $3)", values: [owner, "password", value], binary: true }));
  found.push(await rows("SELECT encrypted_secrets.secrets_getter($1, $2, $3) = $3 AS fell_back", [other, "absent", value]));
  found.push(await Promise.all(["api", "b"].map((name) => rows({ ...getter, values: [other, name] }))));
  found.push(await rows(`SELECT encrypted_secrets.secrets_getter('${owner}', 'api') = '${value.replaceAll("'", "''")}' AS simple`));
  const cursor = client.query(new Cursor("SELECT encrypted_secrets.secrets_getter($1, 'api') = $2 AS same FROM generate_series(1, 3)", [owner, value]));
  found.push(await cursor.read(2), await cursor.read(2));
  await cursor.close();
  found.push(await failure(client.query("SELECT encrypted_secrets.secrets_getter($1, $2) , 1/0", [owner, "api"])));
  found.push(await rows("SELECT encrypted_secrets.secrets_delete($1, $2::text[])", [owner, ["password", "b"]]));
  found.push(await rows("SELECT encrypted_secrets.secrets_delete($1::uuid, $2::text)", [owner, "api"]));
  await client.end();
  return found;
};

main(scenarios).catch((error) => { console.error(error); process.exit(1); });
