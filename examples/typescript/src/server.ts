// The service: runs and waitpoints over HTTP.
//
//   POST /environments/ID/runs                {task, payload, tags?, parentId?}
//   GET  /environments/ID/runs?after=&size=   {runs, next}
//   GET  /runs/ID
//   POST /runs/ID/waitpoints
//   GET  /waitpoints/ID?timeout=MS            waits until it is completed
//   POST /waitpoints/ID/complete              {output}
//   GET  /status

import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { close, prisma } from "./database.js";
import { EnvironmentCache } from "./environments.js";
import { Listener } from "./listener.js";
import { createRun, getRun, listRuns, type NewRun } from "./runs.js";
import * as waitpoints from "./waitpoints.js";

const listener = new Listener(["run_ops_cache", waitpoints.channel]);
const environments = new EnvironmentCache(listener);

class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

function found<T>(value: T | null, what: string): T {
  if (value === null) throw new HttpError(404, `no such ${what}`);
  return value;
}

async function body(request: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  try {
    return JSON.parse(text || "{}");
  } catch {
    throw new HttpError(400, "the body is not JSON");
  }
}

async function answer(request: IncomingMessage): Promise<unknown> {
  const url = new URL(request.url ?? "/", "http://localhost");
  const [, kind, id = "", action = ""] = url.pathname.split("/");
  switch (`${request.method} ${kind} ${action}`) {
    case "POST environments runs": {
      const env = found(await environments.get(id), "environment");
      const run = (await body(request)) as Partial<NewRun>;
      if (env.paused || !env.organization.runs_enabled) throw new HttpError(409, "the environment is paused");
      if (typeof run.task !== "string") throw new HttpError(400, "task is missing");
      return createRun(env, { payload: {}, ...run, task: run.task });
    }
    case "GET environments runs":
      return listRuns(id, url.searchParams.get("after"), Number(url.searchParams.get("size") ?? 25));
    case "GET runs ":
      return found(await getRun(id), "run");
    case "POST runs waitpoints":
      return found(await waitpoints.createWaitpoint(id), "run");
    case "GET waitpoints ":
      return found(await waitpoints.waitFor(listener, id, Number(url.searchParams.get("timeout") ?? 0)), "waitpoint");
    case "POST waitpoints complete": {
      const { output = null } = (await body(request)) as { output?: unknown };
      return { completed: await waitpoints.completeWaitpoint(id, output) };
    }
    case "GET status ":
      return { split: (await prisma.splitStatus.findFirstOrThrow()).split, cache: environments.counts };
    default:
      throw new HttpError(404, "no such route");
  }
}

const server = createServer((request, response) => {
  answer(request)
    .then(
      (value) => [200, value] as const,
      (error: Error) => {
        if (error instanceof HttpError) return [error.status, { error: error.message }] as const;
        console.error(error);
        return [500, { error: error.message }] as const;
      },
    )
    .then(([status, value]) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    });
});

await listener.connect();
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () =>
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`),
);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    server.close();
    server.closeAllConnections();
    void listener.close().then(close);
  });
}
