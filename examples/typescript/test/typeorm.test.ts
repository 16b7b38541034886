// What TypeORM does through the views.  The only thing to tell it is the schema.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import { DataSource, EntitySchema, In, OptimisticLockVersionMismatchError } from "typeorm";
import { sorted, trial, type Ids } from "./trials.js";

class Run {
  id!: string;
  note!: string | null;
  n!: number;
  at!: Date;
  version!: number;
  steps!: Step[];
}

class Step {
  id!: string;
  n!: number | null;
  run!: Run;
}

const runs = new EntitySchema<Run>({
  name: "run",
  target: Run,
  schema: "routed",
  columns: {
    id: { type: "text", primary: true },
    note: { type: "text", nullable: true },
    n: { type: "int", default: 0 },
    at: { type: "timestamptz", updateDate: true },
    version: { type: "int", version: true },
  },
  relations: { steps: { type: "one-to-many", target: () => Step, inverseSide: "run", cascade: true } },
});

const steps = new EntitySchema<Step>({
  name: "step",
  target: Step,
  schema: "routed",
  columns: { id: { type: "text", primary: true }, n: { type: "int", nullable: true } },
  relations: {
    run: { type: "many-to-one", target: () => Run, inverseSide: "steps", joinColumn: { name: "runId" }, orphanedRowAction: "delete" },
  },
});

const db = new DataSource({ type: "postgres", entities: [runs, steps] });
const all = db.getRepository(Run);
before(() => db.initialize());
after(() => db.destroy());

const some = (ids: Ids) => all.save(ids.map((id, n) => all.create({ id, note: ids[0], n })));

trial("TypeORM: save, find, update, delete", async ([id]) => {
  const run = await all.save(all.create({ id, note: "a", n: 1 }));
  assert.ok(run.at instanceof Date);
  run.note = "b";
  await all.save(run);
  assert.equal((await all.findOneByOrFail({ id })).note, "b");
  assert.equal((await all.update({ id }, { note: "c" })).affected, 1);
  await all.increment({ id }, "n", 2);
  assert.deepEqual((({ note, n }) => ({ note, n }))(await all.findOneByOrFail({ id })), { note: "c", n: 3 });
  assert.equal((await all.delete({ id })).affected, 1);
  assert.equal(await all.findOneBy({ id }), null);
});

trial("TypeORM: save and remove of a run with its steps", async ([id]) => {
  const run = await all.save(all.create({ id, steps: [1, 2, 3].map((n) => ({ id: `${id} ${n}`, n })) }));
  run.steps.pop();
  run.steps[0]!.n = 10;
  await all.save(run);
  const found = await all.findOneOrFail({ where: { id }, relations: { steps: true }, order: { steps: { n: "DESC" } } });
  assert.deepEqual(found.steps.map(({ n }) => n), [10, 2]);
  await all.remove(found);
  assert.equal(await db.getRepository(Step).countBy({ run: { id } }), 0);
});

trial("TypeORM: upsert, orIgnore, orUpdate", async (ids) => {
  await all.insert(ids.slice(1, 3).map((id) => ({ id, note: "first" })));
  await all.upsert(ids.slice(0, 2).map((id) => ({ id, note: "upserted" })), ["id"]);
  await all.upsert([{ id: ids[0], note: "upserted" }], { conflictPaths: ["id"], skipUpdateIfNoValuesChanged: true });
  const last = () => all.createQueryBuilder().insert().values(ids.map((id) => ({ id, note: "last" })));
  const ignored = await last().orIgnore().returning("id").execute();
  assert.deepEqual(sorted(ignored.raw), [ids[3]]);
  const notes = async () => (await all.find({ where: { id: In(ids) } })).map(({ id, note }) => `${id} ${note}`).sort();
  assert.deepEqual(await notes(), ids.map((id, i) => `${id} ${["upserted", "upserted", "first", "last"][i]}`).sort());
  await last().orUpdate(["note"], ["id"]).execute();
  assert.deepEqual(await notes(), ids.map((id) => `${id} last`).sort());
});

trial("TypeORM: transactions with savepoints", async (ids) => {
  await db.transaction(async (outer) => {
    await outer.insert(Run, { id: ids[0] });
    await outer.transaction((inner) => inner.insert(Run, { id: ids[1] }));
    await assert.rejects(outer.transaction(async (inner) => {
      await inner.insert(Run, { id: ids[2] });
      await inner.insert(Run, { id: ids[0] });
    }), { code: "23505" });
    assert.equal(await outer.countBy(Run, { id: In(ids) }), 2);
  });
  assert.deepEqual(sorted(await all.findBy({ id: In(ids) })), ids.slice(0, 2).sort());
});

trial("TypeORM: pessimistic locks", async (ids) => {
  await some(ids);
  await db.transaction(async (first) => {
    await first.find(Run, { where: { id: In([ids[0], ids[3]]) }, lock: { mode: "pessimistic_write" } });
    await db.transaction(async (second) => {
      const lock = { mode: "pessimistic_write", onLocked: "skip_locked" } as const;
      const job = await second.findOne(Run, { where: { note: ids[0] }, order: { n: "ASC" }, lock });
      assert.equal(job?.id, ids[1]);
      assert.deepEqual(sorted(await second.find(Run, { where: { note: ids[0] }, lock })), ids.slice(1, 3).sort());
      const nowait = { mode: "for_no_key_update", onLocked: "nowait" } as const;
      await assert.rejects(second.findOne(Run, { where: { id: ids[0] }, lock: nowait }), { code: "55P03" });
    });
  });
});

trial("TypeORM: pessimistic lock of a run with its steps", async ([id]) => {
  await all.save(all.create({ id, steps: [{ id: `${id} 1`, n: 1 }] }));
  await db.transaction((t) =>
    t.createQueryBuilder(Run, "r").innerJoinAndSelect("r.steps", "s").where({ id }).setLock("pessimistic_write").getMany());
}, "0A000");

trial("TypeORM: optimistic lock", async ([id]) => {
  const { version } = await all.save(all.create({ id }));
  const lock = { mode: "optimistic", version } as const;
  const run = await all.findOneOrFail({ where: { id }, lock });
  await all.save({ ...run, note: "b" });
  await assert.rejects(all.findOne({ where: { id }, lock }), OptimisticLockVersionMismatchError);
});

trial("TypeORM: counts, aggregates, pages, joins", async (ids) => {
  await all.save(ids.map((id, n) => all.create({ id, note: ids[0], n, steps: [1, 2].map((k) => ({ id: `${id} ${k}`, n: k })) })));
  const where = { note: ids[0] };
  assert.equal(await all.countBy(where), 4);
  assert.equal(Number(await all.sum("n", where)), 6);
  assert.equal(Number(await all.maximum("n", where)), 3);
  const groups = await all.createQueryBuilder("r").select("r.n % 2", "odd").addSelect("count(*)::int", "count")
    .where(where).groupBy("r.n % 2").orderBy("odd").getRawMany();
  assert.deepEqual(groups, [{ odd: 0, count: 2 }, { odd: 1, count: 2 }]);
  // pages of runs with all their steps
  const [page, total] = await all.findAndCount({ where, relations: { steps: true }, order: { n: "DESC" }, skip: 1, take: 2 });
  assert.equal(total, 4);
  assert.deepEqual(page.map(({ n, steps }) => [n, steps.length]), [[2, 2], [1, 2]]);
  const found = await db.getRepository(Step).find({ where: { n: 2, run: where }, relations: { run: true }, order: { run: { n: "ASC" } } });
  assert.deepEqual(found.map(({ run }) => run.id), ids);
});
