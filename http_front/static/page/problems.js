// Problems of the form: each beside the field that it concerns.

/** Show a problem beside an input, which may be a group of them. */
export function mark(input, sentence) {
  const place = input.closest(".field, .picture");
  let note = place.querySelector(":scope > .wrong");
  if (!note) {
    note = Object.assign(document.createElement("p"), { className: "wrong", role: "alert" });
    note.id = `${input.id}-wrong`;
    place.append(note);
  }
  note.textContent = sentence;
  input.setAttribute("aria-invalid", "true");
  const described = new Set((input.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  input.setAttribute("aria-describedby", [...described.add(note.id)].join(" "));
}

/** Take the problem of an input away, or those of all inputs in a part of the page. */
export function clear(part) {
  const inputs = part.matches("[aria-invalid]") ? [part] : part.querySelectorAll("[aria-invalid]");
  for (const input of inputs) {
    input.removeAttribute("aria-invalid");
    const note = `${input.id}-wrong`;
    const described = (input.getAttribute("aria-describedby") ?? "").split(" ");
    input.setAttribute("aria-describedby", described.filter((id) => id !== note).join(" "));
    document.getElementById(note)?.remove();
  }
}
