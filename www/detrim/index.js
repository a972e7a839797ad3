/**
 * Object detection in the browser with (trimmed) DETR networks: on WebGPU or, without it, on the CPU; in a worker.
 *
 *     const d = await Detrim.load('models/detr.safetensors');
 *     for (const { label, score, box } of await d.detect(document.querySelector('img'))) …
 *     d.dispose();
 *
 * @module
 */

import { gather } from './checkpoint.js';
import { DetrimError } from './errors.js';
import { here } from './here.js';
import { hubOrigin } from './hub.js';
import { RemoteEngine } from './remote.js';
import { abortable, aborted, follow } from './signals.js';
import { toFrame, toPixels } from './source.js';

const GONE = 'the detector was disposed of';

/** @import { Calls } from './engine.js' */
/** @import { LocalEngine } from './local.js' */

export { DetrimError };
/** @typedef {import('./errors.js').ErrorCode} ErrorCode */
/** @typedef {import('./checkpoint.js').ModelSource} ModelSource */
/** @typedef {import('./checkpoint.js').CheckpointParts} CheckpointParts */
/** @typedef {import('./source.js').Source} Source */

/**
 * @typedef {object} LoadOptions
 * @property {'auto' | 'webgpu' | 'cpu'} [backend] `auto` (the default): WebGPU where it works, else the CPU; `info.why` then tells why
 * @property {(progress: Progress) => void} [onProgress]
 * @property {AbortSignal} [signal]
 * @property {boolean} [worker] false: compute on the calling thread, which then stands still meanwhile
 * @property {string | URL} [workerUrl] where this package's `worker.js` lies, for pages on another origin than the package, and for some bundlers
 * @property {string | URL} [wasmUrl] where this package's `wasm/detrim_bg.wasm` lies, where that isn't beside the script that computes
 * @property {string | string[]} [sha256] what the weights' sha256 must be, in hexadecimal; of several files, each one's
 * @property {boolean | string | URL} [hub] whether `hf:OWNER/NAME` may be fetched from Hugging Face, or from which origin instead
 */

/**
 * How far loading is. Phases overlap: the model and the engine's code arrive at the same time.
 *
 * @typedef {object} Progress
 * @property {'download' | 'compile' | 'load'} phase the model's file; the engine's code; the weights on their way to the device
 * @property {number} loaded bytes so far
 * @property {number | null} total bytes in all, null where the server doesn't tell
 */

/**
 * @typedef {object} DetectOptions
 * @property {number} [threshold] least score, from 0 (everything) to 1; the default is the model's own
 * @property {string | Iterable<string>} [labels] only this one, or these
 * @property {AbortSignal} [signal]
 */

/**
 * One object. Boxes are in pixels of the picture, neither rounded nor clipped to it.
 *
 * @typedef {object} Detection
 * @property {string} label
 * @property {number} score
 * @property {number} query which of the network's queries found it, for {@link Detrim#attention}
 * @property {Box} box
 */

/** @typedef {{xmin: number, ymin: number, xmax: number, ymax: number}} Box */

/**
 * Milliseconds of each stage: getting pixels; resizing and normalising (on the GPU a part of `network`); the network, and on the CPU its
 * parts; from its output to boxes.
 *
 * @typedef {{decode: number, pre: number, network: number, parts?: Parts, post: number, total: number}} Times
 */

/** @typedef {{backbone: number, encoder: number, decoder: number, heads: number}} Parts */

/**
 * The objects, the best first. What else is known of the picture isn't enumerable: as JSON it is a plain array.
 *
 * @typedef {Detection[] & {readonly times: Times, readonly width: number, readonly height: number}} Detections
 */

/**
 * How a query's attention is spread over the picture, which the `rows` × `columns` span.
 *
 * @typedef {object} AttentionMaps
 * @property {number} heads
 * @property {number} rows
 * @property {number} columns
 * @property {Float32Array} weights head by head, row by row; each head's sum is 1, or less by what it sampled outside of the picture (RT-DETR and its descendants)
 */

/**
 * @typedef {object} Info
 * @property {'webgpu' | 'cpu'} backend what computes
 * @property {string} adapter the GPU's name as far as the browser tells, or "CPU"
 * @property {string | null} why why it isn't WebGPU, where that was wanted
 * @property {string} model
 * @property {string[]} labels all that the model knows
 * @property {number} threshold the model's own
 * @property {{wasm: number, gpu: number}} memory bytes; WebAssembly's never shrinks and so is its peak
 * @property {number} dispatches kernels that the last picture took on the GPU
 * @property {boolean} worker whether it computes in a worker
 */

/** @typedef {{runs: number, size: [number, number], stages: Stage[], info: Info}} Bench `size` is height and width of the network's input */

/** @typedef {{name: string, median: number, fastest: number}} Stage milliseconds over all runs */

/** @typedef {{device: string, size: [number, number], network: number, measured: object}} Profile for `detrim prune`; `network` is in milliseconds */

