// What Prisma can do over the views, found by trying.  The table in README.md is
// what is expected: each of its lines is tried here, and nothing else is.  With
// split on, each is tried with a run of either store.  A trial that asserts
// something else than it finds fails, whatever the table says.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import knex, { type Knex } from "knex";
import { close, pool, prisma } from "../src/database.js";
import type { Prisma } from "../src/generated/client.js";
import { mintRunId } from "../src/runs.js";
import { env } from "./settings.js";

// Where a trial takes place: a run, fresh for each, in an environment that mints
// for one of the stores.
interface Place {
  id: string; // of the run
  other: string; // a run of the other store, with split on
  environmentId: string;
  projectId: string;
  newRun(values?: Partial<Prisma.TaskRunUncheckedCreateInput>): Promise<Prisma.TaskRunUncheckedCreateInput>;
  newRunOfOther: Place["newRun"]; // a child of the other run
  newWaitpoint(): Promise<Prisma.WaitpointUncheckedCreateInput>;
  newSnapshot(runId: string): Prisma.TaskRunExecutionSnapshotUncheckedCreateInput;
}

type Trial = (here: Place) => Promise<void>;
const trials = new Map<string, { trial: Trial; around: Trial | undefined }>();

function tryOut(operation: string, trial: Trial, around?: Trial): void {
  trials.set(operation, { trial, around });
}

const text = () => randomBytes(12).toString("hex");

async function place(environmentId: string, other: string): Promise<Place> {
  const { projectId } = await prisma.runtimeEnvironment.findUniqueOrThrow({ where: { id: environmentId } });
  const mint = (parent: string | null): Place["newRun"] => async (values = {}) => {
    const { id, friendly_id: friendlyId } = await mintRunId(environmentId, parent);
    return {
      id,
      friendlyId,
      taskIdentifier: "trial",
      payload: "{}",
      queue: "task/trial",
      traceId: "t",
      spanId: "s",
      projectId,
      runtimeEnvironmentId: environmentId,
      ...values,
    };
  };
  const newRun = mint(null);
  const { id } = await prisma.taskRun.create({ data: await newRun() });
  return {
    id,
    other,
    environmentId,
    projectId,
    newRun,
    newRunOfOther: mint(other),
    async newWaitpoint() {
      const [minted] = await prisma.$queryRaw<[{ id: string }]>`SELECT run_ops.mint_waitpoint_id(${id}) AS id`;
      return {
        id: minted.id,
        friendlyId: `waitpoint_${minted.id}`,
        type: "MANUAL",
        idempotencyKey: text(),
        userProvidedIdempotencyKey: false,
        projectId,
        environmentId,
      };
    },
    newSnapshot: (runId) => ({
      executionStatus: "QUEUED",
      description: "trial",
      runId,
      runStatus: "PENDING",
      environmentId,
      environmentType: "PRODUCTION",
      projectId,
      organizationId: "o",
    }),
  };
}

// Reading ------------------------------------------------------------------------

tryOut("findUnique by id", async ({ id }) => {
  assert.equal((await prisma.taskRun.findUnique({ where: { id } }))?.id, id);
});

tryOut("findUnique by another unique column", async ({ id }) => {
  assert.equal((await prisma.taskRun.findUnique({ where: { friendlyId: `run_${id}` } }))?.id, id);
});

tryOut("findMany of ids of both stores", async ({ id, other }) => {
  const found = await prisma.taskRun.findMany({ where: { id: { in: [id, other, "none"] } } });
  assert.deepEqual(found.map((r) => r.id).sort(), [id, other].sort());
});

tryOut("cursor and skip", async ({ environmentId, newRun }) => {
  const tag = text();
  const ids: string[] = [];
  for (const n of [1, 2, 3, 4, 5]) {
    const createdAt = new Date(Date.UTC(2026, 0, 1) + (n >> 1)); // some at the same time
    ids.push((await prisma.taskRun.create({ data: await newRun({ createdAt, runTags: [tag] }) })).id);
  }
  const all = { where: { runtimeEnvironmentId: environmentId, runTags: { has: tag } } };
  const orderBy: Prisma.TaskRunOrderByWithRelationInput[] = [{ createdAt: "desc" }, { id: "desc" }];
  const pages: string[] = [];
  let page = await prisma.taskRun.findMany({ ...all, orderBy, take: 2 });
  while (page.length > 0) {
    pages.push(...page.map((r) => r.id));
    page = await prisma.taskRun.findMany({ ...all, orderBy, take: 2, skip: 1, cursor: { id: pages.at(-1)! } });
  }
  assert.equal(pages.length, 5);
  assert.deepEqual([...pages].sort(), ids.sort());
});

