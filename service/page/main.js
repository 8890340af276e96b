// The page: sends the request chosen on the left, and shows the service's answer on the right.

import { AnswerView } from "./answer.js";
import { decoded, key, models, Problem, stream } from "./api.js";
import { whole } from "./format.js";
import { Labels } from "./labels.js";
import { Pad, pixelsOf, showPixels } from "./pad.js";
import { receive, samplesOf } from "./pictures.js";
import { curl, python } from "./snippets.js";

// Looks come faster than an eye can follow; each is shown for at least this long.
const LOOK_MS = 45;
// If the first look takes longer than this, the page says that it is being made.
const PATIENCE_MS = 1500;
// A second stroke may follow the first.
const STROKE_MS = 450;
// The number of attack sizes to choose from.
const ATTACKS = 101;
// The most values of a picture that is altered here: more would make the slider slow.
const LARGEST = 2 ** 22;

const NORM_HINTS = {
  l1: "Sum of all changes",
  l2: "Root of the sum of squares",
  linf: "Largest single change",
};

const THREAT_HINTS = {
  norm: "Every pixel may change, together up to a size",
  sticker: "Of any content, in any one place; the answer is certain",
};
// The fields that only one threat has; the size that chooses a member is only for families.
const FIELDS = { norm: ["confidence", "draws", "norm", "target"], sticker: ["side"] };
// A sticker's side to begin with: this part of the picture's.
const STICKER_SHARE = 1 / 14;

// Advice for a person on this page, where the service's own is for programs.
const WORDS = {
  "not-a-picture": {
    title: "This file is not a picture that can be read",
    says: ({ detail }) => `${found(detail)} Choose another file, or save the picture as PNG or JPEG.`,
  },
  "unsupported-media-type": {
    title: "Files of this kind are not read",
    says: () => "Choose another file, or save the picture as PNG or JPEG.",
  },
  "too-many-bytes": {
    title: "This file is too large",
    says: ({ members }) =>
      `It may have at most ${whole(members.limit_bytes)} bytes. Make the picture smaller, or save it as JPEG.`,
  },
  "too-many-pixels": {
    title: "This picture has too many pixels",
    says: ({ members }) =>
      `It may have at most ${whole(members.limit_pixels)}. Make it smaller and try again.`,
  },
  "deadline-before-first-look": {
    title: "This model is too slow for an answer in time",
    says: ({ members }) =>
      `It made ${whole(members.draws)} draws, but the first look needs ${whole(members.draws_needed)}. ` +
      "Try again when fewer pictures are waiting.",
  },
};
// Asking again about the same file would change nothing.
const USELESS = [
  "not-a-picture",
  "unsupported-media-type",
  "too-many-bytes",
  "too-many-pixels",
  "cannot-certify-preprocessing",
];

/** What a file is instead of a picture, as far as the service knows. */
function found(detail) {
  const [, what] = /^[^:]+: (.+?)\. Accepted are /.exec(detail) ?? [];
  if (what === "an empty body") return "It is empty.";
  return what ? `Found: ${what}.` : "";
}

const element = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const state = { models: [], model: null, picture: null, asking: null, later: null };
const pad = new Pad(element("canvas"), () => {
  element("pad-hint").hidden = true;
  take(pad.picture(), STROKE_MS);
});
const view = new AnswerView(writeRequest);
const labels = new Labels();

async function start() {
  view.wait("Loading the list of models …");
  try {
    state.models = await models();
  } catch (error) {
    return fail(error, start);
  }
  const options = state.models.map((model, i) => {
    const { name, version, family, input_shape: [channels, height, width] } = model;
    const kind = channels === 1 ? "grey" : "colour";
    const title = family ? `${family}, a family` : `${name} ${version}`;
    return new Option(`${title} · ${width} × ${height} ${kind}`, i);
  });
  element("model").replaceChildren(...options);
  chooseModel();
}

async function chooseModel() {
  const model = (state.model = state.models[element("model").value]);
  for (const field of [element("confidence"), element("draws")]) {
    if (field.dataset.filled === field.value) field.value = "";
  }
  element("norm").value = model.noise.norm;
  element("side").value = "";
  element("colour-field").hidden = model.input_shape[0] === 1;
  pad.shape(model.input_shape);
  pad.ink = model.input_shape[0] === 1 ? "#ffffff" : element("colour").value;
  labels.of(model);
  chooseThreat();
  clear();
  element("samples").hidden = true;
  element("no-samples").hidden = Boolean(model.samples.length);
  if (!model.samples.length) return;
  try {
    const samples = await samplesOf(model);
    if (state.model !== model) return;
    showSamples(samples);
    // The user may already have drawn or dropped a picture.
    if (!state.picture) useFile(samples[0]);
  } catch (error) {
    fail(error, chooseModel);
  }
}

