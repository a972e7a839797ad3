// Boxes and labels on a 2D context: one way for the screen and for the saved picture.

import { colourOf, INK } from './colours.js';
import { percent } from './format.js';
import { placeAnyway, placeInCrowd } from './places.js';

/** @typedef {import('./state.js').Detection} Detection */
/** @typedef {import('./places.js').Area} Area */

/** So many boxes, as on the page of a document, get thinner lines and smaller labels. */
const CROWD = 13;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Detection[]} detections best first
 * @param {Area} picture where the picture lies on the canvas, in canvas pixels
 * @param {number} scale canvas pixels per picture pixel
 * @param {number} unit canvas pixels per one of the eye's: lines and letters are sized in it
 * @param {Detection | null} active the one to lift out
 * @param {boolean} [filled] whether that gets its colour inside too
 */
export function drawDetections(context, detections, picture, scale, unit, active, filled = true) {
  // Everything is smaller in a crowd, and what would cover another label is left to the list.
  const crowded = detections.length >= CROWD;
  const size = crowded ? 0.8 * unit : unit;
  context.save();
  context.beginPath();
  context.rect(picture.x, picture.y, picture.width, picture.height);
  context.clip();
  context.lineJoin = 'round';
  context.font = `600 ${13 * size}px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif`;
  context.textBaseline = 'middle';
  // Best last, so that it lies on top; the lifted one above all.
  const order = detections.filter((d) => d !== active).reverse();
  if (active && detections.includes(active)) order.push(active);
  for (const detection of order) {
    const dimmed = active !== null && detection !== active;
    drawBox(context, detection, areaOf(detection, picture, scale), crowded ? 0.7 * unit : unit, dimmed, detection === active, filled);
  }
  // Labels after all boxes, the best first: they take the free places.
  /** @type {Area[]} */
  const taken = [];
  const boxes = crowded ? order.map((detection) => areaOf(detection, picture, scale)) : [];
  for (const detection of order.reverse()) {
    const brief = crowded && detection !== active;
    const text = brief ? detection.label : `${detection.label} ${percent(detection.score)}`;
    const label = { width: context.measureText(text).width + 14 * size, height: 22 * size };
    const box = areaOf(detection, picture, scale);
    const place = brief ? placeInCrowd(box, label, size, picture, taken, boxes) : placeAnyway(box, label, size, picture, taken);
    if (!place) continue;
    taken.push(place);
    drawLabel(context, text, colourOf(detection.label), place, size, active !== null && detection !== active);
  }
  context.restore();
}

/**
 * A box on the canvas. Boxes may reach out of the picture; what is drawn stays inside.
 * @param {Detection} detection
 * @param {Area} picture
 * @param {number} scale
 * @returns {Area}
 */
function areaOf({ box }, picture, scale) {
  const left = Math.max(picture.x + box.xmin * scale, picture.x);
  const top = Math.max(picture.y + box.ymin * scale, picture.y);
  const right = Math.min(picture.x + box.xmax * scale, picture.x + picture.width);
  const bottom = Math.min(picture.y + box.ymax * scale, picture.y + picture.height);
  return { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Detection} detection
 * @param {Area} area
 * @param {number} unit
 * @param {boolean} dimmed
 * @param {boolean} lifted
 * @param {boolean} filled
 */
function drawBox(context, detection, area, unit, dimmed, lifted, filled) {
  const line = (lifted ? 4 : 2.5) * unit;
  // The line's outer edge is the box's.
  const { x, y, width, height } = { x: area.x + line / 2, y: area.y + line / 2, width: area.width - line, height: area.height - line };
  const round = Math.max(0, Math.min(6 * unit, width / 2, height / 2));
  context.globalAlpha = dimmed ? 0.35 : 1;
  context.beginPath();
  if (context.roundRect) context.roundRect(x, y, Math.max(0, width), Math.max(0, height), round);
  else context.rect(x, y, width, height);
  if (lifted && filled) {
    context.globalAlpha = 0.2;
    context.fillStyle = colourOf(detection.label);
    context.fill();
    context.globalAlpha = 1;
  }
  // A dark line under the coloured one keeps it visible on bright pictures.
  context.strokeStyle = 'rgba(10, 12, 14, 0.55)';
  context.lineWidth = line + 2 * unit;
  context.stroke();
  context.strokeStyle = colourOf(detection.label);
  context.lineWidth = line;
  context.stroke();
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {string} colour
 * @param {Area} place
 * @param {number} unit
 * @param {boolean} dimmed
 */
function drawLabel(context, text, colour, { x, y, width, height }, unit, dimmed) {
  context.globalAlpha = dimmed ? 0.35 : 1;
  context.fillStyle = colour;
  context.beginPath();
  if (context.roundRect) context.roundRect(x, y, width, height, 5 * unit);
  else context.rect(x, y, width, height);
  context.fill();
  context.fillStyle = INK;
  context.fillText(text, x + 7 * unit, y + height / 2 + 0.5 * unit);
}
