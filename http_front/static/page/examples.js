// Example pictures with prompts, for visitors who have none at hand.

import { text } from "./texts.js";

const NAMES = ["boat", "balloon", "lantern"];

/** Offer the examples; `use` is called with the picture and the prompt of one. */
export function offerExamples(use) {
  const row = document.querySelector("#examples div");
  for (const name of NAMES) {
    const address = `static/page/example-${name}.svg`;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.label = `example.${name}`;
    button.ariaLabel = text(`example.${name}`);
    button.append(Object.assign(new Image(), { src: address, alt: "" }));
    button.addEventListener("click", async () => {
      const blob = await (await fetch(address)).blob();
      const file = new File([blob], `${name}.svg`, { type: "image/svg+xml" });
      use(file, text(`prompt.${name}`));
    });
    row.append(button);
  }
}
