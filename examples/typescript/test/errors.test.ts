// An error says the same of a row in either store.  Each statement is tried with
// a run of each, and node-postgres and Prisma must show the same of both failures:
// code, schema, table, column, constraint, and the text but for the ids.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import pg from "pg";
import { close, pool, prisma } from "../src/database.js";
import { mintRunId } from "../src/runs.js";
import { env } from "./settings.js";

interface Place {
  id: string; // of a run that is there
  absent: string; // an id of the same store, of no run
  environmentId: string;
  projectId: string;
}

async function place(environmentId: string): Promise<Place> {
  const { projectId } = await prisma.runtimeEnvironment.findUniqueOrThrow({ where: { id: environmentId } });
  const here = {
    id: (await mintRunId(environmentId)).id,
    absent: (await mintRunId(environmentId)).id,
    environmentId,
    projectId,
  };
  await pool.query(insertRun, run(here, here.id));
  await pool.query(insertSnapshot, snapshot(here, here.id));
  return here;
}

const insertRun = `
  INSERT INTO routed."TaskRun" (id, "friendlyId", payload, depth, "runtimeEnvironmentId", "projectId",
                                 "taskIdentifier", queue, "traceId", "spanId", "updatedAt")
  VALUES ($1, 'run_' || $2, $3, $4, $5, $6, 'errors', 'q', 't', 's', now())`;
const run = (here: Place, id: string, values: { friendly?: string; payload?: string | null; depth?: number } = {}) => [
  id,
  values.friendly ?? id,
  values.payload === undefined ? "{}" : values.payload,
  values.depth ?? 0,
  here.environmentId,
  here.projectId,
];

const insertSnapshot = `
  INSERT INTO routed."TaskRunExecutionSnapshot" (id, "runId", "environmentId", "projectId", "organizationId",
    "executionStatus", "runStatus", "environmentType", description, "updatedAt")
  VALUES ($1, $2, $3, $4, 'o', 'QUEUED', 'PENDING', 'PRODUCTION', 'errors', now())`;
const snapshot = (here: Place, runId: string) => [`snapshot_${runId}`, runId, here.environmentId, here.projectId];

after(close);

async function failure<T>(work: Promise<unknown>): Promise<T> {
  try {
    await work;
  } catch (error) {
    return error as T;
  }
  throw new Error("it did not fail");
}

// what is of the place, and not of the failure
const withoutIds = (here: Place, text: string) =>
  text
    .replaceAll(here.id, "ID")
    .replaceAll(here.absent, "ABSENT")
    .replace(/^Failing row contains .*/, "Failing row contains ...");

// node-postgres ---------------------------------------------------------------------

type Attempt = (here: Place) => Promise<unknown>;

const attempts: [what: string, code: string, names: Record<string, string | undefined>, attempt: Attempt][] = [
  [
    "a key that is there",
    "23505",
    { table: "TaskRun", constraint: "TaskRun_pkey" },
    (here) => pool.query(insertRun, run(here, here.id, { friendly: here.absent })),
  ],
  [
    "another unique column",
    "23505",
    { table: "TaskRun", constraint: "TaskRun_friendlyId_key" },
    (here) => pool.query(insertRun, run(here, here.absent, { friendly: here.id })),
  ],
  [
    "a unique column, by UPDATE",
    "23505",
    { table: "TaskRun", constraint: "TaskRun_friendlyId_key" },
    async (here) => {
      const { id } = await mintRunId(here.environmentId, here.id);
      await pool.query(insertRun, run(here, id));
      await pool.query('UPDATE routed."TaskRun" SET "friendlyId" = $1 WHERE id = $2', [`run_${here.id}`, id]);
    },
  ],
  [
    "a reference to nothing",
    "23503",
    { table: "TaskRunExecutionSnapshot", constraint: "TaskRunExecutionSnapshot_runId_fkey" },
    (here) => pool.query(insertSnapshot, snapshot(here, here.absent)),
  ],
  [
    "a row that is referred to",
    "23503",
    { table: "TaskRunExecutionSnapshot", constraint: "TaskRunExecutionSnapshot_runId_fkey" },
    (here) => pool.query('DELETE FROM routed."TaskRun" WHERE id = $1', [here.id]),
  ],
  [
    "a missing value",
    "23502",
    { table: "TaskRun", column: "payload" },
    (here) => pool.query(insertRun, run(here, here.absent, { payload: null })),
  ],
  [
    "a missing value, by UPDATE",
    "23502",
    { table: "TaskRun", column: "payload" },
    (here) => pool.query('UPDATE routed."TaskRun" SET payload = NULL WHERE id = $1', [here.id]),
  ],
  [
    "a condition",
    "23514",
    { table: "TaskRun", constraint: "TaskRun_depth_check" },
    (here) => pool.query(insertRun, run(here, here.absent, { depth: -1 })),
  ],
  [
    "a condition, by UPDATE",
    "23514",
    { table: "TaskRun", constraint: "TaskRun_depth_check" },
    (here) => pool.query('UPDATE routed."TaskRun" SET depth = depth - 1 WHERE id = $1', [here.id]),
  ],
];

