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

export async function close(): Promise<void> {
  await prisma.$disconnect();
  await pool.end();
}
