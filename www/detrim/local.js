// An engine on the calling thread, behind the same interface as one in a worker.

import { Engine } from './engine.js';
import { DetrimError } from './errors.js';
import { here } from './here.js';
import { aborted } from './signals.js';

/** @import { Calls, EngineEvent, LoadRequest } from './engine.js' */

export class LocalEngine {
  draws = true;
  #engine;
  #wasm;
  /** @type {((error: DetrimError) => void) | undefined} */ #reject;
  /** Why nothing can be called any more. @type {DetrimError | undefined} */ #broken;
  /** Settles when the call under way has. @type {Promise<unknown>} */ #call = Promise.resolve();

  /**
   * @param {(event: EngineEvent) => void} emit
   * @param {string} [wasm] where the code lies, if not beside this
   */
  constructor(emit, wasm) {
    this.#wasm = wasm;
    this.#engine = new Engine(event => {
      if (event.kind === 'crash') this.#crashed(event.message);
      else emit(event);
    }, false);
  }

  get info() {
    return this.#engine.info;
  }

  prepare() {
    return this.#guard(() => this.#engine.prepare({ wasm: this.#wasm }));
  }

  /** @param {LoadRequest} request */
  load(request) {
    return this.#guard(() => this.#engine.load(request));
  }

  /**
   * @template {Exclude<keyof Calls, 'load' | 'prepare'>} Name
   * @param {Name} name
   * @param {Parameters<Calls[Name]>[0]} args
   * @param {Transferable[]} [_transfer]
   * @param {AbortSignal} [signal] nothing can stop a computation on this thread, but one that hasn't begun
   * @returns {Promise<Awaited<ReturnType<Calls[Name]>>>}
   */
  call(name, args, _transfer, signal) {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    return this.#guard(() => /** @type {any} */ (this.#engine)[name](args));
  }

  dispose() {
    this.#broken ??= new DetrimError('disposed', 'the detector was disposed of');
    this.#reject?.(this.#broken);
    // What is under way still uses what is freed here.
    this.#call.finally(() => this.#engine.dispose());
  }

  /**
   * A trap inside a promise reaches nobody who waits for it, so this does.
   *
   * @template T
   * @param {() => Promise<T>} call
   * @returns {Promise<T>}
   */
  #guard(call) {
    if (this.#broken) return Promise.reject(this.#broken);
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      const onTrap = (/** @type {ErrorEvent} */ event) => {
        if (event.error instanceof WebAssembly.RuntimeError || /wasm/.test(event.error?.stack)) this.#crashed(event.message);
      };
      globalThis.addEventListener('error', onTrap);
      const running = call();
      this.#call = running.catch(() => {});
      running.then(resolve, reject).finally(() => globalThis.removeEventListener('error', onTrap));
    });
  }

  /** @param {string} message */
  #crashed(message) {
    // Code on this thread can't be loaded anew.
    this.#broken = new DetrimError('crashed', `the engine broke down: ${message}; without a worker only a reload helps`);
    this.#reject?.(this.#broken);
  }
}

here.Engine = LocalEngine;
