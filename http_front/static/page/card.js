// One job on the page: waiting, running with its previews, or a video to play.

import * as api from "./api.js";
import { framesPerSecond } from "./models.js";
import { parseSize } from "./size.js";
import { clock, duration, text, translate } from "./texts.js";

const ENDED = ["Succeed", "Failed", "Cancelled"];
const SURE_MS = 4000;
const LONGEST_SAID = 60;

export class Card {
  element = document.getElementById("card").content.firstElementChild.cloneNode(true);
  #job = null;
  #settings = null;
  #heardAt = 0;

  /** `thumbnail` is a small copy of the submitted picture, if this browser has one. */
  constructor(id, thumbnail, { cancel, useSettings, remove, fail }) {
    this.id = id;
    this.fail = fail;
    this.element.dataset.job = id;
    if (thumbnail) this.#part("img").src = thumbnail;
    this.#on(".cancel", () => this.#cancel(cancel));
    this.#on(".reuse", () =>
      useSettings({ requestId: this.id, settings: this.#settings }, { newSeed: false }),
    );
    this.#on(".delete", () => this.#askOnce(remove));
    this.#on(".play", () => this.#play());
    this.#on(".download", () => this.#download());
    translate(this.element);
  }

  get state() {
    return this.#job?.status;
  }

  get isEnded() {
    return ENDED.includes(this.state);
  }

  get createdAt() {
    return this.#job?.created_at ?? 0;
  }

  get name() {
    return this.#settings?.prompt ?? this.id;
  }

  /** The start of the prompt, for screen readers. */
  get shortName() {
    return this.name.length > LONGEST_SAID ? `${this.name.slice(0, LONGEST_SAID)}…` : this.name;
  }

  /** Show the job's current state. The list includes its settings, the feed does not. */
  update(job) {
    if (this.#job !== null && job.updated_at < this.#job.updated_at) return;
    const hasSucceeded = job.status === "Succeed" && this.state !== "Succeed";
    this.#job = job;
    this.#settings ??= job.settings ?? null;
    this.#heardAt = performance.now();
    this.element.dataset.state = job.status;
    this.#part("progress").value = job.progress;
    if (hasSucceeded) this.#showPoster();
    this.refresh();
  }

  /** Update the texts, because time has passed or the language has changed. */
  refresh() {
    this.#part(".prompt").textContent = this.name;
    this.#part(".prompt").title = this.name; // the card shows only the start
    this.#part(".badge").textContent = text(`state.${this.state}`);
    this.#part(".status").textContent = this.#describe();
    this.#part(".details").textContent = this.#details();
    this.#part("progress").ariaLabel = text(`state.${this.state}`);
  }

  /** Show a preview of the running job. */
  preview(picture) {
    this.#part("img").classList.add("live");
    this.#show("img", URL.createObjectURL(picture));
  }

  remove() {
    for (const kind of ["img", "video"]) this.#show(kind, "");
    this.element.remove();
  }

  /** The button disappears, so move the focus to the one that replaces it. */
  async #cancel(act) {
    await act();
    this.#part(".reuse").focus({ preventScroll: true });
  }

  /** Delete on a second press within a few seconds. */
  #askOnce(act) {
    const button = this.#part(".delete");
    if (button.classList.contains("sure")) {
      act();
      return;
    }
    button.classList.add("sure");
    button.textContent = text("deleteSure");
    setTimeout(() => {
      button.classList.remove("sure");
      button.textContent = text("delete");
    }, SURE_MS);
  }

  #describe() {
    const job = this.#job;
    // Why the job failed, or what it is waiting for.
    if (job.reason) return job.reason;
    if (job.warning) return text(`warning.${job.warning}`);
    if (this.isEnded) return "";
    const parts = [];
    if (job.status === "InQueue" && job.queue_position) {
      parts.push(text("position", job.queue_position));
    }
    if (job.status === "InProgress" && job.stage) parts.push(text(`stage.${job.stage}`));
    if (job.stage === "denoise" && job.step) parts.push(text("step", job.step, job.num_steps));
    if (job.eta_s !== null) {
      const left = job.eta_s - (performance.now() - this.#heardAt) / 1000;
      const sentence = job.status === "InQueue" ? "doneIn" : "left";
      if (left > 0) parts.push(text(sentence, duration(left))); // else the estimate was too short
    }
    return parts.join(" · ");
  }

  #details() {
    const settings = this.#settings;
    const parts = [];
    if (settings) {
      const [width, height] = parseSize(settings.image_size);
      const fps = framesPerSecond(settings.model);
      parts.push(`${width} × ${height}`, text("frames", settings.num_frames, fps));
    }
    if (this.#job.model) parts.push(this.#job.model);
    if (this.#job.notice) parts.push(text("longer"));
    parts.push(clock(this.#job.created_at));
    return parts.join(" · ");
  }

  async #showPoster() {
    const poster = await api.loadable(this.#job.results.poster_url).catch(() => null);
    if (poster) this.#show("img", poster); // else keep the last preview
  }

  async #play() {
    const video = this.#part("video");
    this.#show("video", await this.#video());
    video.hidden = false;
    video.ariaLabel = this.name;
    this.element.classList.add("played");
    await video.play().catch(() => {}); // paused at once or not allowed; the controls still work
    video.focus();
  }

  async #download() {
    const link = document.createElement("a");
    link.href = await this.#video();
    link.download = `${this.id}.mp4`;
    link.click();
  }

  #video() {
    return api.loadable(this.#job.results.video_url);
  }

  /** Set an element's source, and release the previous one. */
  #show(kind, address) {
    const element = this.#part(kind);
    if (element.src.startsWith("blob:")) URL.revokeObjectURL(element.src);
    if (address) element.src = address;
    else element.removeAttribute("src");
  }

  #on(selector, act) {
    this.#part(selector).addEventListener("click", async () => {
      try {
        await act();
      } catch (refusal) {
        this.fail(refusal);
      }
    });
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }
}
