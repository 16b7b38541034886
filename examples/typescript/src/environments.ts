// A cache of environments that follows the channel run_ops_cache.
//
// The database sends "scope:key" when a row that an answer can contain has
// changed, and "scope:*" when many have changed.  Then the cache drops the
// answers that contain such rows.

import { pool } from "./database.js";
import type { Listener } from "./listener.js";

export interface Environment {
  id: string;
  type: "PRODUCTION" | "STAGING" | "DEVELOPMENT" | "PREVIEW";
  paused: boolean;
  parent_environment_id: string | null;
  project_id: string;
  organization_id: string;
  organization: { title: string; runs_enabled: boolean };
  org_member_id: string | null;
  org_member: { user_id: string } | null;
}

// the rows from which an answer was computed
const sourcesOf = (env: Environment) => [
  `environment:${env.id}`,
  `environment:${env.parent_environment_id}`,
  `project:${env.project_id}`,
  `organization:${env.organization_id}`,
  `org_member:${env.org_member_id}`,
  `user:${env.org_member?.user_id}`,
];

export class EnvironmentCache {
  readonly counts = { hits: 0, misses: 0 };
  #known = new Map<string, { env: Environment; sources: string[] }>();
  #age = 0; // changes whenever a notification came, or may have been missed
  #listener: Listener;

  constructor(listener: Listener) {
    this.#listener = listener;
    listener.on("run_ops_cache", (changed: string) => this.#forget(changed));
    for (const event of ["lost", "ready"]) {
      listener.on(event, () => {
        this.#age++;
        this.#known.clear();
      });
    }
  }

  async get(id: string): Promise<Environment | null> {
    const known = this.#known.get(id);
    if (known) {
      this.counts.hits++;
      return known.env;
    }
    this.counts.misses++;
    const age = this.#age;
    const { rows } = await pool.query<{ env: Environment | null }>({
      name: "resolve_authenticated_env",
      text: "SELECT to_jsonb(run_ops.resolve_authenticated_env($1)) AS env",
      values: [id],
    });
    const env = rows[0]?.env ?? null;
    // The answer may be older than a notification that came after the query was
    // sent.  A missing environment is not cached.
    if (env && this.#listener.ready && age === this.#age) {
      this.#known.set(id, { env, sources: sourcesOf(env) });
    }
    return env;
  }

  #forget(changed: string): void {
    this.#age++;
    const all = changed.endsWith(":*") ? changed.slice(0, -1) : undefined;
    for (const [id, { sources }] of this.#known) {
      if (sources.some((source) => source === changed || (all && source.startsWith(all)))) {
        this.#known.delete(id);
      }
    }
  }
}
