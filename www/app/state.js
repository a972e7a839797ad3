// What the page knows, in one object. Parts of the page watch the fields they show; whoever learns something calls `update`.

/** @typedef {import('../detrim/index.js').Detection} Detection */
/** @typedef {import('../detrim/index.js').Times} Times */
/** @typedef {import('../detrim/index.js').Info} Info */
/** @typedef {'auto' | 'webgpu' | 'cpu'} Backend */
/** @typedef {import('../detrim/index.js').Progress['phase']} Phase */

/**
 * What one run found in one picture: everything above a low floor, so that the threshold works without another run.
 * @typedef {object} Result
 * @property {Detection[]} detections
 * @property {Times} times milliseconds a stage
 * @property {number} width of the picture
 * @property {number} height
 * @property {string} backend
 * @property {Model} model
 */

/**
 * @typedef {object} Picture
 * @property {number} id
 * @property {string} name
 * @property {Blob} blob
 * @property {string} url an object URL of `blob`
 * @property {number} width as shown, after EXIF orientation; 0 until decoded
 * @property {number} height
 * @property {HTMLCanvasElement} thumb
 * @property {string} credit
 * @property {'photo' | 'document'} kind as far as it is known: the page of a document among the samples
 * @property {'waiting' | 'running' | 'done' | 'failed' | 'cancelled'} status
 * @property {Result | null} result
 * @property {string} error
 */

/**
 * An entry of models/index.json, or a model of the visitor's own.
 * @typedef {object} Model
 * @property {string} name
 * @property {string} file
 * @property {number} bytes
 * @property {string} [sha256]
 * @property {unknown[]} labels
 * @property {File[]} [files] the visitor's own
 * @property {{on?: string, AP?: number, speed?: number}} [metrics] `speed`: times as fast as the first model, as wasm
 * @property {number} [threshold]
 * @property {string} [licence]
 */

/**
 * Where the query behind a detection looked, as far as it is known yet.
 * @typedef {object} Attention
 * @property {Detection} detection
 * @property {import('../detrim/index.js').AttentionMaps | null} maps
 * @property {number | null} head the one shown, or all
 */

/**
 * The model that is compared with the one in use.
 * @typedef {object} Rival
 * @property {Model} model
 * @property {boolean} ready
 * @property {State['progress']} progress of its loading
 */

/**
 * @typedef {object} State
 * @property {'off' | 'loading' | 'ready' | 'failed'} engine
 * @property {Partial<Record<Phase, {loaded: number, total: number}>>} progress of what is being loaded, several things at once
 * @property {Info | null} info
 * @property {number} runs how often the network ran since the page was opened
 * @property {Backend} backend what was asked for; `info.backend` is what runs
 * @property {Model[]} models
 * @property {Model | null} model the chosen one, which may be on its way still
 * @property {Record<string, number>} measured milliseconds that the last picture took, by model and backend
 * @property {Rival | null} rival
 * @property {'empty' | 'photo' | 'camera'} mode
 * @property {Picture[]} pictures
 * @property {Picture | null} current
 * @property {Result | null} result what is drawn and listed
 * @property {Result | null} rivalResult what the rival found in the same picture
 * @property {number} threshold
 * @property {ReadonlySet<string>} hidden labels switched off
 * @property {Detection | null} active the highlighted one
 * @property {Attention | null} attention
 * @property {'off' | 'starting' | 'on' | 'paused'} camera
 * @property {boolean} mirrored the camera picture is shown as in a mirror
 * @property {number} fps measured over the last camera frames
 */

/** @type {State} */
export const state = {
  engine: 'off', progress: {}, info: null, runs: 0, backend: 'auto', models: [], model: null, measured: {}, rival: null,
  mode: 'empty', pictures: [], current: null, result: null, rivalResult: null,
  threshold: 0.5, hidden: new Set(), active: null, attention: null,
  camera: 'off', mirrored: false, fps: 0,
};

/** @type {{keys: (keyof State)[], run: () => void}[]} */
const watchers = [];

/**
 * Calls `run` now and whenever one of the fields has been given a new value.
 * @param {(keyof State)[]} keys
 * @param {() => void} run
 */
export function watch(keys, run) {
  watchers.push({ keys, run });
  run();
}

/**
 * Sets fields; arrays and sets are replaced, never changed in place, so that a change is seen.
 * @param {Partial<State>} patch
 */
export function update(patch) {
  const fields = /** @type {(keyof State)[]} */ (Object.keys(patch));
  const changed = fields.filter((key) => state[key] !== patch[key]);
  if (changed.length === 0) return;
  Object.assign(state, patch);
  for (const { keys, run } of watchers) {
    if (keys.some((key) => changed.includes(key))) run();
  }
}

/**
 * The detections that threshold and class filter let through, best first.
 * @param {Result | null} [result]
 * @returns {Detection[]}
 */
export function shown(result = state.result) {
  const { threshold, hidden } = state;
  if (!result) return [];
  return result.detections.filter((d) => d.score >= threshold && !hidden.has(d.label)).sort((a, b) => b.score - a.score);
}
