// The detector's life on this page: loaded, switched to another backend or model, asked. Only this file uses the package.

import { codeOf, explain, isAbort } from './errors.js';
import { explainHub, repositoryOf } from './hub.js';
import { readListing } from './listing.js';
import { recall, remember } from './memory.js';
import { dismiss, notify } from './notices.js';
import { state, update } from './state.js';

/** @typedef {import('../detrim/index.js').Detrim} Detector */
/** @typedef {Parameters<Detector['detect']>[0]} Source */
/** @typedef {import('./state.js').Model} Model */
/** @typedef {import('./state.js').Backend} Backend */

/** What every run reports down to, so that the threshold can be lowered without another run. */
const FLOOR = 0.05;

/** What the address calls a model, and this browser remembers one by. */
const CHOSEN = 'model';

/** @typedef {{detector: Detector, model: Model, backend: Backend}} Loaded with the choices that led to it */

/** What answers. It stays in use while something else is being loaded. @type {Loaded | null} */
let used = null;
/** @type {AbortController | null} */
let loading = null;
/** @type {Promise<Loaded> | null} */
let ready = null;

/** Reads models/index.json and picks the model that the address names, or the one that was chosen last, or the first. */
export async function readModels() {
  const models = await readListing();
  const wanted = new URLSearchParams(location.search).get(CHOSEN);
  const named = (/** @type {string | null} */ name) => models.find((m) => m.name === name);
  const model = named(wanted) ?? named(recall(CHOSEN)) ?? models[0];
  const repository = wanted ? repositoryOf(wanted) : undefined;
  if (repository) notify('info', 'hub', explainHub(repository));
  else if (wanted && model.name !== wanted) notify('warning', 'model', `There is no model “${wanted}” here; using ${model.name}.`);
  update({ models, model });
}

/** Loads what is chosen. What is loaded stays in use until that is ready, or for good where it fails. */
export function load() {
  loading?.abort();
  loading = new AbortController();
  const mine = loading;
  const attempt = start(mine.signal);
  // Without a detector everybody waits for this one.
  if (!used) ready = attempt;
  // Whoever waits for `ready` hears of a failure too; here it is shown.
  attempt.catch((error) => {
    if (loading !== mine) return;
    loading = null;
    if (!used) ready = null;
    const { model, backend } = state;
    update(used ? { engine: 'ready', progress: {}, model: used.model, backend: used.backend } : { engine: isAbort(error) ? 'off' : 'failed', progress: {} });
    if (isAbort(error)) return;
    const kept = used ? ` ${used.model.name} stays in use.` : '';
    notify('error', 'engine', explain(error) + kept, { label: 'Try again', run: () => void choose({ model, backend }).catch(() => {}) });
  });
  return attempt;
}

export function cancelLoad() {
  loading?.abort();
}

/** @param {AbortSignal} signal @returns {Promise<Loaded>} */
async function start(signal) {
  dismiss('engine');
  update({ engine: 'loading', progress: {} });
  if (!state.model) await readModels();
  signal.throwIfAborted();
  const model = /** @type {Model} */ (state.model);
  const onProgress = (/** @type {import('./state.js').State['progress']} */ part) => {
    if (!signal.aborted) update({ progress: { ...state.progress, ...part } });
  };
  /** @type {Detector} */
  let detector;
  try {
    detector = await open(model, state.backend, signal, onProgress);
  } catch (error) {
    // Asking for WebGPU where there is none is answered with what works, and said.
    if (state.backend !== 'webgpu' || !['unsupported', 'gpu-lost'].includes(codeOf(error))) throw error;
    notify('warning', 'backend', `WebGPU can’t be used here, so this runs on the CPU. (${/** @type {Error} */ (error).message})`);
    update({ backend: 'cpu' });
    detector = await open(model, 'cpu', signal, onProgress);
  }
  if (signal.aborted) {
    detector.dispose();
    signal.throwIfAborted();
  }
  used?.detector.dispose();
  const loaded = { detector, model, backend: state.backend };
  used = loaded;
  // Of its own models the page's list tells.
  if (model.files) Object.assign(model, { labels: detector.info.labels });
  ready = Promise.resolve(loaded);
  loading = null;
  detector.onchange = (event) => changed(loaded, event);
  update({ engine: 'ready', progress: {}, info: detector.info, threshold: model.threshold ?? detector.info.threshold ?? state.threshold });
  return loaded;
}

/**
 * @param {Model} model
 * @param {Backend} backend
 * @param {AbortSignal} signal
 * @param {(part: import('./state.js').State['progress']) => void} [onProgress]
 */
async function open(model, backend, signal, onProgress) {
  const { Detrim } = await import('../detrim/index.js');
  signal.throwIfAborted();
  return await Detrim.load(model.files ?? new URL(`models/${model.file}`, document.baseURI), {
    backend,
    signal,
    sha256: model.sha256,
    onProgress: ({ phase, loaded, total }) => onProgress?.({ [phase]: { loaded, total: total ?? (phase === 'download' ? model.bytes : 0) } }),
  });
}

