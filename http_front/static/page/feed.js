// Follows one job until it ends, across lost connections and server restarts.

import { watch } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;

export class Feed {
  #id;
  #listeners;
  #socket = null;
  #timer = 0;
  #lastSeq = 0;
  #waitMs = FIRST_WAIT_MS;

  /** `change` is called with each state of the job, `preview` with each picture as a Blob. */
  constructor(id, listeners) {
    this.#id = id;
    this.#listeners = listeners;
    this.#connect();
  }

  close() {
    clearTimeout(this.#timer);
    this.#listeners = null;
    this.#socket.close();
  }

  #connect() {
    this.#socket = watch(this.#id, this.#lastSeq);
    this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
    this.#socket.addEventListener("close", () => this.#reconnect());
  }

  #receive(data) {
    if (this.#listeners === null) return;
    if (data instanceof Blob) {
      this.#listeners.preview(data);
      return;
    }
    const change = JSON.parse(data);
    if (change.error) return; // the server closes the socket, and we reconnect
    this.#lastSeq = change.seq;
    this.#waitMs = FIRST_WAIT_MS;
    this.#listeners.change(change);
  }

  #reconnect() {
    if (this.#listeners === null) return;
    this.#timer = setTimeout(() => this.#connect(), this.#waitMs);
    this.#waitMs = Math.min(this.#waitMs * 2, LONGEST_WAIT_MS);
  }
}
