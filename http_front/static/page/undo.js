// Deletes jobs, but only after some time in which that can be undone.

import * as api from "./api.js";
import { text } from "./texts.js";
import * as toast from "./toast.js";

const UNDO_MS = 10_000;

export class Undo {
  #waiting = new Set();
  #gone = new Set();
  #timer = 0;
  #dismiss = () => {};

  /** `changed` is called when jobs come or go, `fail` with a Refusal. */
  constructor({ changed, fail }) {
    this.changed = changed;
    this.fail = fail;
    // Whoever leaves the page has not undone it.
    addEventListener("pagehide", () => this.#waiting.size && this.#carryOut({ keepalive: true }));
  }

  /** Whether a job looks as if it were deleted. */
  hides(id) {
    return this.#waiting.has(id) || this.#gone.has(id);
  }

  /** Delete jobs. A further deletion joins one that can still be undone. */
  remove(ids) {
    clearTimeout(this.#timer);
    this.#dismiss();
    for (const id of ids) this.#waiting.add(id);
    this.#timer = setTimeout(() => this.#carryOut(), UNDO_MS);
    this.changed();
    const sentence = text("deletedMany", this.#waiting.size);
    this.#dismiss = toast.offer(sentence, text("undo"), UNDO_MS, () => this.#undo());
  }

  #undo() {
    clearTimeout(this.#timer);
    const [first] = this.#waiting;
    this.#waiting.clear();
    this.#dismiss();
    this.changed();
    document.querySelector(`[data-job="${first}"] .other`)?.focus();
  }

  async #carryOut(options) {
    if (toast.hasFocus()) document.getElementById("jobs").focus({ preventScroll: true });
    const ids = [...this.#waiting];
    for (const id of ids) this.#gone.add(id);
    this.#waiting.clear();
    for (const id of ids) {
      await api.remove(id, options).catch((refusal) => this.#keep(id, refusal));
    }
    this.changed();
  }

  /** Show a job again that could not be deleted; one that is gone already is as it should be. */
  #keep(id, refusal) {
    if (refusal.status === 404) return;
    this.#gone.delete(id);
    this.fail(refusal);
  }
}
