// The panel that shows what an answer cites: the document's own text around the quote.

import { h, icon, replace } from "./dom.js";
import { call } from "./api.js";
import { cut } from "./answer.js";

const AROUND = 700;

export function panel() {
  const title = h("h2", { id: "source-title" });
  const place = h("p", { class: "hint" });
  const text = h("div", { class: "source-text", tabindex: "0" });
  let back = null;
  const close = () => {
    element.hidden = true;
    if (back) back.focus();
  };
  const closer = h("button", { class: "quiet", type: "button", "aria-label": "Close the source", onclick: close }, icon("close"));
  const element = h("aside", { class: "source", "aria-labelledby": "source-title", hidden: true, onkeydown: (event) => event.key === "Escape" && close() },
    h("header", {}, h("div", {}, title, place), closer), text);

  async function show(source) {
    back = document.activeElement;
    element.hidden = false;
    replace(title, source.document_name || "Document");
    replace(place, [source.locator, source.number ? `Source ${source.number}` : ""].filter(Boolean).join(" · "));
    replace(text, h("mark", {}, source.quote));
    closer.focus();
    try {
      const start = Math.max(0, source.source_start - AROUND);
      const query = `document_version=${source.document_version}&start=${start}&end=${source.source_end + AROUND}`;
      const found = await call("GET", `/api/v1/documents/${source.document_id}/text?${query}`);
      const [from, to] = [source.source_start - found.start, source.source_end - found.start];
      const quote = h("mark", {}, cut(found.text, from, to));
      replace(text, found.start > 0 ? "… " : "", cut(found.text, 0, from), quote, cut(found.text, to), found.end < found.length ? " …" : "");
      quote.scrollIntoView({ block: "center" });
    } catch (problem) {
      replace(text, h("mark", {}, source.quote), h("p", { class: "hint" },
        problem.reason === "NOT_FOUND" ? "The document has been deleted or replaced since." : problem.message));
    }
  }
  return { element, show, close };
}
