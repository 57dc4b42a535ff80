// The sign-in card.

import { h, icon, replace } from "./dom.js";
import { call } from "./api.js";

export function signIn(onDone) {
  const email = h("input", { id: "email", name: "email", type: "email", autocomplete: "username", required: true });
  const password = h("input", { id: "password", name: "password", type: "password", autocomplete: "current-password", required: true });
  const failure = h("p", { class: "failure", role: "alert" });
  const button = h("button", { class: "primary" }, "Sign in");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    replace(failure);
    button.disabled = true;
    try {
      onDone(await call("POST", "/api/v1/auth/session", { body: { email: email.value.trim(), password: password.value } }));
    } catch (problem) {
      replace(failure, problem.reason === "CREDENTIALS_INVALID" ? "E-mail address or password is wrong." : problem.message);
      password.select();
    } finally {
      button.disabled = false;
    }
  } }, h("img", { src: "/web/icon.svg", alt: "", width: "48", height: "48" }), h("h1", {}, "Sign in to Parley"),
  h("label", { for: "email" }, "E-mail address"), email, h("label", { for: "password" }, "Password"), password, failure, button);
  return h("main", { class: "signin" }, form);
}
