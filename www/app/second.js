// The picture beside the picture: the same one with what the second model found, and a line over each.

import { byId } from './dom.js';
import { drawDetections } from './draw.js';
import { bytes, percent, plural, time } from './format.js';
import { frameOnShow } from './live.js';
import { fit, place } from './overlay.js';
import { shown, state, watch } from './state.js';

const frames = byId('frames', HTMLElement);
const pane = byId('second', HTMLElement);
const first = byId('first-caption', HTMLElement);
const caption = byId('second-caption', HTMLElement);
const photo = byId('photo', HTMLImageElement);
const canvas = byId('second-picture', HTMLCanvasElement);
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));

export function startSecond() {
  fit(canvas, paint);
  photo.addEventListener('load', paint);
  watch(['rival', 'mode'], () => {
    const on = state.rival !== null && state.mode !== 'empty';
    if (on && pane.hidden) frames.scrollIntoView({ block: 'nearest' });
    pane.hidden = first.hidden = !on;
    frames.classList.toggle('comparing', on);
  });
  watch(['rival', 'mode', 'result', 'rivalResult', 'threshold', 'hidden', 'current'], () => {
    const { rival, result, rivalResult, model } = state;
    if (!rival) return;
    first.textContent = line(result?.model.name ?? model?.name ?? '', result, 'is looking');
    caption.textContent = line(rival.model.name, rivalResult, rival.ready ? (result ? 'is looking' : 'waits') : amount(rival));
    canvas.setAttribute('aria-label', [caption.textContent, ...shown(rivalResult).map((d) => `${d.label} ${percent(d.score)}`)].join(', '));
    paint();
  });
}

/** @param {string} name @param {import('./state.js').Result | null} result @param {string} otherwise */
function line(name, result, otherwise) {
  return result ? `${name}: ${plural(shown(result).length, 'object')}, ${time(result.times.total)}` : `${name} ${otherwise}`;
}

/** @param {import('./state.js').Rival} rival */
function amount({ progress: { download, load } }) {
  const part = load ?? download;
  return part ? `is loading: ${bytes(part.loaded)} of ${bytes(part.total)}` : 'is loading';
}

function paint() {
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!state.rival) return;
  const live = state.mode === 'camera' ? frameOnShow() : null;
  const picture = live ?? (state.mode === 'photo' && photo.complete && photo.naturalWidth > 0 ? photo : null);
  const placed = place(canvas, live ?? state.current);
  if (!picture || !placed) return;
  const { x, y, width, height } = placed.area;
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture, x, y, width, height);
  const unit = canvas.clientWidth ? canvas.width / canvas.clientWidth : 1;
  drawDetections(context, shown(state.rivalResult), placed.area, placed.scale, unit, null);
}
