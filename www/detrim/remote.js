// An engine in a worker, which is replaced when it breaks down: after a trap nothing in its memory can be trusted.

import { DetrimError } from './errors.js';
import { aborted } from './signals.js';
import { notSent } from './source.js';
import { startWorker, whyNot } from './worker_start.js';

/** @import { Calls, EngineEvent, LoadRequest } from './engine.js' */
/** @import { Info } from './index.js' */

/**
 * @typedef {EngineEvent
 *   | {kind: 'ready', draws: boolean}
 *   | {kind: 'result', id: number, result: any, info: Info}
 *   | {kind: 'error', id: number, code: import('./errors.js').ErrorCode, message: string, info: Info}} Message
 */

/** The first call of every worker. */
const PREPARE = 0;

/** Milliseconds that a call which nobody waits for any more may always go on. */
const MOMENT = 250;

export class RemoteEngine {
  /** @type {Info | undefined} */ info;
  /** Whether the worker can turn a frame into pixels. */ draws = true;
  #url;
  #wasm;
  #emit;
  /** @type {Worker | undefined} */ #worker;
  /** @type {LoadRequest | undefined} */ #request;
  /** The worker's script runs. @type {Promise<void> | undefined} */ #opened;
  /** The worker has loaded the model; gone when it broke down and a new one failed to start. @type {Promise<void> | undefined} */ #loaded;
  /** The call that the worker is at. @type {{id: number, resolve: (result: any) => void, reject: (error: DetrimError) => void} | undefined} */ #call;
  #calls = 0;
  /** Milliseconds that the last start took. */ #started = 0;
  /** @type {(() => void) | undefined} */ #announce;

  /**
   * @param {string | URL | undefined} url the worker's script, if it isn't the package's own
   * @param {string | undefined} wasm where the code lies, if not beside the worker's script
   * @param {(event: EngineEvent | {kind: 'change', reason: 'crashed', message: string, info: Info}) => void} emit
   */
  constructor(url, wasm, emit) {
    this.#url = url;
    this.#wasm = wasm;
    this.#emit = emit;
  }

  /** Starts the worker, which then gets its code by itself. */
  prepare() {
    this.#opened = this.#open();
    return this.#opened;
  }

  /** @param {LoadRequest} request */
  async load(request) {
    this.#request = request;
    try {
      await this.#start(request);
    } catch (error) {
      // Some drivers and early implementations of WebGPU don't fail politely.
      if (!(error instanceof DetrimError && error.code === 'crashed' && request.backend === 'auto')) throw error;
      this.#request = withoutGpu(request, error.message);
      await this.#start(this.#request);
    }
  }

