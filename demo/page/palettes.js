// Colors of numbers. All three maps grow steadily in lightness, so they read in gray and with any color vision.
import { canvasOf, clamp } from "./dom.js";

/** @type {Record<string, string[]>} anchors at equal steps; cividis: Nunez et al. 2018; viridis: Smith and van der Walt 2015 */
const ANCHORS = {
  cividis: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
  viridis: ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"],
  gray: ["#0c0c0c", "#fafafa"],
};

/** @param {string} name */
const anchorsOf = (name) => ANCHORS[name] || ANCHORS.cividis;

/** @type {[string, string][]} */
export const PALETTES = [["cividis", "Cividis"], ["viridis", "Viridis"], ["gray", "Gray"]];

/** Categories that people of any color vision can distinguish (Okabe and Ito 2008). */
const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#9a8c00", "#7f7f7f"];

/** Red, green and blue of "#rrggbb". @param {string} text @returns {Color} */
export const channels = (text) => /** @type {Color} */ ([1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));

/** @param {string} name @param {number} value 0 to 1 @returns {Color} */
export function colorOf(name, value) {
  const anchors = anchorsOf(name);
  const at = clamp(value || 0, 0, 1) * (anchors.length - 1);
  const low = Math.min(Math.floor(at), anchors.length - 2);
  const [from, to] = [channels(anchors[low]), channels(anchors[low + 1])];
  return /** @type {Color} */ (from.map((one, channel) => Math.round(one + (to[channel] - one) * (at - low))));
}

/** A map from left to right. @param {string} name */
export const rampOf = (name) => `linear-gradient(90deg, ${anchorsOf(name).join()})`;

/**
 * Color a place in a picture: the hue goes from left to right, the lightness from top to bottom.
 * @param {number} x 0 to 1 @param {number} y 0 to 1
 */
export const placeColor = (x, y) => `oklch(${(.84 - .34 * y).toFixed(3)} .17 ${Math.round(250 + 190 * x)})`;

/** The color of a category; after eight, the same in darker shades. @param {number} number */
export function categoryColor(number) {
  const text = CATEGORIES[number % CATEGORIES.length];
  const shade = 1 - .28 * (Math.floor(number / CATEGORIES.length) % 3);
  return `#${channels(text).map((one) => Math.round(one * shade).toString(16).padStart(2, "0")).join("")}`;
}

/**
 * A canvas with one pixel per patch.
 * @param {number} rows @param {number} columns
 * @param {(index: number) => [number, number, number, number]} pixel red, green, blue, opacity of a patch, 0 to 255
 */
export function patchCanvas(rows, columns, pixel) {
  const { canvas, context } = canvasOf(columns, rows);
  const data = context.createImageData(columns, rows);
  for (let index = 0; index < rows * columns; index++) data.data.set(pixel(index), 4 * index);
  context.putImageData(data, 0, 0);
  return canvas;
}

/** From the average to the highest: what is less similar than the average is all the same. @param {number[]} values */
export const similarRange = (values) => [values.reduce((sum, one) => sum + one, 0) / values.length, rangeOf(values)[1]];

/** @param {ArrayLike<number>} values */
export function rangeOf(values) {
  let low = Infinity, high = -Infinity;
  for (let index = 0; index < values.length; index++) {
    if (values[index] < low) low = values[index];
    if (values[index] > high) high = values[index];
  }
  return [low, high];
}
