// Shows videos side by side; they play together.

import { settingsOf } from "./facts.js";
import { text } from "./texts.js";

// More than a frame apart is seen.
const APART_S = 0.06;

export class Compare {
  #dialog = document.getElementById("compare");
  #row = this.#dialog.querySelector(".row");
  #play = this.#dialog.querySelector(".play-all");
  #at = this.#dialog.querySelector("[type=range]");
  #videos = [];
  #cards = [];

  constructor({ fail }) {
    this.fail = fail;
    this.#play.addEventListener("click", () => (this.#leader.paused ? this.#start() : this.#stop()));
    this.#at.addEventListener("input", () => this.#seek(Number(this.#at.value)));
    this.#dialog.querySelector(".close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#clear());
  }

  /** Open the videos of some cards, and play them from the start. */
  async open(cards) {
    try {
      const sources = await Promise.all(cards.map((card) => card.video()));
      this.#cards = cards;
      this.#videos = sources.map(makeVideo);
      this.#row.replaceChildren(...this.#videos.map((video) => makePanel(video)));
      this.translate();
      this.#dialog.showModal();
      await Promise.all(this.#videos.map(hasLoaded));
      this.#at.max = this.#leader.duration;
      this.#leader.addEventListener("ended", () => this.#restart());
      this.#start();
    } catch (refusal) {
      this.#dialog.close();
      this.fail(refusal);
    }
  }

  translate() {
    this.#cards.forEach(({ name, settings }, index) => {
      const panel = this.#row.children[index];
      panel.querySelector("h3").textContent = name;
      panel.querySelector("p").textContent = settings ? settingsOf(settings).join(" · ") : "";
      this.#videos[index].ariaLabel = name;
    });
    this.#namePlay();
  }

  /** The longest video; the others follow it. */
  get #leader() {
    return this.#videos.reduce((one, other) => (other.duration > one.duration ? other : one));
  }

  #start() {
    for (const video of this.#videos) if (!video.ended) video.play().catch(() => {});
    this.#namePlay();
    requestAnimationFrame(() => this.#follow());
  }

  #stop() {
    for (const video of this.#videos) video.pause();
    this.#seek(this.#leader.currentTime);
    this.#namePlay();
  }

  #restart() {
    this.#seek(0);
    this.#start();
  }

  #seek(time) {
    this.#at.value = time;
    for (const video of this.#videos) video.currentTime = Math.min(time, video.duration);
  }

  /** Keep the others with the leader while they play. */
  #follow() {
    if (!this.#videos.length || this.#leader.paused) return;
    const time = this.#leader.currentTime;
    this.#at.value = time;
    for (const video of this.#videos) {
      const wanted = Math.min(time, video.duration);
      const isApart = Math.abs(video.currentTime - wanted) > APART_S;
      if (isApart && !video.seeking) video.currentTime = wanted;
    }
    requestAnimationFrame(() => this.#follow());
  }

  #namePlay() {
    const isPaused = !this.#videos.length || this.#leader.paused;
    this.#play.textContent = text(isPaused ? "playAll" : "pauseAll");
  }

  #clear() {
    for (const video of this.#videos) {
      if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
      video.removeAttribute("src");
    }
    [this.#videos, this.#cards] = [[], []];
    this.#row.replaceChildren();
  }
}

function makeVideo(source) {
  const video = document.createElement("video");
  return Object.assign(video, { src: source, muted: true, playsInline: true, preload: "auto" });
}

function makePanel(video) {
  const panel = document.createElement("section");
  panel.append(document.createElement("h3"), video, document.createElement("p"));
  return panel;
}

function hasLoaded(video) {
  if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return null;
  return new Promise((done, fail) => {
    video.addEventListener("loadeddata", done, { once: true });
    video.addEventListener("error", () => fail(video.error), { once: true });
  });
}
