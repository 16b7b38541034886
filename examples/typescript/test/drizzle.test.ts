// What Drizzle does through the views.  The only thing to tell it is the schema.

import assert from "node:assert/strict";
import { after } from "node:test";
import { and, avg, count, desc, eq, inArray, relations, sql, sum } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgSchema, text, timestamp } from "drizzle-orm/pg-core";
import pg from "pg";
import { sorted, trial, type Ids } from "./trials.js";

const routed = pgSchema("routed");
const run = routed.table("run", {
  id: text().primaryKey(),
  note: text(),
  n: integer().notNull().default(0),
  at: timestamp({ withTimezone: true }).defaultNow().$onUpdate(() => new Date()),
  version: integer().notNull().default(0),
});
const step = routed.table("step", { id: text().primaryKey(), runId: text(), n: integer() });
const runRelations = relations(run, ({ many }) => ({ steps: many(step) }));
const stepRelations = relations(step, ({ one }) => ({ run: one(run, { fields: [step.runId], references: [run.id] }) }));

const pool = new pg.Pool({ max: 3 });
const db = drizzle(pool, { schema: { run, step, runRelations, stepRelations } });
after(() => pool.end());

const some = (ids: Ids) => db.insert(run).values(ids.map((id, n) => ({ id, note: ids[0], n })));

trial("Drizzle: insert, select, update, delete", async ([id]) => {
  assert.equal((await db.insert(run).values({ id, note: "a" }).returning())[0]?.n, 0);
  const changed = await db.update(run).set({ n: sql`${run.n} + 1`, note: "b" }).where(eq(run.id, id)).returning();
  assert.deepEqual(changed.map(({ note, n }) => [note, n]), [["b", 1]]);
  const prepared = db.select().from(run).where(eq(run.id, sql.placeholder("id"))).prepare("run_by_id");
  for (let i = 0; i < 7; i++) assert.equal((await prepared.execute({ id }))[0]?.note, "b");
  assert.equal((await db.delete(run).where(eq(run.id, id))).rowCount, 1);
  assert.deepEqual(await db.select().from(run).where(eq(run.id, id)), []);
});

trial("Drizzle: onConflictDoNothing, onConflictDoUpdate", async (ids) => {
  await db.insert(run).values(ids.slice(1, 3).map((id) => ({ id, note: "first", n: 1 })));
  const rows = ids.map((id) => ({ id, note: "last", n: 10 }));
  const added = await db.insert(run).values(rows.slice(0, 2)).onConflictDoNothing().returning({ id: run.id });
  assert.deepEqual(sorted(added), [ids[0]]);
  const put = await db.insert(run).values(rows).onConflictDoUpdate({
    target: run.id, set: { note: "put", n: sql`${run.n} + excluded.n` }, setWhere: sql`${run.n} < 5`,
  }).returning();
  assert.deepEqual(
    put.map(({ id, note, n }) => `${id} ${note} ${n}`).sort(),
    [`${ids[1]} put 11`, `${ids[2]} put 11`, `${ids[3]} last 10`].sort());
});

trial("Drizzle: insert from select, update from, CTEs", async (ids) => {
  await some(ids);
  const source = db.select({ id: sql<string>`${run.id} || ' 1'`.as("id"), runId: run.id, n: run.n }).from(run).where(eq(run.note, ids[0]));
  assert.equal((await db.insert(step).select(source)).rowCount, 4);
  const joined = await db.update(step).set({ n: sql`${run.n} * 10` }).from(run)
    .where(and(eq(step.runId, run.id), eq(run.note, ids[0]))).returning({ n: step.n });
  assert.deepEqual(joined.map(({ n }) => n).sort(), [0, 10, 20, 30]);
  const old = db.$with("old").as(db.delete(step).where(inArray(step.runId, ids)).returning());
  assert.deepEqual(await db.with(old).select({ count: count() }).from(old), [{ count: 4 }]);
});

trial("Drizzle: transactions with savepoints", async (ids) => {
  await db.transaction(async (outer) => {
    await outer.insert(run).values({ id: ids[0] });
    await outer.transaction((inner) => inner.insert(run).values({ id: ids[1] }));
    await assert.rejects(outer.transaction(async (inner) => {
      await inner.insert(run).values({ id: ids[2] });
      await inner.insert(run).values({ id: ids[0] });
    }));
    assert.equal(await outer.$count(run, inArray(run.id, ids)), 2);
  });
  assert.deepEqual(sorted(await db.select().from(run).where(inArray(run.id, ids))), ids.slice(0, 2).sort());
});

trial("Drizzle: for update, skip locked", async (ids) => {
  await some(ids);
  await db.transaction(async (first) => {
    await first.select().from(run).where(inArray(run.id, [ids[0], ids[3]])).for("update");
    await db.transaction(async (second) => {
      const jobs = second.select({ id: run.id }).from(run).where(eq(run.note, ids[0])).orderBy(run.n).limit(1).for("update", { skipLocked: true });
      const taken = await second.update(run).set({ note: null }).where(inArray(run.id, jobs)).returning();
      assert.deepEqual(sorted(taken), [ids[1]]);
      const rest = await second.select().from(run).where(eq(run.note, ids[0])).for("no key update", { skipLocked: true });
      assert.deepEqual(sorted(rest), [ids[2]]);
    });
  });
});

trial("Drizzle: for update of a join", async ([id]) => {
  await db.insert(run).values({ id });
  await db.transaction((t) => t.select().from(step).innerJoin(run, eq(step.runId, run.id)).where(eq(run.id, id)).for("update"));
}, "0A000");

trial("Drizzle: optimistic lock", async ([id]) => {
  await db.insert(run).values({ id });
  const change = (version: number) =>
    db.update(run).set({ version: version + 1 }).where(and(eq(run.id, id), eq(run.version, version)));
  assert.equal((await change(0)).rowCount, 1);
  assert.equal((await change(0)).rowCount, 0);
});

trial("Drizzle: counts, aggregates, pages, joins", async (ids) => {
  await some(ids);
  await db.insert(step).values(ids.flatMap((id) => [1, 2].map((n) => ({ id: `${id} ${n}`, runId: id, n }))));
  const mine = eq(run.note, ids[0]);
  assert.deepEqual(
    await db.select({ count: count(), sum: sum(run.n).mapWith(Number), avg: avg(run.n).mapWith(Number) }).from(run).where(mine),
    [{ count: 4, sum: 6, avg: 1.5 }]);
  const grouped = await db.select({ id: run.id, steps: count(step.id) }).from(run).leftJoin(step, eq(step.runId, run.id))
    .where(mine).groupBy(run.id).having(({ steps }) => eq(steps, 2));
  assert.deepEqual(sorted(grouped), [...ids].sort());
  // a run with its steps is a lateral join
  const page = await db.query.run.findMany({ where: mine, with: { steps: { orderBy: step.n } }, orderBy: desc(run.n), offset: 1, limit: 2 });
  assert.deepEqual(page.map(({ n, steps }) => [n, steps.map((s) => s.n)]), [[2, [1, 2]], [1, [1, 2]]]);
  const found = await db.query.step.findMany({ where: and(eq(step.n, 2), inArray(step.runId, ids)), with: { run: true } });
  assert.deepEqual(sorted(found.map((s) => s.run!)), [...ids].sort());
});
