// The browser's tab: progress in its title, and a notification when a video has ended.

import { text } from "./texts.js";

const NAME = document.title;

export class Tab {
  #button = document.getElementById("notify");
  #unseen = 0;
  #cards = [];

  /** `open` is called with the job whose notification was pressed. */
  constructor({ open }) {
    this.open = open;
    this.#button.addEventListener("click", () => this.#ask());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#unseen = 0;
      this.show();
    });
  }

  /** Show how far the first running job is, or how many have ended since the tab was left. */
  show(cards = this.#cards) {
    this.#cards = cards;
    const active = cards.filter((card) => !card.isEnded);
    this.#button.hidden = !(active.length && canAsk());
    const title = `${this.#lead(active)}${NAME}`;
    if (document.title !== title) document.title = title;
  }

  /** Say that a job has ended, to someone who looks elsewhere. */
  notify(card) {
    if (!document.hidden || card.state === "Cancelled") return;
    this.#unseen += 1;
    if (!("Notification" in window) || Notification.permission !== "granted") return;
    const note = new Notification(text(`state.${card.state}`), { body: card.shortName, tag: card.id });
    note.addEventListener("click", () => {
      window.focus();
      this.open(card.id);
      note.close();
    });
  }

  #lead(active) {
    const running = active.find((card) => card.state === "InProgress");
    if (running) return `${Math.floor(running.job.progress * 100)}% · `;
    if (this.#unseen) return `✓ ${this.#unseen} · `;
    return active.length ? `${text("state.InQueue")} · ` : "";
  }

  async #ask() {
    await Notification.requestPermission();
    this.show();
  }
}

/** Whether the browser may be asked: it knows notifications, and no answer has been given yet. */
function canAsk() {
  return window.isSecureContext && "Notification" in window && Notification.permission === "default";
}
