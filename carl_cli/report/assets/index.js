// Order the cards of a batch. Keys come ready made: smaller is earlier, unknown is last.

const list = document.getElementById("cases");
const order = document.getElementById("order");

function keyOf(card, choice) {
  if (choice === "name") return card.dataset.name;
  const key = choice === "place" ? card.dataset.place : card.dataset[`key${choice}`];
  return key === "" ? Infinity : Number(key);
}

function sort() {
  const keyed = [...list.children].map((card) => [keyOf(card, order.value), card]);
  const compare = order.value === "name" ? ([a], [b]) => a.localeCompare(b, undefined, { numeric: true }) : ([a], [b]) => (a === b ? 0 : a - b);
  keyed.sort(compare);
  list.append(...keyed.map(([, card]) => card));
}

order.addEventListener("input", sort);
document.body.dataset.ready = "true";
