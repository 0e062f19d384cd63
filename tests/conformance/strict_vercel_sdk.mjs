// Makes Vercel's SDK as strict as the document that it was generated from: as it is shipped, it reads a missing text as
// "", a number as a text, and an unknown value of a list of values as one of them. Import it before the SDK.
import { register } from "node:module";

const primitives = `
import * as z from "zod/v3";
export const string = () => z.string();
export const boolean = () => z.boolean();
export const number = () => z.number();
export const date = () => z.string().datetime({ offset: true }).transform((text) => new Date(text));
export const literal = (value) => z.literal(value);
export const optional = (type) => type.optional();
export const nullable = (type) => type.nullable();
`;
const smartUnion = `
import * as z from "zod/v3";
export const smartUnion = (options) => options.length === 1 ? options[0] : z.union(options);
`;
const enums = `
import * as z from "zod/v3";
const oneOf = (values) => values.length === 1 ? z.literal(values[0]) : z.union(values.map((each) => z.literal(each)));
export const inboundSchema = (of) => oneOf(Object.values(of));
export const inboundSchemaInt = (of) => oneOf(Object.values(of).filter((each) => typeof each === "number"));
export const outboundSchema = inboundSchema;
export const outboundSchemaInt = inboundSchemaInt;
`;
const hooks = `
const strict = ${JSON.stringify({ primitives, smartUnion, enums })};
export async function load(url, context, next) {
  const [, name] = /@vercel\\/sdk\\/esm\\/types\\/(\\w+)\\.js$/.exec(url) ?? [];
  return name in strict ? { format: "module", source: strict[name], shortCircuit: true } : next(url, context);
}
`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
