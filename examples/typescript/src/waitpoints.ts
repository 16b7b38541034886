// Waitpoints: a run waits until somebody completes one.

import { pool, prisma, retrying } from "./database.js";
import type { Waitpoint } from "./generated/client.js";
import type { Listener } from "./listener.js";

export const channel = "example_waitpoint";

// A waitpoint lives beside the run that waits for it: its id is minted so.
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

// True for the one who completed it; false when it was completed before.
export async function completeWaitpoint(id: string, output: unknown): Promise<boolean> {
  const { count } = await retrying(() =>
    prisma.waitpoint.updateMany({
      where: { id, status: "PENDING" },
      data: { status: "COMPLETED", completedAt: new Date(), output: JSON.stringify(output) },
    }),
  );
  if (count > 0) await pool.query("SELECT pg_notify($1, $2)", [channel, id]);
  return count > 0;
}

const askAgainMs = 30_000;

// Waits for what completeWaitpoint() says.  The row is what counts: it is read
// after starting to listen, so that nothing is missed in between, and again
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
