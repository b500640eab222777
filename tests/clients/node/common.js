// Runs the scenario that the command line names and prints what it found as JSON. What differs between any two connections is made equal.
"use strict";

const { once } = require("node:events");

const url = process.env.SCENARIO_URL;
const superuser = process.env.SCENARIO_SUPERUSER_URL;

function told(error) {
  const fields = ["name", "code", "severity", "detail", "hint", "position", "where", "table", "column", "constraint", "routine", "line"];
  const found = { message: String(error.message).replace(/port \d+|:\d{4,5}|process \d+|PID \d+/g, "#") };
  for (const field of fields) if (error[field] !== undefined) found[field] = error[field];
  return found;
}

async function failure(promise) {
  try {
    return { unexpected: await promise };
  } catch (error) {
    return told(error);
  }
}

const SLEEPS = "SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";

// Waits until the backend of that process sleeps in pg_sleep.
async function asleep(count, pid, over = () => false) {
  while ((await count(SLEEPS, [pid])) !== 1 && !over());
}

// PostgreSQL signals a backend twice for one cancel request (signal_child() of postmaster.c), and the second signal may come when
// the next statement already runs. What is hit by it is begun again.

// Begins a pg_sleep, as `begin` does it, until one sleeps: what `begin` gives has its end in `ended`.
async function sleeping(begin, count, pid) {
  for (;;) {
    const running = begin();
    let over = false;
    running.ended.then(() => (over = true));
    await asleep(count, pid, () => over);
    if (!over) return running;
  }
}

async function goesOn(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error.code !== "57014") throw error;
    }
  }
}

function plain(key, value) {
  const raw = this[key];
  if (typeof raw === "bigint") return `${raw}n`;
  if (Buffer.isBuffer(raw)) return { hex: raw.toString("hex") };
  if (raw instanceof Error) return told(raw);
  if (typeof raw === "number" && !Number.isFinite(raw)) return String(raw);
  if (raw === undefined) return "undefined";
  return value;
}

async function main(scenarios) {
  const found = await scenarios[process.argv[2]]();
  const text = JSON.stringify(found, plain);
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

module.exports = { url, superuser, told, failure, asleep, sleeping, goesOn, main };
