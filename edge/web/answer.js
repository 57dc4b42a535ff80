// An answer while it is written: events applied by their offsets, which count code points, so nothing is lost or doubled.

import { append, h, replace } from "./dom.js";
import { render } from "./markdown.js";
import { sentence } from "./api.js";

export class Answer {
  constructor(message) {
    this.parts = new Map();
    this.citations = [];
    this.state = "in_progress";
    this.error = null;
    this.retrieval = null;
    this.context = null;
    this.model = "";
    this.finish = "";
    this.sequence = 0;
    if (message) this.load(message);
  }

  load(message) {
    this.id = message.id;
    this.turn = message.turn_id;
    this.parts = new Map(message.parts.map((part) => [part.id, part.text ? part.text.text : ""]));
    this.citations = message.citations;
    this.state = message.state || "in_progress";
    this.error = message.error || null;
    this.retrieval = message.retrieval || null;
    this.context = message.context || null;
    this.model = message.model;
    this.finish = message.finish_reason || "";
    this.sequence = Math.max(this.sequence, message.last_sequence);
  }

  get text() {
    return [...this.parts.values()].join("");
  }

  // Applies one event of the turn; returns "end" with the last one.
  apply({ name, data }) {
    this.sequence = data.sequence;
    const payload = data[name];
    if (name === "turn_started") this.id = payload.assistant_message_id;
    else if (name === "retrieval_decided") this.retrieval = payload.retrieval;
    else if (name === "part_started") this.parts.set(payload.part_id, "");
    else if (name === "text_delta") this.add(payload);
    else if (name === "citation_added") this.citations.push(payload.citation);
    else if (name === "attempt_started") this.shorten(payload.resume_offset);
    else if (name === "snapshot") this.load(payload.message);
    else if (name === "turn_finished") {
      if (payload.message) this.load(payload.message);
      this.state = payload.message ? payload.message.state : payload.state;
      return "end";
    }
    return "";
  }

  add({ part_id: part, offset, text }) {
    const known = this.parts.get(part) || "";
    this.parts.set(part, offset === length(known) ? known + text : cut(known, 0, offset) + text);
  }

  shorten(offset) {
    let left = offset;
    for (const [id, text] of this.parts) {
      this.parts.set(id, cut(text, 0, left));
      left = Math.max(0, left - length(text));
    }
    this.citations = this.citations.filter((citation) => citation.end <= offset);
  }
}

function length(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

export function cut(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

// One entry per source, in the order of their numbers.
export function sources(citations) {
  const found = new Map();
  for (const citation of citations) {
    const number = citation.number || found.size + 1;
    if (!found.has(number)) found.set(number, { ...citation, number });
  }
  return [...found.values()].sort((a, b) => a.number - b.number);
}

// The answer's text with a marker, between private characters, where a citation stands; the renderer makes buttons of them.
export function marked(answer) {
  const numbers = new Set();
  let whole = "";
  for (const [id, text] of answer.parts) {
    const points = Array.from(text.replace(/[\uE000\uE001]/gu, "\uFFFD"));
    const ends = new Map();
    for (const citation of answer.citations) {
      if (citation.part_id && citation.part_id !== id) continue;
      numbers.add(citation.number);
      if (text.includes(`[${citation.number}]`)) continue;
      const end = Math.min(citation.end, points.length);
      ends.set(end, (ends.get(end) || new Set()).add(citation.number));
    }
    for (const [end, found] of [...ends].sort((a, b) => b[0] - a[0])) {
      points.splice(end, 0, ...[...found].sort((a, b) => a - b).map((number) => `\uE000${number}\uE001`));
    }
    whole += points.join("");
  }
  return whole.replace(/\s?\[(\d+)\](?!\()/g, (text, number) => numbers.has(Number(number)) ? `\uE000${number}\uE001` : text);
}

export function view(answer, openSource) {
  const body = h("div", { class: "prose" });
  const footer = h("div", { class: "footer" });
  return {
    element: h("div", { class: "answer-body" }, body, footer),
    update() {
      const cited = sources(answer.citations);
      const mark = (number) => {
        const source = cited.find((each) => each.number === number);
        return h("button", {
          class: "cite", type: "button", "aria-label": `Source ${number}: ${source.document_name}`,
          title: source.quote, onclick: () => openSource(source),
        }, number);
      };
      replace(body, render(marked(answer), mark));
      if (answer.state === "in_progress" && !answer.text) append(body, [waiting(answer)]);
      replace(footer, state(answer), cited.length ? chips(cited, openSource) : null);
    },
  };
}

function waiting(answer) {
  const found = answer.retrieval && answer.retrieval.passages.length;
  return h("p", { class: "waiting" }, h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    found ? `Reading ${found} passage${found === 1 ? "" : "s"}` : "Thinking");
}

function state(answer) {
  if (answer.state === "failed") {
    return h("p", { class: "failure", role: "alert" }, answer.error ? sentence(answer.error.message) : "The answer failed.");
  }
  if (answer.state === "cancelled") return h("p", { class: "hint" }, "Stopped.");
  if (answer.finish === "length") return h("p", { class: "hint" }, "The answer met its length limit.");
  if (answer.state === "complete" && answer.retrieval && answer.retrieval.decision === "skipped") {
    return h("p", { class: "hint" }, "Answered without the knowledge base: the question did not seem to be about it.");
  }
  return answer.context ? shortened(answer.context) : null;
}

// What of the conversation the model was not shown as it was written.
function shortened({ messages_summarised: summarised, omissions }) {
  const left = omissions.filter((each) => each.part === "messages" && ["budget", "detached", "limit"].includes(each.reason))
    .reduce((sum, each) => sum + each.count, 0);
  const said = [summarised ? `${summarised} earlier messages as a summary` : "", left ? `${left} earlier messages not at all` : ""];
  const told = said.filter(Boolean).join(", ");
  return told ? h("p", { class: "hint" }, `The model was shown ${told}.`) : null;
}

function chips(cited, openSource) {
  return h("div", { class: "sources", role: "group", "aria-label": "Sources" }, cited.map((source) =>
    h("button", { class: "chip", type: "button", onclick: () => openSource(source) },
      h("b", {}, source.number), h("span", {}, source.document_name || "Document"),
      source.locator ? h("small", {}, source.locator) : null)));
}
