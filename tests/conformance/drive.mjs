// Makes calls with a library of a service: node drive.mjs NODE_MODULES LIBRARY URL < CALLS, the key in KEY.
//
// CALLS is a list of [name, arguments...] in JSON. Prints a list of {value} or {error: {name, message, status}}.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import "./strict_vercel_sdk.mjs";

const [modules, library, url] = process.argv.slice(2);
const key = process.env.KEY;
const load = (file) => import(pathToFileURL(`${modules}/${file}`));
const LIBRARIES = {
  octokit: async () => {
    const { Octokit } = await load("@octokit/rest/dist-src/index.js");
    const log = { debug() {}, info() {}, warn() {}, error() {} };
    const octokit = new Octokit({ baseUrl: url, auth: key, log });
    const endpoint = (name) => name.split(".").reduce((found, part) => found[part], octokit.rest);
    return { ...octokit.rest, paginate: (name, options) => octokit.paginate(endpoint(name), options) };
  },
  sentry: async () => {
    const calls = await load("@sentry/api/dist/index.js");
    const of = { baseUrl: url, headers: { Authorization: `Bearer ${key}` } };
    const called = (call) => async (options) => {
      const { data, error, response } = await call({ ...options, ...of });
      if (error) throw Object.assign(new Error(JSON.stringify(error)), { status: response.status });
      return data;
    };
    return Object.fromEntries(Object.entries(calls).map(([name, call]) => [name, called(call)]));
  },
  slack: async () => {
    const { WebClient } = (await load("@slack/web-api/dist/index.js")).default;
    return new WebClient(key, { slackApiUrl: `${url}/api/`, retryConfig: { retries: 1 }, logLevel: "error" });
  },
  vercel: async () => {
    const { Vercel } = await load("@vercel/sdk/esm/index.js");
    return new Vercel({ serverURL: url, bearerToken: key });
  },
};
const named = (from, name) =>
  name.split(".").reduce((found, part) => {
    const member = found[part];
    return typeof member === "function" ? member.bind(found) : member;
  }, from);

const client = await LIBRARIES[library]();
const answers = [];
for (const [name, ...given] of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    answers.push({ value: (await named(client, name)(...given)) ?? null });
  } catch (error) {
    const status = error.status ?? error.statusCode ?? error.data?.error ?? null;
    answers.push({ error: { name: error.name, message: String(error.message), status } });
  }
}
console.log(JSON.stringify(answers));
