// What a screen reader hears: results when they come or change, in a camera stream not more often than one can listen.

import { byId } from './dom.js';
import { plural } from './format.js';
import { shown, state, watch } from './state.js';

const live = byId('live', HTMLElement);
const CALM = 5000;

let spoken = '';
let spokenAt = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

export function startAnnounce() {
  watch(['result', 'threshold', 'hidden'], () => {
    clearTimeout(timer);
    if (!state.result) {
      spoken = '';
      return;
    }
    // A moving slider settles first.
    const wait = state.mode === 'camera' ? Math.max(0, spokenAt + CALM - performance.now()) : 400;
    timer = setTimeout(speak, wait);
  });
  watch(['attention'], () => {
    const { detection, maps } = state.attention ?? {};
    if (detection && maps) live.textContent = `A heat map shows where the network looked for ${detection.label}.`;
  });
  watch(['engine'], () => {
    if (state.engine === 'ready') live.textContent = `The detector is ready and runs on ${state.info?.backend === 'webgpu' ? 'WebGPU' : 'the CPU'}.`;
  });
}

function speak() {
  const text = summary();
  if (text === spoken) return;
  spoken = text;
  spokenAt = performance.now();
  live.textContent = text;
}

function summary() {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { label } of shown()) counts.set(label, (counts.get(label) ?? 0) + 1);
  const parts = [...counts].map(([label, count]) => (count === 1 ? label : `${count} × ${label}`));
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  return total === 0 ? 'No objects shown.' : `${plural(total, 'object')}: ${parts.join(', ')}.`;
}
