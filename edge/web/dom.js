// Elements without markup: text only ever becomes text nodes, so nothing that a model or a document says can run.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

const SHAPES = {
  menu: "M4 6h16M4 12h16M4 18h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  close: "M6 6l12 12M18 6L6 18",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12",
  book: "M5 5.500A2.500 2.500 0 0 1 7.500 3H19v15H7.500A2.500 2.500 0 0 0 5 20.500zM5 20.500A2.500 2.500 0 0 0 7.500 21H19v-3",
  upload: "M12 16V5M7 10l5-5 5 5M5 19h14",
  good: "M7 11v9H4v-9zM7 11l4-8a2 2 0 0 1 2 2v4h5.500a2 2 0 0 1 2 2.300l-1.200 7a2 2 0 0 1-2 1.700H7",
  bad: "M17 13V4h3v9zM17 13l-4 8a2 2 0 0 1-2-2v-4H5.500a2 2 0 0 1-2-2.300l1.200-7A2 2 0 0 1 6.700 4H17",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  out: "M14 5H6v14h8M11 12h9M17 9l3 3-3 3",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

export function notice(text, kind = "error") {
  const box = h("div", { class: `notice ${kind}` }, h("span", {}, text),
    h("button", { class: "quiet", type: "button", "aria-label": "Dismiss", onclick: () => box.remove() }, icon("close")));
  document.getElementById("notices").append(box);
  setTimeout(() => box.remove(), kind === "error" ? 12000 : 5000);
}
