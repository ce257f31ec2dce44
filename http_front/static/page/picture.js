// A picture of the form, or several: dropped, chosen or pasted, and shown as in the video.

import { Crop, MIDDLE } from "./crop.js";
import { contentOf } from "./dropped.js";
import { decode, prepare, thumbnail } from "./images.js";
import { showStrip } from "./strip.js";
import { text } from "./texts.js";

const MOST_BYTES = 200 * 2 ** 20;
const LEAST_PX = 64;
const THUMBNAIL_PX = 240;
const MOST_PICTURES = 16;

export class Picture {
  #zone;
  #crop;
  #note;
  #address;
  #input;
  #strip;
  #items = [];
  #chosen = null;
  #problem = null;
  #loading = Promise.resolve();

  /**
   * `name` begins the ids of its elements; `taken` is called with the size of a new picture, null
   * if there is none any more; `video` with a video file that is dropped instead of a picture.
   */
  constructor(name, { taken = () => {}, video = null } = {}) {
    this.taken = taken;
    this.video = video;
    const part = (kind) => document.getElementById(`${name}${kind}`);
    [this.#zone, this.#input, this.#note, this.#address] = ["", "-file", "-note", "-url"].map(part);
    this.#strip = this.#zone.querySelector(".strip");
    const frame = this.#zone.querySelector(".frame");
    const sliders = { x: part("-x"), y: part("-y"), zoom: part("-zoom") };
    this.#crop = new Crop(frame, sliders, () => this.translate());
    this.#input.addEventListener("change", () => this.take([...this.#input.files]));
    part("-change").addEventListener("click", () => this.#input.click());
    part("-remove").addEventListener("click", () => {
      this.clear();
      this.#input.focus();
    });
    this.#address.addEventListener("input", () => this.#takeAddress());
    this.#zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.#zone.classList.add("hovered");
    });
    this.#zone.addEventListener("dragleave", () => this.#zone.classList.remove("hovered"));
    this.#zone.addEventListener("drop", (event) => this.#drop(event));
    this.translate();
  }

  /** Take also pictures that are pasted, or dropped beside every zone. */
  acceptElsewhere() {
    document.addEventListener("paste", (event) => this.#paste(event));
    // A picture dropped outside a zone would replace the page.
    document.addEventListener("dragover", (event) => {
      const isMine = !event.defaultPrevented || this.#zone.contains(event.target);
      this.#zone.classList.toggle("hovered", isMine);
      event.preventDefault();
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) this.#zone.classList.remove("hovered");
    });
    document.addEventListener("drop", (event) => {
      if (!event.defaultPrevented) this.#drop(event);
    });
  }

  /** The input that a problem of the picture is shown beside. */
  get input() {
    return this.#items.length || !this.#address.value ? this.#input : this.#address;
  }

  /** What is wrong with the chosen picture; empty if nothing is. */
  get problem() {
    return this.#problem ? text(...this.#problem) : "";
  }

  get isEmpty() {
    return !this.#items.length && !this.#address.value.trim();
  }

