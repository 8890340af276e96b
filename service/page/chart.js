// One bar for each label: the estimate, its measured interval, and the range that an attack of the
// chosen size can reach. The intervals are the service's own.

import { above, below } from "./format.js";

const OTHERS = "all others";

/** The lowest score to which the label, and the highest to which any other, can be pushed. */
export function reading(look, at) {
  const { label, attacks } = look;
  const own = attacks.scores.find((score) => score.index === label.index);
  const rivals = attacks.scores.filter((score) => score !== own);
  const [lowest, highest] = [own.lower[at], Math.max(...rivals.map((rival) => rival.upper[at]))];
  return { lowest, highest: Math.max(highest, attacks.others?.[at] ?? 0) };
}

/** The names of the labels that may be first under the attack; no other label can. */
export function mayBeFirst(look, at) {
  const { scores, attacks } = look;
  const least = Math.max(...attacks.scores.map((score) => score.lower[at]));
  const names = attacks.scores
    .filter((score) => score.upper[at] >= least)
    .map(({ index }) => scores.find((score) => score.index === index).name);
  return (attacks.others?.[at] ?? -1) >= least ? [...names, "a label not shown"] : names;
}

export class Chart {
  constructor(plot) {
    this.plot = plot;
    this.body = plot.querySelector("tbody");
    this.gap = plot.querySelector(".gap");
    this.rows = new Map();
  }

  /** Draw a look or an answer for its size number `at`. */
  draw(look, at, robust) {
    const { label, scores, attacks } = look;
    const shown = scores.slice(0, attacks.scores.length);
    // All labels keep their places; if there are many, only the first are here, in order of rank.
    const order = attacks.others ? shown : shown.toSorted((a, b) => a.index - b.index);
    this.#arrange(order.map((score) => score.name), Boolean(attacks.others));
    for (const score of shown) {
      const { lower, upper } = attacks.scores.find((other) => other.index === score.index);
      const row = this.rows.get(score.name);
      row.element.classList.toggle("top", score.index === label.index);
      place(row.bar, 0, score.expected);
      place(row.measured, lower[0], upper[0]);
      place(row.reach, lower[at], upper[at]);
      row.value.textContent = score.expected.toFixed(3);
      row.words.textContent =
        `measured as ${below(lower[0])} to ${above(upper[0])}; ` +
        `under attack ${below(lower[at])} to ${above(upper[at])}`;
    }
    if (attacks.others) {
      const row = this.rows.get(OTHERS);
      for (const part of [row.bar, row.measured]) place(part, 0, 0);
      place(row.reach, 0, attacks.others[at]);
      row.value.textContent = "";
      row.words.textContent = `under attack at most ${above(attacks.others[at])}`;
    }
    const { lowest, highest } = reading(look, at);
    const clear = lowest > highest;
    place(this.gap, Math.min(lowest, highest), Math.max(lowest, highest));
    this.gap.classList.toggle("clear", clear && robust);
  }

  #arrange(names, others) {
    const wanted = others ? [...names, OTHERS] : names;
    if ([...this.rows.keys()].join("\n") === wanted.join("\n")) return;
    const longest = Math.max(...wanted.map((name) => name.length));
    this.plot.style.setProperty("--label", `${Math.min(Math.max(longest, 2), 14)}ch`);
    this.rows = new Map(wanted.map((name) => [name, this.rows.get(name) ?? makeRow(name)]));
    this.body.replaceChildren(...[...this.rows.values()].map((row) => row.element));
  }
}

function makeRow(name) {
  const element = document.createElement("tr");
  const label = make(element, "th", "name");
  label.scope = "row";
  label.textContent = name;
  label.title = name;
  const cell = make(element, "td", "track");
  const rail = make(cell, "span", "rail");
  rail.setAttribute("aria-hidden", "true");
  const [reach, bar, measured] = ["reach", "bar", "measured"].map((part) => make(rail, "i", part));
  const words = make(cell, "span", "sr-only");
  const value = make(element, "td", "value");
  return { element, reach, bar, measured, words, value };
}

function make(parent, tag, name) {
  const element = document.createElement(tag);
  element.className = name;
  return parent.appendChild(element);
}

function place(element, from, to) {
  element.style.setProperty("--from", from);
  element.style.setProperty("--to", Math.max(from, to));
}
