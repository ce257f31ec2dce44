// Deletes jobs, but only after some time in which that can be undone.

import * as api from "./api.js";
import { text } from "./texts.js";
import * as toast from "./toast.js";

const UNDO_MS = 10_000;
// How long a key must wait that has sent too many requests at once.
const RATE_MS = 1000;

export class Undo {
  #waiting = new Set();
  #gone = new Set();
  #timer = 0;
  #dismiss = () => {};

  /** `changed` is called when jobs come or go, `fail` with a Refusal. */
  constructor({ changed, fail }) {
    this.changed = changed;
    this.fail = fail;
    // Leaving the page is not an undo.
    addEventListener("pagehide", () => {
      for (const id of this.#take()) api.remove(id, { keepalive: true }).catch(() => {});
    });
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

  async #carryOut() {
    if (toast.hasFocus()) document.getElementById("jobs").focus({ preventScroll: true });
    for (const id of this.#take()) await this.#delete(id);
    this.changed();
  }

  /** Return what is to be deleted now; it stays hidden. */
  #take() {
    const ids = [...this.#waiting];
    for (const id of ids) this.#gone.add(id);
    this.#waiting.clear();
    return ids;
  }

  /** Delete a job, or show it again if that is refused; one that is gone is as it should be. */
  async #delete(id) {
    try {
      await api.remove(id);
    } catch (refusal) {
      if (refusal.status === 404) return;
      if (refusal.status === 429) {
        await new Promise((done) => setTimeout(done, RATE_MS));
        return this.#delete(id);
      }
      this.#gone.delete(id);
      this.fail(refusal);
    }
  }
}
