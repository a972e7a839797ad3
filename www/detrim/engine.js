// The detector on the thread that computes: in a worker, or on the calling thread for those who want no worker.

import init, { Attention, Detector, Model, bench, forward, onPanic, profile } from './wasm/detrim.js';
import { DetrimError } from './errors.js';
import { HEAD, mistaken } from './contents.js';
import { count } from './download.js';
import { toPixels } from './source.js';

/** @import { AttentionMaps, Bench, Info, Profile, Times } from './index.js' */
/** @import { ModelFiles } from './checkpoint.js' */
/** @import { Frame, Pixels } from './source.js' */

/**
 * What an engine tells without being asked.
 *
 * @typedef {{kind: 'progress', phase: 'compile' | 'load', loaded: number, total: number | null}
 *   | {kind: 'change', reason: 'gpu-lost', message: string, info: Info}
 *   | {kind: 'crash', message: string}} EngineEvent
 */

/** @typedef {{model: ModelFiles, sha256?: string[], backend: 'auto' | 'webgpu' | 'cpu', why?: string | null}} LoadRequest */
/** @typedef {{label: string, score: number, query: number, box: {xmin: number, ymin: number, xmax: number, ymax: number}}} Found */
/** @typedef {{detections: Found[], times: Times, width: number, height: number}} Detected */

/**
 * What can be asked of an engine, by name.
 *
 * @typedef {object} Calls
 * @property {(args: {wasm?: string}) => Promise<void>} prepare `wasm`: where the code lies, if not beside this module
 * @property {(request: LoadRequest) => Promise<void>} load
 * @property {(args: {frame: Frame | Pixels, owned: boolean, threshold: number}) => Promise<Detected>} detect
 * @property {(args: {frame: Frame | Pixels, owned: boolean, query: number}) => Promise<AttentionMaps>} attention
 * @property {(args: {runs: number, size?: [number, number]}) => Promise<Bench>} bench
 * @property {(args: {size?: [number, number]}) => Promise<Profile>} profile
 * @property {(args: {bytes: Uint8Array}) => Promise<Uint8Array>} forward
 */

/** The code's memory: one instance serves all engines of a thread. @type {Promise<WebAssembly.Memory> | undefined} */
let wasm;

/** @implements {Calls} */
export class Engine {
  #emit;
  #worker;
  /** Where the code lies, if not beside this module. @type {string | undefined} */ #url;
  /** @type {LoadRequest | undefined} */ #request;
  /** @type {Detector | undefined} */ #detector;
  /** Loaded when somebody asks. @type {Attention | undefined} */ #attention;
  /** @type {WebAssembly.Memory | undefined} */ #memory;
  /** @type {Pick<Info, 'model' | 'labels' | 'threshold'>} */ #card = { model: '', labels: [], threshold: 0.5 };
  /** Why it isn't WebGPU that computes, if it isn't. @type {string | null} */ #why = null;
  #adapter = '';
  /** How often in a row the GPU failed. */ #failures = 0;

  /**
   * @param {(event: EngineEvent) => void} emit
   * @param {boolean} worker whether this thread is a worker of the package's own
   */
  constructor(emit, worker) {
    this.#emit = emit;
    this.#worker = worker;
  }

  /** Fetches and compiles the code. @param {Parameters<Calls['prepare']>[0]} [args] */
  async prepare({ wasm: url } = {}) {
    this.#url ??= url;
    wasm ??= compile(this.#emit, this.#url).catch(error => {
      wasm = undefined;
      throw error;
    });
    this.#memory = await wasm;
    onPanic(message => this.#emit({ kind: 'crash', message }));
  }

  /** @param {LoadRequest} request */
  async load(request) {
    this.#request = request;
    await this.prepare();
    const size = request.model.weights.reduce((sum, file) => sum + file.size, 0);
    this.#emit({ kind: 'progress', phase: 'load', loaded: 0, total: size });
    await this.#open(request.backend, request.why ?? null);
    this.#emit({ kind: 'progress', phase: 'load', loaded: size, total: size });
  }

