// Both clients connect to the control-plane database only.  PGHOST, PGPORT,
// PGUSER and PGDATABASE give its address.  Nothing here knows that there is
// another store.

import { createHash } from "node:crypto";
import pg from "pg";
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.js";

export const pool = new pg.Pool({ max: 5, idleTimeoutMillis: 300_000 });
// a server that shuts down ends idle connections; the pool opens new ones
pool.on("error", (error) => console.error(`idle connection: ${error.message}`));

// Named prepared statements are planned once per connection.  PostgreSQL plans
// them again when the views change, so connections can stay open while split is
// switched.
export const prisma = new PrismaClient({
  adapter: new PrismaPg(pool, {
    statementNameGenerator: ({ sql }) => createHash("sha1").update(sql).digest("hex"),
  }),
  // the store is reached over a network; the defaults of Prisma are 2 and 5 seconds
  transactionOptions: { maxWait: 10_000, timeout: 30_000 },
});

// If another session changes a row of the store at the same time, the update
// fails with a write conflict (P2034).  An update of a local row would wait.
export async function retrying<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if ((error as { code?: string }).code !== "P2034" || attempt === 5) throw error;
    }
  }
}

export async function close(): Promise<void> {
  await prisma.$disconnect();
  await pool.end();
}
