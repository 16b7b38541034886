// What Npgsql and EF Core send, from node-postgres: several statements in one
// batch of the extended protocol, with one Sync at its end, so that they are one
// transaction; prepared statements; parameters and results in binary format.

import assert from "node:assert/strict";
import { after } from "node:test";
import pg from "pg";
import { trial, type Ids } from "./trials.js";

type Value = string | number | string[] | null;
type Row = Record<string, unknown>;
interface Statement {
  text: string;
  values?: Value[];
  name?: string; // of a prepared statement
}

const int4 = (n: number) => (b => (b.writeInt32BE(n), b))(Buffer.alloc(4));
const sized = (b: Buffer) => Buffer.concat([int4(b.length), b]);
const typeOf = (v: Value) => (Array.isArray(v) ? 1009 : typeof v === "number" ? 23 : 25); // text[], int4, text

function encode(v: Value): Buffer | null {
  if (v === null) return null;
  if (typeof v === "number") return int4(v);
  if (typeof v === "string") return Buffer.from(v);
  // one dimension, no NULLs, elements of type text, and the bounds
  return Buffer.concat([int4(1), int4(0), int4(25), int4(v.length), int4(1), ...v.map((s) => sized(Buffer.from(s)))]);
}

// node-postgres hands over each value as a string of UTF-8, so bytes are below 128 here
function decode(type: number, value: string | null): unknown {
  if (value === null) return null;
  const b = Buffer.from(value);
  if (type === 23) return b.readInt32BE();
  if (type === 20) return Number(b.readBigInt64BE());
  if (type === 16) return b[0] === 1;
  return type === 25 ? value : b;
}

class Batch implements pg.Submittable {
  #results: { count: number; rows: Row[] }[] = [];
  #fields: { name: string; dataTypeID: number }[] = [];
  #rows: Row[] = [];
  #error: Error | undefined;
  callback = () => {};

  constructor(readonly statements: Statement[], readonly prepared: Set<string>) {}

  submit(connection: pg.Connection): void {
    for (const { text, values = [], name = "" } of this.statements) {
      if (!this.prepared.has(name)) connection.parse({ name, text, types: values.map(typeOf) as never }, true);
      if (name) this.prepared.add(name);
      connection.bind({ statement: name, values: values.map(encode), binary: true as never }, true);
      connection.describe({ type: "P" }, true);
      connection.execute(null, true);
    }
    connection.sync();
  }

