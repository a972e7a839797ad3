/**
 * Object detection in the browser with (trimmed) DETR networks: on WebGPU or, without it, on the CPU; in a worker.
 *
 *     const d = await Detrim.load('models/detr.safetensors');
 *     for (const { label, score, box } of await d.detect(document.querySelector('img'))) …
 *     d.dispose();
 *
 * @module
 */

import { DetrimError, aborted } from './errors.js';
import { download } from './download.js';
import { RemoteEngine } from './remote.js';
import { toFrame, toPixels } from './source.js';

const GONE = 'the detector was disposed of';

/** @import { Calls } from './engine.js' */
/** @import { LocalEngine } from './local.js' */
/** @import { Source } from './source.js' */

export { DetrimError };
/** @typedef {import('./errors.js').ErrorCode} ErrorCode */

/**
 * @typedef {object} LoadOptions
 * @property {'auto' | 'webgpu' | 'cpu'} [backend] `auto` (the default): WebGPU where it works, else the CPU; `info.why` then tells why
 * @property {(progress: Progress) => void} [onProgress]
 * @property {AbortSignal} [signal]
 * @property {boolean} [worker] false: compute on the calling thread, which then stands still meanwhile
 * @property {string | URL} [workerUrl] where this package's `worker.js` lies, for pages on another origin than the package
 * @property {string} [sha256] what the model's sha256 must be, in hexadecimal
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
 * @property {string[]} [labels] only these
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
 * @property {Float32Array} weights head by head, row by row; each head's sum is 1
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

  /**
   * Loads a model and gets everything ready. Only the model, the worker's script and the WebAssembly file are fetched.
   *
   * @param {string | URL | Blob} model its address or itself
   * @param {LoadOptions} [options]
   * @returns {Promise<Detrim>}
   */
  static async load(model, { backend = 'auto', onProgress, signal, worker = true, workerUrl, sha256 } = {}) {
    if (!['auto', 'webgpu', 'cpu'].includes(backend)) throw new DetrimError('argument', `there is no backend '${backend}'`);
    if (signal?.aborted) throw aborted(signal);
    const detrim = new Detrim();
    detrim.#onProgress = onProgress;
    // Where the code can't be had, the model needn't arrive either.
    const download = new AbortController();
    try {
      const [file] = await abortable(signal, Promise.all([fetchModel(model, download.signal, onProgress), detrim.#start(worker, workerUrl)]));
      await abortable(signal, detrim.#running.load({ model: file, sha256, backend }));
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
   * @param {Source} source
   * @param {DetectOptions} [options]
   * @returns {Promise<Detections>}
   */
  async detect(source, { threshold = this.info.threshold, labels, signal } = {}) {
    if (!(threshold >= 0 && threshold <= 1)) throw new DetrimError('argument', `a threshold lies between 0 and 1, not at ${threshold}`);
    const unknown = labels?.find(label => !this.info.labels.includes(label));
    if (unknown !== undefined) throw new DetrimError('argument', `the model knows no '${unknown}'`);
    const { detections, times, width, height } = await this.#look('detect', source, { threshold }, signal);
    const wanted = labels ? detections.filter(({ label }) => labels.includes(label)) : detections;
    return /** @type {Detections} */ (Object.defineProperties(wanted, { times: { value: times }, width: { value: width }, height: { value: height } }));
  }

  /**
   * Where a query looked in a picture: the last decoder layer's cross-attention. Always computed on the CPU, by a network that is loaded with the
   * first call; of the last picture all queries are remembered.
   *
   * @param {Source} source
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
    return await this.#queue(signal, () => this.#running.call('bench', { runs, size }));
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
    return await this.#queue(signal, () => this.#running.call('profile', { size }));
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
  }

  get #running() {
    if (!this.#engine) throw new DetrimError('disposed', GONE);
    return this.#engine;
  }

  /** Gets the engine's code. @param {boolean} worker @param {string | URL | undefined} workerUrl */
  async #start(worker, workerUrl) {
    /** @type {ConstructorParameters<typeof RemoteEngine>[1]} */
    const emit = event => {
      if (event.kind === 'progress') {
        this.#onProgress?.({ phase: event.phase, loaded: event.loaded, total: event.total });
      } else if (event.kind === 'change') {
        const change = new ChangeEvent(event.reason, event.message, event.info);
        this.dispatchEvent(change);
        this.onchange?.(change);
      }
    };
    if (worker) {
      this.#engine = new RemoteEngine(workerUrl, emit);
    } else {
      const { LocalEngine } = await import('./local.js');
      this.#engine = new LocalEngine(emit);
    }
    await this.#engine.prepare();
  }

  /**
   * A call about a picture.
   *
   * @template {'detect' | 'attention'} Name
   * @param {Name} name
   * @param {Source} source
   * @param {Omit<Parameters<Calls[Name]>[0], 'frame' | 'owned'>} args
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<Awaited<ReturnType<Calls[Name]>>>}
   */
  async #look(name, source, args, signal) {
    // At once, and not when its turn comes: a video goes on.
    const taken = toFrame(source, signal);
    return await this.#queue(signal, async () => {
      const { frame, owned } = await taken;
      const engine = this.#running;
      /** @param {object} picture */
      const all = picture => /** @type {Parameters<Calls[Name]>[0]} */ ({ ...picture, ...args });
      if (!engine.draws) return await engine.call(name, all({ frame: await toPixels(frame, owned), owned }));
      return await engine.call(name, all({ frame, owned }), owned && 'close' in frame ? [frame] : []);
    }, () => taken.then(({ frame, owned }) => owned && 'close' in frame && frame.close()));
  }

  /**
   * Calls take turns, so that one that is given up before its turn costs nothing.
   *
   * @template T
   * @param {AbortSignal | undefined} signal
   * @param {() => Promise<T>} call
   * @param {() => Promise<unknown>} [skipped] run in place of `call`
   * @returns {Promise<T>}
   */
  #queue(signal, call, skipped) {
    this.#running;
    const result = this.#last.then(async () => {
      if (this.#engine && !signal?.aborted) return await call();
      skipped?.().catch(() => {});
      throw signal?.aborted ? aborted(signal) : new DetrimError('disposed', GONE);
    });
    this.#last = result.catch(() => {});
    return abortable(signal, result);
  }
}

/**
 * @param {string | URL | Blob} model
 * @param {AbortSignal} signal
 * @param {LoadOptions['onProgress']} onProgress
 */
async function fetchModel(model, signal, onProgress) {
  if (model instanceof Blob) return model;
  return await download(model, signal, (loaded, total) => onProgress?.({ phase: 'download', loaded, total }));
}

/**
 * The promise, or the signal's error as soon as it is triggered; then the promise's own end interests nobody.
 *
 * @template T
 * @param {AbortSignal | undefined} signal
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
function abortable(signal, promise) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const give = () => reject(aborted(signal));
    if (signal.aborted) return give();
    signal.addEventListener('abort', give, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', give));
  });
}
