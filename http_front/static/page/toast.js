// Short messages at the edge of the page, each with a button or without.

const SHORT_MS = 6000;

const box = document.getElementById("toasts");

/** Show a message for some time. */
export function toast(sentence) {
  show(sentence, SHORT_MS);
}

/**
 * Show a message with a button for some time, and put the focus on the button.
 *
 * Returns a function that takes the message away before its time.
 */
export function offer(sentence, caption, limitMs, act) {
  const message = show(sentence, limitMs);
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.textContent = caption;
  button.addEventListener("click", act);
  message.append(button);
  button.focus({ preventScroll: true });
  return () => message.remove();
}

/** Whether the focus is on the button of a message. */
export function hasFocus() {
  return box.contains(document.activeElement);
}

function show(sentence, limitMs) {
  const message = document.createElement("p");
  const words = document.createElement("span");
  words.textContent = sentence;
  message.append(words);
  message.style.setProperty("--time", `${limitMs}ms`);
  box.append(message);
  setTimeout(() => message.remove(), limitMs);
  return message;
}
