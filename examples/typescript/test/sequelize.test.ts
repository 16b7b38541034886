// What Sequelize does through the views.  The only thing to tell it is the schema.

import assert from "node:assert/strict";
import { after } from "node:test";
import {
  DataTypes, Model, Op, OptimisticLockError, Sequelize, Transaction, UniqueConstraintError,
  type CreationOptional, type InferAttributes, type InferCreationAttributes, type NonAttribute,
} from "sequelize";
import { env } from "./settings.js";
import { sorted, trial, type Ids } from "./trials.js";

const db = new Sequelize(env("PGDATABASE"), env("PGUSER"), "", {
  dialect: "postgres", host: env("PGHOST"), port: Number(env("PGPORT")), logging: false, pool: { max: 3 },
});
after(() => db.close());

class Run extends Model<InferAttributes<Run>, InferCreationAttributes<Run>> {
  declare id: string;
  declare note: CreationOptional<string | null>;
  declare n: CreationOptional<number>;
  declare at: CreationOptional<Date>;
  declare version: CreationOptional<number>;
  declare steps?: NonAttribute<Step[]>;
}

class Step extends Model<InferAttributes<Step>, InferCreationAttributes<Step>> {
  declare id: string;
  declare runId: string;
  declare n: CreationOptional<number | null>;
  declare run?: NonAttribute<Run>;
}

const options = { sequelize: db, schema: "routed" } as const;
Run.init({
  id: { type: DataTypes.TEXT, primaryKey: true },
  note: DataTypes.TEXT,
  n: { type: DataTypes.INTEGER, defaultValue: 0 },
  at: DataTypes.DATE,
  version: { type: DataTypes.INTEGER, defaultValue: 0 },
}, { ...options, tableName: "run", createdAt: false, updatedAt: "at", version: true });
Step.init({
  id: { type: DataTypes.TEXT, primaryKey: true },
  runId: DataTypes.TEXT,
  n: DataTypes.INTEGER,
}, { ...options, tableName: "step", timestamps: false });
Run.hasMany(Step, { as: "steps", foreignKey: "runId" });
Step.belongsTo(Run, { as: "run", foreignKey: "runId" });

const some = (ids: Ids) => Run.bulkCreate(ids.map((id, n) => ({ id, note: ids[0], n })));

trial("Sequelize: create, find, update, destroy", async ([id]) => {
  const run = await Run.create({ id, note: "a" });
  await run.update({ note: "b" });
  await run.increment("n", { by: 2 });
  const found = await Run.findByPk(id, { rejectOnEmpty: true });
  assert.deepEqual([found.note, found.n], ["b", 2]);
  assert.deepEqual(await Run.update({ note: "c" }, { where: { id } }), [1]);
  const [, rows] = await Run.update({ n: db.literal("n + 1") }, { where: { id }, returning: true });
  assert.deepEqual(rows.map(({ note, n }) => [note, n]), [["c", 3]]);
  assert.equal(await Run.destroy({ where: { id } }), 1);
  assert.equal(await Run.findByPk(id), null);
});

trial("Sequelize: create of a run with its steps", async ([id]) => {
  await Run.create({ id, steps: [1, 2].map((n) => ({ id: `${id} ${n}`, n })) } as never, { include: "steps" });
  const run = await Run.findByPk(id, { include: "steps", rejectOnEmpty: true });
  assert.equal(run.steps?.length, 2);
  await run.destroy();
  assert.equal(await Step.count({ where: { runId: id } }), 0);
});

trial("Sequelize: upsert, findOrCreate, findCreateFind", async ([id, second, third]) => {
  for (const note of ["a", "b"]) await Run.upsert({ id, note });
  assert.equal((await Run.findByPk(id))?.note, "b");
  for (const created of [true, false]) {
    assert.equal((await Run.findOrCreate({ where: { id: second }, defaults: { id: second, note: "c" } }))[1], created);
    assert.equal((await Run.findCreateFind({ where: { id: third }, defaults: { id: third, note: "c" } }))[1], created);
  }
});

