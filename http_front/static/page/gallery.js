// All jobs that are shown: kept true by asking now and then, and by a feed for each active one.

import * as api from "./api.js";
import { Card } from "./card.js";
import { Feed } from "./feed.js";
import * as store from "./store.js";
import { text } from "./texts.js";

// A server lets a key open a few WebSockets only; the other jobs wait in the queue anyway.
const MAX_FEEDS = 4;

export class Gallery {
  #list = document.getElementById("cards");
  #cards = new Map();
  #feeds = new Map();

  /** `reuse` takes the settings of a job, `tell` a sentence for everybody, `fail` a Refusal. */
  constructor({ reuse, tell, fail }) {
    this.reuse = reuse;
    this.tell = tell;
    this.fail = fail;
    setInterval(() => this.#cards.forEach((card) => !card.isEnded && card.refresh()), 1000);
  }

  /** Show a job that has just been submitted. */
  add(id, remembered) {
    store.jobs.keep(id, remembered);
    return this.refresh();
  }

  /** Make the cards what the server says. */
  async refresh() {
    const remembered = store.jobs.all();
    for (const id of Object.keys(remembered)) {
      if (this.#cards.get(id)?.isEnded || this.#feeds.has(id)) continue;
      await this.#refreshOne(id, remembered[id]);
    }
    this.#follow();
    document.getElementById("no-jobs").hidden = this.#cards.size > 0;
  }

  translate() {
    this.#cards.forEach((card) => card.refresh());
  }

  async #refreshOne(id, remembered) {
    try {
      this.#show(id, await api.status(id), remembered);
    } catch (refusal) {
      if (refusal.status !== 404) throw refusal;
      this.#drop(id);
    }
  }

  #show(id, job, remembered) {
    let card = this.#cards.get(id);
    if (!card) {
      card = new Card(id, remembered, {
        cancel: () => this.#attempt(() => this.#cancel(id)),
        reuse: (settings) => this.reuse(settings),
        remove: () => this.#attempt(() => this.#remove(id)),
      });
      this.#cards.set(id, card);
      card.update(job);
      this.#place(card);
      return;
    }
    const before = card.state;
    card.update(job);
    if (before !== job.status) this.tell(`${text(`state.${job.status}`)}: ${this.#name(card)}`);
  }

  /** Put a card before all that are older. */
  #place(card) {
    const older = [...this.#list.children].find(
      (element) => this.#cards.get(element.dataset.job).createdAt < card.createdAt,
    );
    this.#list.insertBefore(card.element, older ?? null);
  }

  #follow() {
    const active = [...this.#cards.values()].filter((card) => !card.isEnded);
    active.sort((one, other) => one.createdAt - other.createdAt);
    for (const { id } of active.slice(0, MAX_FEEDS)) {
      if (!this.#feeds.has(id)) this.#open(id);
    }
  }

  #open(id) {
    const feed = new Feed(id, {
      change: (job) => {
        this.#show(id, job);
        if (this.#cards.get(id).isEnded) this.#close(id);
      },
      preview: (picture) => this.#cards.get(id).preview(picture),
    });
    this.#feeds.set(id, feed);
  }

  #close(id) {
    this.#feeds.get(id)?.close();
    this.#feeds.delete(id);
  }

  async #cancel(id) {
    await api.cancel(id);
    this.#show(id, await api.status(id));
    this.#close(id);
  }

  async #remove(id) {
    await api.remove(id);
    this.#drop(id);
    this.tell(text("deleted"));
  }

  #drop(id) {
    store.jobs.forget(id);
    this.#close(id);
    this.#cards.get(id)?.remove();
    this.#cards.delete(id);
  }

  async #attempt(act) {
    try {
      await act();
    } catch (refusal) {
      this.fail(refusal);
    }
  }

  #name(card) {
    return card.element.querySelector(".prompt").textContent;
  }
}