  /**
   * @param {'auto' | 'webgpu' | 'cpu'} backend
   * @param {string | null} why why it isn't to be WebGPU, where that was decided before
   */
  async #open(backend, why) {
    this.dispose();
    const model = await this.#read();
    try {
      this.#card = model.card();
      this.#why = why;
      this.#adapter = 'CPU';
      if (backend !== 'cpu') {
        try {
          this.#adapter = await findAdapter(backend === 'webgpu');
          this.#detector = await Detector.load(model, true);
        } catch (error) {
          if (backend === 'webgpu') throw DetrimError.from(error, 'unsupported', 'WebGPU');
          this.#why = error instanceof Error ? error.message : String(error);
          this.#adapter = 'CPU';
        }
      }
      this.#detector ??= await Detector.load(model, false);
    } catch (error) {
      throw typed(error);
    } finally {
      model.free();
    }
  }

  async #read() {
    const { model: { weights, config, preprocessor, name }, sha256 } = /** @type {LoadRequest} */ (this.#request);
    /** @type {ArrayBuffer[]} */
    let bytes;
    try {
      bytes = await Promise.all(weights.map(file => file.arrayBuffer()));
    } catch (error) {
      throw DetrimError.from(error, 'model', 'the model\'s file can\'t be read');
    }
    try {
      return new Model(bytes.map(buffer => new Uint8Array(buffer)), config, preprocessor, name, sha256);
    } catch (error) {
      throw typed(error);
    }
  }

  /** @param {{frame: Frame | Pixels, owned: boolean, threshold: number}} args */
  async detect({ frame, owned, threshold }) {
    const start = performance.now();
    const { pixels, width, height } = 'pixels' in frame ? frame : await toPixels(frame, owned);
    const decode = performance.now() - start;
    const found = await this.#run(pixels, threshold);
    const [x, y] = [width / pixels.width, height / pixels.height];
    const detections = found.detections.map(({ label, score, query, bounds }) => (
      { label, score, query, box: { xmin: bounds.xmin * x, ymin: bounds.ymin * y, xmax: bounds.xmax * x, ymax: bounds.ymax * y } }));
    return { detections, times: { decode, ...found.times, total: performance.now() - start }, width, height };
  }

  /**
   * Where a query looked. On the CPU, by a network that stays, and remembers its last picture.
   *
   * @param {{frame: Frame | Pixels, owned: boolean, query: number}} args
   */
  async attention({ frame, owned, query }) {
    const { pixels } = 'pixels' in frame ? frame : await toPixels(frame, owned);
    this.#attention ??= await this.#openAttention();
    try {
      const { weights, ...size } = this.#attention.maps(pixels.data, pixels.width, pixels.height, query);
      return { ...size, weights: Float32Array.from(weights) };
    } catch (error) {
      throw typed(error);
    }
  }

  async #openAttention() {
    const model = await this.#read();
    try {
      return new Attention(model);
    } catch (error) {
      throw typed(error);
    } finally {
      model.free();
    }
  }

  /**
   * One detection; where the GPU fails, once more on a new one, then on the CPU.
   *
   * @param {ImageData} pixels
   * @param {number} threshold
   * @returns {Promise<import('./wasm/detrim.js').Detections>}
   */
  async #run(pixels, threshold) {
    for (;;) {
      try {
        if (!this.#detector) await this.#open(/** @type {LoadRequest} */ (this.#request).backend, null);
        const detector = /** @type {Detector} */ (this.#detector);
        const found = await detector.detect(pixels.data, pixels.width, pixels.height, threshold);
        this.#failures = 0;
        return found;
      } catch (error) {
        if (codeOf(error) !== 'gpu') throw typed(error);
        await this.#replaceGpu(/** @type {Error} */ (error).message);
      }
    }
  }

  /** @param {string} problem */
  async #replaceGpu(problem) {
    const { backend } = /** @type {LoadRequest} */ (this.#request);
    this.#failures += 1;
    if (this.#failures > 1 && backend === 'webgpu') {
      // The next call tries anew.
      this.dispose();
      this.#failures = 0;
      throw new DetrimError('gpu-lost', `the GPU failed twice: ${problem}`);
    }
    try {
      await (this.#failures > 1 ? this.#open('cpu', `the GPU failed: ${problem}`) : this.#open(backend, null));
    } catch (error) {
      throw new DetrimError('gpu-lost', `the GPU was lost and can't be had again: ${error instanceof Error ? error.message : error}`, { cause: error });
    }
    this.#emit({ kind: 'change', reason: 'gpu-lost', message: problem, info: this.info });
  }

  /**
   * Medians over runs on a made-up picture. What is loaded makes room meanwhile.
   *
   * @param {{runs: number, size?: [number, number]}} args
   */
  async bench({ runs, size }) {
    return await this.#alone(async (model, gpu) => {
      const report = await bench(model, gpu, runs, size?.[0], size?.[1]);
      return { runs, size: report.size, stages: report.stages, info: this.#describe(report.info) };
    });
  }

  /**
   * How long networks of any widths would take. What is loaded makes room meanwhile.
   *
   * @param {{size?: [number, number]}} args
   * @returns {Promise<Profile>}
   */
  async profile({ size }) {
    return await this.#alone(async (model, gpu) => {
      const found = JSON.parse(await profile(model, gpu, size?.[0], size?.[1]));
      return gpu ? { ...found, device: `${this.#adapter} (WebGPU)` } : found;
    });
  }

  /**
   * @template T
   * @param {(model: Model, gpu: boolean) => Promise<T>} measure
   */
  async #alone(measure) {
    const gpu = this.info.backend === 'webgpu';
    this.dispose();
    const model = await this.#read();
    try {
      return await measure(model, gpu);
    } catch (error) {
      throw typed(error);
    } finally {
      model.free();
      await this.#open(gpu ? 'webgpu' : 'cpu', this.#why);
    }
  }

  /**
   * Every stage of the network for a case's pixel values, both as safetensors: the parity tool.
   *
   * @param {{bytes: Uint8Array}} args
   */
  async forward({ bytes }) {
    const model = await this.#read();
    try {
      return await forward(model, this.info.backend === 'webgpu', bytes);
    } catch (error) {
      throw typed(error);
    } finally {
      model.free();
    }
  }

  get info() {
    return this.#describe(this.#detector?.info() ?? { device: 'cpu', adapter: '', weights_bytes: 0, activation_bytes: 0, dispatches: 0 });
  }

  /**
   * @param {import('./wasm/detrim.js').DeviceInfo} info
   * @returns {Info}
   */
  #describe({ device, weights_bytes, activation_bytes, dispatches }) {
    const gpu = device === 'gpu';
    return {
      backend: gpu ? 'webgpu' : 'cpu',
      adapter: this.#adapter,
      ...this.#card,
      why: this.#why,
      memory: { wasm: this.#memory?.buffer.byteLength ?? 0, gpu: gpu ? weights_bytes + (activation_bytes ?? 0) : 0 },
      dispatches,
      worker: this.#worker,
    };
  }

  dispose() {
    this.#detector?.free();
    this.#detector = undefined;
    this.#attention?.free();
    this.#attention = undefined;
  }
}

