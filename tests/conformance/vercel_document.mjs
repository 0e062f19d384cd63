// Writes what Vercel's SDK knows of the API as an OpenAPI document: node vercel_document.mjs NODE_MODULES
//
// The document that the SDK is generated from is in no package; the SDK has one schema for each request and answer, and
// of each operation (a file in its src/funcs) method, path, parameters and statuses.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import "./strict_vercel_sdk.mjs";

const NAMES = [
  "aliasesAssignAlias",
  "aliasesDeleteAlias",
  "aliasesGetAlias",
  "aliasesListAliases",
  "deploymentsCreateDeployment",
  "deploymentsGetDeployment",
  "deploymentsGetDeploymentEvents",
  "deploymentsGetDeployments",
  "deploymentsUploadFile",
  "logsGetRuntimeLogs",
  "projectsFilterProjectEnvs",
  "projectsGetProject",
  "projectsRequestPromote",
  "projectsRequestRollback",
  "rollingReleaseApproveRollingReleaseStage",
  "rollingReleaseCompleteRollingRelease",
  "rollingReleaseGetRollingRelease",
  "rollingReleaseStartRollingRelease",
  "teamsGetTeam",
  "userGetAuthUser",
];
const REFUSAL = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["code", "message"],
      properties: { code: { type: "string" }, message: { type: "string" } },
      additionalProperties: true,
    },
  },
};
const REFUSED = { $ref: "#/components/schemas/Refusal" };
const modules = process.argv[2];
const { zodToJsonSchema } = createRequire(`${modules}/`)("zod-to-json-schema");
const sdk = `${modules}/@vercel/sdk`;
const { version } = JSON.parse(readFileSync(`${sdk}/package.json`));

const schemaOf = (type) => {
  const { $schema, ...schema } = zodToJsonSchema(type, { $refStrategy: "none", dateStrategy: "string" });
  return schema;
};

// In a query there is no null.
const withoutNull = (schema) =>
  Array.isArray(schema.type) ? { ...schema, type: schema.type.find((each) => each !== "null") } : schema;

async function operation(name) {
  const source = readFileSync(`${sdk}/src/funcs/${name}.ts`, "utf8");
  const found = (pattern) => source.match(pattern)?.[1];
  const model = async (exported) => {
    const block = [...source.matchAll(/import \{([^}]*)\} from "\.\.\/models\/([^"]+)"/g)].find(([, list]) =>
      list.split(",").some((each) => each.trim() === exported)
    );
    return (await import(pathToFileURL(`${sdk}/esm/models/${block[2]}`)))[exported];
  };
  const path = found(/pathToFunc\(\s*"([^"]+)"/);
  const wanted = found(/=>\s*(\w+\$outboundSchema)/);
  const { properties = {}, required = [] } = wanted ? schemaOf(await model(wanted)) : {};
  const parameter = (place) => ([, name, property]) => ({
    name,
    in: place,
    required: place === "path" || required.includes(property),
    schema: withoutNull(properties[property] ?? {}),
  });
  const listed = (pattern) => [...(found(pattern) ?? "").matchAll(/"?([\w.-]+)"?: payload\.(\w+)/g)];
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, each]) => parameter("path")([, each, each]));
  const inQuery = listed(/encodeFormQuery\(\{([^}]*)\}/).map(parameter("query"));

  const responses = {};
  for (const [, kind, codes, schema] of source.matchAll(/M\.(json|nil)\(\s*(\[[^\]]*\]|"?\w+"?),\s*([^\n]+)/g)) {
    for (const code of JSON.parse(`[${codes}]`).flat()) {
      responses[code] = { description: "" };
      const exported = schema.match(/\w+\$inboundSchema/)?.[0];
      if (kind === "json" && exported) {
        const item = schemaOf(await model(exported));
        const whole = schema.startsWith("z.array") ? { type: "array", items: item } : item;
        responses[code].content = { "application/json": { schema: whole } };
      }
    }
  }
  for (const [, codes] of source.matchAll(/M\.fail\(\[([^\]]*)\]/g)) {
    for (const code of JSON.parse(`[${codes}]`).filter((each) => typeof each === "number")) {
      responses[code] = { description: "", content: { "application/json": { schema: REFUSED } } };
    }
  }
  const body = /encodeJSON\("body", payload\.RequestBody/.test(source)
    ? { content: { "application/json": { schema: properties.requestBody ?? properties.RequestBody } } }
    : /RequestBody instanceof/.test(source)
    ? { content: { "application/octet-stream": { schema: {} } } }
    : null;
  return [path, found(/method: "([A-Z]+)"/).toLowerCase(), {
    parameters: [...inPath, ...inQuery],
    ...(body ? { requestBody: body } : {}),
    responses,
  }];
}

const paths = {};
for (const name of NAMES) {
  const [path, method, about] = await operation(name);
  (paths[path] ??= {})[method] = about;
}
console.log(JSON.stringify({
  openapi: "3.1.0",
  info: { title: "Vercel", version: `@vercel/sdk ${version}` },
  paths,
  components: { schemas: { Refusal: REFUSAL } },
}));
