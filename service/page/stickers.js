// An answer about stickers: whether a square pasted on the picture could change the label.

import { percent, whole } from "./format.js";
import { showPixels } from "./pad.js";

const element = (id) => document.getElementById(id);

/** The sticker's size in words. */
export const squares = ({ side }) => `stickers of ${whole(side)} × ${whole(side)} pixels`;

export function claim({ label, sticker }) {
  const what = `sticker of ${whole(sticker.side)} × ${whole(sticker.side)} pixels`;
  return sticker.certified
    ? `No ${what} can make this anything but ${label.name}, wherever it is and whatever is on it. ` +
        "This is certain."
    : `The answer is ${label.name}, but nothing is certified: some ${what} might change it.`;
}

/** Show such a sticker on the picture that the answer is about, unless that is too large. */
export function show({ sticker, picture }, original) {
  element("stickered-title").textContent = `Against ${squares(sticker)}`;
  element("sticker-pill").textContent = sticker.certified ? "Certified" : "Not certified";
  element("sticker-pill").classList.toggle("robust", sticker.certified);
  element("sticker-pictures").hidden = !original;
  if (original) showPixels(element("pasted"), { ...original, pixels: pasted(original, sticker.side) });
  element("stickered-text").textContent =
    `The side is in pixels of the picture as sent.${covering(sticker, picture)} This says nothing ` +
    "about other changes, such as small ones all over the picture.";
}

/** The sides of the picture that a sticker covers as it is longer; looks have no picture. */
function covering({ side }, { width = side, height = side } = {}) {
  const covered = [height < side && "height", width < side && "width"].filter(Boolean);
  if (!covered.length) return "";
  return ` It is more than the picture’s ${covered.join(" and ")}, which such a sticker covers.`;
}

/** The pixels with a chequered square in the middle, or what of it lies in the picture. */
function pasted({ pixels, width, height, channels }, side) {
  const [rows, columns] = [height, width].map((length) => Math.min(length, side));
  const [top, left] = [Math.floor((height - rows) / 2), Math.floor((width - columns) / 2)];
  const changed = pixels.slice();
  const square = Math.max(1, Math.round(side / 4));
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const light = (Math.floor(y / square) + Math.floor(x / square)) % 2;
      const at = ((top + y) * width + left + x) * channels;
      changed.fill(light ? 255 : 0, at, at + channels);
    }
  }
  return changed;
}

/** What only answers about stickers have, beside the terms of all. */
export function facts({ scores, certificate }) {
  const { rows, columns } = certificate.masks;
  const share = ({ name, expected }) => `${name} (${percent(Number(expected.toPrecision(3)))})`;
  const seen = scores.filter((score) => score.expected > 0).map(share);
  return [
    ["Masks", `${whole(rows.length * columns.length)}, ${whole(certificate.views)} views under one or two of them`],
    ["Labels of the views", seen.join(", ")],
  ];
}
