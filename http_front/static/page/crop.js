// The frame that shows a picture as the video will show it; its crop can be moved.

import { regionOf } from "./images.js";

// A size in multiples of 16 pixels never has quite the picture's own ratio.
const NEARLY_WHOLE = 0.015;

export class Crop {
  #frame;
  #image;
  #slider;
  #size = [16, 9];
  #item = null;

  /** `slider` moves the crop from the keyboard; `moved` is called after each move. */
  constructor(frame, slider, moved) {
    this.#frame = frame;
    this.#image = frame.querySelector("img");
    this.#slider = slider;
    this.moved = moved;
    slider.addEventListener("input", (event) => {
      event.stopPropagation(); // no setting has changed
      this.#move(Number(slider.value) / 100);
    });
    frame.addEventListener("pointerdown", (event) => this.#drag(event));
    // The browser would drag the picture itself away.
    this.#image.draggable = false;
  }

  /** Show a picture with its place; null shows none. */
  show(item) {
    this.#item = item;
    this.#image.hidden = item === null;
    if (item) this.#image.src = item.image.src;
    else this.#image.removeAttribute("src");
    this.#place();
  }

  /** Crop to a video of this size. */
  fit(size) {
    this.#size = size;
    const [width, height] = size;
    this.#frame.style.aspectRatio = `${width} / ${height}`;
    this.#frame.style.maxWidth = `calc(17rem * ${width / height})`;
    this.#place();
  }

  /** The part of the picture that is cut off, from 0 to 1. */
  get share() {
    if (!this.#item) return 0;
    const { naturalWidth, naturalHeight } = this.#item.image;
    const { width, height } = regionOf(this.#item.image, this.#size, 0);
    const share = 1 - (width * height) / (naturalWidth * naturalHeight);
    return share < NEARLY_WHOLE ? 0 : share;
  }

  get #axis() {
    const { naturalWidth, naturalHeight } = this.#item.image;
    return naturalWidth * this.#size[1] > naturalHeight * this.#size[0] ? "x" : "y";
  }

  #move(at) {
    this.#item.at = Math.min(1, Math.max(0, at));
    this.#place();
    this.moved();
  }

  #place() {
    const at = (this.#item?.at ?? 0.5) * 100;
    this.#image.style.objectPosition = `${at}% ${at}%`; // only one side is ever cut
    this.#slider.value = at;
    const isCut = this.share > 0;
    this.#slider.hidden = !isCut;
    this.#frame.dataset.moves = isCut ? this.#axis : "";
  }

  /** How much longer the picture is than the frame, as it is shown. */
  #hiddenPx(axis) {
    const { width, height } = this.#frame.getBoundingClientRect();
    const { naturalWidth, naturalHeight } = this.#item.image;
    if (axis === "x") return (naturalWidth / naturalHeight) * height - width;
    return (naturalHeight / naturalWidth) * width - height;
  }

  #drag(event) {
    if (!this.share || event.button !== 0) return;
    const axis = this.#axis;
    const from = this.#item.at;
    const hiddenPx = this.#hiddenPx(axis);
    const move = (moved) => this.#move(from - (moved[axis] - event[axis]) / hiddenPx);
    this.#frame.setPointerCapture(event.pointerId);
    this.#frame.addEventListener("pointermove", move);
    const stop = () => this.#frame.removeEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) {
      this.#frame.addEventListener(end, stop, { once: true });
    }
  }
}