  /** How many videos the pictures are for. */
  get count() {
    return Math.max(1, this.#items.length);
  }

  /** Return what to send for each picture: a file or an address, and its thumbnail or null. */
  async sources(size) {
    await this.#loading;
    const address = this.#address.value.trim();
    if (!this.#items.length) return address ? [{ picture: address, thumbnail: null }] : [];
    return Promise.all(
      this.#items.map(async (item) => ({
        picture: await prepare(item, size),
        thumbnail: await thumbnail(item, size, THUMBNAIL_PX),
      })),
    );
  }

  /** What tells the pictures, and how each is cropped, from others. */
  get description() {
    const address = this.#address.value.trim();
    return this.#items.length ? this.#items.map(({ image, crop }) => [image.src, crop]) : address;
  }

  /** Wait until a picture that was just chosen is decoded. */
  get settled() {
    return this.#loading;
  }

  /** Show the picture cropped to a video of this size. */
  fit(size) {
    this.#crop.fit(size);
    this.translate();
  }

  /** Take files in the place of what was chosen before. */
  take(files) {
    if (!files.length) return this.#loading;
    const video = files.find(({ type }) => type === "video/mp4");
    if (video && this.video) {
      this.video(video);
      return this.#loading;
    }
    const before = this.#loading;
    this.#loading = before.then(() => this.#load(files));
    return this.#loading;
  }

  clear() {
    this.#problem = null;
    this.#address.value = "";
    this.#replace([]);
  }

  /** Have no picture, and say why; the text's name and the values of its gaps. */
  refuse(...problem) {
    this.clear();
    this.#problem = problem;
    this.translate();
  }

  translate() {
    this.#note.textContent = this.problem || this.#describe();
    this.#note.classList.toggle("bad", this.#problem !== null);
    showStrip(this.#strip, this.#items, this.#chosen, {
      choose: (item) => this.#choose(item),
      remove: (item) => this.#replace(this.#items.filter((each) => each !== item)),
    });
  }

  async #load(files) {
    const most = this.#input.multiple ? MOST_PICTURES : 1;
    const loaded = await Promise.all(files.slice(0, most).map(load));
    const refused = loaded.find(({ problem }) => problem);
    // One refused file refuses all of them, so that no video is missed later.
    this.#problem = refused?.problem ?? null;
    if (files.length > most && most > 1) this.#problem ??= ["pictureMany", files.length, most];
    this.#address.value = "";
    this.#replace(this.#problem ? [] : loaded);
  }

  #replace(items) {
    for (const item of this.#items) if (!items.includes(item)) URL.revokeObjectURL(item.image.src);
    this.#items = items;
    this.#input.value = ""; // so that the same file can be chosen again
    this.#zone.classList.toggle("filled", items.length > 0);
    this.#choose(items.includes(this.#chosen) ? this.#chosen : (items[0] ?? null));
  }

  #choose(item) {
    this.#chosen = item;
    this.#crop.show(item);
    this.taken(item && [item.image.naturalWidth, item.image.naturalHeight]);
    this.translate();
  }

  #describe() {
    if (!this.#chosen) return text(this.#address.value ? "pictureFetched" : "pictureNote");
    const share = Math.round(this.#crop.share * 100);
    const { name } = this.#chosen.file;
    const one = share ? text("pictureCut", name, share) : text("pictureFits", name);
    return this.#items.length > 1 ? `${text("pictureEach", this.#items.length)} ${one}` : one;
  }

  /** Use a URL instead of a file. The page may not load from other servers, so it shows nothing. */
  #takeAddress() {
    const address = this.#address.value.trim();
    const isAddress = /^https?:\/\/./i.test(address) && this.#address.checkValidity();
    this.#problem = address && !isAddress ? ["addressBad"] : null;
    if (address) this.#replace([]);
    else this.translate();
  }

  #drop(event) {
    event.preventDefault();
    this.#zone.classList.remove("hovered");
    this.#accept(contentOf(event.dataTransfer));
  }

  #paste(event) {
    const isInText = event.target.matches?.("textarea, input:not([type=file])");
    const hasText = event.clipboardData.types.includes("text/plain");
    if (!(isInText && hasText)) this.#accept(contentOf(event.clipboardData));
  }

  #accept({ files, address }) {
    if (files.length) this.take(files);
    if (!address) return;
    this.#address.value = address;
    this.#address.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

async function load(file) {
  if (file.size > MOST_BYTES) return { problem: ["pictureLarge", file.name] };
  let image;
  try {
    image = await decode(file);
  } catch {
    return { problem: ["pictureBad", file.name] };
  }
  const { naturalWidth, naturalHeight } = image;
  if (Math.min(naturalWidth, naturalHeight) < LEAST_PX) {
    return { problem: ["pictureSmall", file.name, naturalWidth, naturalHeight, LEAST_PX] };
  }
  return { file, image, crop: MIDDLE };
}
