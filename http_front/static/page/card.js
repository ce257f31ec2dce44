// One job on the page: waiting, running with its previews, or a video to play.

import * as api from "./api.js";
import { detailsOf, expiryOf, fileNameOf, isEnded, makingOf, progressOf } from "./facts.js";
import { frameOf } from "./frame.js";
import { Menu } from "./menu.js";
import { Screen } from "./screen.js";
import { parseSize } from "./size.js";
import { text, translate } from "./texts.js";

const LONGEST_SAID = 60;

export class Card {
  element = document.getElementById("card").content.firstElementChild.cloneNode(true);
  settings = null;
  #job = null;
  #screen = new Screen(this.#part(".screen"));
  #heardAt = 0;

  /**
   * `thumbnail` is a small copy of the submitted picture, if this browser has one. `actions` are
   * called with the card: cancel, keep, remove, retry, link; for useSettings and useFrame see main.js;
   * fail gets a Refusal.
   */
  constructor(id, thumbnail, actions) {
    this.id = id;
    this.fail = actions.fail;
    this.element.dataset.job = id;
    this.element.id = `video-${id}`;
    if (thumbnail) this.#screen.picture(thumbnail);
    new Menu(this.#part(".other"), this.#part(".menu"));
    this.#on(".cancel", () => this.#cancel(actions.cancel));
    this.#on(".keep", () => actions.keep(this, !this.#job.kept));
    this.#on(".retry", () => actions.retry(this));
    this.#on(".take", () => actions.useSettings(this.#job, { newSeed: true }));
    this.#on(".again", () => actions.useSettings(this.#job, { newSeed: false }));
    this.#on(".animate", async () => actions.useFrame(await this.#frame()));
    this.#on(".link", () => actions.link(this));
    this.#on(".delete", () => actions.remove(this));
    this.#on(".play", () => this.#play());
    this.#on(".download", () => this.#download());
    this.translate();
  }

  get state() {
    return this.#job?.status;
  }

  get job() {
    return this.#job;
  }

  get isEnded() {
    return isEnded(this.#job);
  }

  get isPlaying() {
    return this.#screen.isPlaying;
  }

  get createdAt() {
    return this.#job?.created_at ?? 0;
  }

  get name() {
    return this.settings?.prompt ?? this.id;
  }

  /** The start of the prompt, for screen readers. */
  get shortName() {
    return this.name.length > LONGEST_SAID ? `${this.name.slice(0, LONGEST_SAID)}…` : this.name;
  }

  get isPicked() {
    return this.#part(".pick input").checked;
  }

  set isPicked(isPicked) {
    this.#part(".pick input").checked = isPicked;
  }

  /** Show the job's current state. The list has its settings and its expiry, the feed has not. */
  update(job) {
    if (this.#job !== null && job.updated_at < this.#job.updated_at) return;
    const hasSucceeded = job.status === "Succeed" && this.state !== "Succeed";
    const before = this.#namedBy();
    this.#job = { ...this.#job, ...job, ...this.#onlyListed(job) };
    this.settings ??= job.settings ?? null;
    this.#heardAt = performance.now();
    this.element.dataset.state = job.status;
    this.#part("progress").value = job.progress;
    if (hasSucceeded) this.#screen.finish(job.results, this.#shape());
    else if (!this.#screen.isFilled) this.#screen.storedPicture(`/videos/${this.id}.input.webp`);
    if (before !== this.#namedBy()) this.translate();
    else this.refresh();
  }

  /** Update the texts, because time has passed. */
  refresh() {
    if (this.#job === null) return;
    const ageS = (performance.now() - this.#heardAt) / 1000;
    const { sentence, isNear } = expiryOf(this.#job);
    this.#write(".badge", text(`state.${this.state}`));
    this.#write(".status", progressOf(this.#job, ageS));
    this.#write(".details", detailsOf(this.#job, this.settings));
    this.#write(".making", makingOf(this.#job, this.settings));
    this.#write(".until", sentence);
    this.#part(".expiry").classList.toggle("near", isNear);
    this.#part("progress").ariaLabel = text(`state.${this.state}`);
  }

  /** Write all texts, because the language has changed, or what the job is called. */
  translate() {
    this.#part(".keep").dataset.text = this.#job?.kept ? "letExpire" : "keep";
    this.#part(".animate").dataset.text = this.#screen.isOpen ? "animateThis" : "animateLast";
    translate(this.element);
    this.#part(".prompt").title = this.name; // the card shows only the start
    this.#write(".prompt", this.name);
    for (const button of this.element.querySelectorAll("[data-text], [data-label]")) {
      const caption = text(button.dataset.text ?? button.dataset.label);
      button.ariaLabel = `${caption}: ${this.shortName}`;
    }
    this.refresh();
  }

  /** Show a preview of the running job. */
  preview(picture) {
    this.#screen.preview(picture);
  }

  remove() {
    this.#screen.clear();
    this.element.remove();
  }

  /** Return an address of the video that an element can load. */
  video() {
    return api.loadable(this.#job.results.video_url);
  }

  /** The name of the video as a file, without its ending. */
  get fileName() {
    return fileNameOf(this.id, this.settings);
  }

  /** The button disappears, so move the focus to the one that replaces it. */
  async #cancel(act) {
    await act(this);
    this.#part(".take").focus({ preventScroll: true });
  }

  async #play() {
    await this.#screen.play(this.name);
    this.element.classList.add("played");
    this.translate();
  }

  async #download() {
    const link = document.createElement("a");
    link.href = await this.video();
    link.download = `${this.fileName}.mp4`;
    link.click();
  }

  /** The frame on the screen, or the last one of a video that is not played. */
  #frame() {
    const { isOpen, video } = this.#screen;
    return frameOf(isOpen ? video : null, () => this.video(), this.fileName);
  }

  #shape() {
    const [width, height] = parseSize(this.settings?.image_size ?? "") ?? [16, 10];
    return width / height;
  }

  /** What the feed does not know: its changes say neither how long a job is kept nor its settings. */
  #onlyListed(job) {
    if ("settings" in job || this.#job === null) return {};
    const { kept, expires_at, settings, has_last_image } = this.#job;
    return { kept, expires_at, settings, has_last_image };
  }

  /** What its buttons are called after. */
  #namedBy() {
    return `${this.name} ${this.#job?.kept}`;
  }

  /** Write only changes: screen readers and the layout take notice of each. */
  #write(selector, sentence) {
    const element = this.#part(selector);
    if (element.textContent !== sentence) element.textContent = sentence;
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
