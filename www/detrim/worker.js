// The engine in a worker: what arrives is a call, what leaves is its result, an error, progress or a change.

import { Engine } from './engine.js';
import { DetrimError } from './errors.js';

/** @typedef {import('./engine.js').Calls} Calls */

const engine = new Engine(event => globalThis.postMessage(event), true);

globalThis.addEventListener('message', async ({ data }) => {
  const { id, name, args } = /** @type {{id: number, name: keyof Calls, args: any}} */ (data);
  // Whatever arrives is a copy, or was given away.
  if (name === 'detect' || name === 'attention') args.owned = true;
  try {
    const result = await engine[name](args);
    const transfer = result instanceof Uint8Array ? [result.buffer] : [];
    globalThis.postMessage({ kind: 'result', id, result, info: engine.info }, { transfer });
  } catch (error) {
    const { code, message } = DetrimError.from(error, 'crashed');
    globalThis.postMessage({ kind: 'error', id, code, message, info: engine.info });
  }
});

// A trap inside a promise reaches nobody who waits for it.
globalThis.addEventListener('unhandledrejection', ({ reason }) => globalThis.postMessage({ kind: 'crash', message: String(reason) }));

globalThis.postMessage({ kind: 'ready', draws: typeof OffscreenCanvas !== 'undefined' });
