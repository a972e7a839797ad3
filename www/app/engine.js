// The detector's life on this page: loaded, switched to another backend or model, asked. Only this file uses the package.

import { codeOf, explain, isAbort } from './errors.js';
import { dismiss, notify } from './notices.js';
import { state, update } from './state.js';

/** @typedef {import('../detrim/index.js').Detrim} Detector */
/** @typedef {Parameters<Detector['detect']>[0]} Source */

/** What every run reports down to, so that the threshold can be lowered without another run. */
const FLOOR = 0.05;

/** @type {Detector | null} */
let detector = null;
/** @type {AbortController | null} */
let loading = null;
/** @type {Promise<Detector> | null} */
let ready = null;

/** Reads models/index.json and picks the model that the address names, or the first. */
export async function readModels() {
  const response = await fetch('models/index.json');
  if (!response.ok) throw new Error(`models/index.json: the server answered ${response.status}`);
  /** @type {import('./state.js').Model[]} */
  const models = await response.json();
  const wanted = new URLSearchParams(location.search).get('model');
  const model = models.find((m) => m.name === wanted) ?? models[0] ?? null;
  if (!model) throw new Error('models/index.json lists no model');
  if (wanted && model.name !== wanted) notify('warning', 'model', `There is no model “${wanted}” here; using ${model.name}.`);
  update({ models, model });
}

/** Loads what is chosen, in place of what is loaded. */
export function load() {
  loading?.abort();
  loading = new AbortController();
  const { signal } = loading;
  const attempt = start(signal);
  ready = attempt;
  // Whoever waits for `ready` hears of a failure too; here it is shown.
  attempt.catch((error) => {
    if (ready !== attempt) return;
    ready = null;
    if (isAbort(error)) return update({ engine: 'off', progress: {} });
    update({ engine: 'failed', progress: {} });
    notify('error', 'engine', explain(error), { label: 'Try again', run: () => void load() });
  });
  return attempt;
}

export function cancelLoad() {
  loading?.abort();
}

/** @param {AbortSignal} signal */
async function start(signal) {
  dismiss('engine');
  update({ engine: 'loading', progress: {}, info: null });
  detector?.dispose();
  detector = null;
  const { Detrim } = await import('../detrim/index.js');
  if (!state.model) await readModels();
  const model = /** @type {import('./state.js').Model} */ (state.model);
  signal.throwIfAborted();
  /** @param {import('./state.js').Backend} backend */
  const open = (backend) =>
    Detrim.load(addressOf(model), {
      backend,
      signal,
      sha256: model.sha256,
      onProgress: ({ phase, loaded, total }) => {
        if (signal.aborted) return;
        const known = total ?? (phase === 'download' ? model.bytes : 0);
        update({ progress: { ...state.progress, [phase]: { loaded, total: known } } });
      },
    });
  let opened;
  try {
    opened = await open(state.backend);
  } catch (error) {
    // Asking for WebGPU where there is none is answered with what works, and said.
    if (state.backend !== 'webgpu' || !['unsupported', 'gpu-lost'].includes(codeOf(error))) throw error;
    notify('warning', 'backend', `WebGPU can’t be used here, so this runs on the CPU. (${/** @type {Error} */ (error).message})`);
    update({ backend: 'cpu' });
    opened = await open('cpu');
  }
  if (signal.aborted) {
    opened.dispose();
    signal.throwIfAborted();
  }
  detector = opened;
  opened.onchange = (event) => changed(opened, event);
  update({ engine: 'ready', progress: {}, info: opened.info, threshold: model.threshold ?? opened.info.threshold ?? state.threshold });
  return opened;
}

/**
 * The package restarted its worker, or fell back to the CPU, by itself.
 * @param {Detector} from
 * @param {import('../detrim/index.js').ChangeEvent} event
 */
function changed(from, { reason, message, info }) {
  if (from !== detector) return;
  update({ info: { ...info } });
  const what = reason === 'gpu-lost' ? 'The graphics processor went away' : 'The detector broke down and was started again';
  notify('warning', 'backend', `${what}; it now runs on ${info.backend === 'webgpu' ? 'WebGPU' : 'the CPU'}. (${message})`);
}

/**
 * Whatever is in the picture. Loads the detector first where that hasn't happened.
 * @param {Source} source
 * @param {AbortSignal} signal
 */
export async function detect(source, signal) {
  for (;;) {
    const attempt = ready ?? load();
    /** @type {Detector} */
    let opened;
    try {
      opened = await withSignal(attempt, signal);
    } catch (error) {
      // Another backend or model was chosen meanwhile: wait for that one.
      if (!signal.aborted && ready && ready !== attempt) continue;
      throw error;
    }
    update({ runs: state.runs + 1 });
    try {
      const detections = await opened.detect(source, { threshold: FLOOR, signal });
      if (opened === detector) update({ info: { ...opened.info } });
      return { detections: [...detections], times: detections.times, backend: opened.info.backend, model: state.model?.name ?? '' };
    } catch (error) {
      // The same, but later.
      if (codeOf(error) !== 'disposed' || opened === detector) throw error;
    }
  }
}

/**
 * The promise, or the signal's error if that comes first.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
function withSignal(promise, signal) {
  return new Promise((resolve, reject) => {
    const give = () => reject(signal.reason);
    if (signal.aborted) return give();
    signal.addEventListener('abort', give, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', give));
  });
}

/**
 * Medians on one backend, by a detector of their own that is disposed of afterwards.
 * @param {'webgpu' | 'cpu'} backend
 * @param {{runs: number, size: [number, number] | undefined, signal: AbortSignal}} options
 */
export async function bench(backend, { runs, size, signal }) {
  const { Detrim } = await import('../detrim/index.js');
  if (!state.model) await readModels();
  const model = /** @type {import('./state.js').Model} */ (state.model);
  const measured = await Detrim.load(addressOf(model), { backend, signal, sha256: model.sha256 });
  try {
    return await measured.bench({ runs, size, signal });
  } finally {
    measured.dispose();
  }
}

/** @param {import('./state.js').Model} model */
function addressOf(model) {
  return new URL(`models/${model.file}`, document.baseURI);
}

/** @param {import('./state.js').Backend} backend */
export function switchBackend(backend) {
  dismiss('backend');
  update({ backend });
  return load();
}

/** @param {string} name */
export function switchModel(name) {
  const model = state.models.find((m) => m.name === name);
  if (!model || model === state.model) return ready;
  update({ model });
  return load();
}
