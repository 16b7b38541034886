// Runs: made, read, listed.

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

// The database mints the id, and with it says where the run will live: where
// its parent lives, or else as the flag of the environment's organization says.
export async function mintRunId(environmentId: string, parentId: string | null = null) {
  const [minted] = await prisma.$queryRaw<{ id: string; friendly_id: string }[]>`
    SELECT id, friendly_id FROM run_ops.mint_run_id(${environmentId}, ${parentId})`;
  return minted!;
}

// A run and its first snapshot, in one transaction: both are in one store,
// because a snapshot is where its run is.
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

// A friendly id is the id behind "run_", and with the id only the store that can
// hold the run is asked.  Old friendly ids are random: every store is asked.
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

// The newest first.  A page goes on behind the last run of the page before, by
// (createdAt, id): each store sends its next few runs, in order, and no page
// costs more than the first.
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
