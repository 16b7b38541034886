// Both clients speak to the control-plane database, and to it alone: where it
// is, PGHOST, PGPORT, PGUSER and PGDATABASE say.  Nothing here knows of the
// other store.

import { createHash } from "node:crypto";
import pg from "pg";
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.js";

export const pool = new pg.Pool({ max: 5, idleTimeoutMillis: 300_000 });
// a server that goes away ends idle connections; the pool makes new ones
pool.on("error", (error) => console.error(`idle connection: ${error.message}`));

// Named prepared statements are planned once per connection; a plan is made
// anew when the views change, so connections stay open while split is switched.
export const prisma = new PrismaClient({
  adapter: new PrismaPg(pool, {
    statementNameGenerator: ({ sql }) => createHash("sha1").update(sql).digest("hex"),
  }),
  // the store is a network away; Prisma gives up after 2 and 5 seconds otherwise
  transactionOptions: { maxWait: 10_000, timeout: 30_000 },
});

// A row of the store that somebody else changes at the same time is a write
// conflict (P2034) where the same update of a local row would have waited.
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