trial("Sequelize: findOrCreate of a key that is there", async ([id]) => {
  await Run.create({ id, note: "a" });
  const other = Run.findOrCreate({ where: { id, note: "b" } });
  await assert.rejects(other, UniqueConstraintError);
});

trial("Sequelize: bulkCreate with ignoreDuplicates and updateOnDuplicate", async (ids) => {
  await Run.bulkCreate(ids.slice(1, 3).map((id) => ({ id, note: "first" })));
  const rows = ids.map((id) => ({ id, note: "last", n: 5 }));
  await Run.bulkCreate(rows, { ignoreDuplicates: true });
  assert.equal(await Run.count({ where: { id: ids, note: "last" } }), 2);
  await Run.bulkCreate(rows, { updateOnDuplicate: ["note", "n"] });
  assert.equal(await Run.count({ where: { id: ids, note: "last", n: 5 } }), 4);
});

trial("Sequelize: transactions with savepoints", async (ids) => {
  await db.transaction(async (outer) => {
    await Run.create({ id: ids[0] }, { transaction: outer });
    await db.transaction({ transaction: outer }, (inner) => Run.create({ id: ids[1] }, { transaction: inner }));
    await assert.rejects(db.transaction({ transaction: outer }, async (inner) => {
      await Run.create({ id: ids[2] }, { transaction: inner });
      await Run.create({ id: ids[0] }, { transaction: inner });
    }), UniqueConstraintError);
    assert.equal(await Run.count({ where: { id: ids }, transaction: outer }), 2);
  });
  assert.deepEqual(sorted(await Run.findAll({ where: { id: ids } })), ids.slice(0, 2).sort());
});

trial("Sequelize: lock and skipLocked", async (ids) => {
  await some(ids);
  await db.transaction(async (transaction) => {
    await Run.findAll({ where: { id: [ids[0], ids[3]] }, lock: Transaction.LOCK.UPDATE, transaction });
    await db.transaction(async (transaction) => {
      const rest = { where: { note: ids[0] }, lock: Transaction.LOCK.NO_KEY_UPDATE, skipLocked: true, transaction };
      assert.equal((await Run.findOne({ ...rest, order: ["n"] }))?.id, ids[1]);
      assert.deepEqual(sorted(await Run.findAll(rest)), ids.slice(1, 3).sort());
    });
  });
});

trial("Sequelize: lock of a run with its steps", async ([id]) => {
  await Run.create({ id });
  await Step.create({ id: `${id} 1`, runId: id });
  await db.transaction((transaction) =>
    Step.findAll({ where: { runId: id }, include: { association: "run", required: true }, lock: { level: Transaction.LOCK.UPDATE, of: Step }, transaction }));
}, "0A000");

trial("Sequelize: optimistic lock", async ([id]) => {
  await Run.create({ id });
  const [first, second] = [await Run.findByPk(id, { rejectOnEmpty: true }), await Run.findByPk(id, { rejectOnEmpty: true })];
  await first.update({ note: "a" });
  await assert.rejects(second.update({ note: "b" }), OptimisticLockError);
});

trial("Sequelize: counts, aggregates, pages, joins", async (ids) => {
  await some(ids);
  await Step.bulkCreate(ids.flatMap((id) => [1, 2].map((n) => ({ id: `${id} ${n}`, runId: id, n }))));
  const where = { note: ids[0] };
  assert.equal(await Run.sum("n", { where }), 6);
  assert.deepEqual((await Run.count({ where, group: ["note"] })).map(({ count }) => Number(count)), [4]);
  // pages of runs with all their steps
  const { rows, count } = await Run.findAndCountAll({ where, include: "steps", distinct: true, order: [["n", "DESC"]], offset: 1, limit: 2 });
  assert.equal(count, 4);
  assert.deepEqual(rows.map(({ n, steps }) => [n, steps?.length]), [[2, 2], [1, 2]]);
  const found = await Step.findAll({ where: { n: 2 }, include: { association: "run", where }, order: [["run", "n", "ASC"]] });
  assert.deepEqual(found.map(({ run }) => run?.id), ids);
  assert.equal(await Step.count({ where: { n: { [Op.gt]: 1 }, "$run.note$": ids[0] } as never, include: "run" }), 4);
});