for (const [what, code, names, attempt] of attempts) {
  test(`node-postgres: ${what}`, async () => {
    for (const environmentId of [env("LEGACY_ENV"), env("NEW_ENV")]) {
      const here = await place(environmentId);
      const error = await failure<pg.DatabaseError>(attempt(here));
      const { severity, schema, table, column, constraint, dataType } = error;
      assert.deepEqual(
        { severity, code: error.code, schema, table, column, constraint, dataType },
        { severity: "ERROR", code, schema: "public", column: undefined, constraint: undefined, dataType: undefined, ...names },
        environmentId,
      );
    }
  });

  test(`node-postgres: ${what}, in the same words`, async () => {
    const [legacy, other] = await Promise.all(
      [env("LEGACY_ENV"), env("NEW_ENV")].map(async (environmentId) => {
        const here = await place(environmentId);
        const { message, detail, hint } = await failure<pg.DatabaseError>(attempt(here));
        return [message, detail ?? "", hint ?? ""].map((text) => withoutIds(here, text).replace(/(run_)?[a-z0-9]{24,27}/g, "ANOTHER"));
      }),
    );
    assert.deepEqual(other, legacy);
  });
}

// Prisma ------------------------------------------------------------------------------

const createRun = (here: Place, id: string, values: { friendlyId?: string; depth?: number } = {}) =>
  prisma.taskRun.create({
    data: {
      id,
      friendlyId: `run_${id}`,
      taskIdentifier: "errors",
      payload: "{}",
      queue: "q",
      traceId: "t",
      spanId: "s",
      projectId: here.projectId,
      runtimeEnvironmentId: here.environmentId,
      ...values,
    },
  });

const prismaAttempts: [what: string, code: string, attempt: Attempt][] = [
  ["a key that is there", "P2002", (here) => createRun(here, here.id, { friendlyId: here.absent })],
  ["another unique column", "P2002", (here) => createRun(here, here.absent, { friendlyId: `run_${here.id}` })],
  ["a reference to nothing", "P2003", (here) => prisma.taskRunExecutionSnapshot.updateMany({ where: { runId: here.id }, data: { runId: here.absent } })],
  ["a row that is referred to", "P2003", (here) => prisma.taskRun.delete({ where: { id: here.id } })],
  ["a missing value", "P2010", (here) => prisma.$executeRaw`UPDATE routed."TaskRun" SET payload = NULL WHERE id = ${here.id}`],
  ["a condition", "P2039", (here) => createRun(here, here.absent, { depth: -1 })],
];

for (const [what, code, attempt] of prismaAttempts) {
  test(`Prisma: ${what}`, async () => {
    const [legacy, other] = await Promise.all(
      [env("LEGACY_ENV"), env("NEW_ENV")].map(async (environmentId) => {
        const here = await place(environmentId);
        const error = await failure<{ code?: string; meta?: unknown }>(attempt(here));
        return { code: error.code, meta: withoutIds(here, JSON.stringify(error.meta)).replace(/Failing row contains [^"]*/g, "Failing row") };
      }),
    );
    assert.equal(legacy!.code, code, legacy!.meta);
    assert.deepEqual(other, legacy);
  });
}
