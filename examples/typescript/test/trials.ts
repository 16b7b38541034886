// Trials of a client on two small tables behind views: routed.run (id, note, n,
// at, version), where the id decides the store, and routed.step (id, runId, n).
// Each trial takes place once with rows of each store.  What does not work with
// split on fails with the SQLSTATE that is given, as docs/limits.md says.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { test } from "node:test";
import { env } from "./settings.js";

const split = env("EXPECT_SPLIT") === "on";
const stores = ["LEGACY", "NEW"] as const;
type Store = (typeof stores)[number];

function newId(store: Store): string {
  const digits = Array.from({ length: 24 }, () => randomInt(10)).join("");
  return split && store === "NEW" ? `run_000${digits}` : `run_c${digits}`;
}

/** Four new ids: two of one store, and two of the other. */
export type Ids = [string, string, string, string];

function sqlstate(error: unknown): string | undefined {
  for (let e = error as { code?: string; parent?: unknown; cause?: unknown } | undefined; e; e = (e.parent ?? e.cause) as typeof e) {
    if (e.code && /^[0-9A-Z]{5}$/.test(e.code)) return e.code;
  }
  return undefined;
}

export function trial(name: string, work: (ids: Ids) => Promise<void>, on?: string): void {
  for (const store of stores) {
    const other = store === "NEW" ? "LEGACY" : "NEW";
    test(`${name}, ${store}`, async () => {
      const done = work([newId(store), newId(store), newId(other), newId(other)]);
      if (split && on) await assert.rejects(done, (error) => (assert.equal(sqlstate(error), on, String(error)), true));
      else await done;
    });
  }
}

export const sorted = (rows: { id: string }[]): string[] => rows.map(({ id }) => id).sort();
