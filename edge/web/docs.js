// The documentation page: /openapi.json made readable, without a script of any other host.

import { h, replace } from "./dom.js";

const VERBS = ["get", "post", "put", "patch", "delete"];
const DEPTH_MAX = 4;

function prose(text) {
  return (text || "").split("\n\n").filter(Boolean).map((paragraph) => {
    const lines = paragraph.split("\n");
    if (lines.every((line) => line.startsWith("- "))) return h("ul", {}, lines.map((line) => h("li", {}, spans(line.slice(2)))));
    return h("p", {}, spans(paragraph));
  });
}

function spans(text) {
  return text.split(/`([^`]+)`/).map((piece, index) => index % 2 ? h("code", {}, piece) : piece);
}

function named(schema) {
  return schema?.$ref ? schema.$ref.split("/").at(-1) : "";
}

function resolve(document, schema) {
  return schema?.$ref ? document.components.schemas[named(schema)] : schema || {};
}

function typeOf(document, schema) {
  const whole = resolve(document, schema);
  if (whole.type === "array") return `list of ${typeOf(document, whole.items)}`;
  if (whole.enum) return whole.enum.map((value) => `"${value}"`).join(" | ");
  return named(schema) || [whole.type, whole.format].filter(Boolean).flat().join(", ") || "any";
}

function fields(document, schema, depth = 0) {
  const whole = resolve(document, schema);
  const object = whole.type === "array" ? resolve(document, whole.items) : whole;
  const entries = Object.entries(object.properties || {});
  if (!entries.length || depth > DEPTH_MAX) return null;
  return h("dl", {}, entries.map(([name, field]) => {
    const inner = resolve(document, field.type === "array" ? field.items : field);
    const target = field.type === "array" ? field.items : field;
    const more = inner.properties ? h("details", { ontoggle: (event) => {
      const box = event.currentTarget;
      if (box.open && box.children.length === 1) box.append(fields(document, target, depth + 1) || "");
    } }, h("summary", {}, named(target) || "Members")) : null;
    return [h("dt", {}, name, " ", h("small", {}, typeOf(document, field))), h("dd", {}, spans(field.description || ""), more)];
  }));
}

function bodies(document, content) {
  return Object.entries(content || {}).map(([media, { schema }]) => [h("p", { class: "hint" }, media), schema ? fields(document, schema) : null]);
}

function example(path, verb, operation) {
  const lines = [`curl -X ${verb.toUpperCase()} "$PARLEY_URL${path}"`];
  if (!operation.security || operation.security.length) lines.push('-H "Authorization: Bearer $PARLEY_API_KEY"');
  const content = operation.requestBody?.content || {};
  if (content["application/json"]) lines.push('-H "Content-Type: application/json"', "-d '{…}'");
  if (content["multipart/form-data"]) lines.push("-F file=@notes.md");
  return h("pre", { tabindex: "0" }, h("code", {}, lines.join(" \\\n  ")));
}

function article(document, path, verb, operation) {
  const parameters = operation.parameters || [];
  return h("article", { id: operation.operationId },
    h("h3", {}, h("span", { class: "verb" }, verb.toUpperCase()), path),
    prose(operation.description || operation.summary),
    parameters.length ? h("details", {}, h("summary", {}, "Parameters"), h("dl", {}, parameters.map((each) => [
      h("dt", {}, each.name, " ", h("small", {}, `${each.in}, ${typeOf(document, each.schema)}`)), h("dd", {}, spans(each.description || ""))]))) : null,
    operation.requestBody ? h("details", {}, h("summary", {}, "Body"), bodies(document, operation.requestBody.content)) : null,
    Object.entries(operation.responses).filter(([status]) => status !== "default").map(([status, response]) =>
      h("details", {}, h("summary", {}, `Answer ${status}`), prose(response.description), bodies(document, response.content))),
    h("details", {}, h("summary", {}, "Example"), example(path, verb, operation)));
}

function reasons(document) {
  const { reason } = document.components.schemas.Problem.properties;
  const lines = reason.description.split("\n").filter((line) => line.startsWith("- "));
  return h("section", { id: "errors" }, h("h2", {}, "Errors"), prose("Every failure is a problem document (RFC 9457) with one of these reasons."),
    h("ul", { class: "reasons" }, reason.enum.map((name, index) => h("li", { id: name }, h("code", {}, name), " ", spans(lines[index].slice(2).replace(`${name} `, ""))))));
}

function draw(document) {
  const groups = document.tags.map((tag) => ({ ...tag, operations: [] }));
  for (const [path, verbs] of Object.entries(document.paths)) {
    for (const verb of VERBS.filter((each) => verbs[each])) {
      groups.find((group) => group.name === verbs[verb].tags[0]).operations.push({ path, verb, ...verbs[verb], operation: verbs[verb] });
    }
  }
  replace(window.document.getElementById("content"), h("section", {}, h("h1", {}, "Parley API"), prose(document.info.description),
    prose("Send an API key as `Authorization: Bearer` or `x-api-key`. The machine-readable form of this page is `/openapi.json`.")),
  groups.map((group) => h("section", {}, h("h2", {}, group.name), prose(group.description), group.operations.map((each) => article(document, each.path, each.verb, each.operation)))), reasons(document));
  replace(window.document.getElementById("index"), groups.map((group) => h("div", {}, h("h2", {}, group.name),
    h("ul", {}, group.operations.map((each) => h("li", {}, h("a", { href: `#${each.operationId}`, title: each.path }, h("span", { class: "verb" }, each.verb.toUpperCase()), each.operationId.split(".")[1])))))),
  h("ul", {}, h("li", {}, h("a", { href: "#errors" }, "Errors"))));
}

function filter(text) {
  const wanted = text.toLowerCase();
  for (const group of document.querySelectorAll("#index > div")) {
    let any = false;
    for (const item of group.querySelectorAll("li")) {
      const fits = `${item.textContent} ${item.firstChild.title}`.toLowerCase().includes(wanted);
      item.hidden = !fits;
      any = any || fits;
    }
    group.hidden = !any;
  }
}

document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
draw(await (await fetch("/openapi.json")).json());
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
