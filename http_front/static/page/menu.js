// A menu of further buttons, below the button that opens it.

const GAP_PX = 4;

export class Menu {
  /** `opener` opens and closes `box`; so do Escape and a press elsewhere. */
  constructor(opener, box) {
    opener.popoverTargetElement = box;
    box.addEventListener("toggle", ({ newState }) => {
      if (newState === "open") place(box, opener.getBoundingClientRect());
    });
    box.addEventListener("click", ({ target }) => {
      if (target.closest("button, a")) box.hidePopover();
    });
    addEventListener("scroll", () => box.matches(":popover-open") && box.hidePopover(), {
      passive: true,
    });
  }
}

/** Place a box at the end of a button: below it, or above it if there is no room below. */
function place(box, { top, bottom, right }) {
  const { offsetWidth: width, offsetHeight: height } = box;
  const below = bottom + GAP_PX;
  const hasRoom = below + height <= innerHeight;
  box.style.left = `${Math.max(GAP_PX, right - width)}px`;
  box.style.top = `${hasRoom ? below : Math.max(GAP_PX, top - GAP_PX - height)}px`;
}
