// Writes what Sentry's TypeScript client knows of the API as an OpenAPI document: node sentry_document.mjs NODE_MODULES
//
// The client is generated from Sentry's document, which is in no package; its types have of each operation the path, the
// query, the body, and the answers by status.
import { createRequire } from "node:module";

const OPERATIONS = [
  ["post", "CreateANewReleaseForAnOrganization"],
  ["get", "ListAnOrganizationSReleases"],
  ["get", "RetrieveAnOrganizationSRelease"],
  ["put", "UpdateAnOrganizationSRelease"],
  ["get", "ListAReleaseSDeploys"],
  ["post", "CreateADeploy"],
  ["get", "QueryExploreEventsInTimeseriesFormat"],
  ["get", "ListAnOrganizationSissues"],
  ["get", "RetrieveReleaseHealthSessionStatistics"],
];
const modules = process.argv[2];
const require = createRequire(`${modules}/`);
const { createGenerator } = require("ts-json-schema-generator");
const { version } = require(`${modules}/@sentry/api/package.json`);

const generator = createGenerator({
  path: `${modules}/@sentry/api/dist/types.gen.d.ts`,
  expose: "none",
  topRef: false,
  skipTypeCheck: true,
  additionalProperties: false,
});
// Without what is said of every type alike, and without references, of which these types have none to themselves.
const schemaOf = (type) => {
  const { $schema, definitions = {}, ...schema } = generator.createSchema(type);
  const resolved = (value) => {
    if (Array.isArray(value)) return value.map(resolved);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.$ref === "string") return resolved(definitions[decodeURIComponent(value.$ref.split("/").pop())]);
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolved(each)]));
  };
  return resolved(schema);
};
const none = (schema) => !schema || schema.not !== undefined;

const paths = {};
for (const [method, name] of OPERATIONS) {
  const { properties } = schemaOf(`${name}Data`);
  const listed = (place) =>
    Object.entries(properties[place]?.properties ?? {}).map(([key, schema]) => ({
      name: key,
      in: place,
      required: (properties[place].required ?? []).includes(key),
      schema,
    }));
  const answers = schemaOf(`${name}Responses`).properties;
  const responses = Object.fromEntries(
    Object.entries(answers).map(([status, schema]) => [status, {
      description: "",
      ...(none(schema) ? {} : { content: { "application/json": { schema } } }),
    }]),
  );
  const path = properties.url.const.replace("/api/0", "");
  (paths[path] ??= {})[method] = {
    parameters: [...listed("path"), ...listed("query")],
    ...(none(properties.body) ? {} : { requestBody: { content: { "application/json": { schema: properties.body } } } }),
    responses,
  };
}
console.log(JSON.stringify({
  openapi: "3.1.0",
  info: { title: "Sentry", version: `@sentry/api ${version}` },
  paths,
  components: { schemas: {} },
}));
