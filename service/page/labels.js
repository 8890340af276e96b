// The labels that a model knows: a model for photographs has a thousand, so they can be searched.

import { whole } from "./format.js";

// Up to so many labels are all in the answer's chart, and are not listed here.
const CHARTED = 20;
// The most that are shown at a time.
const MOST = 30;

const element = (id) => document.getElementById(id);

export class Labels {
  constructor() {
    element("label-search").addEventListener("input", () => this.#list());
  }

  /** Offer the labels of a model, closed and without a search. */
  of({ labels }) {
    this.names = labels;
    element("labels").hidden = labels.length <= CHARTED;
    element("labels").open = false;
    element("label-search").value = "";
    element("labels-count").textContent = `The ${whole(labels.length)} labels that this model knows`;
    this.#list();
  }

  #list() {
    const words = element("label-search").value.toLowerCase().split(/\s+/);
    const found = this.names.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    element("label-list").replaceChildren(...found.slice(0, MOST).map(item));
    const more = found.length - MOST;
    element("labels-found").textContent = found.length
      ? `${whole(found.length)} of ${whole(this.names.length)}` + (more > 0 ? `; ${whole(more)} more are not shown` : "")
      : "No label has this in its name: the model cannot give that answer.";
  }
}

function item(name) {
  const entry = document.createElement("li");
  entry.textContent = name;
  return entry;
}