tryOut("filters on enum, array, JSON and text", async ({ newRun }) => {
  const tag = text();
  const { id } = await prisma.taskRun.create({
    data: await newRun({ runTags: [tag, "b"], context: { n: { m: 1 } }, status: "CRASHED", output: "Done 100%" }),
  });
  const filters: Prisma.TaskRunWhereInput[] = [
    { status: { in: ["CRASHED", "EXPIRED"] } },
    { status: { not: "PENDING" } },
    { runTags: { hasEvery: [tag, "b"] } },
    { runTags: { hasSome: ["x", "b"] } },
    { context: { path: ["n", "m"], equals: 1 } },
    { output: { contains: "dONE", mode: "insensitive" } },
    { output: { endsWith: "100%" } },
    { completedAt: null },
  ];
  for (const filter of filters) {
    const found = await prisma.taskRun.findMany({ where: { AND: [{ runTags: { has: tag } }, filter] } });
    assert.deepEqual(found.map((r) => r.id), [id], JSON.stringify(filter));
  }
});

tryOut("include and select of relations", async (here) => {
  await prisma.taskRunExecutionSnapshot.create({ data: here.newSnapshot(here.id) });
  const child = await prisma.taskRun.create({ data: await here.newRun({ parentTaskRunId: here.id }) });
  const run = await prisma.taskRun.findUnique({
    where: { id: here.id },
    include: {
      environment: { include: { organization: true } },
      snapshots: true,
      children: true,
      _count: { select: { snapshots: true } },
    },
  });
  assert.equal(run?.environment.organization.id, run?.environment.organizationId);
  assert.equal(run?.snapshots.length, 1);
  assert.equal(run?._count.snapshots, 1);
  assert.deepEqual(run?.children.map((r) => r.id), [child.id]);
});

tryOut("include of a row of the other store", async ({ other, projectId, newWaitpoint }) => {
  const waitpoint = await prisma.waitpoint.create({ data: await newWaitpoint() });
  await prisma.taskRunWaitpoint.create({ data: { taskRunId: other, waitpointId: waitpoint.id, projectId } });
  const run = await prisma.taskRun.findUnique({ where: { id: other }, include: { waitsFor: { include: { waitpoint: true } } } });
  assert.ok(run?.waitsFor.some((edge) => edge.waitpoint.id === waitpoint.id));
});

tryOut("filters and order by a relation", async (here) => {
  await prisma.taskRunExecutionSnapshot.create({ data: here.newSnapshot(here.id) });
  const found = await prisma.taskRun.findMany({
    where: {
      id: here.id,
      snapshots: { some: { executionStatus: "QUEUED" }, none: { executionStatus: "FINISHED" } },
      environment: { organization: { slug: { not: "none" } } },
    },
    orderBy: { environment: { slug: "asc" } },
  });
  assert.equal(found.length, 1);
});

tryOut("count, aggregate, groupBy, distinct", async ({ environmentId, newRun }) => {
  const tag = text();
  for (const costInCents of [1, 2, 3]) {
    const status = costInCents > 1 ? "DELAYED" : "PENDING"; // in this order here, in the other one in the store
    await prisma.taskRun.create({ data: await newRun({ runTags: [tag], costInCents, status }) });
  }
  const where = { runtimeEnvironmentId: environmentId, runTags: { has: tag } };
  assert.equal(await prisma.taskRun.count({ where }), 3);
  const sum = await prisma.taskRun.aggregate({ where, _sum: { costInCents: true }, _max: { createdAt: true } });
  assert.equal(sum._sum.costInCents, 6);
  const groups = await prisma.taskRun.groupBy({ by: ["status"], where, _count: true, orderBy: { status: "asc" } });
  assert.deepEqual(groups, [
    { status: "PENDING", _count: 1 },
    { status: "DELAYED", _count: 2 },
  ]);
  assert.equal((await prisma.taskRun.findMany({ where, distinct: ["status"] })).length, 2);
});

tryOut("a `view` of the schema", async () => {
  assert.match((await prisma.splitStatus.findFirstOrThrow()).split, /^(on|off)$/);
});

