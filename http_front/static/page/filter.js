// Which cards are shown: those with some words, and those in some states.

import { text } from "./texts.js";

const STATES = {
  all: () => true,
  active: (card) => !card.isEnded,
  finished: (card) => card.state === "Succeed",
  kept: (card) => Boolean(card.job.kept),
  failed: (card) => ["Failed", "Cancelled"].includes(card.state),
};
// How the server's list selects the same.
const QUERIES = {
  all: {},
  active: { status: "InQueue,InProgress" },
  finished: { status: "Succeed" },
  kept: { kept: true },
  failed: { status: "Failed,Cancelled" },
};
const PAUSE_MS = 250;

export class Filter {
  #tools = document.getElementById("job-tools");
  #words = document.getElementById("job-search");
  #state = document.getElementById("job-filter");
  #none = document.getElementById("no-match");
  #timer = 0;

  /** `changed` is called when other cards are to be shown. */
  constructor(changed) {
    this.changed = changed;
    for (const name of Object.keys(STATES)) {
      const option = new Option(text(`filter.${name}`), name);
      option.dataset.text = `filter.${name}`;
      this.#state.append(option);
    }
    this.#words.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(changed, PAUSE_MS);
    });
    this.#state.addEventListener("input", changed);
    this.#none.querySelector("button").addEventListener("click", () => {
      this.clear();
      this.#words.focus();
    });
  }

  get isActive() {
    return this.#words.value.trim() !== "" || this.#state.value !== "all";
  }

  /** What to ask the server for, so that it finds older jobs, too; null if all are wanted. */
  get query() {
    if (!this.isActive) return null;
    const search = this.#words.value.trim();
    return { ...QUERIES[this.#state.value], ...(search && { search }) };
  }

  /** Whether a card has every word, in its prompt, its model or as its seed, and the state. */
  takes(card) {
    if (!STATES[this.#state.value](card)) return false;
    const { prompt = "", negative_prompt: negative, seed } = card.settings ?? {};
    const said = [prompt, negative, seed, card.job.model, card.id].join("\n").toLowerCase();
    const words = this.#words.value.toLowerCase().split(/\s+/);
    return words.every((word) => said.includes(word));
  }

  /** Show the tools if there is something to filter, and say if nothing matches. */
  offer(numCards, numShown) {
    this.#tools.hidden = numCards === 0;
    this.#none.hidden = numCards === 0 || numShown > 0;
  }

  clear() {
    if (!this.isActive) return;
    this.#words.value = "";
    this.#state.value = "all";
    this.changed();
  }
}
