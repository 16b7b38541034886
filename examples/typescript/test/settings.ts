// What the tests are told about the databases, beside PGHOST and the like.
//
//   EXPECT_SPLIT  on or off
//   LEGACY_ENV    an environment whose organization mints cuids
//   NEW_ENV       one whose organization mints ids of the new store
//   LIST_ENV      another one of that organization, without runs
//   APP_URL       where the service listens
//   SEEN          a file that keeps what was made, from one run of the tests to the next

export function env(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
