// The frame that shows a picture as the video will show it; its crop can be moved and zoomed.

import { regionOf } from "./images.js";

// A size in multiples of 16 pixels never has quite the picture's own ratio.
const NEARLY_WHOLE = 0.015;
// Of a side, where the sliders leave nothing to move.
const NEARLY_NONE_PX = 1;
const MOST_ZOOM = 4;
// How much a wheel turns, in its own pixels, to double the zoom.
const WHEEL_DOUBLES = 200;

/** The crop that a picture has at first: its middle, as large as possible. */
export const MIDDLE = { x: 0.5, y: 0.5, zoom: 1 };

export class Crop {
  #frame;
  #image;
  #sliders;
  #size = [16, 9];
  #item = null;
  #fingers = new Map();
  #from = null;

  /** `sliders` set x, y and zoom from the keyboard; `moved` is called after each change. */
  constructor(frame, sliders, moved) {
    this.#frame = frame;
    this.#image = frame.querySelector("img");
    this.#sliders = Object.entries(sliders);
    this.moved = moved;
    for (const [name, slider] of this.#sliders) {
      slider.addEventListener("input", (event) => {
        event.stopPropagation(); // no setting has changed
        this.#change({ [name]: Number(slider.value) });
      });
    }
    frame.addEventListener("pointerdown", (event) => this.#press(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      frame.addEventListener(end, (event) => this.#release(event));
    }
    frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    // The browser would drag the picture itself away.
    this.#image.draggable = false;
  }

  /** Show a picture with its crop; null shows none. */
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
    const { width, height } = this.#region;
    const share = 1 - (width * height) / (naturalWidth * naturalHeight);
    return share < NEARLY_WHOLE ? 0 : share;
  }

  get #region() {
    return regionOf(this.#item.image, this.#size, this.#item.crop);
  }

  /** How many of its own pixels the picture is longer than the crop. */
  get #spare() {
    if (!this.share) return { x: 0, y: 0 };
    const { naturalWidth, naturalHeight } = this.#item.image;
    const { width, height } = this.#region;
    return { x: naturalWidth - width, y: naturalHeight - height };
  }

  #change(values) {
    const { x, y, zoom } = { ...this.#item.crop, ...values };
    this.#item.crop = { x: within(x, 0, 1), y: within(y, 0, 1), zoom: within(zoom, 1, MOST_ZOOM) };
    this.#place();
    this.moved();
  }

  #place() {
    const crop = this.#item?.crop ?? MIDDLE;
    const place = `${crop.x * 100}% ${crop.y * 100}%`;
    const zoom = crop.zoom === 1 ? "none" : `scale(${crop.zoom})`;
    Object.assign(this.#image.style, { objectPosition: place, transformOrigin: place, transform: zoom });
    const axes = Object.entries(this.#spare).filter(([, px]) => px > NEARLY_NONE_PX);
    const moving = axes.map(([axis]) => axis);
    for (const [name, slider] of this.#sliders) {
      slider.value = crop[name];
      slider.parentElement.hidden = name !== "zoom" && !moving.includes(name);
    }
    this.#frame.dataset.moves = moving.join("");
  }

  #press(event) {
    if (!this.#item || event.button !== 0 || this.#fingers.size === 2) return;
    this.#frame.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, event);
    this.#hold();
  }

  #move(event) {
    if (!this.#item || !this.#fingers.has(event.pointerId)) return;
    this.#fingers.set(event.pointerId, event);
    if (this.#fingers.size === 2) this.#pinch();
    else this.#drag(event);
  }

  #release(event) {
    this.#fingers.delete(event.pointerId);
    this.#hold();
  }

  /** Remember from where the fingers, or the mouse, move the crop: they have come or gone. */
  #hold() {
    if (!this.#item || !this.#fingers.size) return;
    const scale = this.#frame.getBoundingClientRect().width / this.#region.width;
    const [{ x, y }] = this.#fingers.values();
    const { crop } = this.#item;
    this.#from = { x, y, crop, scale, spare: this.#spare, apart: this.#apart };
  }

  get #apart() {
    const [one, other = one] = this.#fingers.values();
    return Math.max(1, Math.hypot(one.x - other.x, one.y - other.y));
  }

  #pinch() {
    this.#change({ zoom: (this.#from.crop.zoom * this.#apart) / this.#from.apart });
  }

  #drag(event) {
    const { crop, scale, spare } = this.#from;
    const at = (axis) =>
      spare[axis] > NEARLY_NONE_PX
        ? crop[axis] - (event[axis] - this.#from[axis]) / (spare[axis] * scale)
        : crop[axis];
    this.#change({ x: at("x"), y: at("y") });
  }

  /** Zoom as the wheel turns with Ctrl, which is also how browsers report two fingers on a touchpad. */
  #wheel(event) {
    if (!this.#item || !event.ctrlKey) return;
    event.preventDefault();
    this.#change({ zoom: this.#item.crop.zoom * 2 ** (-event.deltaY / WHEEL_DOUBLES) });
  }
}

function within(value, least, most) {
  return Math.min(most, Math.max(least, value));
}
