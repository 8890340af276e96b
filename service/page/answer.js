// The answer as a person reads it, while it arrives and when it is complete.

import { inWords, patch, spread } from "./altered.js";
import { Chart, mayBeFirst, reading } from "./chart.js";
import { NORMS, above, below, down, percent, plain, whole } from "./format.js";
import { showPixels } from "./pad.js";
import * as stickers from "./stickers.js";

// Altered pictures follow the slider after it has rested for this long.
const REST_MS = 60;

const element = (id) => document.getElementById(id);

export class AnswerView {
  /** @param sized called with the chosen size of the attack whenever it changes. */
  constructor(sized) {
    this.sized = sized;
    this.chart = new Chart(element("plot"));
    // On a narrow screen the answer may be out of sight: then a short form is shown.
    const sight = new IntersectionObserver(([{ isIntersecting }]) => {
      element("strip").classList.toggle("needed", !isIntersecting);
    });
    sight.observe(element("answer"));
    this.slider = element("size");
    this.slider.addEventListener("input", () => {
      this.size = this.told.attacks.sizes[this.slider.valueAsNumber];
      this.chosen = this.following = true;
      this.#draw();
    });
    element("mark").addEventListener("click", () => {
      this.size = this.told.certified_size;
      this.chosen = true;
      this.following = false;
      this.#draw();
      this.slider.focus();
    });
  }

  /** Start again: there will be other sizes to choose from. */
  forgetSize() {
    this.size = undefined;
    this.chosen = this.following = false;
  }

  wait(words) {
    this.#only("waiting").textContent = words;
  }

  /** Say in a sentence what went wrong, and link to an explanation. */
  problem({ title, detail, kind }) {
    const heading = document.createElement("strong");
    heading.textContent = title.replace(/[.?!]?$/, ".");
    const parts = [heading, ` ${detail ?? ""} `];
    if (kind) {
      const more = document.createElement("a");
      more.href = `problems/${kind}`;
      more.textContent = "What this means";
      parts.push(more);
    }
    this.#only("problem").replaceChildren(...parts);
  }

  /** Show a look, with the options of the request, and when it began. */
  look(look, { norm, budget, began }) {
    this.#only("result");
    this.told = { ...look, norm };
    this.original = null;
    element("altered").hidden = true;
    this.#claim("so far");
    element("progress").max = budget ?? look.draws;
    element("progress").value = look.draws;
    const of = budget ? ` of at most ${whole(budget)}` : "";
    const rate = look.draws / Math.max((performance.now() - began) / 1000, 1e-3);
    element("progress-text").textContent =
      `${whole(look.draws)}${of} ${made(look)}, about ${whole(Number(rate.toPrecision(2)))} a second`;
    element("facts").hidden = true;
    this.#draw();
  }

  /**
   * Show the answer.
   *
   * @param original {pixels, width, height, channels} of the picture that it is about, at its own
   *   resolution; or null, where that is too large.
   */
  answer(answer, original) {
    this.#only("result");
    this.told = answer;
    this.original = original;
    this.#claim(`with ${percent(answer.confidence)} confidence`);
    element("progress").max = element("progress").value = answer.draws;
    element("progress-text").textContent = ended(answer);
    const told = answer.sticker ? stickers.facts(answer) : facts(answer);
    element("facts").replaceChildren(...[...told, ...common(answer)].flatMap(describe));
    element("facts").hidden = false;
    this.#draw();
    if (answer.sticker) {
      element("status").textContent = stickers.claim(answer);
      return;
    }
    const certified = answer.certified_size;
    element("status").textContent =
      `Label ${answer.label.name}. ` +
      (certified
        ? `Certified up to size ${down(certified)} in ${NORMS[answer.norm]}, ` +
          `with ${percent(answer.confidence)} confidence. `
        : "Nothing is certified. ") +
      `${this.#robust ? "Robust" : "Not robust"} against attacks of size ${plain(this.size)}.`;
  }

