// A small Markdown for answers: headings, lists, quotes, code, tables, emphasis, links. It makes elements, never markup;
// images are never fetched, and links open http, https and mailto only.

import { h } from "./dom.js";

const FENCE = /^\s{0,3}(```+|~~~+)\s*([\w+-]*)\s*$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE = new RegExp([
  "(?<tick>`+)(?<code>.+?)\\k<tick>(?!`)",
  "\\uE000(?<mark>\\d+)\\uE001",
  "!\\[(?<alt>[^\\]]*)\\]\\((?<image>[^()\\s]+)[^)]*\\)",
  "\\[(?<label>[^\\]]+)\\]\\((?<href>[^()\\s]+)(?:\\s+\"[^\"]*\")?\\)",
  "(?<url>https?:\\/\\/[^\\s<>()\\uE000]+[^\\s<>().,;:!?'\"\\uE000])",
  "(?<strong>\\*\\*|__)(?=\\S)(?<bold>.+?)(?<=\\S)\\k<strong>",
  "(?<![\\w*])(?<em>\\*|_)(?=\\S)(?<italic>[^*_]+?)(?<=\\S)\\k<em>(?![\\w*])",
].join("|"), "gsu");
const DEPTH_MAX = 6;

export function render(text, mark) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.split("\n"), mark, 0));
  return fragment;
}

function blocks(lines, mark, depth) {
  const out = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) { at += 1; continue; }
    if (fence) { at = code(lines, at, fence, out); continue; }
    const heading = HEADING.exec(line);
    if (heading) {
      out.push(h(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2], mark, depth)));
      at += 1;
    } else if (RULE.test(line)) {
      out.push(h("hr"));
      at += 1;
    } else if (/^\s{0,3}>/.test(line) && depth < DEPTH_MAX) {
      const from = at;
      while (at < lines.length && /^\s{0,3}>/.test(lines[at])) at += 1;
      out.push(h("blockquote", {}, blocks(lines.slice(from, at).map((each) => each.replace(/^\s{0,3}> ?/, "")), mark, depth + 1)));
    } else if (ITEM.test(line) && depth < DEPTH_MAX) {
      at = list(lines, at, mark, depth, out);
    } else if (line.includes("|") && at + 1 < lines.length && TABLE_RULE.test(lines[at + 1]) && lines[at + 1].includes("-")) {
      at = table(lines, at, mark, depth, out);
    } else {
      const from = at;
      while (at < lines.length && lines[at].trim() && (at === from || !begins(lines[at]))) at += 1;
      out.push(h("p", {}, lines.slice(from, at).flatMap((each, index) => [index ? h("br") : null, ...inline(each.trim(), mark, depth)])));
    }
  }
  return out;
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^\s{0,3}>/.test(line);
}

function code(lines, at, fence, out) {
  const from = at + 1;
  at = from;
  while (at < lines.length && !(lines[at].trim().startsWith(fence[1]) && !lines[at].trim().slice(fence[1].length).trim())) at += 1;
  out.push(h("pre", { tabindex: "0" }, h("code", {}, plain(lines.slice(from, at).join("\n")))));
  return at + 1;
}

function list(lines, at, mark, depth, out) {
  const [, indent, bullet] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(bullet);
  const element = h(isOrdered ? "ol" : "ul", isOrdered && parseInt(bullet, 10) !== 1 ? { start: parseInt(bullet, 10) } : {});
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || /\d/.test(item[2]) !== isOrdered) break;
    const inner = [item[3]];
    const width = item[0].length - item[3].length;
    at += 1;
    while (at < lines.length) {
      const next = lines[at];
      const deeper = /^\s*/.exec(next)[0].length > indent.length + 1;
      if (!next.trim()) {
        if (at + 1 < lines.length && /^\s*/.exec(lines[at + 1])[0].length > indent.length + 1) { inner.push(""); at += 1; continue; }
        break;
      }
      if (!deeper && (begins(next) || inner.at(-1) === "")) break;
      inner.push(next.slice(Math.min(width, /^\s*/.exec(next)[0].length)));
      at += 1;
    }
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] || "")) at += 1;
    const children = blocks(inner, mark, depth + 1);
    element.append(h("li", {}, children.length && children[0].tagName === "P" ? [[...children[0].childNodes], children.slice(1)] : children));
  }
  out.push(element);
  return at;
}

function table(lines, at, mark, depth, out) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const head = h("tr", {}, cells(lines[at]).map((cell) => h("th", { scope: "col" }, inline(cell, mark, depth))));
  const body = h("tbody");
  at += 2;
  while (at < lines.length && lines[at].includes("|")) {
    body.append(h("tr", {}, cells(lines[at]).map((cell) => h("td", {}, inline(cell, mark, depth)))));
    at += 1;
  }
  out.push(h("div", { class: "table", tabindex: "0" }, h("table", {}, h("thead", {}, head), body)));
  return at;
}

function inline(text, mark, depth) {
  const out = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const found = match.groups;
    if (match.index > at) out.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (found.code !== undefined) out.push(h("code", {}, plain(found.code.trim())));
    else if (found.mark !== undefined) out.push(mark(Number(found.mark)));
    else if (found.image !== undefined) out.push(link(found.image, `${found.alt || "image"} (image, not loaded)`));
    else if (found.href !== undefined) out.push(link(found.href, found.label));
    else if (found.url !== undefined) out.push(link(found.url, found.url));
    else if (found.bold !== undefined) out.push(h("strong", {}, depth < DEPTH_MAX ? inline(found.bold, mark, depth + 1) : found.bold));
    else out.push(h("em", {}, depth < DEPTH_MAX ? inline(found.italic, mark, depth + 1) : found.italic));
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

function link(href, label) {
  let url;
  try { url = new URL(href); } catch { return document.createTextNode(label); }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return document.createTextNode(label);
  const host = url.host && !label.includes(url.host) ? ` (${url.host})` : "";
  return h("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" }, plain(label) + host);
}

function plain(text) {
  return text.replace(/\uE000(\d+)\uE001/g, "");
}
