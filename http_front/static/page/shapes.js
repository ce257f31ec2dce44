// The aspect ratio of a video: one of the usual ones, or that of the picture.

import { takesSize } from "./models.js";
import { parseSize, SIZES } from "./size.js";
import { text } from "./texts.js";

const SHAPES = { picture: null, "16:9": [16, 9], "9:16": [9, 16], "1:1": [1, 1], "4:3": [4, 3] };
const NEARLY = 0.04;
const LEAST_PX = 64;

export class Shapes {
  #radios = new Map();
  #picture = null;
  #chosen = "";

  /** `use` is called when the user chooses a ratio. */
  constructor(use) {
    const row = document.getElementById("shapes");
    for (const name of Object.keys(SHAPES)) {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "shape" });
      // A press on the one that is marked already is a choice, too, but no input.
      radio.addEventListener("click", () => {
        this.#chosen = name;
        use();
      });
      const caption = document.createElement("span");
      label.append(radio, caption);
      row.append(label);
      this.#radios.set(name, radio);
    }
    this.translate();
  }

  translate() {
    for (const [name, radio] of this.#radios) {
      radio.nextElementSibling.textContent = name === "picture" ? text("asPicture") : name;
    }
  }

  /** Remember the size of a new picture; null if there is none any more. */
  set picture(size) {
    this.#picture = size;
  }

  forget() {
    this.#chosen = "";
  }

  /** Return a size in the chosen ratio with as many pixels; without one, as the picture lies. */
  shaped(size, model) {
    const [width, height] = parseSize(size);
    const ratio = this.#chosen === "picture" ? this.#picture : SHAPES[this.#chosen];
    if (ratio) return sizeOf(ratio, width * height, model);
    if (width === height || this.#picture === null) return size;
    const isPortrait = this.#picture[1] > this.#picture[0];
    return isPortrait === height > width ? size : `${height}*${width}`;
  }

  /** Mark the ratio that a size has. */
  mark(size) {
    for (const [name, radio] of this.#radios) {
      radio.checked = this.#chosen
        ? name === this.#chosen
        : size !== null && name !== "picture" && isNear(size, SHAPES[name]);
    }
  }
}

function isNear(one, other) {
  return Math.abs(Math.log((one[0] * other[1]) / (one[1] * other[0]))) < NEARLY;
}

/** Return a size of an aspect ratio: one that is often used, or as the server computes `auto`. */
function sizeOf(ratio, pixels, model) {
  const usual = SIZES.find((size) => {
    const [width, height] = parseSize(size);
    const isAsLarge = Math.abs(Math.log((width * height) / pixels)) < NEARLY;
    return isAsLarge && isNear([width, height], ratio) && takesSize(model, [width, height]);
  });
  if (usual) return usual;
  const multiple = model?.side_multiple_px ?? 16;
  const most = Math.min(pixels, model?.max_pixels ?? pixels);
  const side = (one, other) =>
    Math.max(LEAST_PX, Math.floor(Math.sqrt((most * one) / other) / multiple) * multiple);
  return `${side(ratio[0], ratio[1])}*${side(ratio[1], ratio[0])}`;
}