/**
 * The package restarted its worker, or fell back to the CPU, by itself.
 * @param {Loaded} from
 * @param {import('../detrim/index.js').ChangeEvent} event
 */
function changed(from, { reason, message, info }) {
  if (from !== used) return;
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
    /** @type {Loaded} */
    let asked;
    try {
      asked = await withSignal(attempt, signal);
    } catch (error) {
      // Another backend or model was chosen meanwhile: wait for that one.
      if (!signal.aborted && ready && ready !== attempt) continue;
      throw error;
    }
    update({ runs: state.runs + 1 });
    try {
      const result = await ask(asked.detector, asked.model, source, signal);
      if (asked === used) update({ info: { ...asked.detector.info } });
      return result;
    } catch (error) {
      // The same, but later.
      if (codeOf(error) !== 'disposed' || asked === used) throw error;
    }
  }
}

/**
 * @param {Detector} detector
 * @param {Model} model
 * @param {Source} source
 * @param {AbortSignal} signal
 */
async function ask(detector, model, source, signal) {
  const detections = await detector.detect(source, { threshold: FLOOR, signal });
  const { times } = detections;
  const { backend } = detector.info;
  update({ measured: { ...state.measured, [measuredAs(model, backend)]: times.total } });
  return { detections: [...detections], times, backend, model };
}

/**
 * A second detector, on the backend of the first.
 * @param {Model} model
 * @param {AbortSignal} signal
 * @param {(part: import('./state.js').State['progress']) => void} onProgress
 */
export async function openSecond(model, signal, onProgress) {
  const detector = await open(model, state.backend, signal, onProgress);
  return {
    dispose: () => detector.dispose(),
    /** @param {Source} source @param {AbortSignal} signal */
    detect: (source, signal) => ask(detector, model, source, signal),
  };
}

/**
 * Where a query of a result looked.
 * @param {Source} source
 * @param {number} query
 * @param {Model} model the one that gave the result
 * @param {AbortSignal} signal
 */
export async function attention(source, query, model, signal) {
  if (used?.model !== model) throw new Error(`${model.name} isn’t in use any more.`);
  return await used.detector.attention(source, query, { signal });
}

/** What a time is filed under. @param {Model} model @param {string} backend */
export function measuredAs({ name }, backend) {
  return `${name} ${backend}`;
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
export function bench(backend, { runs, size, signal }) {
  return measure(backend, signal, (detector) => detector.bench({ runs, size, signal }));
}

/**
 * A profile of one backend, as {@link bench}.
 * @param {'webgpu' | 'cpu'} backend
 * @param {{size: [number, number] | undefined, signal: AbortSignal}} options
 */
export function profile(backend, { size, signal }) {
  return measure(backend, signal, (detector) => detector.profile({ size, signal }));
}

/**
 * @template T
 * @param {'webgpu' | 'cpu'} backend
 * @param {AbortSignal} signal
 * @param {(detector: Detector) => Promise<T>} ask
 */
async function measure(backend, signal, ask) {
  if (!state.model) await readModels();
  const measured = await open(/** @type {Model} */ (state.model), backend, signal);
  try {
    return await ask(measured);
  } finally {
    measured.dispose();
  }
}

/** @param {Backend} backend */
export function switchBackend(backend) {
  dismiss('backend');
  update({ backend });
  return load();
}

/** @param {string} name */
export async function switchModel(name) {
  const model = state.models.find((m) => m.name === name);
  if (!model || model === state.model) return;
  // Back to the one in use: what was on its way needn't come.
  if (model === used?.model) return cancelLoad();
  await choose({ model });
}

/**
 * Takes a model of the visitor's own into the menu, where it can be loaded.
 * @param {Model} model
 */
export async function useModel(model) {
  const others = () => state.models.filter((m) => m !== model && !(m.files && m.name === model.name));
  update({ models: [...others(), model] });
  try {
    await choose({ model });
  } catch (error) {
    if (used?.model !== model) update({ models: state.models.filter((m) => m !== model) });
    throw error;
  }
  // Its labels are known now.
  update({ models: [...state.models] });
}

/**
 * Loads a choice; once it is there, its model is that of the next visit too.
 * @param {Partial<Pick<import('./state.js').State, 'model' | 'backend'>>} choice
 */
async function choose(choice) {
  update(choice);
  const { model: { name, files } } = await load();
  // The next visit won't have the files.
  if (files) return;
  remember(CHOSEN, name);
  // What was chosen by hand wins over what the address said.
  const address = new URL(location.href);
  if (!address.searchParams.has(CHOSEN)) return;
  address.searchParams.set(CHOSEN, name);
  history.replaceState(null, '', address);
}
