// The photos of this visit: added, shown, run one after another, cleared and brought back.

import { isLying, takeOrientation, uprightTransform } from '../detrim/orientation.js';
import { detect } from './engine.js';
import { explain, isAbort } from './errors.js';
import { byId, make } from './dom.js';
import { plural } from './format.js';
import { dismiss, notify } from './notices.js';
import { state, update, watch } from './state.js';

/** @typedef {import('./state.js').Picture} Picture */

const THUMB = 144;

let lastId = 0;
let working = false;
/** @type {AbortController | null} */
let running = null;
/** What `undo` brings back. @type {Picture[]} */
let cleared = [];

export function startPictures() {
  const button = byId('clear', HTMLButtonElement);
  button.addEventListener('click', clear);
  watch(['pictures'], () => {
    button.hidden = state.pictures.length === 0;
  });
  // After a switch of backend or model the picture on show runs again; the others keep what they have.
  watch(['engine'], () => {
    const { engine, current, info, model } = state;
    if (engine !== 'ready' || !current) return;
    const same = current.result?.backend === info?.backend && current.result?.model === model;
    if (current.status === 'failed' || (current.status === 'done' && !same)) again();
  });
  watch(['mode'], () => void work());
}

/**
 * Adds pictures and shows the first of them. What can't be read is reported, and the rest go on.
 * @param {Blob[]} blobs
 * @param {Partial<Pick<Picture, 'name' | 'credit' | 'kind'>>} [about]
 */
export async function add(blobs, about = {}) {
  let first = true;
  /** @type {string[]} */
  const bad = [];
  for (const blob of blobs) {
    const name = about.name ?? (blob instanceof File ? blob.name : 'Photo');
    const made = await open(blob, { name, credit: about.credit ?? '', kind: about.kind ?? 'photo' }).catch(() => null);
    if (!made) {
      bad.push(name);
      continue;
    }
    update({ pictures: [...state.pictures, made] });
    if (first) show(made);
    first = false;
    void work();
  }
  if (bad.length > 0) notify('error', 'file', `${bad.join(', ')}: not a picture that this browser can read. JPEG, PNG, WebP, GIF and AVIF work.`);
  else dismiss('file');
}

/**
 * A file that every browser shows upright: one that only some would turn is drawn anew, so that boxes lie where they belong.
 * @param {Blob} file
 * @returns {Promise<Blob>}
 */
async function upright(file) {
  const { blob, orientation } = await takeOrientation(file);
  if (orientation === 1) return file;
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const canvas = make('canvas', isLying(orientation) ? { width: height, height: width } : { width, height });
  const context = canvas.getContext('2d');
  context?.setTransform(...uprightTransform(orientation, width, height));
  context?.drawImage(bitmap, 0, 0);
  bitmap.close();
  const drawn = await new Promise((/** @type {BlobCallback} */ resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!drawn) throw new Error('the browser gave no canvas of this size');
  return drawn;
}

/** @param {Blob} file @param {Pick<Picture, 'name' | 'credit' | 'kind'>} about @returns {Promise<Picture>} */
async function open(file, about) {
  const blob = await upright(file);
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const scale = Math.min(1, THUMB / Math.min(width, height));
  const thumb = make('canvas', { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  const context = thumb.getContext('2d');
  if (context) {
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, 0, 0, thumb.width, thumb.height);
  }
  bitmap.close();
  lastId += 1;
  return { id: lastId, ...about, blob, url: URL.createObjectURL(blob), width, height, thumb, status: 'waiting', result: null, error: '' };
}

/** @param {Picture} picture */
export function show(picture) {
  update({ mode: 'photo', current: picture, result: picture.result, active: null });
}

/** @param {number} step */
export function showNext(step) {
  const { pictures, current } = state;
  const next = pictures[current ? pictures.indexOf(current) + step : 0];
  if (next) show(next);
}

/** Runs the picture on show once more. */
export function again() {
  const { current } = state;
  if (!current || current.status === 'running') return;
  mark(current, { status: 'waiting' });
  void work();
}

/** Stops the run under way and what waits behind it. */
export function cancel() {
  for (const picture of state.pictures) if (picture.status === 'waiting') picture.status = 'cancelled';
  running?.abort();
  update({ pictures: [...state.pictures] });
}

export function clear() {
  if (state.pictures.length === 0) return;
  for (const { url } of cleared) URL.revokeObjectURL(url);
  cancel();
  cleared = state.pictures;
  update({ pictures: [], current: null, result: null, active: null, mode: state.mode === 'photo' ? 'empty' : state.mode });
  // The button that was pressed is gone; the keyboard goes on where photos come in.
  document.getElementById('file')?.focus({ preventScroll: true });
  notify('info', 'clear', `Cleared ${plural(cleared.length, 'photo')}.`, { label: 'Undo', run: undo });
}

export function undo() {
  if (cleared.length === 0) return;
  dismiss('clear');
  const pictures = [...cleared, ...state.pictures];
  const [picture] = cleared;
  cleared = [];
  update({ pictures });
  show(picture);
}

/** Runs what waits, the picture on show first. While the camera is on, the detector is the camera's. */
async function work() {
  if (working) return;
  working = true;
  for (;;) {
    const waiting = state.pictures.filter((picture) => picture.status === 'waiting');
    const next = waiting.find((picture) => picture === state.current) ?? waiting[0];
    if (!next || state.mode === 'camera') break;
    await run(next);
  }
  working = false;
}

/** @param {Picture} picture */
async function run(picture) {
  running = new AbortController();
  mark(picture, { status: 'running', error: '' });
  try {
    const found = await detect(picture.blob, running.signal);
    const result = { ...found, width: picture.width, height: picture.height };
    mark(picture, { status: 'done', result });
    if (state.current === picture && state.mode === 'photo') update({ result });
  } catch (error) {
    if (isAbort(error)) return mark(picture, { status: 'cancelled' });
    mark(picture, { status: 'failed', error: explain(error) });
    // Without a detector the others would only try to load it once more each.
    if (state.engine !== 'ready') {
      for (const other of state.pictures) if (other.status === 'waiting') mark(other, { status: 'failed', error: picture.error });
    }
  } finally {
    running = null;
  }
}

/** @param {Picture} picture @param {Partial<Picture>} patch */
function mark(picture, patch) {
  Object.assign(picture, patch);
  update({ pictures: [...state.pictures] });
}
