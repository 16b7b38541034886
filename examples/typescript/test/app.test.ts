// The service, from outside: it is started once, and does not know when split is
// switched.

import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { after, test } from "node:test";
import { close, pool, prisma } from "../src/database.js";
import { env } from "./settings.js";

const split = env("EXPECT_SPLIT") === "on";
const listEnv = env("LIST_ENV");

interface Run {
  id: string;
  friendlyId: string;
  status: string;
  runTags: string[];
  snapshots: { executionStatus: string }[];
  children: { id: string }[];
  waitsFor: { waitpoint: { id: string; status: string } }[];
}

async function call<T>(method: string, path: string, body?: unknown): Promise<{ status: number; answer: T }> {
  const response = await fetch(env("APP_URL") + path, { method, body: body ? JSON.stringify(body) : null });
  return { status: response.status, answer: (await response.json()) as T };
}

async function get<T>(path: string): Promise<T> {
  const { status, answer } = await call<T>("GET", path);
  assert.equal(status, 200, `${path}: ${JSON.stringify(answer)}`);
  return answer;
}

async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const { status, answer } = await call<T>("POST", path, body);
  assert.equal(status, 200, `${path}: ${JSON.stringify(answer)}`);
  return answer;
}

// asks until it is so, or for ten seconds
async function becomes<T>(wanted: T, ask: () => Promise<T>): Promise<void> {
  let last = await ask();
  for (let n = 0; n < 200 && last !== wanted; n++) {
    await pause(50);
    last = await ask();
  }
  assert.equal(last, wanted);
}

const residency = async (id: string) =>
  (await pool.query<{ r: string }>("SELECT run_ops.owner_engine($1) AS r", [id])).rows[0]!.r;

// ids of all runs of LIST_ENV, the oldest first
const seen: string[] = existsSync(env("SEEN")) ? JSON.parse(readFileSync(env("SEEN"), "utf8")) : [];
const seenBefore = seen.length;
const create = async (body: object) => {
  const run = await post<Run>(`/environments/${listEnv}/runs`, { task: "example", payload: { n: seen.length }, ...body });
  seen.push(run.id);
  return run;
};

after(async () => {
  writeFileSync(env("SEEN"), JSON.stringify(seen));
  await close();
});

test("split is as expected", async () => {
  assert.equal((await get<{ split: string }>("/status")).split, split ? "on" : "off");
});

test("a new run lives where its organization's flag says", async () => {
  const run = await create({ tags: ["a", "b"] });
  assert.equal(await residency(run.id), split ? "NEW" : "LEGACY");
  const read = await get<Run>(`/runs/${run.friendlyId}`);
  assert.deepEqual([read.id, read.status, read.runTags], [run.id, "PENDING", ["a", "b"]]);
  assert.equal(read.snapshots[0]?.executionStatus, "RUN_CREATED");
});

test("a child lives where its parent does", async () => {
  const parentId = seen[0]!; // the first run of all
  const child = await create({ parentId });
  assert.equal(await residency(child.id), await residency(parentId));
  const { children } = await get<Run>(`/runs/${parentId}`);
  assert.ok(children.some(({ id }) => id === child.id));
});

test("all runs made so far are listed, in pages, each once, the newest first", async () => {
  for (let n = 0; n < 3; n++) await create({});
  const listed: string[] = [];
  let next: string | null = "";
  while (next !== null) {
    const page: { runs: Run[]; next: string | null } = await get(`/environments/${listEnv}/runs?size=2&after=${next}`);
    listed.push(...page.runs.map((run) => run.id));
    next = page.next;
  }
  assert.deepEqual(listed.reverse(), seen);
  assert.ok(seen.length > seenBefore);
});

