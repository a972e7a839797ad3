// Which backend runs and why, and the switch between them.

import { switchBackend } from './engine.js';
import { byId } from './dom.js';
import { bytes } from './format.js';
import { state, watch } from './state.js';

const backends = byId('backend', HTMLFieldSetElement);
const pill = byId('engine-pill', HTMLElement);
const short = byId('engine-short', HTMLElement);
const name = byId('engine-name', HTMLElement);
const why = byId('engine-why', HTMLElement);
const memory = byId('engine-memory', HTMLElement);

/** @type {Record<string, string>} */
const NAMES = { webgpu: 'WebGPU', cpu: 'CPU' };

export function startRunsOn() {
  backends.addEventListener('change', (event) => {
    const { value } = /** @type {HTMLInputElement} */ (event.target);
    switchBackend(/** @type {import('./state.js').Backend} */ (value)).catch(() => {});
  });
  watch(['backend'], () => {
    for (const radio of backends.querySelectorAll('input')) radio.checked = radio.value === state.backend;
  });
  watch(['engine', 'info', 'backend'], () => {
    const { engine, info } = state;
    pill.dataset.engine = engine;
    pill.dataset.backend = info?.backend ?? '';
    short.textContent = engine === 'ready' && info ? (NAMES[info.backend] ?? info.backend) : { off: 'Not loaded', loading: 'Loading', failed: 'Failed', ready: '' }[engine];
    name.textContent = info ? [...new Set([NAMES[info.backend], info.adapter])].filter(Boolean).join(', ') : '';
    why.textContent = info ? reason(info) : '';
    memory.textContent = info ? memoryText(info.memory) : '';
  });
}

/** Why this backend runs. @param {import('./state.js').Info} info */
function reason({ backend, why }) {
  if (why) return `Not WebGPU: ${why}`;
  if (state.backend !== 'auto') return 'As chosen.';
  return backend === 'webgpu' ? 'Chosen because this browser has WebGPU.' : '';
}

/** @param {{wasm: number, gpu: number}} memory */
function memoryText({ wasm, gpu }) {
  return gpu > 0 ? `${bytes(gpu)} on the GPU` : `${bytes(wasm)} of memory`;
}
