// Shows the listed jobs, with a feed for each active one.

import * as api from "./api.js";
import { Card } from "./card.js";
import { Compare } from "./compare.js";
import { Expired } from "./expired.js";
import { Feed } from "./feed.js";
import { Filter } from "./filter.js";
import { linkedJob, shareLink } from "./links.js";
import { arrange } from "./order.js";
import { needsSeed, tryAgain } from "./retry.js";
import { Selection } from "./selection.js";
import { thumbnails } from "./store.js";
import { Tab } from "./tab.js";
import { text } from "./texts.js";
import { toast } from "./toast.js";
import { Undo } from "./undo.js";

// The server limits the WebSockets of a key; the other jobs are waiting in the queue anyway.
const MAX_FEEDS = 4;
const FIRST_LISTED = 24;

export class Gallery {
  #list = document.getElementById("cards");
  #older = document.getElementById("older");
  #limit = FIRST_LISTED;
  #cards = new Map();
  #feeds = new Map();
  #expired = new Expired();
  #isLinkFollowed = false;
  #compare;
  #filter;
  #selection;
  #tab;
  #undo;

  /**
   * For `useSettings` and `useFrame` see main.js; `announce` is called with a message, `fail` with a
   * Refusal.
   */
  constructor({ useSettings, useFrame, announce, fail }) {
    this.announce = announce;
    // A card's refusal is said where its button was pressed, not in the form.
    this.fail = (refusal) => (refusal.status === 401 ? fail(refusal) : toast(refusal.message));
    this.#undo = new Undo({ changed: () => this.#update(), fail: this.fail });
    this.#compare = new Compare({ fail: this.fail });
    this.#filter = new Filter(() => this.#update());
    this.#selection = new Selection({
      cards: () => this.#shown(),
      compare: (cards) => this.#compare.open(cards),
      remove: (cards) => this.#remove(cards),
    });
    this.#tab = new Tab({ open: (id) => this.#reveal(id) });
    this.actions = {
      cancel: (card) => this.#cancel(card),
      keep: (card, isKept) => this.#keep(card, isKept),
      remove: (card) => this.#remove([card]),
      retry: (card) => this.#retry(card),
      link: (card) => shareLink(card.element.id),
      useSettings,
      useFrame,
      fail: this.fail,
    };
    this.#older.addEventListener("click", () => this.#showOlder());
    addEventListener("hashchange", () => this.#followLink());
    setInterval(() => this.#active().forEach((card) => card.refresh()), 1000);
  }

  /** Update the cards from the server's list. */
  async refresh() {
    const [limit, query] = [this.#limit, this.#filter.query];
    const latest = await api.list(limit);
    const found = query ? await api.list(limit, query) : latest;
    const isOld = JSON.stringify(query) !== JSON.stringify(this.#filter.query);
    if (limit < this.#limit || isOld) return; // a newer request for other jobs is under way
    const jobs = new Map([...found.jobs, ...latest.jobs].map((job) => [job.requestId, job]));
    for (const [id, card] of this.#cards) if (!jobs.has(id)) this.#lose(id, card);
    for (const [id, job] of jobs) this.#show(id, job);
    this.#follow();
    await this.#expired.note(latest.jobs, latest.hasMore, (id) => this.#undo.hides(id));
    this.#older.hidden = !found.hasMore;
    this.#present();
    if (!this.#isLinkFollowed) await this.#followLink();
  }

  translate() {
    this.#cards.forEach((card) => card.translate());
    this.#expired.translate();
    this.#selection.translate();
    this.#compare.translate();
    this.#tab.show();
  }

  #showOlder() {
    this.#limit *= 2;
    this.refresh().catch(this.fail);
  }

  /** Show what is to be shown of the present cards, then what the server has. */
  #update() {
    this.#present();
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
    this.#tab.show();
    if (before === card.state) return;
    this.announce(`${text(`state.${card.state}`)}: ${card.shortName}`);
    if (card.isEnded) this.#end(id, card);
    this.#present();
  }

  #place(id, job) {
    const card = new Card(id, thumbnails.all()[id], this.actions);
    card.update(job);
    this.#cards.set(id, card);
  }

  #end(id, card) {
    this.#close(id);
    this.#follow(); // a hidden page does not ask for the list
    this.#tab.notify(card);
  }

  /** Order the cards, and hide those that are deleted or filtered out. */
  #present() {
    const cards = [...this.#cards.values()];
    arrange(this.#list, cards);
    const present = cards.filter((card) => !this.#undo.hides(card.id));
    for (const card of cards) {
      card.element.hidden = this.#undo.hides(card.id) || !this.#filter.takes(card);
    }
    this.#filter.offer(present.length, this.#shown().length);
    this.#selection.offer(this.#shown());
    this.#tab.show(present);
    document.getElementById("no-jobs").hidden = present.length > 0;
  }

  #shown() {
    return [...this.#cards.values()].filter((card) => !card.element.hidden);
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

  async #cancel(card) {
    await api.cancel(card.id);
    await this.refresh();
  }

  async #keep(card, isKept) {
    card.update({ ...card.job, ...(await api.keep(card.id, isKept)) });
    this.#present();
    this.announce(text(isKept ? "nowKept" : "notKept"));
  }

  async #retry(card) {
    if (await tryAgain(card)) {
      await this.refresh();
      this.announce(text("submitted", 1));
    } else {
      await this.actions.useSettings(card.job, { newSeed: needsSeed(card.job) });
    }
  }

  #remove(cards) {
    this.#expired.forget(cards.map((card) => card.id));
    this.#undo.remove(cards.map((card) => card.id));
  }

  /** Take a job away that is not listed any more; one that is watched stays until its end. */
  #lose(id, card) {
    if (card.isPlaying && !card.element.hidden) return;
    this.#close(id);
    card.remove();
    this.#cards.delete(id);
  }

  async #followLink() {
    this.#isLinkFollowed = true;
    const id = linkedJob();
    if (id) await this.#reveal(id).catch(this.fail);
  }

  /** Scroll to a job, which may be an older one. */
  async #reveal(id) {
    this.#filter.clear();
    while (!this.#cards.has(id) && !this.#older.hidden) {
      this.#limit *= 2;
      await this.refresh();
    }
    const card = this.#cards.get(id);
    if (!card) {
      this.fail({ message: text("linkGone") });
      return;
    }
    for (const each of this.#cards.values()) each.element.classList.toggle("linked", each === card);
    card.element.scrollIntoView({ block: "center" });
    card.element.focus({ preventScroll: true });
  }
}
