// One connection that listens, for the whole process.  It must not go through a
// pooler that shares connections between transactions.  Notifications that are
// sent while the connection is lost are not repeated.  Each new connection emits
// "ready".

import { EventEmitter } from "node:events";
import pg from "pg";

const retryAfterMs = 1000;

export class Listener extends EventEmitter {
  ready = false;
  #channels: string[];
  #client: pg.Client | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(channels: string[]) {
    super();
    this.#channels = channels;
    this.setMaxListeners(0); // one for each request that waits
  }

  async connect(): Promise<void> {
    const client = new pg.Client({ keepAlive: true });
    const lost = (error?: Error) => {
      if (this.#client !== client || this.#closed) return;
      console.error(`listener: ${error?.message ?? "connection ended"}`);
      this.#client = undefined;
      this.ready = false;
      this.emit("lost");
      this.#retry = setTimeout(() => void this.connect(), retryAfterMs);
    };
    this.#client = client;
    client.on("error", lost);
    client.on("end", lost);
    client.on("notification", ({ channel, payload }) => this.emit(channel, payload ?? ""));
    try {
      await client.connect();
      for (const channel of this.#channels) await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
      this.ready = true;
      this.emit("ready");
    } catch (error) {
      lost(error as Error);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    await this.#client?.end();
  }
}
