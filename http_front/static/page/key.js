// Asks for the API key, and keeps it in this browser.

import * as store from "./store.js";
import { text } from "./texts.js";

const part = (id) => document.getElementById(id);
let hasAsked = false; // ask only once by itself; after that the user opens the dialog by its button

/** Listen to the button and the dialog; `changed` is called with another key or none. */
export function listenToKey(changed) {
  part("key-button").addEventListener("click", () => open("keyNote"));
  part("key-dialog").addEventListener("close", () => take() && changed());
  part("key-forget").addEventListener("click", () => part("key-dialog").close("forget"));
  part("key-button").hidden = !store.key.get();
}

/** Ask for a key, or for another key if the server refused the stored one. */
export function askForKey() {
  open(store.key.get() ? "keyWrong" : "keyNote");
}

export function askOnce() {
  if (!hasAsked) askForKey();
}

function open(note) {
  part("key-button").hidden = false;
  part("key-note").dataset.text = note;
  part("key-note").textContent = text(note);
  if (part("key-dialog").open) return;
  hasAsked = true;
  part("key-dialog").returnValue = ""; // else Escape would return the previous value
  part("key-dialog").showModal();
}

/** Keep or forget the key, as the dialog was closed; return whether it was answered. */
function take() {
  const { returnValue } = part("key-dialog");
  if (returnValue === "use") {
    store.key.set(part("key").value.trim());
    hasAsked = false;
  }
  if (returnValue === "forget") store.key.set("");
  part("key").value = "";
  return Boolean(returnValue);
}
