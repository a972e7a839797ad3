// An engine in a worker, which is replaced when it breaks down: after a trap nothing in its memory can be trusted.

import { DetrimError } from './errors.js';

/** @import { Calls, EngineEvent, LoadRequest } from './engine.js' */
/** @import { Info } from './index.js' */

/**
 * @typedef {EngineEvent
 *   | {kind: 'ready', draws: boolean}
 *   | {kind: 'result', id: number, result: any, info: Info}
 *   | {kind: 'error', id: number, code: import('./errors.js').ErrorCode, message: string, info: Info}} Message
 */

export class RemoteEngine {
  /** @type {Info | undefined} */ info;
  /** Whether the worker can turn a frame into pixels. */ draws = true;
  #url;
  #emit;
  /** @type {Worker | undefined} */ #worker;
  /** @type {LoadRequest | undefined} */ #request;
  /** The worker's script runs. @type {Promise<void> | undefined} */ #opened;
  /** The worker has loaded the model; gone when it broke down and a new one failed to start. @type {Promise<void> | undefined} */ #loaded;
  /** The call that the worker is at. @type {{id: number, resolve: (result: any) => void, reject: (error: DetrimError) => void} | undefined} */ #call;
  #calls = 0;
  /** @type {(() => void) | undefined} */ #announce;

  /**
   * @param {string | URL | undefined} url
   * @param {(event: EngineEvent | {kind: 'change', reason: 'crashed', message: string, info: Info}) => void} emit
   */
  constructor(url, emit) {
    this.#url = url;
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
   * @returns {Promise<Awaited<ReturnType<Calls[Name]>>>}
   */
  async call(name, args, transfer) {
    await (this.#loaded ?? this.#start(/** @type {LoadRequest} */ (this.#request)));
    return await this.#ask(name, args, transfer);
  }

  dispose() {
    this.#end(new DetrimError('disposed', 'the detector was disposed of'));
  }

  /** @param {LoadRequest} request */
  #start(request) {
    const loaded = (this.#opened ?? this.prepare()).then(() => this.#ask('load', request));
    this.#loaded = loaded;
    // Nobody need be waiting.
    loaded.catch(() => {
      if (this.#loaded === loaded) this.#loaded = undefined;
    });
    return loaded;
  }

  /** Starts a worker and waits until its script runs. */
  #open() {
    /** @type {Promise<void>} */
    const ready = new Promise((resolve, reject) => {
      this.#announce = resolve;
      this.#call = { id: 0, resolve, reject };
    });
    /** @type {Worker} */
    let worker;
    try {
      worker = this.#url === undefined
        ? new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
        : new Worker(this.#url, { type: 'module' });
    } catch (error) {
      // From another origin, for one.
      this.#end(DetrimError.from(error, 'network', 'the worker can\'t be started'));
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
      if (this.#announce) this.#end(new DetrimError('network', `the worker's script can't be loaded${event.message ? `: ${event.message}` : ''}`));
      else this.#crashed(event.message);
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
        reject(DetrimError.from(error, 'source', 'the picture can\'t be given to the worker'));
      }
    });
  }

  /** @param {Message} message */
  #hear(message) {
    switch (message.kind) {
      case 'ready':
        this.draws = message.draws;
        this.#announce?.();
        this.#announce = undefined;
        return;
      case 'crash':
        return this.#crashed(message.message);
      case 'result':
      case 'error':
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