// Inserting ----------------------------------------------------------------------

tryOut("create", async ({ newRun }) => {
  const data = await newRun({
    context: { a: [1, null], b: "ü" },
    runTags: ["ä", 'b,"c'],
    status: "DELAYED",
    costInCents: 0.1,
    completedAt: new Date("2026-03-29T01:30:00.123Z"),
  });
  const run = await prisma.taskRun.create({ data });
  assert.deepEqual(await prisma.taskRun.findUnique({ where: { id: run.id } }), run);
  const stored: Record<string, unknown> = run;
  for (const [key, value] of Object.entries(data)) assert.deepEqual(stored[key], value, key);
  assert.equal(run.depth, 0);
});

tryOut("create with nested create", async ({ newRun, newSnapshot }) => {
  const { runId, ...snapshot } = newSnapshot("");
  const data = await newRun();
  const run = await prisma.taskRun.create({
    data: { ...data, snapshots: { create: [snapshot, snapshot] } },
    include: { snapshots: true },
  });
  assert.equal(run.snapshots.length, 2);
});

tryOut("createMany", async ({ newRun }) => {
  const data = [await newRun(), await newRun()];
  assert.deepEqual(await prisma.taskRun.createMany({ data }), { count: 2 });
});

tryOut("createManyAndReturn", async ({ newRun }) => {
  const data = [await newRun(), await newRun()];
  const runs = await prisma.taskRun.createManyAndReturn({ data, select: { id: true, status: true } });
  assert.deepEqual(runs, data.map(({ id }) => ({ id, status: "PENDING" })));
});

tryOut("createMany with skipDuplicates", async ({ id, other, newRun, newRunOfOther }) => {
  const added = [await newRun(), await newRunOfOther()];
  const data = [await newRun({ id }), await newRunOfOther({ id: other }), ...added];
  assert.deepEqual(await prisma.taskRun.createMany({ data, skipDuplicates: true }), { count: 2 });
  assert.deepEqual(await prisma.taskRun.createMany({ data, skipDuplicates: true }), { count: 0 });
  assert.equal(await prisma.taskRun.count({ where: { id: { in: added.map((run) => run.id) } } }), 2);
});

tryOut("upsert by key", async ({ newRun }) => {
  const create = await newRun();
  const { id } = create;
  const upsert = (again: string) =>
    prisma.taskRun.upsert({ where: { id }, create: { ...create, output: "first" }, update: { output: again, depth: { increment: 1 } } });
  assert.equal((await upsert("again")).output, "first");
  const run = await upsert("again");
  assert.deepEqual([run.output, run.depth], ["again", 1]);
  assert.deepEqual(await prisma.taskRun.findUnique({ where: { id } }), run);
});

tryOut("upsert by another unique column", async ({ id, newRun }) => {
  for (const create of [await newRun({ friendlyId: `run_${id}` }), await newRun()]) {
    const { friendlyId } = create;
    for (const _ of [1, 2]) await prisma.taskRun.upsert({ where: { friendlyId }, create, update: { depth: { increment: 1 } } });
    const depth = friendlyId === `run_${id}` ? 2 : 1; // the first one was there
    assert.deepEqual((await prisma.taskRun.findMany({ where: { friendlyId } })).map((run) => run.depth), [depth]);
  }
});

tryOut("upserts of one key at once", async ({ id: runId, newSnapshot }) => {
  const id = text();
  const create = { ...newSnapshot(runId), id };
  const upsert = () => prisma.taskRunExecutionSnapshot.upsert({ where: { id }, create, update: { description: "again" } });
  const found = await Promise.all([upsert(), upsert(), upsert(), upsert()]);
  assert.deepEqual(found.map((s) => s.description).sort(), ["again", "again", "again", "trial"]);
  assert.equal(await prisma.taskRunExecutionSnapshot.count({ where: { id } }), 1);
});

tryOut("upsert that reads first", async ({ id, newRun }) => {
  const run = await prisma.taskRun.upsert({
    where: { id },
    create: await newRun(),
    update: { output: "again" },
    include: { snapshots: true },
  });
  assert.equal(run.output, "again");
});

