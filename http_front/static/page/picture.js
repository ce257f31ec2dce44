// A picture of the form: dropped, chosen or pasted, and shown as the server will crop it.

import { text } from "./texts.js";

const MAX_BYTES = 20 * 2 ** 20;
const THUMBNAIL_PX = 240;

export class Picture {
  #zone;
  #frame;
  #crop;
  #note;
  #address;
  #input;
  #size = [16, 9];
  #problem = "";

  #file = null;

  /** `name` begins the ids of its elements; `taken` is called with the size of a new picture. */
  constructor(name, { taken = () => {} } = {}) {
    this.taken = taken;
    const part = (kind) => document.getElementById(`${name}${kind}`);
    [this.#zone, this.#input, this.#crop] = [part(""), part("-file"), part("-crop")];
    [this.#note, this.#address] = [part("-note"), part("-url")];
    this.#frame = this.#zone.querySelector(".frame");
    this.#input.addEventListener("change", () => this.take(this.#input.files[0]));
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
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.take(event.clipboardData.files[0]);
    });
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

  /** The input picture: a file or a URL; null if there is none. */
  get source() {
    if (this.#file) return this.#file;
    return this.#problem ? null : this.#address.value.trim() || null;
  }

  /** What is wrong with the chosen picture; empty if nothing is. */
  get problem() {
    return this.#problem && text(this.#problem);
  }

  /** Show the picture cropped to a video of this size. */
  fit(width, height) {
    this.#size = [width, height];
    this.#frame.style.aspectRatio = `${width} / ${height}`;
    this.#frame.style.maxWidth = `calc(20rem * ${width / height})`;
    this.translate();
  }

  async take(file) {
    if (!file) return;
    this.#problem = file.size > MAX_BYTES ? "pictureLarge" : "";
    const address = URL.createObjectURL(file);
    const image = new Image();
    image.src = address;
    await image.decode().catch(() => (this.#problem ||= "pictureBad"));
    if (!this.#problem) {
      URL.revokeObjectURL(this.#crop.src);
      this.#file = file;
      this.#address.value = "";
      this.#crop.src = address;
      this.#crop.hidden = false;
      this.#zone.classList.add("filled");
      await this.#crop.decode();
      this.taken(image.naturalWidth, image.naturalHeight);
    }
    this.translate();
  }

  /** Return the cropped picture as a small data URL; null if the page has only a URL of it. */
  thumbnail() {
    if (!this.#file) return null;
    const [width, height] = this.#size;
    const scale = THUMBNAIL_PX / Math.max(width, height);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const { naturalWidth, naturalHeight } = this.#crop;
    const cover = Math.max(canvas.width / naturalWidth, canvas.height / naturalHeight);
    const [shownWidth, shownHeight] = [naturalWidth * cover, naturalHeight * cover];
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // the server fills transparent pixels with white, too
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(
      this.#crop,
      (canvas.width - shownWidth) / 2,
      (canvas.height - shownHeight) / 2,
      shownWidth,
      shownHeight,
    );
    return canvas.toDataURL("image/jpeg", 0.7);
  }

  translate() {
    this.#note.textContent = this.problem || this.#describe();
    this.#note.classList.toggle("bad", this.#problem !== "");
  }

  #describe() {
    if (!this.#file) return text(this.#address.value ? "pictureFetched" : "pictureNote");
    const [width, height] = this.#size;
    const shape = this.#crop.naturalWidth / this.#crop.naturalHeight;
    const kept = Math.min(shape / (width / height), width / height / shape);
    const share = Math.round((1 - kept) * 100);
    return share ? text("pictureCut", this.#file.name, share) : text("pictureFits", this.#file.name);
  }

  /** Use a URL instead of a file. The page may not load from other servers, so it shows nothing. */
  #takeAddress() {
    const address = this.#address.value.trim();
    const isAddress = /^https?:\/\/./i.test(address) && this.#address.checkValidity();
    this.#problem = address && !isAddress ? "addressBad" : "";
    if (address) this.#forgetFile();
    this.translate();
  }

  #forgetFile() {
    URL.revokeObjectURL(this.#crop.src);
    this.#file = null;
    this.#crop.removeAttribute("src");
    this.#crop.hidden = true;
    this.#zone.classList.remove("filled");
    this.#input.value = ""; // so that the same file can be chosen again
  }

  #drop(event) {
    event.preventDefault();
    this.#zone.classList.remove("hovered");
    this.take(event.dataTransfer.files[0]);
  }
}
