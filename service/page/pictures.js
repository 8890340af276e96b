// Sources of pictures besides the pad: files, the clipboard, a drop, and samples.

import { bytes } from "./api.js";

/** What a sample shows, by the name of its file: "02-a-clear-3.png" is "A clear 3". */
function words(file) {
  const stem = file.replace(/\.[^.]+$/, "").replace(/^\d\d-(?=.)/, "");
  const text = stem.replaceAll(/[-_]+/g, " ").trim() || stem;
  return text[0].toUpperCase() + text.slice(1);
}

/** The samples in a model's bundle, as pictures to choose from. */
export function samplesOf({ name, version, samples }) {
  const folder = `page/samples/${encodeURIComponent(`${name}:${version}`)}`;
  const take = async (file) => {
    const content = await bytes(`${folder}/${encodeURIComponent(file)}`);
    return { bytes: content, type: content.type, name: file, text: words(file) };
  };
  return Promise.all(samples.map(take));
}

export function takeFile(file) {
  // The service looks at the bytes; with a type that is not a picture's it would parse them differently.
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  // The name is shown in the request to copy; a picture from the clipboard has no useful one.
  return { bytes: file, type, name: file.name || "picture" };
}

/** Call `take` with every chosen, pasted or dropped file. */
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