tryOut("connectOrCreate", async (here) => {
  const data = await here.newWaitpoint();
  await prisma.taskRunWaitpoint.create({
    data: {
      run: { connect: { id: here.id } },
      projectId: here.projectId,
      waitpoint: { connectOrCreate: { where: { id: data.id }, create: data } },
    },
  });
  assert.equal(await prisma.taskRunWaitpoint.count({ where: { taskRunId: here.id, waitpointId: data.id } }), 1);
});

tryOut("connect of an implicit many-to-many", async (here) => {
  const waitpoint = await prisma.waitpoint.create({ data: await here.newWaitpoint() });
  const connect = () => prisma.taskRun.update({ where: { id: here.id }, data: { waitpoints: { connect: { id: waitpoint.id } } } });
  await connect();
  await connect(); // skips the row that is there
  const run = await prisma.taskRun.findUnique({ where: { id: here.id }, include: { waitpoints: true } });
  assert.deepEqual(run?.waitpoints.map((w) => w.id), [waitpoint.id]);
});

tryOut("include, filter and disconnect of an implicit many-to-many", async (here) => {
  const waitpoint = await prisma.waitpoint.create({ data: await here.newWaitpoint() });
  await prisma.$executeRaw`INSERT INTO routed."_WaitpointRunConnections" ("A", "B") VALUES (${here.id}, ${waitpoint.id})`;
  const where = { id: here.id, waitpoints: { some: { status: "PENDING" } } } as const;
  assert.equal((await prisma.taskRun.findFirst({ where, include: { waitpoints: true } }))?.waitpoints.length, 1);
  await prisma.taskRun.update({ where: { id: here.id }, data: { waitpoints: { disconnect: { id: waitpoint.id } } } });
  assert.equal(await prisma.taskRun.findFirst({ where }), null);
});

// Changing and deleting ------------------------------------------------------------

tryOut("update", async ({ id }) => {
  const run = await prisma.taskRun.update({
    where: { id },
    data: { status: "EXECUTING", depth: { increment: 2 }, runTags: { push: "x" }, context: { a: 1 } },
  });
  assert.deepEqual([run.status, run.depth, run.runTags, run.context], ["EXECUTING", 2, ["x"], { a: 1 }]);
  assert.deepEqual(await prisma.taskRun.findUnique({ where: { id } }), run);
});

tryOut("update by another unique column, with a condition", async ({ id }) => {
  const where = { friendlyId: `run_${id}`, status: "PENDING" } as const;
  assert.equal((await prisma.taskRun.update({ where, data: { status: "EXECUTING" } })).id, id);
});

tryOut("update with nested create, update, delete", async (here) => {
  const { runId, ...snapshot } = here.newSnapshot("");
  const first = await prisma.taskRunExecutionSnapshot.create({ data: here.newSnapshot(here.id) });
  const second = await prisma.taskRunExecutionSnapshot.create({ data: here.newSnapshot(here.id) });
  const run = await prisma.taskRun.update({
    where: { id: here.id },
    data: {
      snapshots: {
        create: snapshot,
        update: { where: { id: first.id }, data: { description: "changed" } },
        delete: { id: second.id },
      },
    },
    include: { snapshots: true },
  });
  assert.deepEqual(run.snapshots.map((s) => s.description).sort(), ["changed", "trial"]);
});

tryOut("updateMany and its count", async ({ id }) => {
  const where = { id, status: "PENDING" } as const;
  assert.deepEqual(await prisma.taskRun.updateMany({ where, data: { status: "EXECUTING" } }), { count: 1 });
  assert.deepEqual(await prisma.taskRun.updateMany({ where, data: { status: "EXECUTING" } }), { count: 0 });
});

tryOut("updateMany with limit", async ({ environmentId, newRun }) => {
  const tag = text();
  for (let n = 0; n < 3; n++) await prisma.taskRun.create({ data: await newRun({ runTags: [tag] }) });
  const where = { runtimeEnvironmentId: environmentId, runTags: { has: tag } };
  assert.deepEqual(await prisma.taskRun.updateMany({ where, data: { output: "x" }, limit: 2 }), { count: 2 });
  assert.equal(await prisma.taskRun.count({ where: { ...where, output: "x" } }), 2);
});

tryOut("updateManyAndReturn", async ({ id }) => {
  const runs = await prisma.taskRun.updateManyAndReturn({ where: { id }, data: { depth: { increment: 1 } } });
  assert.deepEqual(runs.map((r) => r.depth), [1]);
});

