// The row of several pictures, of which each becomes a video.

import { text } from "./texts.js";

/** Show the pictures in a list; `choose` and `remove` are called with one of them. */
export function showStrip(list, items, chosen, { choose, remove }) {
  list.hidden = items.length < 2;
  if (list.hidden) {
    list.replaceChildren();
    return;
  }
  const rows = items.map((item) => {
    const row = document.createElement("li");
    const shown = makeButton(text("pictureShow", item.file.name), () => choose(item));
    shown.ariaPressed = String(item === chosen);
    shown.append(Object.assign(new Image(), { src: item.image.src, alt: "" }));
    const gone = makeButton(text("pictureRemoveOne", item.file.name), () => remove(item));
    gone.className = "gone";
    gone.append("×");
    row.append(shown, gone);
    return row;
  });
  list.replaceChildren(...rows);
}

function makeButton(name, act) {
  const button = Object.assign(document.createElement("button"), { type: "button", title: name });
  button.ariaLabel = name;
  button.addEventListener("click", act);
  return button;
}
