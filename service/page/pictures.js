// Where pictures come from besides the pad: files, the clipboard, a drop, and samples.

import { bytes } from "./api.js";

const SAMPLES = [
  { name: "seven", label: "7", text: "A clear 7" },
  { name: "three", label: "3", text: "A clear 3" },
  { name: "eight", label: "8", text: "A clear 8" },
  { name: "four-or-nine", label: "4", text: "A 4 that is almost a 9" },
  { name: "one-or-seven", label: "7", text: "A 7 that is almost a 1" },
];

// Drawn for this page by docs/draw_samples.py; of no data set.
const DRAWN = [
  { name: "drawn-ship", label: "ship", text: "A ship, drawn by a program" },
  { name: "drawn-airplane", label: "airplane", text: "An airplane, drawn by a program" },
  { name: "drawn-automobile", label: "automobile", text: "An automobile, drawn by a program" },
];

/** The samples that a model with these labels can name. */
export const samplesFor = (labels) =>
  [...SAMPLES, ...DRAWN].filter((sample) => labels.includes(sample.label));

export const sampleAddress = ({ name }) => `page/samples/${name}.png`;

export async function takeSample(sample) {
  return { bytes: await bytes(sampleAddress(sample)), type: "image/png", name: `${sample.name}.png`, text: sample.text };
}

export function takeFile(file) {
  // The service looks at the bytes; a type that is no picture's would have it read them otherwise.
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  // Names are for the request to copy; from a clipboard there is none worth keeping.
  return { bytes: file, type, name: file.name || "picture" };
}

/** Call `take` with every file that is chosen, pasted or dropped. */
export function receive(input, dropping, take) {
  const takeFirst = (files) => files.length && take(takeFile(files[0]));
  input.addEventListener("change", () => {
    takeFirst(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
  const withFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    dropping.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropping.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    dropping.hidden = true;
    takeFirst(event.dataTransfer.files);
  });
}
