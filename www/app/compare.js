// A second model, which is shown every picture after the first one has seen it, so that neither slows the other down.

import { openSecond } from './engine.js';
import { explain, isAbort } from './errors.js';
import { byId, make } from './dom.js';
import { dismiss, notify } from './notices.js';
import { state, update, watch } from './state.js';

/** @typedef {import('./state.js').Model} Model */
/** @typedef {import('./state.js').Result} Result */

const field = byId('rival-field', HTMLElement);
const select = byId('rival', HTMLSelectElement);

/** @type {Awaited<ReturnType<typeof openSecond>> | null} */
let second = null;
/** The backend that it was opened on. @type {import('./state.js').Backend} */
let backend = 'auto';
/** Ends loading, and the run under way. */
let loading = new AbortController();
let running = new AbortController();
/** What the second found where the first found this. @type {WeakMap<Result, Result>} */
let answers = new WeakMap();

export function startCompare() {
  select.addEventListener('change', () => compare(state.models.find((m) => m.name === select.value) ?? null));
  byId('second-close', HTMLButtonElement).addEventListener('click', () => {
    compare(null);
    select.focus({ preventScroll: true });
  });
  watch(['models', 'model'], () => {
    const { models, model, rival } = state;
    const others = models.filter((m) => m !== model);
    select.replaceChildren(make('option', { value: '' }, 'nothing'), ...others.map((m) => make('option', { value: m.name }, m.name)));
    select.value = rival?.model.name ?? '';
    field.hidden = others.length === 0;
    if (rival && rival.model === model) compare(null);
  });
  // Not made anew meanwhile: it may be open.
  watch(['rival'], () => {
    select.value = state.rival?.model.name ?? '';
  });
  // The backend was switched for both.
  watch(['engine'], () => {
    if (state.engine === 'ready' && state.rival && backend !== state.backend) compare(state.rival.model);
  });
  watch(['result', 'mode', 'rival'], () => void follow());
}

/** @param {Model | null} model null ends it */
function compare(model) {
  loading.abort();
  running.abort();
  second?.dispose();
  second = null;
  answers = new WeakMap();
  dismiss('rival');
  update({ rival: model && { model, ready: false, progress: {} }, rivalResult: null });
  if (model) void start(model);
}

/** @param {Model} model */
async function start(model) {
  const mine = new AbortController();
  loading = mine;
  backend = state.backend;
  try {
    const opened = await openSecond(model, mine.signal, (part) => {
      if (state.rival && mine === loading) update({ rival: { ...state.rival, progress: { ...state.rival.progress, ...part } } });
    });
    if (mine !== loading || mine.signal.aborted) return opened.dispose();
    second = opened;
    update({ rival: { model, ready: true, progress: {} } });
  } catch (error) {
    if (mine === loading && !isAbort(error)) fail(model, error);
  }
}

/** @param {Model} model @param {unknown} error */
function fail(model, error) {
  compare(null);
  notify('error', 'rival', `${model.name}: ${explain(error)}`, { label: 'Try again', run: () => compare(model) });
}

/** Runs the photo on show, once the first model has. */
async function follow() {
  const { mode, current, result } = state;
  // The camera asks by itself, frame by frame.
  if (mode === 'camera') return;
  running.abort();
  if (!second || !result || !current) return update({ rivalResult: null });
  const known = answers.get(result);
  update({ rivalResult: known ?? null });
  if (known) return;
  running = new AbortController();
  const answer = await lookToo(current.blob, result, running.signal);
  if (!answer) return;
  answers.set(result, answer);
  if (state.result === result) update({ rivalResult: answer });
}

/**
 * What the second model finds in a picture of this size; null where there is none.
 * @param {Blob | HTMLCanvasElement} picture
 * @param {{width: number, height: number}} size
 * @param {AbortSignal} signal
 * @returns {Promise<Result | null>}
 */
export async function lookToo(picture, { width, height }, signal) {
  const { rival } = state;
  if (!second || !rival) return null;
  const asked = second;
  try {
    return { ...(await asked.detect(picture, signal)), width, height };
  } catch (error) {
    if (asked === second && !isAbort(error)) fail(rival.model, error);
    return null;
  }
}
