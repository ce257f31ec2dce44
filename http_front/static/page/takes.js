// How many videos to make of each picture, with different seeds.

const NUMBERS = [1, 2, 4];

export class Takes {
  #radios = [];

  /** `changed` is called when the user chooses another number. */
  constructor(changed) {
    const row = document.getElementById("takes");
    for (const number of NUMBERS) {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), {
        type: "radio",
        name: "takes",
        value: number,
        checked: number === 1,
      });
      radio.addEventListener("input", (event) => {
        event.stopPropagation(); // no setting of a video has changed
        changed();
      });
      const caption = Object.assign(document.createElement("span"), { textContent: `×${number}` });
      label.append(radio, caption);
      row.append(label);
      this.#radios.push(radio);
    }
  }

  get number() {
    return Number(this.#radios.find((radio) => radio.checked).value);
  }

  /** One video again, so that no old choice makes four. */
  reset() {
    this.#radios[0].checked = true;
  }
}
