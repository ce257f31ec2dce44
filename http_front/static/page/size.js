// The control of a video's size: the sizes that a model is often used with, or any other.

import { makeControl } from "./controls.js";
import { takesSize } from "./models.js";
import { text } from "./texts.js";

const SIZES = [
  ...["1280*720", "720*1280", "960*960", "832*480", "480*832", "640*640"],
  ...["256*256", "128*128"],
];

/** Return width and height of `W*H`; null if the text has another form. */
export function parseSize(size) {
  const found = /^(\d{1,5})[*x](\d{1,5})$/.exec(size);
  return found && [Number(found[1]), Number(found[2])];
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
    placeholder: "1024*576",
    hidden: true,
  });
  custom.setAttribute("aria-labelledby", "setting-image_size");
  const select = control.input;
  select.addEventListener("input", () => (custom.hidden = select.value !== "other"));
  control.box.append(custom);
  const { translate } = control;
  return Object.assign(control, {
    get: () => (select.value === "other" ? custom.value.trim() : select.value),
    lists: (size) => size !== "other" && [...select.options].some(({ value }) => value === size),
    set(size = usual) {
      const isListed = this.lists(size);
      select.value = isListed ? size : "other";
      custom.value = isListed ? "" : size;
      custom.hidden = isListed;
    },
    /** Offer the sizes of a model, and replace the present one if the model does not take it. */
    limit(model, modelUsual) {
      const size = this.get();
      const isDefault = size === usual;
      usual = modelUsual;
      const sizes = [...sizesFor(model, usual), "other"];
      select.replaceChildren(...sizes.map((each) => new Option(each.replace("*", " × "), each)));
      const parsed = parseSize(size);
      const isTaken = parsed !== null && takesSize(model, parsed);
      this.set(isTaken && !isDefault ? size : usual);
      this.translate();
    },
    translate() {
      translate.call(control);
      [...select.options].at(-1).text = text("customSize");
    },
  });
}