  handleRowDescription = ({ fields }: { fields: { name: string; dataTypeID: number }[] }) => void (this.#fields = fields);
  handleDataRow = ({ fields }: { fields: (string | null)[] }) =>
    void this.#rows.push(Object.fromEntries(this.#fields.map((f, i) => [f.name, decode(f.dataTypeID, fields[i]!)])));
  handleCommandComplete = ({ text }: { text: string }) => {
    this.#results.push({ count: Number(text.split(" ").at(-1)), rows: this.#rows });
    this.#rows = [];
  };
  handleError = (error: Error) => {
    this.#error = error;
    this.callback();
  };
  handleReadyForQuery = () => this.callback();

  results = () => {
    if (this.#error) throw this.#error;
    return this.#results;
  };
}

const pool = new pg.Pool({ max: 3 });
after(() => pool.end());

async function connected<T>(work: (send: (...statements: Statement[]) => Promise<{ count: number; rows: Row[] }[]>) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  const prepared = new Set<string>();
  try {
    return await work(async (...statements) => {
      const batch = new Batch(statements, prepared);
      await new Promise<void>((done) => ((batch.callback = done), client.query(batch)));
      return batch.results();
    });
  } finally {
    client.release(true);
  }
}

const insert = (id: string, note: string): Statement => ({
  text: 'INSERT INTO routed.run (id, note) VALUES ($1, $2) RETURNING n, version', values: [id, note],
});
const some = (ids: Ids) => ids.map((id) => insert(id, ids[0]));
const find = (ids: string[]): Statement => ({
  text: "SELECT r.id, r.note, r.n FROM routed.run AS r WHERE r.id = ANY ($1) ORDER BY r.n, r.id", values: [ids],
});

trial("Npgsql: a batch of changes sees the changes before", (ids) =>
  connected(async (send) => {
    const [a, , , , found, changed, moved, gone, rest] = await send(
      ...some(ids),
      find(ids),
      { text: "UPDATE routed.run SET n = $1, version = version + 1 WHERE id = $2 AND version = $3 RETURNING version", values: [7, ids[0], 0] },
      { text: "UPDATE routed.run AS r SET n = r.n + 1 WHERE r.note = $1", values: [ids[0]] },
      { text: "DELETE FROM routed.run AS r WHERE r.id = ANY ($1)", values: [[ids[1], ids[2]]] },
      find(ids));
    assert.deepEqual(a?.rows, [{ n: 0, version: 0 }]);
    assert.equal(found?.count, 4);
    assert.deepEqual(changed?.rows, [{ version: 1 }]);
    assert.deepEqual([moved?.count, gone?.count], [4, 2]);
    assert.deepEqual(rest?.rows, [{ id: ids[3], note: ids[0], n: 1 }, { id: ids[0], note: ids[0], n: 8 }]);
  }));

trial("Npgsql: an error leaves nothing of a batch", (ids) =>
  connected(async (send) => {
    await assert.rejects(send(...some(ids), find(ids), insert(ids[0], "again"), insert("never", "parsed")), { code: "23505" });
    assert.deepEqual((await send(find(ids)))[0], { count: 0, rows: [] });
    await assert.rejects(send(insert(ids[0], "a"), { text: "SELECT 1 / $1", values: [0] }), { code: "22012" });
    assert.equal((await send(find(ids)))[0]?.count, 0);
  }));

trial("Npgsql: a transaction with savepoints, some batches long", (ids) =>
  connected(async (send) => {
    await send({ text: "BEGIN ISOLATION LEVEL REPEATABLE READ" }, insert(ids[0], "a"), { text: "SAVEPOINT s" }, insert(ids[2], "b"));
    await assert.rejects(send(insert(ids[1], "c"), insert(ids[2], "again")), { code: "23505" });
    await send({ text: "ROLLBACK TO s" }, insert(ids[3], "d"));
    await send({ text: "COMMIT" });
    assert.deepEqual((await send(find(ids)))[0]?.rows.map((r) => r.note).sort(), ["a", "d"]);
  }));

trial("Npgsql: prepared statements", (ids) =>
  connected(async (send) => {
    for (let i = 1; i <= 8; i++) {
      const [, , found] = await send(
        { name: "put", text: `INSERT INTO routed.run AS r (id, n) VALUES ($1, $2), ($3, $2)
          ON CONFLICT (id) DO UPDATE SET n = r.n + EXCLUDED.n RETURNING n`, values: [ids[0], 1, ids[2]] },
        { name: "change", text: "UPDATE routed.run SET note = $2 WHERE id = $1", values: [ids[i % 4 < 2 ? 0 : 2]!, String(i)] },
        { name: "find", text: "SELECT r.note, r.n FROM routed.run AS r WHERE r.id = $1", values: [ids[i % 4 < 2 ? 0 : 2]!] });
      assert.deepEqual(found?.rows, [{ note: String(i), n: i }]);
    }
  }));

trial("Npgsql: a pooled connection is reset", (ids) =>
  connected(async (send) => {
    await send(...some(ids));
    await send({ text: "DISCARD ALL" });
    assert.equal((await send(find(ids)))[0]?.count, 4);
  }));

trial("Npgsql: FOR UPDATE SKIP LOCKED in a batch", (ids) =>
  connected(async (send) => {
    await send(...some(ids));
    const jobs = (limit: number): Statement => ({
      text: "SELECT id FROM routed.run WHERE note = $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED", values: [ids[0], limit] });
    const [, first] = await send({ text: "BEGIN" }, jobs(1));
    const [rest] = await connected((other) => other(jobs(10)));
    // with LIMIT, either store may have locked one
    assert.equal(first?.count, 1);
    assert.ok(rest!.count <= 3 && rest!.rows.every(({ id }) => id !== first!.rows[0]!.id));
    await send({ text: "COMMIT" });
  }));

trial("EF Core: includes, pages, aggregates, ids in a parameter", (ids) =>
  connected(async (send) => {
    await send(...some(ids), ...ids.flatMap((id) => [1, 2].map((n) => ({
      text: 'INSERT INTO routed.step (id, "runId", n) VALUES ($1, $2, $3)', values: [`${id} ${n}`, id, n] }))));
    const mine = [ids[0]];
    const [included, last, any, page, groups, listed] = await send(
      { text: `SELECT r.id, s.id AS step FROM (SELECT r.id, r.n FROM routed.run AS r WHERE r.note = $1 ORDER BY r.n, r.id LIMIT $2 OFFSET $3) AS r
          LEFT JOIN routed.step AS s ON r.id = s."runId" ORDER BY r.n, r.id`, values: [ids[0], 2, 1] },
      { text: `SELECT r.id, s0.n FROM routed.run AS r LEFT JOIN (
          SELECT s1.n, s1."runId" FROM (
            SELECT s.n, s."runId", row_number() OVER (PARTITION BY s."runId" ORDER BY s.n DESC) AS row FROM routed.step AS s) AS s1
          WHERE s1.row <= 1) AS s0 ON r.id = s0."runId" WHERE r.note = $1`, values: mine },
      { text: 'SELECT EXISTS (SELECT 1 FROM routed.run AS r WHERE r.note = $1 AND EXISTS (SELECT 1 FROM routed.step AS s WHERE r.id = s."runId" AND s.n = 2))', values: mine },
      { text: "SELECT count(*)::int FROM routed.run AS r WHERE r.note = $1", values: mine },
      { text: "SELECT r.note AS key, count(*)::int, coalesce(sum(r.n), 0)::int AS sum FROM routed.run AS r WHERE r.note = $1 GROUP BY r.note", values: mine },
      { text: "SELECT r.id FROM unnest($1) WITH ORDINALITY AS i (value, place) JOIN routed.run AS r ON r.id = i.value ORDER BY i.place", values: [ids] });
    assert.equal(included?.count, 4);
    assert.deepEqual(last?.rows.map(({ n }) => n), [2, 2, 2, 2]);
    assert.deepEqual(any?.rows, [{ exists: true }]);
    assert.deepEqual(page?.rows, [{ count: 4 }]);
    assert.deepEqual(groups?.rows, [{ key: ids[0], count: 4, sum: 0 }]);
    assert.deepEqual(listed?.rows.map(({ id }) => id), ids);
    const [changed, gone] = await send(
      { text: 'UPDATE routed.step AS s SET n = s.n + r.n FROM routed.run AS r WHERE s."runId" = r.id AND r.note = $1', values: mine },
      { text: "DELETE FROM routed.run AS r WHERE r.note = $1", values: mine });
    assert.deepEqual([changed?.count, gone?.count], [8, 4]);
  }));

// A view has no system columns, so a model with UseXminAsConcurrencyToken() or
// IsRowVersion() needs a column instead, with IsConcurrencyToken().
trial("EF Core: concurrency token", ([id]) =>
  connected(async (send) => {
    await send(insert(id, "a"));
    await assert.rejects(send({ text: "SELECT r.id, r.xmin FROM routed.run AS r WHERE r.id = $1", values: [id] }), { code: "42703" });
    const change: Statement = { text: "UPDATE routed.run SET note = $1, version = $2 WHERE id = $3 AND version = $4", values: ["b", 1, id, 0] };
    assert.deepEqual((await send(change)).map(({ count }) => count), [1]);
    assert.deepEqual((await send(change)).map(({ count }) => count), [0]);
  }));
