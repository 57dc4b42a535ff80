// Knowledge bases: choose, create, fill, watch documents become searchable.

import { h, icon, notice, replace } from "./dom.js";
import { all, call, follow, key, open, upload } from "./api.js";

const STATES = { queued: "Waiting", processing: "Reading", ready: "Ready", failed: "Failed" };

export function dialog(library) {
  const list = h("ul", { class: "documents", "aria-live": "polite" });
  const title = h("h2", { id: "library-title" });
  const picker = h("input", { type: "file", multiple: true, id: "files", class: "visually-hidden", accept: ".txt,.md,.markdown,.html,.htm,.pdf,text/*,application/pdf", onchange: () => add([...picker.files]) });
  const drop = h("label", { class: "drop", for: "files" }, icon("upload"), h("span", {}, h("b", {}, "Choose files"), " or drop them here"), h("small", {}, "Text, Markdown, HTML or PDF, up to 25 MB each"));
  const element = h("dialog", { class: "library", "aria-labelledby": "library-title" },
    h("header", {}, title, h("button", { class: "quiet", type: "button", "aria-label": "Close", onclick: () => element.close() }, icon("close"))),
    picker, drop, list);
  let base = null;
  let watching = null;

  element.addEventListener("close", () => { watching?.abort(); library.refresh(); });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); add([...event.dataTransfer.files]); });

  async function show(chosen) {
    base = chosen;
    watching = new AbortController();
    replace(title, base.display_name);
    const loading = h("li", { class: "hint empty" }, "Loading…");
    replace(list, loading);
    element.showModal();
    try {
      const documents = await all(`/api/v1/knowledge_bases/${base.id}/documents`, "documents");
      // Uploads that began meanwhile are in the list already.
      const shown = new Set([...list.children].map((each) => each.dataset.id));
      for (const document of documents) if (!shown.has(document.id)) list.append(row(document));
      if (list.children.length > 1) loading.remove();
      else replace(loading, "No documents yet.");
    } catch (problem) {
      replace(loading, problem.message);
    }
  }

  function add(files) {
    picker.value = "";
    list.querySelector(".empty")?.remove();
    for (const file of files) send(file);
  }

  async function send(file) {
    const item = entry(file.name);
    list.prepend(item.element);
    try {
      const document = await upload(`/api/v1/knowledge_bases/${base.id}/documents`, file, (share) => item.progress("Uploading", share));
      [...list.children].filter((each) => each.dataset.id === document.id && each !== item.element).forEach((each) => each.remove());
      track(item, document);
    } catch (problem) {
      item.fail(problem.message);
    }
  }

  function row(document) {
    const item = entry(document.display_name);
    track(item, document);
    return item.element;
  }

  function track(item, document) {
    item.element.dataset.id = document.id;
    item.removable(async () => {
      await call("DELETE", `/api/v1/documents/${document.id}`);
      item.element.remove();
    });
    item.show(document);
    if (document.state === "ready" || document.state === "failed") return;
    const path = () => `/api/v1/documents/${document.id}:watch`;
    follow({
      first: open("GET", path(), undefined, {}, watching.signal), path, signal: watching.signal,
      onEvent: ({ data }) => {
        item.show(data.document);
        return data.document.state === "ready" || data.document.state === "failed" ? "end" : "";
      },
    }).catch((problem) => item.fail(problem.message));
  }

  return { element, show };
}

function entry(name) {
  const status = h("small", {});
  const bar = h("progress", { max: "1", "aria-label": `Progress of ${name}` });
  const remove = h("button", { class: "quiet", type: "button", "aria-label": `Delete ${name}`, hidden: true }, icon("trash"));
  const element = h("li", {}, h("div", {}, h("span", { class: "name" }, name), status, bar), remove);
  const end = (text, kind) => {
    replace(status, text);
    element.className = kind;
    bar.hidden = true;
  };
  return {
    element,
    progress(text, share) {
      replace(status, `${text} ${Math.round(share * 100)} %`);
      bar.value = share;
    },
    show(document) {
      if (document.state === "failed") end(document.failure?.message || "This file could not be read.", "failed");
      else if (document.state === "ready") end(`${STATES.ready} · ${document.chunk_count} passages`, "ready");
      else this.progress(STATES[document.state], document.progress);
    },
    fail: (text) => end(text, "failed"),
    removable(work) {
      remove.hidden = false;
      remove.onclick = () => work().catch((problem) => notice(problem.message));
    },
  };
}

// The list of knowledge bases and the one that is chosen, with its controls.
export function library(onChoose) {
  const select = h("select", { id: "base", "aria-label": "Knowledge base", onchange: () => choose(select.value) });
  const manage = h("button", { class: "quiet", type: "button", title: "Documents of this knowledge base", "aria-label": "Documents of this knowledge base", onclick: () => current() && window.show(current()) }, icon("book"));
  const element = h("div", { class: "base" }, select, manage);
  let bases = [];
  let chosen = "";

  const current = () => bases.find((base) => base.id === chosen);

  async function refresh() {
    bases = await all("/api/v1/knowledge_bases", "knowledge_bases");
    draw();
  }

  function draw() {
    replace(select, h("option", { value: "" }, "No knowledge base"),
      bases.map((base) => h("option", { value: base.id }, `${base.display_name} (${base.document_count})`)),
      h("option", { value: "new" }, "New knowledge base…"));
    select.value = current() ? chosen : "";
    manage.hidden = !current();
  }

  async function choose(id) {
    if (id !== "new") {
      chosen = id;
      draw();
      onChoose(id);
      return;
    }
    draw();
    namer.show();
  }

  const namer = nameDialog(async (name) => {
    const base = await call("POST", "/api/v1/knowledge_bases", { body: { display_name: name }, headers: { "idempotency-key": key() } });
    bases.unshift(base);
    await choose(base.id);
    window.show(base);
  });
  const api = { element, refresh, get chosen() { return chosen; }, set(id) { chosen = id; draw(); }, dialogs: [namer.element] };
  const window = dialog(api);
  api.dialogs.push(window.element);
  return api;
}

function nameDialog(create) {
  const name = h("input", { id: "base-name", required: true, maxlength: "100", autocomplete: "off" });
  const failure = h("p", { class: "failure", role: "alert" });
  const form = h("form", { method: "dialog", onsubmit: async (event) => {
    event.preventDefault();
    replace(failure);
    try {
      await create(name.value.trim());
      element.close();
    } catch (problem) {
      replace(failure, problem.reason === "ALREADY_EXISTS" ? "There is one of this name already." : problem.message);
    }
  } }, h("h2", { id: "name-title" }, "New knowledge base"), h("label", { for: "base-name" }, "Name"), name, failure,
  h("div", { class: "row end" }, h("button", { type: "button", class: "plain", onclick: () => element.close() }, "Cancel"), h("button", { class: "primary" }, "Create")));
  const element = h("dialog", { class: "small", "aria-labelledby": "name-title" }, form);
  return { element, show() { form.reset(); replace(failure); element.showModal(); } };
}
