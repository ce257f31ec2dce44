// A short message at the edge of the page, with a button or without.

const SHORT_MS = 4000;

const box = document.getElementById("toast");
const words = box.querySelector("span");
const button = box.querySelector("button");
let timer = 0;
let press = null;

button.addEventListener("click", () => press?.());

/** Show a message for some time. */
export function toast(sentence) {
  show(sentence, SHORT_MS);
}

/** Show a message with a button for some time, and put the focus on the button. */
export function offer(sentence, caption, limitMs, act) {
  show(sentence, limitMs);
  button.textContent = caption;
  button.hidden = false;
  press = act;
  button.focus({ preventScroll: true });
}

/** Whether the focus is on the message's button. */
export function hasFocus() {
  return document.activeElement === button;
}

export function dismiss() {
  clearTimeout(timer);
  box.hidden = true;
}

function show(sentence, limitMs) {
  clearTimeout(timer);
  button.hidden = true;
  press = null;
  words.textContent = sentence;
  box.hidden = false;
  box.style.setProperty("--time", `${limitMs}ms`);
  box.classList.remove("counting");
  void box.offsetWidth; // start the animation anew
  box.classList.add("counting");
  timer = setTimeout(dismiss, limitMs);
}
