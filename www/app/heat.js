// A heat map over a picture: one way for the screen and for the saved picture.

import { make } from './dom.js';

/** @typedef {import('../detrim/index.js').AttentionMaps} AttentionMaps */

/** Dark to bright, as in matplotlib's "inferno": red, green, blue at equal steps. */
const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
/** The picture stays to be seen below. */
const OPACITY = 0.68;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {AttentionMaps} maps
 * @param {number | null} head one of them, or all: their mean
 * @param {import('./draw.js').Area} picture where the picture lies on the canvas
 */
export function drawHeat(context, maps, head, picture) {
  const { rows, columns } = maps;
  const map = mapOf(maps, head);
  const most = map.reduce((a, b) => Math.max(a, b), 0) || 1;
  const small = make('canvas', { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  map.forEach((weight, i) => image.data.set([...colourAt(weight / most), 255], 4 * i));
  small.getContext('2d')?.putImageData(image, 0, 0);
  context.save();
  context.globalAlpha = OPACITY;
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, picture.x, picture.y, picture.width, picture.height);
  context.restore();
}

/** `rows * columns` weights whose sum is 1. @param {AttentionMaps} maps @param {number | null} head */
export function mapOf({ heads, rows, columns, weights }, head) {
  const size = rows * columns;
  if (head !== null) return weights.subarray(head * size, (head + 1) * size);
  return Float32Array.from({ length: size }, (_, i) => {
    let sum = 0;
    for (let h = 0; h < heads; h++) sum += weights[h * size + i];
    return sum / heads;
  });
}

/** @param {number} share from 0 to 1 */
function colourAt(share) {
  const place = share * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((channel, i) => channel + (RAMP[low + 1][i] - channel) * (place - low));
}
