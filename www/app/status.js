// The line under the picture: what is going on, how far it is, and the way to stop it.

import { cancelLoad, load } from './engine.js';
import { byId } from './dom.js';
import { bytes, percent, plural, time } from './format.js';
import { again, cancel } from './pictures.js';
import { shown, state, watch } from './state.js';

const line = byId('status', HTMLElement);
const bar = byId('progress', HTMLProgressElement);
const cancelButton = byId('cancel', HTMLButtonElement);
const againButton = byId('again', HTMLButtonElement);

export function startStatus() {
  cancelButton.addEventListener('click', cancelAll);
  againButton.addEventListener('click', redo);
  watch(['engine', 'progress', 'mode', 'current', 'pictures', 'result', 'camera', 'fps', 'threshold', 'hidden', 'active', 'attention'], () => {
    line.textContent = sentence();
    line.classList.toggle('busy', isBusy());
    bar.hidden = state.engine !== 'loading';
    const share = progressShare();
    if (share === null) bar.removeAttribute('value');
    else bar.value = share;
    const focused = document.activeElement === cancelButton;
    cancelButton.hidden = !isBusy();
    againButton.hidden = !canRedo();
    // Where Cancel was, Try again may be: the keyboard stays there.
    if (focused && cancelButton.hidden) againButton.focus();
  });
}

/** Whether there is something to cancel. */
function isBusy() {
  return state.engine === 'loading' || state.pictures.some(({ status }) => status === 'running' || status === 'waiting');
}

export function cancelAll() {
  cancel();
  if (state.engine === 'loading') cancelLoad();
}

function canRedo() {
  const { engine, mode, current } = state;
  if (engine === 'loading') return false;
  if (engine !== 'ready') return true;
  return mode === 'photo' && current !== null && ['cancelled', 'failed'].includes(current.status);
}

/** Loads the detector where it isn't, and looks at the photo on show. */
export function redo() {
  if (state.engine === 'off' || state.engine === 'failed') load().catch(() => {});
  if (state.mode === 'photo') again();
}

function sentence() {
  const { engine, mode, current, camera, active, attention } = state;
  if (engine === 'loading') return loadingSentence();
  if (engine === 'failed') return 'The detector couldn’t be loaded.';
  if (attention) return attentionSentence(attention);
  if (active) return `${active.label} ${percent(active.score)}, ${Math.round(active.box.xmax - active.box.xmin)} × ${Math.round(active.box.ymax - active.box.ymin)} px`;
  if (mode === 'camera') return cameraSentence(camera);
  if (mode === 'photo' && current) return photoSentence(current);
  if (engine === 'off') return 'The detector isn’t loaded yet.';
  return 'Ready';
}

/** @param {import('./state.js').Attention} attention */
function attentionSentence({ detection, maps }) {
  if (!maps) return 'Computing where it looked';
  return `Looked here for “${detection.label}”`;
}

function loadingSentence() {
  const { download, compile, load: upload } = state.progress;
  if (upload) return `Preparing the network: ${amount(upload)}`;
  const parts = [download && `model ${amount(download)}`, compile && `engine ${amount(compile)}`].filter(Boolean);
  return parts.length > 0 ? `Loading: ${parts.join(', ')}` : 'Loading the detector';
}

/** @param {{loaded: number, total: number}} part */
function amount({ loaded, total }) {
  return total > 0 ? `${bytes(loaded)} of ${bytes(total)}` : bytes(loaded);
}

/** How much of what is being loaded is there; null where that can't be told. */
function progressShare() {
  const { download, load: upload } = state.progress;
  const part = upload ?? download;
  return part && part.total > 0 ? Math.min(1, part.loaded / part.total) : null;
}

/** @param {import('./state.js').State['camera']} camera */
function cameraSentence(camera) {
  if (camera === 'starting') return 'Waiting for the camera. The browser may ask for permission.';
  if (camera === 'paused') return 'Paused while this tab is hidden';
  if (!state.result) return state.engine === 'ready' ? 'Looking at the first frame' : 'The detector isn’t loaded yet.';
  return `Live: ${plural(shown().length, 'object')}, ${state.fps.toFixed(1)} frames per second`;
}

/** @param {import('./state.js').Picture} picture */
function photoSentence(picture) {
  const { status, result, credit } = picture;
  if (status === 'waiting') return 'Waiting for its turn';
  if (status === 'running') return 'Looking at the picture';
  if (status === 'cancelled') return 'Cancelled';
  if (status === 'failed') return picture.error;
  if (!result) return '';
  const by = credit ? `. Photo: ${credit}` : '';
  return `${plural(shown().length, 'object')} in ${time(result.times.total)}${by}`;
}