  /**
   * One call at a time, please.
   *
   * @template {Exclude<keyof Calls, 'load' | 'prepare'>} Name
   * @param {Name} name
   * @param {Parameters<Calls[Name]>[0]} args
   * @param {Transferable[]} [transfer]
   * @param {AbortSignal} [signal] stops the worker where it would go on for long
   * @returns {Promise<Awaited<ReturnType<Calls[Name]>>>}
   */
  async call(name, args, transfer, signal) {
    await (this.#loaded ?? this.#start(/** @type {LoadRequest} */ (this.#request)));
    if (signal?.aborted) throw aborted(signal);
    const stop = () => this.#stop(aborted(/** @type {AbortSignal} */ (signal)));
    signal?.addEventListener('abort', stop, { once: true });
    try {
      return await this.#ask(name, args, transfer);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /**
   * Nobody waits for the call under way any more. It may go on for as long as a new worker would take to start; then one takes this one's place.
   *
   * @param {DetrimError} reason
   */
  #stop(reason) {
    const call = this.#call;
    setTimeout(() => {
      if (!call || this.#call !== call) return;
      this.#end(reason);
      // Where this fails, the next call tries again and is told.
      this.#start(/** @type {LoadRequest} */ (this.#request));
    }, Math.max(MOMENT, this.#started));
  }

  dispose() {
    this.#end(new DetrimError('disposed', 'the detector was disposed of'));
  }

  /** @param {LoadRequest} request */
  #start(request) {
    const begun = performance.now();
    const loaded = (this.#opened ?? this.prepare()).then(() => this.#ask('load', request));
    this.#loaded = loaded;
    // Nobody need be waiting.
    loaded.then(() => {
      this.#started = performance.now() - begun;
    }, () => {
      if (this.#loaded === loaded) this.#loaded = undefined;
    });
    return loaded;
  }

  /** Starts a worker and waits until its script runs. */
  #open() {
    /** @type {Promise<void>} */
    const ready = new Promise((resolve, reject) => {
      this.#announce = resolve;
      this.#call = { id: PREPARE, resolve, reject };
    });
    /** @type {Worker} */
    let worker;
    try {
      worker = startWorker(this.#url);
    } catch (error) {
      this.#end(DetrimError.from(error, 'network'));
      return ready;
    }
    this.#worker = worker;
    // What a worker said before it was ended may still be on its way.
    worker.onmessage = ({ data }) => {
      if (worker === this.#worker) this.#hear(/** @type {Message} */ (data));
    };
    worker.onerror = event => {
      event.preventDefault();
      if (worker !== this.#worker) return;
      if (!this.#announce) return this.#crashed(event.message);
      whyNot(this.#url, event.message).then(error => {
        if (worker === this.#worker) this.#end(error);
      });
    };
    return ready;
  }

  /**
   * @param {keyof Calls} name
   * @param {object} args
   * @param {Transferable[]} [transfer]
   * @returns {Promise<any>}
   */
  #ask(name, args, transfer = []) {
    const id = ++this.#calls;
    return new Promise((resolve, reject) => {
      if (!this.#worker) return reject(new DetrimError('disposed', 'the detector was disposed of'));
      this.#call = { id, resolve, reject };
      try {
        this.#worker.postMessage({ id, name, args }, transfer);
      } catch (error) {
        this.#call = undefined;
        reject(notSent('frame' in args ? args.frame : undefined, error));
      }
    });
  }

  /** @param {Message} message */
  #hear(message) {
    switch (message.kind) {
      case 'ready':
        this.draws = message.draws;
        // Nobody waits for its answer: an error is that of `load`, which needs the same.
        this.#worker?.postMessage({ id: PREPARE, name: 'prepare', args: { wasm: this.#wasm } });
        this.#announce?.();
        this.#announce = undefined;
        return;
      case 'crash':
        return this.#crashed(message.message);
      case 'result':
      case 'error':
        if (message.id === PREPARE) return;
        this.info = message.info;
        if (this.#call?.id !== message.id) return;
        if (message.kind === 'result') this.#call.resolve(message.result);
        else this.#call.reject(new DetrimError(message.code, message.message));
        this.#call = undefined;
        return;
      case 'change':
        this.info = message.info;
    }
    this.#emit(message);
  }

  /** @param {DetrimError} error */
  #end(error) {
    this.#worker?.terminate();
    this.#worker = this.#opened = this.#loaded = this.#announce = undefined;
    this.#call?.reject(error);
    this.#call = undefined;
  }

  /** @param {string} message */
  #crashed(message) {
    const { info } = this;
    const problem = `the engine broke down: ${message}`;
    this.#end(new DetrimError('crashed', problem));
    // Who loads is told, and nobody else would be.
    if (!info || !this.#request) return;
    if (this.#request.backend === 'auto' && info.backend === 'webgpu') this.#request = withoutGpu(this.#request, problem);
    this.#start(this.#request).then(() => {
      this.#emit({ kind: 'change', reason: 'crashed', message: problem, info: /** @type {Info} */ (this.info) });
    }, () => {});
  }
}

/**
 * Where there is a choice, whatever broke down on the GPU isn't tried there again: it may be the driver.
 *
 * @param {LoadRequest} request
 * @param {string} problem
 * @returns {LoadRequest}
 */
function withoutGpu(request, problem) {
  return { ...request, backend: 'cpu', why: `with WebGPU ${problem}` };
}