/**
 * The name of the adapter that will be used, or an error that tells why there is none.
 *
 * @param {boolean} any a program on the processor will do, which is far slower there than the CPU backend
 */
async function findAdapter(any) {
  if (!navigator.gpu) {
    throw new DetrimError('unsupported', globalThis.isSecureContext ? 'this browser has no WebGPU' : 'WebGPU needs a secure context: https or localhost');
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw new DetrimError('unsupported', 'the browser offers WebGPU, but found no graphics adapter for it');
  // The first implementations had no such thing, nor much else that is needed.
  if (!adapter.info) throw new DetrimError('unsupported', 'this browser\'s WebGPU is too old');
  const { description, vendor, architecture, device, isFallbackAdapter } = adapter.info;
  const name = description || [vendor, architecture, device].filter(Boolean).join(' ') || 'an unnamed adapter';
  if (isFallbackAdapter && !any) throw new DetrimError('unsupported', `WebGPU is only emulated here (${name})`);
  return name;
}

/**
 * @param {(event: EngineEvent) => void} emit
 * @param {string} [where] the code's address, if it isn't beside this module
 */
async function compile(emit, where) {
  if (typeof WebAssembly === 'undefined') throw new DetrimError('unsupported', 'this browser has no WebAssembly');
  if (!WebAssembly.validate(SIMD)) throw new DetrimError('unsupported', 'this browser\'s WebAssembly has no SIMD');
  const url = where ?? new URL('./wasm/detrim_bg.wasm', import.meta.url).href;
  /** @type {Response} */
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw DetrimError.from(error, 'network', url);
  }
  if (!response.ok) throw new DetrimError('network', `${url}: the server answered ${response.status}`);
  let head = new Uint8Array();
  try {
    const counted = count(response, (loaded, total, chunk) => {
      if (head.length === 0 && chunk) head = chunk.slice(0, HEAD);
      emit({ kind: 'progress', phase: 'compile', loaded, total });
    });
    return (await init({ module_or_path: counted })).memory;
  } catch (error) {
    const problem = mistaken(head);
    if (problem) throw new DetrimError('network', `${url}: WebAssembly was expected, and this is ${problem}`, { cause: error });
    throw DetrimError.from(error, 'unsupported', 'WebAssembly can\'t be compiled');
  }
}

/** A module with one function, which uses a SIMD instruction. */
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

/** @param {unknown} error */
function codeOf(error) {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/**
 * An error that came out of wasm as one of ours.
 *
 * @param {unknown} error
 */
function typed(error) {
  if (error instanceof DetrimError) return error;
  const code = codeOf(error);
  return DetrimError.from(error, code === 'gpu' ? 'gpu-lost' : code === undefined ? 'crashed' : /** @type {import('./errors.js').ErrorCode} */ (code));
}
