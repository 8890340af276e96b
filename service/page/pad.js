// The canvas: the drawing, and the picture that is made from it for the model.

const SIDE = 560;
// Handwriting fills this part of the pictures with which digit models are trained.
const FILLED = 20 / 28;

/** A rectangle to draw on, in the proportions of a model's input. */
export class Pad {
  /**
   * @param canvas the element.
   * @param drawn called with the new picture when a stroke is finished.
   */
  constructor(canvas, drawn) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.drawn = drawn;
    this.ink = "#ffffff";
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
  }

  /** Take the shape [channels, height, width] of a model's input, and clear the canvas. */
  shape([channels, height, width]) {
    Object.assign(this, { channels, height, width });
    this.scale = Math.max(1, Math.floor(SIDE / Math.max(height, width)));
    this.canvas.width = width * this.scale;
    this.canvas.height = height * this.scale;
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.clear();
  }

  clear() {
    this.context.fillStyle = this.channels === 1 ? "#000000" : "#ffffff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    // Strokes on an empty pad may be centred; a picture that was placed here is not moved.
    this.onlyStrokes = true;
  }

  /** Draw a test pattern: shades, edges and a disc, in colours if the model accepts them. */
  drawPattern() {
    this.clear();
    const { context } = this;
    const { width, height } = this.canvas;
    const shades = context.createLinearGradient(0, 0, width, 0);
    const colours = this.channels === 1 ? ["#000000", "#ffffff"] : ["#204080", "#e0c060"];
    colours.forEach((colour, i) => shades.addColorStop(i, colour));
    context.fillStyle = shades;
    context.fillRect(0, 0, width, height);
    context.fillStyle = colours[1];
    context.fillRect(0, (height * 5) / 8, width / 2, height / 8);
    context.fillStyle = this.channels === 1 ? "#808080" : "#a03030";
    context.beginPath();
    context.arc((width * 5) / 8, (height * 3) / 8, Math.min(width, height) / 4, 0, 2 * Math.PI);
    context.fill();
    this.onlyStrokes = false;
  }

  /** Show a picture as large as possible. */
  show(image) {
    this.clear();
    this.onlyStrokes = false;
    const { width, height } = this.canvas;
    const fit = Math.min(width / image.width, height / image.height);
    const [w, h] = [image.width * fit, image.height * fit];
    this.context.imageSmoothingEnabled = fit < 1;
    this.context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.#point(event);
    this.#move(event);
  }

  #move(event) {
    if (!this.last) return;
    const context = this.context;
    context.strokeStyle = this.ink;
    context.lineWidth = Math.max(this.canvas.width, this.canvas.height) * 0.08;
    context.lineCap = context.lineJoin = "round";
    for (const step of event.getCoalescedEvents?.().concat(event) ?? [event]) {
      const next = this.#point(step);
      context.beginPath();
      context.moveTo(...this.last);
      context.lineTo(...next);
      context.stroke();
      this.last = next;
    }
  }

  #end() {
    if (!this.last) return;
    this.last = null;
    this.drawn();
  }

  /** The picture in the model's format: {bytes, type, name, width, height, centred}. */
  picture() {
    const centred = this.channels === 1 && this.onlyStrokes;
    const source = (centred && centre(this.canvas)) || this.canvas;
    const pixels = shrink(source, this.scale, this.channels);
    // PGM and PPM: no colour profile, no alpha, nothing lost, and three lines to write.
    const [magic, suffix, type] =
      this.channels === 1 ? ["P5", "pgm", "graymap"] : ["P6", "ppm", "pixmap"];
    const header = new TextEncoder().encode(`${magic}\n${this.width} ${this.height}\n255\n`);
    return {
      bytes: new Blob([header, pixels]),
      type: `image/x-portable-${type}`,
      name: `drawing.${suffix}`,
      width: this.width,
      height: this.height,
      pixels,
      channels: this.channels,
      centred,
    };
  }
}

/** Average every block of scale × scale pixels. */
function shrink(canvas, scale, channels) {
  const { data, width, height } = canvas
    .getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height);
  const [columns, rows] = [width / scale, height / scale];
  const sums = new Float64Array(columns * rows * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = (Math.floor(y / scale) * columns + Math.floor(x / scale)) * channels;
      for (let c = 0; c < channels; c++) sums[to + c] += data[(y * width + x) * 4 + c];
    }
  }
  return Uint8Array.from(sums, (sum) => Math.round(sum / scale ** 2));
}

/** Scale and centre the drawing like handwriting in training pictures. */
function centre(canvas) {
  const { width, height } = canvas;
  const box = ink(canvas);
  if (!box) return null;
  const fit = (FILLED * Math.min(width, height)) / Math.max(box.width, box.height);
  const [w, h] = [box.width * fit, box.height * fit];
  const [left, top] = [width / 2 - (box.x - box.left) * fit, height / 2 - (box.y - box.top) * fit];
  const other = new OffscreenCanvas(width, height);
  const context = other.getContext("2d");
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, box.left, box.top, box.width, box.height, left, top, w, h);
  return other;
}

/** The box around all ink, and the ink's centre of mass. */
function ink(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  let [mass, x, y, left, right, top, bottom] = [0, 0, 0, width, 0, height, 0];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = data[(row * width + column) * 4];
      if (!value) continue;
      mass += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
      left = Math.min(left, column);
      right = Math.max(right, column + 1);
      top = Math.min(top, row);
      bottom = Math.max(bottom, row + 1);
    }
  }
  if (!mass) return null;
  return { left, top, width: right - left, height: bottom - top, x: x / mass, y: y / mass };
}

/** The values of an opaque bitmap, pixel by pixel; a grey one has one value per pixel. */
export function pixelsOf(image, channels) {
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const pixels = new Uint8Array(image.width * image.height * channels);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = data[Math.floor(i / channels) * 4 + (i % channels)];
  }
  return pixels;
}

/** Show on `canvas` exactly the pixels that are sent. */
export function showPixels(canvas, { pixels, width, height, channels }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (c % channels)];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