tryOut("delete", async ({ id }) => {
  assert.equal((await prisma.taskRun.delete({ where: { id } })).id, id);
  assert.equal(await prisma.taskRun.findUnique({ where: { id } }), null);
});

tryOut("deleteMany and its count", async ({ id }) => {
  assert.deepEqual(await prisma.taskRun.deleteMany({ where: { id: { in: [id, "none"] } } }), { count: 1 });
});

tryOut("a new id for a row, of the same kind", async ({ id, newRun }) => {
  const other = await newRun();
  assert.equal((await prisma.taskRun.update({ where: { id }, data: { id: other.id } })).id, other.id);
});

tryOut(
  "moving a row to a run of the other store",
  async ({ id, other, newSnapshot }) => {
    const snapshot = await prisma.taskRunExecutionSnapshot.create({ data: newSnapshot(id) });
    await prisma.taskRunExecutionSnapshot.update({ where: { id: snapshot.id }, data: { runId: other } });
  },
  async ({ id, other, newSnapshot }) => {
    const snapshot = await prisma.taskRunExecutionSnapshot.create({ data: newSnapshot(id) });
    await prisma.taskRunExecutionSnapshot.create({ data: newSnapshot(other) });
    await prisma.taskRunExecutionSnapshot.delete({ where: { id: snapshot.id } });
  },
);

// Errors ---------------------------------------------------------------------------

tryOut("P2002 for a key that is there", async ({ id, newRun }) => {
  await assert.rejects(prisma.taskRun.create({ data: await newRun({ id }) }), { code: "P2002" });
});

tryOut("P2002 for another unique key", async ({ newRun }) => {
  const key = { idempotencyKey: text() };
  await prisma.taskRun.create({ data: await newRun(key) });
  await assert.rejects(prisma.taskRun.create({ data: await newRun(key) }), { code: "P2002" });
});

// Two runs of one environment; with split on, one in each store.
async function sameKeyTwice(here: Place, create: (data: Prisma.TaskRunUncheckedCreateInput) => Promise<unknown>) {
  const key = { idempotencyKey: text() };
  const { id, friendly_id: friendlyId } = await mintRunId(here.environmentId, here.other);
  await prisma.taskRun.create({ data: await here.newRun(key) });
  try {
    await create(await here.newRun({ ...key, id, friendlyId }));
  } catch (error) {
    assert.equal((error as { code?: string }).code, "P2002");
    return;
  } finally {
    await prisma.taskRun.deleteMany({ where: key });
  }
  throw Object.assign(new Error("two runs with the same key"), { code: "not refused" });
}

