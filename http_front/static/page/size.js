// The control of a video's size: the sizes that a model is often used with, or any other.

import { makeControl } from "./controls.js";
import { takesSize } from "./models.js";
import { text } from "./texts.js";

export const SIZES = [
  ...["1280*720", "720*1280", "960*960", "832*480", "480*832", "640*640"],
  ...["256*256", "128*128"],
];

const LEAST_PX = 64;

/** Return width and height of `W*H`; null if the text has another form. */
export function parseSize(size) {
  const found = /^\s*(\d{1,5})\s*[*x×]\s*(\d{1,5})\s*$/i.exec(size);
  return found && [Number(found[1]), Number(found[2])];
}

function optionOf(size) {
  return new Option(size.replace("*", " × "), size);
}

function sizesFor(model, usual) {
  const turned = parseSize(usual).toReversed().join("*");
  const taken = SIZES.filter((size) => takesSize(model, parseSize(size)));
  return SIZES.includes(usual) ? taken : [usual, turned, ...taken];
}

/** Return a control with the listed sizes and an input for any other size. */
export function makeSizeControl(firstUsual) {
  let usual = firstUsual;
  const control = makeControl("image_size", { enum: [...SIZES, "other"], default: usual });
  const custom = Object.assign(document.createElement("input"), {
    type: "text",
    id: "setting-other_size",
    placeholder: "1024 × 576",
    hidden: true,
  });
  const select = control.input;
  const ask = (isOther) => {
    custom.hidden = !isOther;
    control.input = isOther ? custom : select; // what a problem is shown beside
  };
  select.addEventListener("input", () => {
    ask(select.value === "other");
    if (select.value === "other") custom.focus();
  });
  let takes = () => true;
  control.box.append(custom);
  const { translate } = control;
  return Object.assign(control, {
    /** Whether a size is missing, written in another way, or not one of the model's. */
    isWrong() {
      const size = parseSize(this.get());
      return size === null || Math.min(...size) < LEAST_PX || !takes(size);
    },
    isDefault: () => control.get() === usual, // as it lay when the model was chosen
    get: () => (select.value === "other" ? custom.value.trim() : select.value),
    lists: (size) => size !== "other" && [...select.options].some(({ value }) => value === size),
    /** Set a size of the page's own making, which is offered in the list. */
    use(size) {
      if (!this.lists(size)) select.options[select.length - 1].before(optionOf(size));
      this.set(size);
    },
    set(size = usual) {
      const isListed = this.lists(size);
      select.value = isListed ? size : "other";
      custom.value = isListed ? "" : size;
      ask(!isListed);
    },
    /** Offer the sizes of a model, and replace the present one if the model does not take it. */
    limit(model, modelUsual) {
      const size = this.get();
      const isDefault = size === usual;
      usual = modelUsual;
      takes = (each) => takesSize(model, each);
      select.replaceChildren(...[...sizesFor(model, usual), "other"].map(optionOf));
      const parsed = parseSize(size);
      const isTaken = parsed !== null && takesSize(model, parsed);
      this.use(isTaken && !isDefault ? size : usual);
      this.translate();
    },
    translate() {
      translate.call(control);
      [...select.options].at(-1).text = text("customSize");
      custom.ariaLabel = text("otherSize");
    },
  });
}