test("runs with the same time are listed once each", async () => {
  const { projectId } = await prisma.runtimeEnvironment.findUniqueOrThrow({ where: { id: listEnv } });
  const at = new Date();
  const made: string[] = [];
  for (let n = 0; n < 5; n++) {
    // of both stores, when split is on
    const [{ id }] = await prisma.$queryRaw<[{ id: string }]>`
      SELECT CASE WHEN ${split && n % 2 === 0} THEN run_ops.generate_run_ops_id() ELSE run_ops.generate_cuid() END AS id`;
    await prisma.taskRun.create({
      data: {
        id,
        friendlyId: `run_${id}`,
        taskIdentifier: "t",
        payload: "{}",
        queue: "q",
        traceId: "t",
        spanId: "s",
        projectId,
        runtimeEnvironmentId: listEnv,
        createdAt: at,
      },
    });
    made.push(id);
  }
  const listed: string[] = [];
  let next: string | null = "";
  while (next !== null && listed.length < 5) {
    const page: { runs: Run[]; next: string | null } = await get(`/environments/${listEnv}/runs?size=1&after=${next}`);
    listed.push(...page.runs.map((run) => run.id));
    next = page.next;
  }
  assert.deepEqual([...listed].sort(), made.sort());
  await prisma.taskRun.deleteMany({ where: { id: { in: made } } });
});

// long before the row is looked at again
test("whoever waits for a waitpoint is woken", { timeout: 20_000 }, async () => {
  const run = await create({});
  const { id } = await post<{ id: string }>(`/runs/${run.id}/waitpoints`);
  assert.equal(await residency(id), await residency(run.id));
  assert.equal((await get<{ status: string }>(`/waitpoints/${id}?timeout=50`)).status, "PENDING");
  const waiting = [1, 2].map(() => get<{ status: string; output: string }>(`/waitpoints/${id}?timeout=600000`));
  const complete = () => post<{ completed: boolean }>(`/waitpoints/${id}/complete`, { output: { yes: true } });
  const completed = await Promise.all([complete(), complete()]);
  assert.deepEqual(completed.map((c) => c.completed).sort(), [false, true], "one has completed it");
  for (const waitpoint of await Promise.all(waiting)) {
    assert.deepEqual([waitpoint.status, waitpoint.output], ["COMPLETED", '{"yes":true}']);
  }
  const { status, waitsFor } = await get<Run>(`/runs/${run.id}`);
  assert.equal(status, "WAITING_TO_RESUME");
  assert.deepEqual(waitsFor, [{ waitpoint: { id, status: "COMPLETED" } }]);
});

const misses = async () => (await get<{ cache: { misses: number } }>("/status")).cache.misses;
const setPaused = (paused: boolean) => prisma.runtimeEnvironment.update({ where: { id: listEnv }, data: { paused } });
// 409 where the environment is thought to be paused, 400 for the missing task else
const thoughtPaused = async () => (await call("POST", `/environments/${listEnv}/runs`)).status === 409;

test("environments are cached, and forgotten when they change", async () => {
  await create({});
  const before = await misses();
  await create({});
  await create({});
  assert.equal(await misses(), before, "what is known is not asked for");
  await setPaused(true);
  await becomes(true, thoughtPaused);
  await setPaused(false);
  await becomes(false, thoughtPaused);
});

test("a change while nobody listens is not missed", async () => {
  await create({}); // the environment is cached
  const listeners = await pool.query<{ pid: number }>(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND usename = current_user",
  );
  assert.equal(listeners.rows.length, 1);
  const { pid } = listeners.rows[0]!;
  await becomes(0, async () => (await pool.query("SELECT FROM pg_stat_activity WHERE pid = $1", [pid])).rowCount);
  await setPaused(true);
  await becomes(true, thoughtPaused);
  await setPaused(false);
  await becomes(false, thoughtPaused);
});

test("a run is found by a friendly id that is not its id", async () => {
  const run = await create({});
  await prisma.taskRun.update({ where: { id: run.id }, data: { friendlyId: `run_old${seen.length}` } });
  assert.equal((await get<Run>(`/runs/run_old${seen.length}`)).id, run.id);
});

test("what is not there is 404", async () => {
  for (const path of ["/runs/run_none", "/waitpoints/none", "/nothing"]) {
    assert.equal((await call("GET", path)).status, 404, path);
  }
  assert.equal((await call("POST", "/environments/none/runs", { task: "t" })).status, 404);
});
