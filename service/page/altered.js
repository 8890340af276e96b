// What a change of a given size can look like: pictures as far from the certified one as an attack of
// that size may go. They differ from it by whole levels of 8 bits, as the screen shows them.

import { NORMS, down, whole } from "./format.js";

const WHITE = 255;
// How much of the size a change of one value by some levels uses up.
const COSTS = { l1: (levels) => levels, l2: (levels) => levels ** 2, linf: () => 0 };

/** How much all changes of a size may use up together, and the most levels of a single one. */
function allowance(size, norm) {
  const levels = size * WHITE;
  if (norm === "linf") return { budget: 0, most: Math.min(Math.floor(levels), WHITE) };
  return { budget: norm === "l2" ? levels ** 2 : levels, most: WHITE };
}

/** The size, for values from 0 to 1, of a change that is given in levels. */
function sizeOf(changes, norm) {
  let [total, most] = [0, 0];
  for (const change of changes) {
    total += COSTS[norm](Math.abs(change));
    most = Math.max(most, Math.abs(change));
  }
  return { l1: total, l2: Math.sqrt(total), linf: most }[norm] / WHITE;
}

/**
 * Change all values by the same amount, each up or down at random, until no further level fits.
 *
 * @param picture {pixels, width, height, channels}: a byte for each value, pixel by pixel.
 * @returns levels by which the values change; none leaves 0 to 255.
 */
export function spread({ pixels: values }, size, norm) {
  const { budget, most } = allowance(size, norm);
  const cost = COSTS[norm];
  const random = generator();
  // Black can only become lighter, and white darker.
  const signs = Int8Array.from(values, (value) => {
    const up = random() < 0.5;
    return value === 0 || (up && value !== WHITE) ? 1 : -1;
  });
  const rooms = values.map((value, i) => (signs[i] > 0 ? WHITE - value : value));
  const counts = new Uint32Array(WHITE + 1);
  for (const room of rooms) counts[room]++;
  const taken = (step) =>
    counts.reduce((sum, count, room) => sum + count * cost(Math.min(step, room)), 0);
  let step = 0;
  while (step < most && taken(step + 1) <= budget) step++;
  const changes = Int16Array.from(rooms, (room, i) => signs[i] * Math.min(step, room));
  // The rest is enough for one more level of some values.
  let left = budget - taken(step);
  const more = cost(step + 1) - cost(step);
  for (const i of step < most ? shuffled(values.length, random) : []) {
    if (rooms[i] <= step) continue;
    left -= more;
    if (left < 0) break;
    changes[i] += signs[i];
  }
  return changes;
}

/** Change pixel by pixel from the middle outwards, each to black or white, whichever is farther. */
export function patch({ pixels: values, width, height, channels }, size, norm) {
  const { budget, most } = allowance(size, norm);
  const changes = new Int16Array(values.length);
  let left = budget;
  for (const [x, y] of outwards(width, height)) {
    for (let c = 0; c < channels; c++) {
      const i = (y * width + x) * channels + c;
      const sign = values[i] < 128 ? 1 : -1;
      const room = sign > 0 ? WHITE - values[i] : values[i];
      const within = { l1: Math.floor(left), l2: Math.floor(Math.sqrt(left)), linf: most }[norm];
      changes[i] = sign * Math.min(room, within);
      left -= COSTS[norm](Math.abs(changes[i]));
    }
    if (left < 1 && norm !== "linf") break;
  }
  return changes;
}

/** All places of a picture, in squares that grow around its middle. */
function* outwards(width, height) {
  const [middle, centre] = [Math.floor(width / 2), Math.floor(height / 2)];
  for (let ring = 0; ring <= Math.max(middle, centre); ring++) {
    for (let y = Math.max(0, centre - ring); y <= Math.min(height - 1, centre + ring); y++) {
      const step = Math.abs(y - centre) === ring ? 1 : 2 * ring;
      for (let x = middle - ring; x <= middle + ring; x += step) {
        if (x >= 0 && x < width) yield [x, y];
      }
    }
  }
}

/** The numbers below `count` in an order drawn at random. */
function shuffled(count, random) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const other = Math.floor(random() * (i + 1));
    [order[i], order[other]] = [order[other], order[i]];
  }
  return order;
}

/** The same numbers from 0 to 1 every time, so that a picture does not flicker (mulberry32). */
function generator() {
  let state = 1;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What a change does to the pixels, in words. */
export function inWords(changes, { width, height, channels }, norm) {
  const most = changes.reduce((so, change) => Math.max(so, Math.abs(change)), 0);
  if (!most) return "Nothing changes: not one level of 255 fits into this size.";
  const pixels = width * height;
  let changed = 0;
  for (let pixel = 0; pixel < pixels; pixel++) {
    let any = 0;
    for (let c = 0; c < channels; c++) any |= changes[pixel * channels + c];
    if (any) changed++;
  }
  const which = changed === pixels ? `All ${whole(pixels)}` : `${whole(changed)} of ${whole(pixels)}`;
  return (
    `${which} pixels changed, by at most ${most} of 255 levels. ` +
    `Size: ${down(sizeOf(changes, norm))} in ${NORMS[norm]}.`
  );
}