const threat = () => element("threat").value;

function chooseThreat() {
  element("threat-hint").textContent = THREAT_HINTS[threat()];
  for (const [one, fields] of Object.entries(FIELDS)) {
    for (const field of fields) element(`${field}-field`).hidden = one !== threat();
  }
  element("target-field").hidden ||= !state.model.family;
  const [, ...sides] = state.model.input_shape;
  element("side").value ||= Math.max(1, Math.round(Math.min(...sides) * STICKER_SHARE));
  chooseNorm();
}

function chooseNorm() {
  element("norm-hint").textContent = NORM_HINTS[element("norm").value];
  view.forgetSize();
}

function showSamples(samples) {
  for (const { src } of element("sample-list").querySelectorAll("img")) URL.revokeObjectURL(src);
  element("sample-list").replaceChildren(...samples.map(sampleButton));
  element("samples").hidden = false;
}

function sampleButton(sample) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sample";
  const image = button.appendChild(new Image(44, 44));
  image.src = URL.createObjectURL(sample.bytes);
  image.alt = sample.text;
  button.addEventListener("click", () => useFile(sample));
  return button;
}

/** Certify a test pattern, for a model without samples. */
function usePattern() {
  element("pad-hint").hidden = true;
  pad.drawPattern();
  const picture = pad.picture();
  take({ ...picture, name: picture.name.replace("drawing", "pattern"), text: "A test pattern" });
}

function useFile(picture) {
  element("pad-hint").hidden = true;
  pad.clear();
  // A sample may be chosen again.
  take({ ...picture });
}

function clear() {
  drop();
  view.wait(noPicture());
}

/** Show no picture, and disable everything that needs one. */
function drop() {
  pad.clear();
  forget();
  element("ask").disabled = element("request").hidden = true;
  element("pad-hint").hidden = false;
}

function noPicture() {
  return `There is no picture yet: draw one, choose a file${state.model.samples.length ? ", or try a sample" : ""}.`;
}

function forget() {
  clearTimeout(state.later);
  state.asking?.abort();
  state.picture = null;
  element("sent").hidden = true;
  element("canvas").setAttribute("aria-label", "An empty pad to draw on, or drop a picture.");
}

/** Certify this picture, unless another comes within `ms`. */
function take(picture, ms = 0) {
  forget();
  state.picture = picture;
  element("ask").disabled = false;
  view.forgetSize();
  const drawing = Boolean(picture.pixels);
  const kind = picture.channels === 1 ? "grey" : "colour";
  const text = drawing
    ? `Sent as ${picture.width} × ${picture.height} ${kind} pixels${picture.centred ? ", centred." : "."}`
    : `Sent as it is: ${picture.text ?? picture.name}.`;
  element("canvas").setAttribute(
    "aria-label",
    `${picture.text ?? (drawing ? "A drawing" : picture.name)}. It can be drawn on with a mouse, ` +
      "a pen or a finger.",
  );
  element("sent-text").textContent = text;
  element("sent-canvas").hidden = !drawing;
  if (drawing) showPixels(element("sent-canvas"), picture);
  const save = element("save");
  URL.revokeObjectURL(save.href);
  save.href = URL.createObjectURL(picture.bytes);
  save.download = picture.name;
  element("sent").hidden = false;
  state.later = setTimeout(ask, ms);
}

/** Show a file on the pad, once, as the service sees it. */
async function showOnPad(picture, signal) {
  if (picture.pixels || picture.image) return;
  const image = await decoded(picture, signal);
  if (signal.aborted) return;
  picture.image = image;
  pad.show(image);
}

/** The pixels that an answer is about, or null if they are too many to be altered here. */
function originalOf(picture, { width, height, mode }) {
  if (picture.pixels) return picture;
  const channels = mode === "RGB" ? 3 : 1;
  // The service shows very large pictures smaller.
  if (picture.image.width !== width || picture.image.height !== height) return null;
  if (width * height * channels > LARGEST) return null;
  return (picture.original ??= { pixels: pixelsOf(picture.image, channels), width, height, channels });
}

/** The chosen options of the request; an empty field is left to the service. */
function chosen() {
  const { model } = state;
  const options = { model: model.family ?? `${model.name}:${model.version}` };
  const stickers = threat() === "sticker";
  if (stickers) options.threat = "sticker";
  const fields = stickers ? [["target", "side"]] : [["confidence", "confidence"], ["max_draws", "draws"]];
  if (model.family && !stickers) fields.push(["target", "target"]);
  for (const [name, id] of fields) {
    const text = element(id).value.trim();
    if (text) options[name] = Number.isFinite(Number(text)) ? Number(text) : text;
  }
  if (!stickers && element("norm").value !== model.noise.norm) options.norm = element("norm").value;
  return options;
}

