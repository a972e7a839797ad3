// Saving: the picture with its boxes at full resolution, and the boxes as JSON.

import { byId, make } from './dom.js';
import { drawDetections } from './draw.js';
import { drawHeat } from './heat.js';
import { frameOnShow } from './live.js';
import { notify } from './notices.js';
import { shown, state, watch } from './state.js';

const picture = byId('save-png', HTMLButtonElement);
const json = byId('save-json', HTMLButtonElement);

/** Some phones give no canvas larger than this. */
const MOST_PIXELS = 4096 * 4096;

export function startSave() {
  picture.addEventListener('click', () => void savePicture());
  json.addEventListener('click', saveJson);
  watch(['result'], () => {
    picture.disabled = json.disabled = !state.result;
  });
}

/** The name of the photo without its extension. */
function stem() {
  const name = state.mode === 'camera' ? 'camera' : (state.current?.name ?? 'photo');
  return name.replace(/\.[a-z0-9]{2,5}$/i, '').replace(/[^\p{L}\p{N}._-]+/gu, '-').toLowerCase() || 'photo';
}

export async function savePicture() {
  const { result, mode, current, attention } = state;
  if (!result) return;
  const detections = shown();
  const source = mode === 'camera' ? frameOnShow() : current && (await createImageBitmap(current.blob));
  if (!source) return;
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (source.width * source.height)));
  const canvas = make('canvas', { width: Math.floor(source.width * scale), height: Math.floor(source.height * scale) });
  const context = canvas.getContext('2d');
  if (!context) return notify('error', 'save', 'The browser gave no canvas of this size.');
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const area = { x: 0, y: 0, width: canvas.width, height: canvas.height };
  if (attention?.maps) drawHeat(context, attention.maps, attention.head, area);
  drawDetections(context, detections, area, canvas.width / result.width, Math.max(1, Math.max(canvas.width, canvas.height) / 900), null);
  const blob = await new Promise((/** @type {BlobCallback} */ resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!blob) return notify('error', 'save', 'The browser couldn’t make a PNG of this size.');
  if (scale < 1) notify('info', 'save', `The picture is larger than a browser’s canvas may be; saved as ${canvas.width} × ${canvas.height}.`);
  download(blob, `${stem()}-detrim.png`);
}

export function saveJson() {
  const { result, mode, current, threshold } = state;
  if (!result) return;
  const { width, height, model: { name: model }, backend, times } = result;
  const name = mode === 'camera' ? 'camera' : (current?.name ?? '');
  const report = { image: { name, width, height }, model, backend, threshold, times, detections: shown() };
  download(new Blob([`${JSON.stringify(report, null, 2)}\n`], { type: 'application/json' }), `${stem()}-detrim.json`);
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  make('a', { href: url, download: name }).click();
  // The browser takes hold of it within this moment.
  setTimeout(() => URL.revokeObjectURL(url), 30_000);
}
