// The screen of a card: picture, previews, poster, sprites under the pointer, and the video.

import * as api from "./api.js";

// As the server lays out its sprite sheets.
const SPRITE_COLUMNS = 5;
const SPRITE_ROWS = 2;
const NUM_SPRITES = SPRITE_COLUMNS * SPRITE_ROWS;

export class Screen {
  #box;
  #image;
  #video;
  #sprites;
  #results = null;
  #hasAsked = false;

  constructor(box) {
    this.#box = box;
    this.#image = box.querySelector("img");
    this.#video = box.querySelector("video");
    this.#sprites = box.querySelector(".sprites");
    box.addEventListener("pointermove", (event) => this.#scrub(event));
    box.addEventListener("pointerleave", () => (this.#sprites.hidden = true));
  }

  get video() {
    return this.#video;
  }

  get isFilled() {
    return Boolean(this.#image.src);
  }

  get isOpen() {
    return !this.#video.hidden;
  }

  get isPlaying() {
    return this.isOpen && !this.#video.paused;
  }

  /** Show the picture that the video begins with, unless there is more to see already. */
  picture(address) {
    if (!this.isFilled) this.#show(this.#image, address);
  }

  /** Show the picture that the server keeps, if it does. */
  async storedPicture(path) {
    if (this.#hasAsked) return;
    this.#hasAsked = true;
    const probe = new Image();
    probe.src = await api.loadableStill(path).catch(() => "");
    await probe.decode().then(() => this.picture(probe.src), () => {});
  }

  preview(picture) {
    this.#image.classList.add("live");
    this.#show(this.#image, URL.createObjectURL(picture));
  }

  /** Show the poster of the finished video; `shape` is its width by its height. */
  async finish(results, shape) {
    this.#results = results;
    this.#sprites.style.setProperty("--shape", shape);
    const poster = await api.loadableStill(results.poster_url).catch(() => null);
    if (poster) this.#show(this.#image, poster); // else keep the last preview
  }

  async play(name) {
    const video = this.#video;
    if (!this.isOpen) this.#show(video, await api.loadable(this.#results.video_url));
    video.hidden = false;
    video.ariaLabel = name;
    this.#sprites.hidden = true;
    await video.play().catch(() => {}); // paused at once or not allowed; the controls still work
    video.focus();
  }

  clear() {
    for (const element of [this.#image, this.#video]) this.#show(element, "");
  }

  /** Show the still at the pointer: the left edge is the start of the video, the right its end. */
  #scrub({ pointerType, clientX }) {
    if (pointerType === "touch" || this.#results === null || this.isOpen) return;
    this.#loadSprites();
    const { left, width } = this.#box.getBoundingClientRect();
    const share = Math.min(Math.max((clientX - left) / width, 0), 0.999);
    const sprite = Math.floor(share * NUM_SPRITES);
    const [row, column] = [Math.floor(sprite / SPRITE_COLUMNS), sprite % SPRITE_COLUMNS];
    const percent = (index, count) => `${(100 * index) / (count - 1)}%`;
    this.#sprites.style.backgroundPosition = [
      percent(column, SPRITE_COLUMNS),
      percent(row, SPRITE_ROWS),
    ].join(" ");
    this.#box.style.setProperty("--at", share);
    this.#sprites.hidden = false;
  }

  async #loadSprites() {
    if (this.#sprites.dataset.wanted) return;
    this.#sprites.dataset.wanted = "yes";
    const address = await api.loadableStill(this.#results.sprites_url).catch(() => null);
    if (address) this.#sprites.style.backgroundImage = `url("${address}")`;
  }

  /** Set an element's source, and release the previous one. */
  #show(element, address) {
    if (element.src.startsWith("blob:")) URL.revokeObjectURL(element.src);
    if (address) element.src = address;
    else element.removeAttribute("src");
  }
}
