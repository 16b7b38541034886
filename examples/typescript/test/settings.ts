// Environment variables that the tests need, besides PGHOST and the like.
//
//   EXPECT_SPLIT  on or off
//   LEGACY_ENV    an environment whose organization has cuids for new ids
//   NEW_ENV       one whose organization has runOpsIds for new ids
//   LIST_ENV      another one of that organization, without runs
//   APP_URL       where the service listens
//   SEEN          a file that keeps the ids of the created runs, from one run of the tests to the next

export function env(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
