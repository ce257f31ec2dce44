// The button that fills in the model's usual negative prompt.

import { text } from "./texts.js";

/** Add the button to the control; `usual` returns the prompt that the chosen model is used with. */
export function addUsual(control, usual) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.dataset.text = "usualNegative";
  button.textContent = text("usualNegative");
  button.addEventListener("click", () => {
    control.set(usual());
    control.input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  control.box.append(button);
  return {
    /** Hide the button where it would change nothing. */
    show: () => (button.hidden = !usual() || control.get() === usual()),
  };
}
