// The order of the cards: what runs, what waits, then what has ended.

const RANKS = { InProgress: 0, InQueue: 1 };

const rankOf = (card) => RANKS[card.state] ?? 2;

/** Compare two cards: active ones by their turn, ended ones the newest first. */
function compare(one, other) {
  if (rankOf(one) !== rankOf(other)) return rankOf(one) - rankOf(other);
  if (one.isEnded) return other.createdAt - one.createdAt;
  const turn = (card) => card.job.queue_position ?? 0;
  return turn(one) - turn(other) || one.createdAt - other.createdAt;
}

/** Put the cards into their order in a list, and move only those that are elsewhere. */
export function arrange(list, cards) {
  let next = list.firstElementChild;
  for (const { element } of cards.toSorted(compare)) {
    if (element === next) next = next.nextElementSibling;
    else place(list, element, next);
  }
}

/** Insert an element; one that moves keeps its focus and goes on playing, where that is known. */
function place(list, element, next) {
  if (list.moveBefore && element.isConnected) {
    list.moveBefore(element, next);
    return;
  }
  const focus = element.contains(document.activeElement) ? document.activeElement : null;
  list.insertBefore(element, next);
  focus?.focus({ preventScroll: true });
}
