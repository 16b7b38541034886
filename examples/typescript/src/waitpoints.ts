// Waitpoints: a run waits until its waitpoint is completed.

import { pool, prisma } from "./database.js";
import type { Waitpoint } from "./generated/client.js";
import type { Listener } from "./listener.js";

export const channel = "example_waitpoint";

// The waitpoint is in the store of the run that waits for it, because its id is
// generated for that store.
export async function createWaitpoint(runId: string): Promise<Waitpoint | null> {
  const run = await prisma.taskRun.findUnique({ where: { id: runId } });
  if (!run) return null;
  const [minted] = await prisma.$queryRaw<{ id: string }[]>`SELECT run_ops.mint_waitpoint_id(${runId}) AS id`;
  const { id } = minted!;
  const [waitpoint] = await prisma.$transaction([
    prisma.waitpoint.create({
      data: {
        id,
        friendlyId: `waitpoint_${id}`,
        type: "MANUAL",
        idempotencyKey: id,
        userProvidedIdempotencyKey: false,
        projectId: run.projectId,
        environmentId: run.runtimeEnvironmentId,
      },
    }),
    prisma.taskRunWaitpoint.create({
      data: { taskRunId: runId, waitpointId: id, projectId: run.projectId },
    }),
    prisma.taskRun.update({ where: { id: runId }, data: { status: "WAITING_TO_RESUME" } }),
  ]);
  return waitpoint;
}

// Returns true for the caller that completed it, and false if it was completed
// before.
export async function completeWaitpoint(id: string, output: unknown): Promise<boolean> {
  const { count } = await prisma.waitpoint.updateMany({
    where: { id, status: "PENDING" },
    data: { status: "COMPLETED", completedAt: new Date(), output: JSON.stringify(output) },
  });
  if (count > 0) await pool.query("SELECT pg_notify($1, $2)", [channel, id]);
  return count > 0;
}

const askAgainMs = 30_000;

// Waits for the notification of completeWaitpoint().  The row decides: it is read
// after listening has started, so that no notification is missed, and read again
// from time to time.
export async function waitFor(listener: Listener, id: string, timeoutMs: number): Promise<Waitpoint | null> {
  const until = Date.now() + timeoutMs;
  for (;;) {
    let wake = () => {};
    const woken = new Promise<void>((resolve) => (wake = resolve));
    const hear = (completed: string) => completed === id && wake();
    const timer = setTimeout(wake, Math.max(0, Math.min(askAgainMs, until - Date.now())));
    listener.on(channel, hear);
    try {
      const waitpoint = await prisma.waitpoint.findUnique({ where: { id } });
      if (!waitpoint || waitpoint.status === "COMPLETED" || Date.now() >= until) return waitpoint;
      await woken;
    } finally {
      clearTimeout(timer);
      listener.off(channel, hear);
    }
  }
}
