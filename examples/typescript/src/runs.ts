// Creating, reading and listing runs.

import { randomBytes } from "node:crypto";
import type { Environment } from "./environments.js";
import { prisma } from "./database.js";
import type { Prisma, TaskRun } from "./generated/client.js";

export interface NewRun {
  task: string;
  payload: unknown;
  tags?: string[];
  parentId?: string;
}

// The database generates the id, which decides the store of the run: the store of
// its parent, or else the one that the flag of the organization chooses.
export async function mintRunId(environmentId: string, parentId: string | null = null) {
  const [minted] = await prisma.$queryRaw<{ id: string; friendly_id: string }[]>`
    SELECT id, friendly_id FROM run_ops.mint_run_id(${environmentId}, ${parentId})`;
  return minted!;
}

// Creates a run and its first snapshot in one transaction.  Both are in one store,
// because a snapshot is in the store of its run.
export async function createRun(env: Environment, run: NewRun) {
  const minted = await mintRunId(env.id, run.parentId);
  return prisma.taskRun.create({
    data: {
      id: minted.id,
      friendlyId: minted.friendly_id,
      taskIdentifier: run.task,
      payload: JSON.stringify(run.payload),
      queue: `task/${run.task}`,
      traceId: randomBytes(16).toString("hex"),
      spanId: randomBytes(8).toString("hex"),
      runTags: run.tags ?? [],
      runtimeEnvironmentId: env.id,
      environmentType: env.type,
      projectId: env.project_id,
      organizationId: env.organization_id,
      parentTaskRunId: run.parentId ?? null,
      snapshots: {
        create: {
          executionStatus: "RUN_CREATED",
          description: "run was created",
          runStatus: "PENDING",
          environmentId: env.id,
          environmentType: env.type,
          projectId: env.project_id,
          organizationId: env.organization_id,
        },
      },
    },
    include: { snapshots: true },
  });
}

const details = {
  environment: { select: { slug: true, paused: true } },
  snapshots: { orderBy: { createdAt: "desc" }, take: 1 },
  children: { select: { id: true, status: true } },
  waitsFor: { select: { waitpoint: { select: { id: true, status: true } } } },
} satisfies Prisma.TaskRunInclude;

// A friendly id is "run_" and the id.  A lookup by the id queries only the store
// that can hold the run.  Old friendly ids are random: a lookup by one queries
// every store.
export async function getRun(id: string) {
  return (
    (await prisma.taskRun.findUnique({ where: { id: id.replace(/^run_/, "") }, include: details })) ??
    (await prisma.taskRun.findUnique({ where: { friendlyId: id }, include: details }))
  );
}

export interface Page {
  runs: Pick<TaskRun, "id" | "status" | "taskIdentifier" | "createdAt" | "runTags">[];
  next: string | null;
}

// Lists the newest runs first.  A page begins after the last run of the previous
// page, by (createdAt, id).  Each store sends its next few runs in this order, so
// no page costs more than the first.
export async function listRuns(environmentId: string, after: string | null, size: number): Promise<Page> {
  const where: Prisma.TaskRunWhereInput = { runtimeEnvironmentId: environmentId };
  if (after) {
    const { createdAt, id } = decode(after);
    where.createdAt = { lte: createdAt };
    where.OR = [{ createdAt: { lt: createdAt } }, { id: { lt: id } }];
  }
  const runs = await prisma.taskRun.findMany({
    where,
    orderBy: [{ createdAt: "desc" }, { id: "desc" }],
    take: size,
    select: { id: true, status: true, taskIdentifier: true, createdAt: true, runTags: true },
  });
  const last = runs.length === size ? runs[size - 1] : undefined;
  return { runs, next: last ? encode(last) : null };
}

const encode = ({ createdAt, id }: { createdAt: Date; id: string }) =>
  Buffer.from(`${createdAt.toISOString()} ${id}`).toString("base64url");

function decode(cursor: string): { createdAt: Date; id: string } {
  const [time = "", id = ""] = Buffer.from(cursor, "base64url").toString().split(" ");
  return { createdAt: new Date(time), id };
}
