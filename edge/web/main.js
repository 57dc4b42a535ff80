// The page: sign in, past conversations, one conversation with its answers, the sources they cite.

import { append, h, icon, notice, replace } from "./dom.js";
import { all, call, follow, key, open } from "./api.js";
import { Answer, view } from "./answer.js";
import { library } from "./library.js";
import { panel } from "./source.js";
import { signIn } from "./signin.js";

const root = document.getElementById("app");
const SUGGESTION = "Ask a question. With a knowledge base chosen, answers cite your documents.";

function workplace(user) {
  let conversation = null;
  let running = null;
  let opened = 0;

  const source = panel();
  const bases = library((id) => { if (conversation) change({ knowledge_base_id: id }); });
  const models = h("select", { id: "model", "aria-label": "Model", onchange: () => { if (conversation) change({ model: models.value }); } });
  const past = h("nav", { class: "past", "aria-label": "Past conversations" });
  const thread = h("div", { class: "thread", id: "thread", role: "log", "aria-label": "Conversation" });
  const scroller = h("div", { class: "scroller" }, thread);
  const status = h("p", { class: "visually-hidden", role: "status" });
  const question = h("textarea", { id: "question", rows: "1", placeholder: "Ask anything", "aria-label": "Your question", maxlength: "100000",
    oninput: grow, onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
    } });
  const send = h("button", { class: "round", type: "submit", "aria-label": "Send" }, icon("send"));
  const stop = h("button", { class: "round stop", type: "button", "aria-label": "Stop the answer", hidden: true, onclick: cancel }, icon("stop"));
  const composer = h("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); ask(); } }, question, send, stop);
  const menu = h("button", { class: "quiet menu", type: "button", "aria-label": "Conversations", "aria-expanded": "false", onclick: () => toggle() }, icon("menu"));
  const side = h("aside", { class: "side", "aria-label": "Navigation" },
    h("div", { class: "brand" }, h("img", { src: "/web/icon.svg", alt: "", width: "28", height: "28" }), h("b", {}, "Parley")),
    h("button", { class: "new", type: "button", onclick: () => { location.hash = ""; start(); } }, icon("plus"), "New conversation"),
    past,
    h("div", { class: "account" }, h("div", {}, h("b", {}, user.display_name || user.email), h("small", {}, user.email)),
      h("button", { class: "quiet", type: "button", "aria-label": "Sign out", title: "Sign out", onclick: leave }, icon("out"))));
  const veil = h("div", { class: "veil", onclick: () => toggle(false) });
  const element = h("div", { class: "work" }, h("a", { class: "skip", href: "#question", onclick: (event) => { event.preventDefault(); question.focus(); } }, "Skip to the question"),
    side, veil, h("main", {}, h("header", { class: "top" }, menu, bases.element, h("span", { class: "space" }), models), scroller, composer, status), source.element, bases.dialogs);

  function toggle(isOpen = !element.classList.contains("open")) {
    element.classList.toggle("open", isOpen);
    menu.setAttribute("aria-expanded", String(isOpen));
  }

  function grow() {
    question.style.height = "auto";
    question.style.height = `${Math.min(question.scrollHeight, 240)}px`;
  }

  function busy(work) {
    running = work;
    send.hidden = Boolean(work);
    stop.hidden = !work;
    status.textContent = work ? "The answer is being written." : "";
  }

  async function listPast() {
    const conversations = await all("/api/v1/conversations", "conversations");
    replace(past, conversations.length ? h("ul", {}, conversations.map(entry)) : h("p", { class: "hint" }, "No conversations yet."));
  }

  function entry(each) {
    const name = each.title || "New conversation";
    return h("li", {}, h("a", { href: `#/c/${each.id}`, "aria-current": conversation && conversation.id === each.id ? "page" : null, title: name }, name),
      h("button", { class: "quiet", type: "button", "aria-label": `Delete ${name}`, onclick: () => remove(each) }, icon("trash")));
  }

  async function remove(each) {
    if (!confirm(`Delete “${each.title || "New conversation"}” with all its messages?`)) return;
    await attempt(async () => {
      await call("DELETE", `/api/v1/conversations/${each.id}`);
      if (conversation && conversation.id === each.id) { location.hash = ""; start(); }
      await listPast();
    });
  }

  async function change(fields) {
    await attempt(async () => {
      conversation = await call("PATCH", `/api/v1/conversations/${conversation.id}`, { body: fields });
    });
  }

  // Runs work and puts what goes wrong in words; being signed out leads to the sign-in card.
  async function attempt(work) {
    try {
      return await work();
    } catch (problem) {
      if (problem.name === "AbortError") return undefined;
      if (problem.status === 401) show();
      else notice(problem.message);
      return undefined;
    }
  }

  function letGo() {
    if (running) running.abort.abort();
    busy(null);
    opened += 1;
    source.close();
    toggle(false);
  }

  function start() {
    letGo();
    conversation = null;
    replace(thread, h("div", { class: "welcome" }, h("h1", {}, `Hello${user.display_name ? `, ${user.display_name}` : ""}`), h("p", {}, SUGGESTION)));
    for (const link of past.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
    question.focus();
  }

  async function enter(id) {
    if (conversation && conversation.id === id) return;
    letGo();
    const mine = opened;
    replace(thread, h("p", { class: "hint center" }, "Loading…"));
    await attempt(async () => {
      const [found, messages] = await Promise.all([call("GET", `/api/v1/conversations/${id}`), all(`/api/v1/conversations/${id}/messages`, "messages")]);
      if (mine !== opened) return;
      conversation = found;
      bases.set(found.knowledge_base_id);
      chooseModel(found.model);
      replace(thread);
      for (const message of messages) message.role === "user" ? said(message.parts.map((part) => part.text?.text || "").join("")) : resume(message);
      for (const link of past.querySelectorAll("a")) link.toggleAttribute("aria-current", link.hash === `#/c/${id}`);
      scroller.scrollTop = scroller.scrollHeight;
      question.focus();
    });
    if (mine === opened && !conversation) start();
  }

  function said(text) {
    thread.querySelector(".welcome")?.remove();
    thread.append(h("article", { class: "said", "aria-label": "You" }, h("div", { class: "bubble" }, text)));
  }

  // Shows an answer; one that is still being written is followed from where its stored text ends.
  function resume(message) {
    const answer = new Answer(message);
    const shown = place(answer);
    if (answer.state !== "in_progress") return;
    const abort = new AbortController();
    busy({ abort, turn: answer.turn });
    watch(answer, shown, abort, null);
  }

  function place(answer) {
    const shown = view(answer, source.show);
    const tools = h("div", { class: "tools" });
    const article = h("article", { class: "answer", "aria-label": "Answer" }, shown.element, tools);
    thread.append(article);
    const update = () => {
      shown.update();
      article.setAttribute("aria-busy", String(answer.state === "in_progress"));
      if (answer.state !== "in_progress" && answer.id && !tools.children.length) append(tools, actions(answer));
    };
    update();
    return update;
  }

  function actions(answer) {
    const judge = (rating, label) => h("button", { class: "quiet", type: "button", "aria-label": label, title: label, "aria-pressed": "false",
      onclick: (event) => attempt(async () => {
        const button = event.currentTarget;
        await call("PUT", `/api/v1/messages/${answer.id}/feedback`, { body: { rating } });
        for (const each of button.parentElement.querySelectorAll("[aria-pressed]")) each.setAttribute("aria-pressed", String(each === button));
      }) }, icon(rating));
    const copy = h("button", { class: "quiet", type: "button", "aria-label": "Copy the answer", title: "Copy the answer",
      onclick: () => navigator.clipboard?.writeText(answer.text).then(() => notice("Copied.", "good")) }, icon("copy"));
    return [copy, judge("good", "Good answer"), judge("bad", "Bad answer"), answer.model ? h("small", {}, answer.model) : null];
  }

  async function ask() {
    const text = question.value.trim();
    if (!text || running) return;
    const abort = new AbortController();
    busy({ abort, turn: "" });
    const mine = opened;
    question.value = "";
    grow();
    said(text);
    const answer = new Answer();
    const update = place(answer);
    scroller.scrollTop = scroller.scrollHeight;
    try {
      const isNew = !conversation;
      if (isNew) {
        const made = await call("POST", "/api/v1/conversations", { body: { knowledge_base_id: bases.chosen, model: models.value }, headers: { "idempotency-key": key() } });
        if (mine !== opened) return;
        conversation = made;
        history.replaceState(null, "", `#/c/${conversation.id}`);
      }
      const first = open("POST", `/api/v1/conversations/${conversation.id}/turns`, { new: { text } }, { "idempotency-key": key() }, abort.signal);
      await watch(answer, update, abort, first);
    } catch (problem) {
      if (mine !== opened) return;
      busy(null);
      if (problem.status === 401) { show(); return; }
      Object.assign(answer, { state: "failed", error: { message: problem.message } });
      update();
      question.value = question.value || text;
      grow();
    }
    if (mine === opened) attempt(listPast);
  }

  async function watch(answer, update, abort, first) {
    let isDrawn = true;
    const draw = () => {
      if (!isDrawn) return;
      isDrawn = false;
      requestAnimationFrame(() => {
        isDrawn = true;
        const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
        update();
        if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
      });
    };
    try {
      await follow({
        first, signal: abort.signal, after: answer.sequence,
        path: () => `/api/v1/turns/${answer.turn}/events`,
        onOpen: (response) => {
          answer.turn = response.headers.get("x-parley-turn") || answer.turn;
          if (running) running.turn = answer.turn;
          status.textContent = "The answer is being written.";
        },
        onLost: () => { status.textContent = "Connection lost. Reconnecting…"; },
        onEvent: (event) => { const end = answer.apply(event); draw(); return end; },
      });
    } catch (problem) {
      if (abort.signal.aborted) return;
      if (first && !answer.turn) throw problem;
      Object.assign(answer, { state: "failed", error: { message: problem.message } });
    }
    if (abort.signal.aborted) return;
    busy(null);
    status.textContent = answer.state === "complete" ? "The answer is complete." : "";
    draw();
  }

  function cancel() {
    const turn = running?.turn;
    if (turn) attempt(() => call("POST", `/api/v1/turns/${turn}:cancel`, { body: {} }));
  }

  async function leave() {
    await attempt(() => call("DELETE", "/api/v1/auth/session"));
    letGo();
    location.hash = "";
    show();
  }

  function route() {
    const id = /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1];
    if (id) enter(id);
    else start();
  }

  // A conversation may use a model that the list does not hold.
  function chooseModel(name) {
    if (![...models.options].some((option) => option.value === name)) models.append(h("option", { value: name }, name));
    models.value = name;
  }

  async function listModels() {
    const { models: known } = await call("GET", "/api/v1/models");
    replace(models, h("option", { value: "" }, "Default model"), known.map((model) => h("option", { value: model.name }, model.display_name || model.name)));
    if (conversation) chooseModel(conversation.model);
  }

  return {
    element,
    begin() {
      window.onhashchange = route;
      window.onkeydown = (event) => { if (event.key === "Escape") toggle(false); };
      route();
      attempt(async () => { await bases.refresh(); if (conversation) bases.set(conversation.knowledge_base_id); });
      attempt(listPast);
      attempt(listModels);
    },
  };
}

function enterAs(user) {
  const place = workplace(user);
  replace(root, place.element);
  place.begin();
}

async function show() {
  try {
    enterAs(await call("GET", "/api/v1/users/me"));
  } catch (problem) {
    window.onhashchange = null;
    replace(root, signIn(enterAs));
    if (problem.status !== 401) notice(problem.message);
    document.getElementById("email").focus();
  }
}

show();