  /** Show one of the ways in which this part of the page can look. */
  #only(id) {
    for (const other of ["waiting", "problem", "result"]) element(other).hidden = other !== id;
    element("strip").hidden = id !== "result";
    clearTimeout(this.later);
    if (id !== "result") element("status").textContent = "";
    return element(id);
  }

  get #robust() {
    return this.told.certified_size > 0 && this.told.certified_size >= this.size;
  }

  #claim(how) {
    const { label, certified_size: certified, norm } = this.told;
    element("label").textContent = label.name;
    element("label").classList.toggle("long", label.name.length > 2);
    if (this.told.sticker) {
      element("claim").textContent = stickers.claim(this.told);
      return;
    }
    element("claim").textContent = certified
      ? `No change to the picture up to size ${down(certified)} in ${NORMS[norm]} can make this ` +
        `anything but ${label.name}, ${how}.`
      : `${label.name} leads, but nothing is certified ${how}.`;
  }

  #draw() {
    const { sticker } = this.told;
    element("sized").hidden = Boolean(sticker);
    element("stickered").hidden = !sticker;
    if (sticker) {
      stickers.show(this.told, this.original);
      this.#strip(sticker.certified ? "certified" : "nothing certified", stickers.squares(sticker));
      this.sized(sticker.side);
      return;
    }
    const { label, certified_size: certified, attacks, norm } = this.told;
    const { sizes } = attacks;
    // Until a size is chosen, use one somewhat below the certified size, as the next answer's may be
    // smaller; but not 0, which is not an attack.
    if (!this.chosen) this.size = 0.8 * certified || sizes[Math.round(sizes.length * 0.4)];
    const at = Math.max(this.chosen ? 0 : 1, sizes.findLastIndex((size) => size <= this.size * (1 + 1e-9)));
    this.size = sizes[at];
    const robust = this.#robust;
    this.chart.draw(this.told, at, robust);

    this.slider.max = sizes.length - 1;
    this.slider.value = at;
    const verdict = robust ? "robust" : "not robust";
    this.slider.setAttribute("aria-valuetext", `${plain(this.size)} in ${NORMS[norm]}, ${verdict}`);
    element("size-text").textContent = `${plain(this.size)} in ${NORMS[norm]}`;
    element("pill").textContent = robust ? "Robust" : "Not robust";
    element("pill").classList.toggle("robust", robust);
    const share = Math.min(certified / sizes.at(-1), 1);
    this.slider.parentElement.style.setProperty("--certified", share);
    element("mark").textContent = certified ? `certified ${down(certified)}` : "nothing certified";

    const { lowest, highest } = reading(this.told, at);
    const names = mayBeFirst(this.told, at);
    const of = attacks.scores.length + (attacks.others ? 1 : 0);
    element("certain").hidden = robust || names.length === 1 || names.length === of;
    element("certain").textContent =
      `Such an attack might make it ${listed(names)}, but no other label.`;
    element("reading").textContent = robust
      ? `An attack of this size can push the score of ${label.name} no lower than ${below(lowest)}, ` +
        `and that of any other label no higher than ${above(highest)}.`
      : `This is more than the certified size: such an attack might push the score of ${label.name} down to ` +
        `${below(lowest)}, and that of another label up to ${above(highest)}.`;
    clearTimeout(this.later);
    if (this.told.picture) this.later = setTimeout(() => this.#alter(), REST_MS);
    this.#strip(element("mark").textContent, verdict);
    this.sized(this.size);
  }

  /** The answer in short. */
  #strip(...words) {
    const name = document.createElement("b");
    name.textContent = this.told.label.name;
    element("strip").replaceChildren(name, words.join(", "));
  }

  /** Show what changes can look like: of the certified size, or of one chosen by the slider. */
  #alter() {
    const { original } = this;
    const { certified_size: certified, norm, picture, preprocessing } = this.told;
    const size = this.following ? this.size : certified || this.size;
    const which = size === certified ? "the certified size" : "size";
    element("altered-title").textContent =
      `What a change of ${which} ${down(size)} in ${NORMS[norm]} can look like`;
    element("patch-name").textContent = norm === "linf" ? "Less contrast" : "In one place";
    element("pictures").hidden = !original;
    if (original) {
      showPixels(element("unaltered"), original);
      for (const [id, change] of Object.entries({ spread, patch })) {
        const changes = change(original, size, norm);
        const pixels = original.pixels.map((value, i) => value + changes[i]);
        showPixels(element(id), { ...original, pixels });
        element(`${id}-text`).textContent = inWords(changes, original, norm);
      }
    }
    element("altered-text").textContent = [
      original
        ? "Values change in whole levels and stop at black and white. The sizes given are those of the changes shown."
        : `A picture of ${whole(picture.width)} × ${whole(picture.height)} pixels is too large to be altered here.`,
      certified >= size
        ? "The certificate covers these changes, and all others up to this size."
        : "The certificate does not cover this size: some changes of this size might change the answer.",
      ...(picture.bits === 16 ? ["Only the upper 8 of the picture’s 16 bits are shown."] : []),
      ...(preprocessing.steps.length
        ? ["The size is measured on the picture as sent, before it is resized or cropped for the model."]
        : []),
    ].join(" ");
    element("altered").hidden = false;
  }
}

/** Names as a sentence has them: a, b or c. */
function listed(names) {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names[0];
}

/** What a pass is made of: through noise, or under masks. */
const made = ({ sticker }) => (sticker ? "views" : "draws");

/** How the answer ended. */
function ended({ draws, sticker, stopped, budget, timing_ms: timing, compute }) {
  const where = `${whole(draws)} ${made({ sticker })} in ${whole(Math.ceil(timing.total))} ms on ${compute.device}`;
  if (stopped === "deadline") return `${where}; time ran out`;
  if (budget.granted < budget.asked) {
    return `${where}; the budget was cut to ${whole(budget.granted)}, to answer in time`;
  }
  return where;
}

function facts(answer) {
  const { certificate, picture, noise } = answer;
  const { sizes } = certificate;
  const levels = 2 ** picture.bits - 1;
  const each = `by ${down(sizes.linf * levels, 3)} of ${whole(levels)} levels each`;
  return [
    ...(sizes.linf ? [["All pixels at once", each]] : []),
    ["Sizes", Object.keys(NORMS).map((norm) => `${NORMS[norm]} ${plain(sizes[norm])}`).join(", ")],
    ["By the paper’s own condition", plain(certificate.paper.size)],
    ["Noise", `${noise.mechanism}, scale ${plain(noise.scale)}, ${noise.placement}`],
  ];
}

/** What every answer says of its model and its picture. */
function common({ model, picture, preprocessing }) {
  const kind = { L: "grey", RGB: "colour" }[picture.mode];
  const steps = preprocessing.steps.length ? `; ${preprocessing.steps.join(", ")}` : "";
  return [
    ["Model", `${model.name} ${model.version}`],
    ["Picture", `${picture.width} × ${picture.height}, ${kind}, ${picture.bits} bits${steps}`],
  ];
}

function describe([term, words]) {
  const [name, value] = [document.createElement("dt"), document.createElement("dd")];
  name.textContent = term;
  value.textContent = words;
  return [name, value];
}