tryOut(
  "P2002 for a unique key of the other store",
  (here) => sameKeyTwice(here, (data) => prisma.taskRun.create({ data })),
  (here) =>
    sameKeyTwice(here, (data) => {
      const { runtimeEnvironmentId, taskIdentifier, idempotencyKey } = data;
      return prisma.$transaction(async (tx) => {
        const lock = `${runtimeEnvironmentId} ${idempotencyKey}`;
        await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended(${lock}, 0))`;
        const key = { runtimeEnvironmentId, taskIdentifier, idempotencyKey: idempotencyKey! };
        if (await tx.taskRun.findFirst({ where: key })) throw Object.assign(new Error("is there"), { code: "P2002" });
        return tx.taskRun.create({ data });
      });
    }),
);

tryOut("P2003 for a run that is not there", async ({ newRun, newSnapshot }) => {
  const { id } = await newRun();
  await assert.rejects(prisma.taskRunExecutionSnapshot.create({ data: newSnapshot(id) }), { code: "P2003" });
});

tryOut("P2003 for deleting a run that has snapshots", async ({ id, newSnapshot }) => {
  await prisma.taskRunExecutionSnapshot.create({ data: newSnapshot(id) });
  await assert.rejects(prisma.taskRun.delete({ where: { id } }), { code: "P2003" });
});

tryOut("P2025 for an update of nothing", async ({ newRun }) => {
  const { id } = await newRun();
  await assert.rejects(prisma.taskRun.update({ where: { id }, data: { output: "x" } }), { code: "P2025" });
});

// Transactions -----------------------------------------------------------------------

tryOut("$transaction of an array", async ({ id, newRun }) => {
  const [run, count] = await prisma.$transaction([
    prisma.taskRun.create({ data: await newRun() }),
    prisma.taskRun.updateMany({ where: { id }, data: { output: "x" } }),
  ]);
  assert.ok(run.id);
  assert.equal(count.count, 1);
});

tryOut("interactive transaction, committed and rolled back", async ({ id, newRun }) => {
  const data = await newRun();
  await prisma.$transaction(async (tx) => {
    await tx.taskRun.create({ data });
    assert.ok(await tx.taskRun.findUnique({ where: { id: data.id } }), "its own row is seen");
    assert.equal(await prisma.taskRun.findUnique({ where: { id: data.id } }), null, "by nobody else");
    await tx.taskRun.update({ where: { id }, data: { output: "x" } });
  });
  assert.ok(await prisma.taskRun.findUnique({ where: { id: data.id } }));
  const undone = prisma.$transaction(async (tx) => {
    await tx.taskRun.delete({ where: { id } });
    throw new Error("undo");
  });
  await assert.rejects(undone, /undo/);
  assert.ok(await prisma.taskRun.findUnique({ where: { id } }));
});

const touch = (environmentId: string) =>
  prisma.runtimeEnvironment.update({ where: { id: environmentId }, data: { updatedAt: new Date() } });

tryOut("transaction that writes to the control plane as well", async ({ environmentId, newRun }) => {
  const data = await newRun();
  await prisma.$transaction([prisma.taskRun.create({ data }), touch(environmentId)]);
  assert.ok(await prisma.taskRun.findUnique({ where: { id: data.id } }));
});

tryOut(
  "the same with cross_store_writes = error",
  async ({ environmentId, newRun }) => {
    await prisma.$transaction([
      prisma.$executeRaw`SET LOCAL run_ops_split.cross_store_writes = error`,
      prisma.taskRun.create({ data: await newRun() }),
      touch(environmentId),
    ]);
  },
  async ({ environmentId, newRun }) => {
    await touch(environmentId);
    await prisma.taskRun.create({ data: await newRun() });
  },
);

tryOut("isolationLevel Serializable", async ({ id }) => {
  await prisma.$transaction(
    async (tx) => {
      await tx.taskRun.findUnique({ where: { id } });
      await tx.taskRun.update({ where: { id }, data: { output: "x" } });
    },
    { isolationLevel: "Serializable" },
  );
});

tryOut("update of a row that changed since the transaction read it", async ({ id }) => {
  await prisma.$transaction(async (tx) => {
    await tx.taskRun.findUnique({ where: { id } });
    await prisma.taskRun.update({ where: { id }, data: { depth: { increment: 1 } } });
    await tx.taskRun.update({ where: { id }, data: { depth: { increment: 1 } } });
  });
  assert.equal((await prisma.taskRun.findUnique({ where: { id } }))?.depth, 2);
});

// Raw ------------------------------------------------------------------------------

tryOut("$queryRaw with FOR UPDATE", async ({ id }) => {
  await prisma.$transaction(async (tx) => {
    const rows = await tx.$queryRaw<unknown[]>`SELECT id FROM routed."TaskRun" WHERE id = ${id} FOR UPDATE`;
    assert.equal(rows.length, 1);
    const somebodyElse = prisma.$transaction([
      prisma.$executeRaw`SET LOCAL statement_timeout = '500ms'`,
      prisma.$queryRaw`SELECT id FROM routed."TaskRun" WHERE id = ${id} FOR UPDATE`,
    ]);
    assert.equal(await outcome(somebodyElse), "P2010 57014", "has to wait");
  });
});

tryOut("$queryRaw with INSERT, UPDATE, DELETE … RETURNING", async (here) => {
  const waitpoint = await here.newWaitpoint();
  const inserted = await prisma.$queryRaw<unknown[]>`
    INSERT INTO routed."Waitpoint" (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId", "updatedAt")
    VALUES (${waitpoint.id}, ${waitpoint.friendlyId}, 'MANUAL', ${waitpoint.idempotencyKey}, false, ${here.projectId}, ${here.environmentId}, now())
    RETURNING status::text, "createdAt" IS NOT NULL AS "hasTime"`;
  assert.deepEqual(inserted, [{ status: "PENDING", hasTime: true }]);
  const changed = await prisma.$queryRaw<unknown[]>`
    UPDATE routed."Waitpoint" SET status = 'COMPLETED' WHERE id = ${waitpoint.id} RETURNING status::text`;
  assert.deepEqual(changed, [{ status: "COMPLETED" }]);
  assert.equal(await prisma.$executeRaw`DELETE FROM routed."Waitpoint" WHERE id = ${waitpoint.id}`, 1);
});

tryOut("named prepared statements of node-postgres", async ({ id }) => {
  for (let n = 0; n < 7; n++) { // a generic plan from the sixth on
    const { rows } = await pool.query({ name: "by id", text: 'SELECT id FROM routed."TaskRun" WHERE id = $1', values: [id] });
    assert.deepEqual(rows, [{ id }]);
  }
});

const insertRun = `
  INSERT INTO routed."TaskRun" AS r (id, "friendlyId", payload, queue, "runtimeEnvironmentId", "projectId",
                                      "taskIdentifier", "traceId", "spanId", "updatedAt")
  SELECT unnest($1::text[]), unnest($2::text[]), '{}', 'q', $3, $4, 'trial', 't', 's', now()`;

tryOut("ON CONFLICT of node-postgres", async ({ id, other, environmentId, projectId, newRun, newRunOfOther }) => {
  const runs = [await newRun({ id }), await newRunOfOther({ id: other }), await newRun(), await newRunOfOther()];
  const values = [runs.map((r) => r.id), runs.map((r) => r.friendlyId), environmentId, projectId];
  const ids = async (clause: string) => (await pool.query<{ id: string }>(insertRun + clause, values)).rows.map((r) => r.id).sort();
  const all = runs.map((r) => r.id).sort();
  assert.deepEqual(await ids("ON CONFLICT (id) DO NOTHING RETURNING r.id"), [runs[2]!.id, runs[3]!.id].sort());
  assert.deepEqual(await ids("ON CONFLICT DO NOTHING RETURNING r.id"), []);
  assert.deepEqual(await ids('ON CONFLICT (id) DO UPDATE SET depth = r.depth + 1, "updatedAt" = now() RETURNING r.id'), all);
  assert.deepEqual(await ids("ON CONFLICT (id) DO UPDATE SET queue = EXCLUDED.queue WHERE r.depth > 0 RETURNING r.id"), all);
});

// Jobs of both stores.
async function enqueue({ newRun, newRunOfOther }: Place): Promise<{ queue: string; ids: string[] }> {
  const queue = text();
  const data = [await newRun({ queue }), await newRun({ queue }), await newRunOfOther({ queue }), await newRunOfOther({ queue })];
  await prisma.taskRun.createMany({ data });
  return { queue, ids: data.map((run) => run.id).sort() };
}

tryOut("FOR UPDATE SKIP LOCKED of node-postgres", async (here) => {
  const { queue, ids } = await enqueue(here);
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const lock = 'SELECT id FROM routed."TaskRun" WHERE queue = $1';
    const mine = await client.query<{ id: string }>(`${lock} AND id = ANY ($2) FOR UPDATE`, [queue, [ids[0], ids[3]]]);
    const theirs = await pool.query<{ id: string }>(`${lock} FOR UPDATE SKIP LOCKED`, [queue]);
    assert.deepEqual(mine.rows.map((r) => r.id).sort(), [ids[0], ids[3]]);
    assert.deepEqual(theirs.rows.map((r) => r.id).sort(), [ids[1], ids[2]]);
    await assert.rejects(pool.query(`${lock} FOR UPDATE NOWAIT`, [queue]), { code: "55P03" });
  } finally {
    await client.query("ROLLBACK");
    client.release();
  }
  // workers that share a queue: each job is taken once
  const taken: string[] = [];
  const worker = async () => {
    const { rows } = await pool.query<{ id: string }>(
      `UPDATE routed."TaskRun" SET status = 'EXECUTING' WHERE id IN (
         SELECT id FROM routed."TaskRun" WHERE queue = $1 AND status = 'PENDING'
          ORDER BY "createdAt", id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`,
      [queue],
    );
    taken.push(...rows.map((r) => r.id));
  };
  for (let round = 0; round < 4; round++) await Promise.all([worker(), worker()]);
  assert.deepEqual(taken.sort(), ids);
});

// Another builder of queries ----------------------------------------------------------

const db = knex({ client: "pg", connection: {}, pool: { min: 0, max: 2 } });
const table = (k: Knex) => k("TaskRun").withSchema("routed");

tryOut("Knex: onConflict().ignore() and .merge()", async ({ id, other, newRun, newRunOfOther }) => {
  const runs = [await newRun({ id }), await newRunOfOther({ id: other }), await newRun(), await newRunOfOther()];
  const rows = runs.map((run) => ({ ...run, updatedAt: new Date(), output: "merged" }));
  const ignored = await table(db).insert(rows).onConflict("id").ignore().returning("id");
  assert.deepEqual(ignored.map((r) => r.id).sort(), [runs[2]!.id, runs[3]!.id].sort());
  await table(db).insert(rows).onConflict("id").merge(["output", "updatedAt"]);
  const found = await table(db).whereIn("id", runs.map((run) => run.id)).andWhere("output", "merged");
  assert.equal(found.length, 4);
});

tryOut("Knex: merge() of all columns", async ({ newRun }) => {
  const row = { ...(await newRun()), updatedAt: new Date() };
  for (const output of ["first", "again"]) {
    const [merged] = await table(db).insert({ ...row, output }).onConflict("id").merge().returning(["id", "output"]);
    assert.deepEqual(merged, { id: row.id, output });
  }
});

tryOut("Knex: forUpdate().skipLocked()", async (here) => {
  const { queue, ids } = await enqueue(here);
  await db.transaction(async (trx) => {
    const locked = await table(trx).select("id").where({ queue }).whereIn("id", [ids[0]!, ids[3]!]).forUpdate();
    const rest = await table(db).select("id").where({ queue }).forUpdate().skipLocked();
    assert.deepEqual(locked.map((r) => r.id).sort(), [ids[0], ids[3]]);
    assert.deepEqual(rest.map((r) => r.id).sort(), [ids[1], ids[2]]);
  });
});

// The table -------------------------------------------------------------------------

interface Line {
  operation: string;
  off: string;
  legacy: string;
  new: string;
  around: string;
}

const lines: Line[] = readFileSync(new URL("../../README.md", import.meta.url), "utf8")
  .split("<!-- operations -->")[1]!
  .split("\n")
  .filter((line) => line.startsWith("|"))
  .slice(2) // names of the columns, and the rule below them
  .map((line) => {
    const [, operation = "", ...outcomes] = line.split("|").map((cell) => cell.trim());
    const [off = "", legacy = "", other = "", around = ""] = outcomes.map((cell) => cell.replaceAll("`", ""));
    return { operation, off, legacy, new: other, around };
  });

// "works", or the error codes of Prisma and of the database
async function outcome(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "works";
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error;
    type Cause = { originalCode?: string };
    const { code, name, meta, cause } = error as Error & {
      code?: string;
      meta?: { driverAdapterError?: { cause?: Cause } };
      cause?: Cause;
    };
    const sqlstate = (meta?.driverAdapterError?.cause ?? cause)?.originalCode;
    if (!code && !sqlstate) throw error;
    return [code ?? name, sqlstate].filter(Boolean).join(" ");
  }
}

const environments = { legacy: env("LEGACY_ENV"), new: env("NEW_ENV") };
const split = env("EXPECT_SPLIT") === "on";
const runs = {
  legacy: (await place(environments.legacy, "")).id,
  new: (await place(environments.new, "")).id,
};

after(() => Promise.all([close(), db.destroy()]));

test("each line of the table is tried, and each trial is a line", () => {
  assert.deepEqual([...trials.keys()], lines.map((line) => line.operation));
});

test("the runs of the trials are where they should be", async () => {
  const { rows } = await pool.query("SELECT run_ops.owner_engine($1) AS legacy, run_ops.owner_engine($2) AS new", [
    runs.legacy,
    runs.new,
  ]);
  assert.deepEqual(rows, [{ legacy: "LEGACY", new: split ? "NEW" : "LEGACY" }]);
});

for (const line of lines) {
  const { trial, around } = trials.get(line.operation) ?? {};
  if (!trial) continue; // the first test has failed
  for (const store of ["legacy", "new"] as const) {
    const where = () => place(environments[store], runs[store === "new" ? "legacy" : "new"]);
    const expected = split ? line[store] : line.off;
    test(`${line.operation}, a run of ${store}`, async () => {
      assert.equal(await outcome(trial(await where())), expected);
      assert.ok(expected === "works" || (around && line.around), "there is a way around, and it is told");
    });
    if (around) {
      test(`${line.operation}, the way around, a run of ${store}`, async () => {
        assert.equal(await outcome(around(await where())), "works");
      });
    }
  }
}
