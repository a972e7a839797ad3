// The canvas over the picture: sharp at any pixel ratio, and the way from a point to the box under it.

import { toggleAttention, closeAttention } from './attention.js';
import { byId } from './dom.js';
import { drawDetections } from './draw.js';
import { drawHeat } from './heat.js';
import { focusEntry } from './list.js';
import { shown, state, update, watch } from './state.js';

const frame = byId('frame', HTMLElement);
const canvas = byId('overlay', HTMLCanvasElement);
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
let scheduled = false;
/** Where the mouse is over the picture: live boxes move under it. @type {PointerEvent | null} */
let pointer = null;

export function startOverlay() {
  watch(['result', 'threshold', 'hidden', 'active', 'attention', 'mode', 'current'], schedule);
  fit(canvas, paint);
  watch(['result'], () => pointer && update({ active: at(pointer) }));
  frame.addEventListener('pointermove', (event) => {
    if (event.pointerType !== 'mouse') return;
    pointer = event;
    update({ active: at(event) });
  });
  frame.addEventListener('pointerleave', () => {
    pointer = null;
    update({ active: null });
  });
  frame.addEventListener('click', (event) => {
    const hit = at(event);
    update({ active: hit });
    if (!hit) return void closeAttention();
    focusEntry(hit);
    void toggleAttention(hit);
  });
}

/**
 * Keeps a canvas at the screen's own pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {() => void} paint
 */
export function fit(canvas, paint) {
  const observer = new ResizeObserver(([entry]) => {
    // Where the browser tells whole device pixels, lines fall between them nowhere. Emulated screens tell them wrong.
    const exact = entry.devicePixelContentBoxSize?.[0];
    const width = nearer(exact?.inlineSize, entry.contentRect.width * devicePixelRatio);
    const height = nearer(exact?.blockSize, entry.contentRect.height * devicePixelRatio);
    if (canvas.width === width && canvas.height === height) return;
    canvas.width = width;
    canvas.height = height;
    paint();
  });
  try {
    observer.observe(canvas, { box: 'device-pixel-content-box' });
  } catch {
    observer.observe(canvas);
  }
}

/** @param {number | undefined} exact @param {number} computed */
function nearer(exact, computed) {
  return exact !== undefined && Math.abs(exact - computed) <= 1 ? exact : Math.round(computed);
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    paint();
  });
}

/**
 * Where a picture lies on a canvas (`object-fit: contain`), in canvas pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number} | null} picture
 */
export function place(canvas, picture) {
  if (!picture || !picture.width || !picture.height) return null;
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  const width = picture.width * scale;
  const height = picture.height * scale;
  return { scale, area: { x: (canvas.width - width) / 2, y: (canvas.height - height) / 2, width, height } };
}

function paint() {
  context.clearRect(0, 0, canvas.width, canvas.height);
  const placed = place(canvas, state.result);
  if (!placed) return;
  const unit = canvas.clientWidth ? canvas.width / canvas.clientWidth : 1;
  const { attention, active } = state;
  if (attention?.maps) drawHeat(context, attention.maps, attention.head, placed.area);
  drawDetections(context, shown(), placed.area, placed.scale, unit, active ?? attention?.detection ?? null, !attention?.maps);
}

/**
 * The smallest shown box under the pointer: the large ones can be reached beside it.
 * @param {MouseEvent} event
 */
function at(event) {
  const placed = place(canvas, state.result);
  if (!placed) return null;
  const rect = canvas.getBoundingClientRect();
  const x = ((event.clientX - rect.left) * (canvas.width / rect.width) - placed.area.x) / placed.scale;
  const y = ((event.clientY - rect.top) * (canvas.height / rect.height) - placed.area.y) / placed.scale;
  let best = null;
  let smallest = Infinity;
  for (const detection of shown()) {
    const { xmin, ymin, xmax, ymax } = detection.box;
    const size = (xmax - xmin) * (ymax - ymin);
    if (x >= xmin && x <= xmax && y >= ymin && y <= ymax && size < smallest) {
      smallest = size;
      best = detection;
    }
  }
  return best;
}