/** The backend or its state has changed; `info` is new. */
export class ChangeEvent extends Event {
  /** @param {'gpu-lost' | 'crashed'} reason @param {string} message @param {Info} info */
  constructor(reason, message, info) {
    super('change');
    this.reason = reason;
    this.message = message;
    this.info = info;
  }
}

/** A detector. Made by {@link Detrim.load}. Fires `change` ({@link ChangeEvent}) when it had to be restarted. */
export class Detrim extends EventTarget {
  /** Called at `change`. @type {((event: ChangeEvent) => void) | null} */ onchange = null;
  /** @type {RemoteEngine | LocalEngine | undefined} */ #engine;
  /** @type {((progress: Progress) => void) | undefined} */ #onProgress;
  /** The call before the next one. @type {Promise<unknown>} */ #last = Promise.resolve();
  /** Triggered by `dispose`, for what waits for a picture. */ #gone = new AbortController();

  /**
   * Loads a model and gets everything ready. Only the model, the worker's script and the WebAssembly file are fetched.
   *
   * @param {ModelSource | PromiseLike<ModelSource>} model detrim's own file, or a checkpoint as Hugging Face keeps it: the address of its folder
   *   (which ends in a slash), `hf:OWNER/NAME`, its parts, or its files as somebody chose them
   * @param {LoadOptions} [options]
   * @returns {Promise<Detrim>}
   */
  static async load(model, { backend = 'auto', onProgress, signal, worker = true, workerUrl, wasmUrl, sha256, hub } = {}) {
    if (!['auto', 'webgpu', 'cpu'].includes(backend)) throw new DetrimError('argument', `there is no backend '${backend}'`);
    const hashes = typeof sha256 === 'string' ? [sha256] : sha256;
    const origin = hubOrigin(hub);
    if (signal?.aborted) throw aborted(signal);
    const detrim = new Detrim();
    detrim.#onProgress = onProgress;
    // Where the code can't be had, the model needn't arrive either.
    const download = new AbortController();
    try {
      const onBytes = (/** @type {number} */ loaded, /** @type {number | null} */ total) => onProgress?.({ phase: 'download', loaded, total });
      const [files] = await abortable(signal, Promise.all([gather(model, { hub: origin, signal: download.signal, onBytes }), detrim.#start(worker, workerUrl, wasmUrl)]));
      await abortable(signal, detrim.#running.load({ model: files, sha256: hashes, backend }));
    } catch (error) {
      download.abort();
      detrim.dispose();
      throw error;
    }
    detrim.#onProgress = undefined;
    return detrim;
  }

  /**
   * What is in a picture.
   *
   * @param {Source | PromiseLike<Source>} source
   * @param {DetectOptions} [options]
   * @returns {Promise<Detections>}
   */
  async detect(source, { threshold = this.info.threshold, labels, signal } = {}) {
    if (!(threshold >= 0 && threshold <= 1)) throw new DetrimError('argument', `a threshold lies between 0 and 1, not at ${threshold}`);
    const only = chosen(labels);
    const unknown = only && [...only].find(label => !this.info.labels.includes(label));
    if (unknown !== undefined) throw new DetrimError('argument', `the model knows no '${unknown}'`);
    const { detections, times, width, height } = await this.#look('detect', source, { threshold }, signal);
    const wanted = only ? detections.filter(({ label }) => only.has(label)) : detections;
    return /** @type {Detections} */ (Object.defineProperties(wanted, { times: { value: times }, width: { value: width }, height: { value: height } }));
  }

  /**
   * Where a query looked in a picture: the last decoder layer's cross-attention. Always computed on the CPU, by a network that is loaded with the
   * first call; of the last picture all queries are remembered.
   *
   * @param {Source | PromiseLike<Source>} source
   * @param {number} query a {@link Detection}'s
   * @param {object} [options]
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<AttentionMaps>}
   */
  async attention(source, query, { signal } = {}) {
    if (!(Number.isInteger(query) && query >= 0)) throw new DetrimError('argument', `a query is a whole number from 0 on, not ${query}`);
    return await this.#look('attention', source, { query }, signal);
  }

  /**
   * How long each stage takes on a made-up photo: medians over runs, after one to warm up.
   *
   * @param {object} [options]
   * @param {number} [options.runs]
   * @param {[number, number]} [options.size] height and width of the network's input instead of the model's own rule
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<Bench>}
   */
  async bench({ runs = 10, size, signal } = {}) {
    if (!(runs >= 1)) throw new DetrimError('argument', 'at least one run, please');
    return await this.#queue(signal, () => this.#running.call('bench', { runs, size }, [], signal));
  }

  /**
   * What `detrim prune --latency` goes by on this device, once it is saved as JSON: times of the model's operations at many widths, or on WebGPU
   * of many networks. Takes about a minute.
   *
   * @param {object} [options]
   * @param {[number, number]} [options.size] height and width of the network's input instead of the model's own rule
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<Profile>}
   */
  async profile({ size, signal } = {}) {
    return await this.#queue(signal, () => this.#running.call('profile', { size }, [], signal));
  }

  /**
   * Runs the `pixel_values` (and `pixel_mask`) of a safetensors file through the network: a file of every stage's output,
   * to compare with another implementation's.
   *
   * @param {Uint8Array} bytes
   * @returns {Promise<Uint8Array>}
   */
  async forward(bytes) {
    return await this.#queue(undefined, () => this.#running.call('forward', { bytes }));
  }

  /** What computes, and what it occupies; as of the last call. @returns {Info} */
  get info() {
    const { info } = this.#running;
    if (!info) throw new DetrimError('crashed', 'the engine isn\'t loaded');
    return info;
  }

  /** Ends the worker and frees everything. Calls that are under way fail with the code `disposed`. */
  dispose() {
    this.#engine?.dispose();
    this.#engine = undefined;
    this.#gone.abort();
  }

  get #running() {
    if (!this.#engine) throw new DetrimError('disposed', GONE);
    return this.#engine;
  }

  /**
   * Gets the engine's code.
   *
   * @param {boolean} worker
   * @param {string | URL | undefined} workerUrl
   * @param {string | URL | undefined} wasmUrl
   */
  async #start(worker, workerUrl, wasmUrl) {
    /** @type {ConstructorParameters<typeof RemoteEngine>[2]} */
    const emit = event => {
      if (event.kind === 'progress') {
        this.#onProgress?.({ phase: event.phase, loaded: event.loaded, total: event.total });
      } else if (event.kind === 'change') {
        const change = new ChangeEvent(event.reason, event.message, event.info);
        this.dispatchEvent(change);
        this.onchange?.(change);
      }
    };
    const wasm = wasmUrl === undefined ? undefined : new URL(wasmUrl, globalThis.location?.href).href;
    this.#engine = worker ? new RemoteEngine(workerUrl, wasm, emit) : new (await localEngine())(emit, wasm);
    await this.#engine.prepare();
  }

  /**
   * A call about a picture.
   *
   * @template {'detect' | 'attention'} Name
   * @param {Name} name
   * @param {Source | PromiseLike<Source>} source
   * @param {Omit<Parameters<Calls[Name]>[0], 'frame' | 'owned'>} args
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<Awaited<ReturnType<Calls[Name]>>>}
   */
  async #look(name, source, args, signal) {
    this.#running;
    const ends = follow(signal, this.#gone.signal);
    // At once, and not when its turn comes: a video goes on. And it has no turn before it is there: what never comes keeps nobody waiting.
    const taken = toFrame(source, ends.signal);
    try {
      const { frame, owned } = await abortable(ends.signal, taken);
      return await this.#queue(signal, async () => {
        const engine = this.#running;
        /** @param {object} picture */
        const all = picture => /** @type {Parameters<Calls[Name]>[0]} */ ({ ...picture, ...args });
        if (!engine.draws) return await engine.call(name, all({ frame: await toPixels(frame, owned), owned }), [], signal);
        return await engine.call(name, all({ frame, owned }), owned && 'close' in frame ? [frame] : [], signal);
      });
    } catch (error) {
      throw this.#ended(signal) ?? error;
    } finally {
      ends.letGo();
      // What was given away or closed isn't ours any more, and this does nothing to it.
      taken.then(({ frame, owned }) => owned && 'close' in frame && frame.close(), () => {});
    }
  }

  /** Why nothing more is to be done, if so. @param {AbortSignal | undefined} signal */
  #ended(signal) {
    if (signal?.aborted) return aborted(signal);
    return this.#engine ? undefined : new DetrimError('disposed', GONE);
  }

  /**
   * Calls take turns, so that one that is given up before its turn costs nothing.
   *
   * @template T
   * @param {AbortSignal | undefined} signal
   * @param {() => Promise<T>} call
   * @returns {Promise<T>}
   */
  #queue(signal, call) {
    this.#running;
    const result = this.#last.then(async () => {
      const ended = this.#ended(signal);
      if (ended) throw ended;
      return await call();
    });
    this.#last = result.catch(() => {});
    return abortable(signal, result);
  }
}

/** The engine for this thread: its code is fetched only where somebody wants it. */
async function localEngine() {
  if (here.Engine) return here.Engine;
  try {
    return (await import('./local.js')).LocalEngine;
  } catch (error) {
    throw DetrimError.from(error, 'unsupported', 'the engine\'s code can\'t be imported on demand; a service worker has to begin with `import "detrim/local.js"`');
  }
}

/** @param {string | Iterable<string> | null | undefined} labels */
function chosen(labels) {
  if (labels === undefined || labels === null) return undefined;
  if (typeof labels === 'string') return new Set([labels]);
  if (typeof labels !== 'object' || !(Symbol.iterator in labels)) throw new DetrimError('argument', '`labels` is a label or an array of them');
  return new Set(labels);
}
