// Selects cards, to compare or to delete them.

import { text } from "./texts.js";

const MOST_COMPARED = 4;

export class Selection {
  #section = document.getElementById("jobs");
  #start = document.getElementById("select-jobs");
  #bar = document.getElementById("selection");
  #count = this.#bar.querySelector(".count");
  #compare = this.#bar.querySelector(".compare");
  #remove = this.#bar.querySelector(".remove");

  /** `cards` returns the shown cards; `compare` and `remove` are called with the selected ones. */
  constructor({ cards, compare, remove }) {
    this.cards = cards;
    this.#start.addEventListener("click", () => this.#open(this.#bar.hidden));
    this.#bar.querySelector(".every").addEventListener("click", () => this.#pickAll());
    this.#bar.querySelector(".done").addEventListener("click", () => this.#open(false));
    this.#compare.addEventListener("click", () => compare(this.#finished()));
    this.#remove.addEventListener("click", () => {
      const picked = this.#picked();
      this.#open(false);
      remove(picked);
    });
    this.#section.addEventListener("change", () => this.#show());
    this.#section.addEventListener("keydown", ({ key }) => {
      if (key === "Escape" && !this.#bar.hidden) this.#open(false);
    });
  }

  /** Offer the selection if there are ended jobs among the shown cards. */
  offer(cards) {
    this.#start.hidden = !cards.some((card) => card.isEnded);
    if (this.#start.hidden && !this.#bar.hidden) this.#open(false);
    this.#show();
  }

  translate() {
    this.#show();
  }

  #open(isOpen) {
    this.#bar.hidden = !isOpen;
    this.#section.classList.toggle("selecting", isOpen);
    this.#start.setAttribute("aria-expanded", isOpen);
    for (const card of this.cards()) card.isPicked = false;
    this.#show();
    if (isOpen) this.#bar.querySelector(".every").focus();
    else this.#start.focus({ preventScroll: true });
  }

  #pickAll() {
    const ended = this.cards().filter((card) => card.isEnded);
    const isAll = ended.every((card) => card.isPicked);
    for (const card of ended) card.isPicked = !isAll;
    this.#show();
  }

  #picked() {
    return this.cards().filter((card) => card.isEnded && card.isPicked);
  }

  #finished() {
    return this.#picked().filter((card) => card.state === "Succeed");
  }

  #show() {
    const picked = this.#picked().length;
    const finished = this.#finished().length;
    const sentence = text("selected", picked);
    if (this.#count.textContent !== sentence) this.#count.textContent = sentence;
    this.#remove.disabled = picked === 0;
    this.#compare.disabled = finished < 2 || finished > MOST_COMPARED || finished < picked;
  }
}
