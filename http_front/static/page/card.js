// One job on the page: waiting, running with its previews, or a video to play.

import * as api from "./api.js";
import { parseSize } from "./settings.js";
import { duration, text, translate } from "./texts.js";

const ENDED = ["Succeed", "Failed", "Cancelled"];
const SURE_MS = 4000;

export class Card {
  element = document.getElementById("card").content.firstElementChild.cloneNode(true);
  #job = null;
  #heardAt = 0;
  #remembered;
  #showsVideo = false;

  /** `remembered` is what this browser knows of the job: settings, small picture. */
  constructor(id, remembered, actions) {
    this.id = id;
    this.#remembered = remembered ?? {};
    this.element.dataset.job = id;
    this.#setUp(actions);
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

  /** Show how the job is now. */
  update(job) {
    this.#job = job;
    this.#heardAt = performance.now();
    if (job.spec) this.#remembered = { ...this.#remembered, settings: job.spec };
    this.element.dataset.state = job.status;
    this.#part("progress").value = job.progress;
    if (job.status === "Succeed") this.#showVideo(job.results);
    this.refresh();
  }

  /** Show the sentences anew: time has passed, or the language has changed. */
  refresh() {
    if (this.#job === null) return;
    this.#part(".badge").textContent = text(`state.${this.state}`);
    this.#part(".status").textContent = this.#describe();
    this.#part(".details").textContent = this.#details();
    this.#part("progress").setAttribute("aria-label", text(`state.${this.state}`));
  }

  /** Show a picture of the running job. */
  preview(picture) {
    const image = this.#part("img");
    const before = image.src;
    image.src = URL.createObjectURL(picture);
    image.classList.add("live");
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  }

  remove() {
    for (const media of this.element.querySelectorAll("img, video")) {
      if (media.src.startsWith("blob:")) URL.revokeObjectURL(media.src);
    }
    this.element.remove();
  }

  #setUp({ cancel, reuse, remove }) {
    const settings = this.#remembered.settings;
    this.#part(".prompt").textContent = settings?.prompt ?? this.id;
    if (this.#remembered.thumbnail) this.#part("img").src = this.#remembered.thumbnail;
    this.#part(".cancel").addEventListener("click", () => cancel(this));
    this.#part(".reuse").addEventListener("click", () => reuse(this.#remembered.settings));
    this.#part(".reuse").hidden = settings === undefined;
    this.#part(".download").addEventListener("click", (event) => this.#download(event));
    this.#part(".delete").addEventListener("click", () => this.#askOnce(() => remove(this)));
  }

  /** A second press within some seconds is a yes. */
  #askOnce(act) {
    const button = this.#part(".delete");
    if (button.classList.contains("sure")) {
      act();
      return;
    }
    const calm = () => {
      button.classList.remove("sure");
      button.textContent = text("delete");
    };
    button.classList.add("sure");
    button.textContent = text("deleteSure");
    setTimeout(calm, SURE_MS);
  }

  #describe() {
    const job = this.#job;
    if (job.status === "Failed") return job.reason ?? "";
    if (this.isEnded) return "";
    const parts = [];
    if (job.status === "InQueue" && job.queue_position) {
      parts.push(text("place", job.queue_position));
    }
    if (job.status === "InProgress" && job.stage) parts.push(text(`stage.${job.stage}`));
    if (job.stage === "denoise" && job.step) parts.push(text("step", job.step, job.num_steps));
    if (job.eta_s !== null) {
      const left = job.eta_s - (performance.now() - this.#heardAt) / 1000;
      parts.push(text("left", duration(left)));
    }
    return parts.join(" · ");
  }

  #details() {
    const { settings } = this.#remembered;
    const parts = [];
    if (settings) {
      const [width, height] = parseSize(settings.image_size) ?? ["?", "?"];
      parts.push(`${width} × ${height}`, text("frames", settings.num_frames));
      if (settings.seed) parts.push(text("seed", settings.seed));
    }
    const time = new Date(this.#job.created_at * 1000);
    parts.push(time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    return parts.join(" · ");
  }

  async #showVideo({ video_url: path }) {
    if (this.#showsVideo) return;
    this.#showsVideo = true;
    const video = this.#part("video");
    video.setAttribute("aria-label", this.#part(".prompt").textContent);
    video.src = await api.loadable(path);
    video.hidden = false;
    this.#part("img").hidden = true;
    const link = this.#part(".download");
    link.href = video.src;
    link.download = `${this.id}.mp4`;
  }

  #download(event) {
    if (!this.#part(".download").href) event.preventDefault();
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }
}
