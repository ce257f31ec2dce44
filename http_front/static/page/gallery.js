// Shows the listed jobs, with a feed for each active one.

import * as api from "./api.js";
import { Card } from "./card.js";
import { Feed } from "./feed.js";
import { thumbnails } from "./store.js";
import { text } from "./texts.js";

// The server limits the WebSockets of a key; the other jobs are waiting in the queue anyway.
const MAX_FEEDS = 4;
const FIRST_LISTED = 24;

export class Gallery {
  #list = document.getElementById("cards");
  #older = document.getElementById("older");
  #limit = FIRST_LISTED;
  #cards = new Map();
  #feeds = new Map();

  /** For `useSettings` see main.js; `announce` is called with a message, `fail` with a Refusal. */
  constructor({ useSettings, announce, fail }) {
    this.useSettings = useSettings;
    this.announce = announce;
    this.fail = fail;
    this.#older.addEventListener("click", () => this.#showOlder());
    setInterval(() => this.#active().forEach((card) => card.refresh()), 1000);
  }

  /** Update the cards from the server's list. */
  async refresh() {
    const limit = this.#limit;
    const { jobs, hasMore } = await api.list(limit);
    if (limit < this.#limit) return; // a newer request for more jobs is under way
    const listed = new Set(jobs.map((job) => job.requestId));
    for (const id of this.#cards.keys()) if (!listed.has(id)) this.#drop(id);
    for (const job of jobs) this.#show(job.requestId, job);
    this.#follow();
    document.getElementById("no-jobs").hidden = jobs.length > 0;
    this.#older.hidden = !hasMore;
  }

  translate() {
    this.#cards.forEach((card) => card.refresh());
  }

  #showOlder() {
    this.#limit *= 2;
    this.refresh().catch(this.fail);
  }

  #show(id, job) {
    const card = this.#cards.get(id);
    if (!card) {
      this.#place(id, job);
      return;
    }
    const before = card.state;
    card.update(job);
    if (before !== card.state) this.announce(`${text(`state.${card.state}`)}: ${card.shortName}`);
    if (card.isEnded) this.#close(id);
  }

  /** Insert a new card before all older ones. */
  #place(id, job) {
    const card = new Card(id, thumbnails.all()[id], {
      cancel: () => this.#cancel(id),
      useSettings: this.useSettings,
      remove: () => this.#remove(id),
      fail: this.fail,
    });
    card.update(job);
    const older = [...this.#list.children].find(
      (element) => this.#cards.get(element.dataset.job).createdAt < card.createdAt,
    );
    this.#list.insertBefore(card.element, older ?? null);
    this.#cards.set(id, card);
  }

  #active() {
    const active = [...this.#cards.values()].filter((card) => !card.isEnded);
    return active.sort((one, other) => one.createdAt - other.createdAt);
  }

  #follow() {
    for (const { id } of this.#active().slice(0, MAX_FEEDS)) {
      if (!this.#feeds.has(id)) this.#feeds.set(id, this.#open(id));
    }
  }

  #open(id) {
    return new Feed(id, {
      change: (job) => this.#show(id, job),
      preview: (picture) => this.#cards.get(id).preview(picture),
    });
  }

  #close(id) {
    this.#feeds.get(id)?.close();
    this.#feeds.delete(id);
  }

  async #cancel(id) {
    await api.cancel(id);
    await this.refresh();
  }

  async #remove(id) {
    await api.remove(id);
    await this.refresh();
    document.getElementById("jobs").focus({ preventScroll: true }); // the pressed button is gone
    this.announce(text("deleted"));
  }

  #drop(id) {
    this.#close(id);
    this.#cards.get(id).remove();
    this.#cards.delete(id);
  }
}