/** Show an option that the service chose; another model may have another. */
function fill(id, value) {
  const field = element(id);
  if (!field.value) field.value = field.dataset.filled = value;
}

async function ask() {
  state.asking?.abort();
  const { picture } = state;
  if (!picture) return view.wait(noPicture());
  const { signal } = (state.asking = new AbortController());
  const options = chosen();
  // How far the scores can be moved is told for sizes; a sticker has none.
  const asked = options.threat ? options : { ...options, attacks: ATTACKS };
  const context = { norm: element("norm").value, budget: options.max_draws, began: performance.now() };
  markWrong(null);
  element("answer").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => view.wait("Making the draws of the first look …"), PATIENCE_MS);
  signal.addEventListener("abort", () => clearTimeout(slow));
  try {
    await showOnPad(picture, signal);
    for await (const { event, data } of stream(picture, asked, signal)) {
      clearTimeout(slow);
      if (signal.aborted) return;
      if (event === "restart") {
        view.wait(data.detail);
      } else if (event === "look") {
        view.look(data, context);
        if (!still.matches) await pause(LOOK_MS);
      } else {
        // Options that were left to the service are now known.
        if (!data.sticker) {
          fill("confidence", data.confidence);
          fill("draws", data.budget.asked);
        }
        view.answer(data, originalOf(picture, data.picture));
      }
    }
  } catch (error) {
    clearTimeout(slow);
    if (!signal.aborted) fail(error, ask);
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) element("answer").removeAttribute("aria-busy");
  }
}

/** Say what went wrong, and try again automatically if that helps. */
function fail(error, again) {
  if (!(error instanceof Problem)) throw error;
  element("request").hidden = true;
  if (error.kind === "not-ready") {
    view.wait(`${error.detail} Trying again …`);
    state.later = setTimeout(again, 1000 * error.members.retry_after_s);
    return;
  }
  const { title, says } = WORDS[error.kind] ?? error;
  const detail = says ? says(error).trim() : error.detail;
  if (USELESS.includes(error.kind)) drop();
  view.problem({ title, detail, kind: error.kind });
  markWrong(error.members.option);
  if (error.status === 401 || error.status === 403) askForKey(again);
  else element("problem").scrollIntoView({ block: "nearest" });
}

function askForKey(again) {
  element("key-form").hidden = false;
  element("key").focus();
  element("key-form").onsubmit = (event) => {
    event.preventDefault();
    key.set(element("key").value.trim());
    element("key-form").hidden = true;
    again();
  };
}

function markWrong(option) {
  const inputs = {
    confidence: "confidence",
    max_draws: "draws",
    norm: "norm",
    model: "model",
    target: threat() === "sticker" ? "side" : "target",
    threat: "threat",
  };
  for (const id of ["side", "target"]) element(id).setAttribute("aria-invalid", false);
  for (const [name, id] of Object.entries(inputs)) {
    element(id).setAttribute("aria-invalid", name === option);
  }
}

function writeRequest(target) {
  const address = new URL(".", location.href).href;
  element("request").hidden = false;
  const { model, ...rest } = chosen();
  // Size 0 is not an attack, and not a target that the service accepts.
  const options = { ...(target ? { target } : {}), ...rest, model };
  element("curl").textContent = curl(address, state.picture, options);
  element("python").textContent = python(address.replace(/\/$/, ""), state.picture, options);
}

async function copy(button) {
  const code = element(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    // Only pages from https or from this machine may write to the clipboard.
    getSelection().selectAllChildren(code);
    button.textContent = "Press Ctrl+C";
  }
  await pause(1600);
  button.textContent = "Copy";
}

function showTab(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const selected = other === tab;
    other.setAttribute("aria-selected", selected);
    other.tabIndex = selected ? 0 : -1;
    element(other.getAttribute("aria-controls")).hidden = !selected;
  }
}

element("model").addEventListener("change", chooseModel);
element("norm").addEventListener("change", () => {
  chooseNorm();
  ask();
});
element("threat").addEventListener("change", () => {
  chooseThreat();
  ask();
});
for (const id of ["confidence", "draws", "target", "side"]) element(id).addEventListener("change", ask);
element("colour").addEventListener("input", (event) => (pad.ink = event.target.value));
element("clear").addEventListener("click", clear);
element("pattern").addEventListener("click", usePattern);
element("ask").addEventListener("click", ask);
receive(element("file"), element("dropping"), useFile);
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => showTab(tab));
  tab.addEventListener("keydown", ({ key: pressed }) => {
    if (pressed !== "ArrowRight" && pressed !== "ArrowLeft") return;
    const other = tab.nextElementSibling ?? tab.previousElementSibling;
    showTab(other);
    other.focus();
  });
}
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => copy(button));
}
start();
