// The seed of a video: a new one for each, or one that is kept.

import { makeControl } from "./controls.js";
import { text } from "./texts.js";

const MOST = 2 ** 31 - 1;
const LOCK = "M7 11V8a5 5 0 0 1 10 0v3M5.5 11h13v9h-13z";
const OPEN = "M7 11V8a5 5 0 0 1 9.5-2M5.5 11h13v9h-13z";
const DICE = "M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01";

/** Return the control: a number is kept for all videos, none means a new one for each. */
export function makeSeedControl(schema) {
  const control = makeControl("seed", schema);
  const { input, show, translate } = control;
  const most = Math.min(MOST, schema.anyOf?.[0].maximum ?? MOST);
  let last = null;
  const lock = makeButton(() => choose(control.get() ? "" : (last ?? draw(most))));
  const dice = makeButton(() => choose(draw(most)));
  dice.firstElementChild.firstElementChild.setAttribute("d", DICE);
  const row = document.createElement("div");
  row.className = "seed";
  input.replaceWith(row);
  row.append(input, lock, dice);

  function choose(seed) {
    control.set(seed);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  return Object.assign(control, {
    /** Return a seed for the next video, and remember it to be kept later. */
    draw: () => (last = draw(most)),
    /** Return the kept seed or one of those after it, so that no two videos are the same. */
    following: (number) => (Number(control.get()) + number) % (most + 1),
    show() {
      show.call(control);
      const isKept = control.get() !== "";
      lock.ariaPressed = String(isKept);
      lock.title = lock.ariaLabel = text("seedKeep");
      lock.firstElementChild.firstElementChild.setAttribute("d", isKept ? LOCK : OPEN);
      dice.title = dice.ariaLabel = text("seedDraw");
    },
    translate() {
      translate.call(control);
      this.show();
    },
  });
}

function draw(most) {
  return Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * (most + 1));
}

function makeButton(act) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 24 24");
  picture.setAttribute("aria-hidden", "true");
  picture.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  button.append(picture);
  button.addEventListener("click", act);
  return button;
}
