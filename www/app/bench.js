// `?bench`: how long each stage takes, on each backend, at a size of one's choice; and profiles of this device, for the trimmer.

import { byId, make } from './dom.js';
import { bench, profile } from './engine.js';
import { explain, isAbort } from './errors.js';
import { copyText } from './clipboard.js';
import { time } from './format.js';
import { download } from './save.js';
import { state } from './state.js';

const section = byId('bench', HTMLElement);
const size = byId('bench-size', HTMLSelectElement);
const runs = byId('bench-runs', HTMLInputElement);
const run = byId('bench-run', HTMLButtonElement);
const stop = byId('bench-stop', HTMLButtonElement);
const copy = byId('bench-copy', HTMLButtonElement);
const save = byId('bench-profile', HTMLButtonElement);
const status = byId('bench-status', HTMLElement);
const table = byId('bench-table', HTMLTableElement);

/** Height × width of the network's input; the article's sizes among them. @type {[number, number][]} */
const SIZES = [[320, 320], [384, 384], [480, 640], [800, 1066]];

/** The package's names of the stages, in the order of the table's columns. */
const STAGES = ['pre-processing', 'backbone', 'encoder', 'decoder', 'heads', 'network', 'post-processing', 'total'];

/** @type {AbortController | null} */
let running = null;

export function startBench() {
  section.hidden = false;
  size.append(make('option', { value: '' }, 'the model’s own'), ...SIZES.map(([h, w]) => make('option', { value: `${h},${w}` }, `${h} × ${w}`)));
  run.addEventListener('click', () => void measure());
  save.addEventListener('click', () => void saveProfiles());
  stop.addEventListener('click', () => running?.abort());
  copy.addEventListener('click', () => void copyText(asText(), copy, table));
  document.getElementById('bench-link')?.setAttribute('hidden', '');
}

async function measure() {
  const count = Math.min(200, Math.max(1, Math.round(runs.valueAsNumber) || 10));
  runs.value = String(count);
  await withEach(`${count} runs`, (backend, options) => measureOne(backend, { runs: count, ...options }));
}

/** What `detrim prune --latency` goes by on this device: a file for each backend. */
async function saveProfiles() {
  await withEach('at many widths, about a minute', async (backend, options) => {
    try {
      const json = JSON.stringify(await profile(backend, options));
      download(new Blob([`${json}\n`], { type: 'application/json' }), `${state.model?.name ?? 'model'}-${backend}-profile.json`);
    } catch (error) {
      if (isAbort(error)) throw error;
      failed(backend, error);
    }
  });
}

/**
 * Does something with each backend that is chosen, until the user stops it.
 *
 * @param {string} how
 * @param {(backend: 'cpu' | 'webgpu', options: {size: [number, number] | undefined, signal: AbortSignal}) => Promise<void>} work
 */
async function withEach(how, work) {
  const chosen = size.value ? /** @type {[number, number]} */ (size.value.split(',').map(Number)) : undefined;
  const backends = [...section.querySelectorAll('input[name="bench-backend"]:checked')].map((box) => /** @type {'cpu' | 'webgpu'} */ (/** @type {HTMLInputElement} */ (box).value));
  if (backends.length === 0) return void (status.textContent = 'Choose a backend.');
  running = new AbortController();
  busy(true);
  try {
    for (const [i, backend] of backends.entries()) {
      status.textContent = `Measuring ${nameOf(backend)} (${i + 1} of ${backends.length}, ${how})`;
      await work(backend, { size: chosen, signal: running.signal });
    }
    status.textContent = 'Done.';
  } catch (error) {
    if (!isAbort(error)) throw error;
    status.textContent = 'Stopped.';
  } finally {
    running = null;
    busy(false);
  }
}

/** @param {'cpu' | 'webgpu'} backend @param {Parameters<typeof bench>[1]} options */
async function measureOne(backend, options) {
  try {
    const { size: measured, stages, info } = await bench(backend, options);
    const name = backend === 'webgpu' ? `WebGPU (${info.adapter})` : 'CPU';
    // A GPU runs all parts of the network in one go: only the CPU can tell them apart.
    const medians = STAGES.map((stage) => stages.find((found) => found.name === stage)?.median);
    const total = medians[STAGES.indexOf('total')];
    row(backend, [name, measured.join(' × '), ...medians.map((ms) => (ms === undefined ? '–' : time(ms))), total ? (1e3 / total).toFixed(total > 1e4 ? 2 : 1) : '–']);
  } catch (error) {
    if (isAbort(error)) throw error;
    failed(backend, error);
  }
}

/** One backend that doesn't work here keeps nobody from the other. @param {'cpu' | 'webgpu'} backend @param {unknown} error */
function failed(backend, error) {
  const cell = make('td', { colspan: STAGES.length + 2 }, explain(error));
  body().append(make('tr', { 'data-backend': backend, class: 'failed' }, make('th', { scope: 'row' }, nameOf(backend)), cell));
  table.hidden = false;
}

/** @param {string} backend */
function nameOf(backend) {
  return backend === 'webgpu' ? 'WebGPU' : 'CPU';
}

function body() {
  return table.tBodies[0];
}

/** @param {string} backend @param {string[]} values */
function row(backend, [first, ...rest]) {
  body().append(make('tr', { 'data-backend': backend }, make('th', { scope: 'row' }, first), ...rest.map((value) => make('td', {}, value))));
  table.hidden = false;
}

/** @param {boolean} on */
function busy(on) {
  run.disabled = save.disabled = on;
  stop.hidden = !on;
  copy.disabled = on || body().rows.length === 0;
}

/** Tab-separated, as spreadsheets take it, with the model and the browser that it was measured in. */
function asText() {
  const rows = [...table.rows].map((r) => [...r.cells].map((cell) => cell.textContent?.trim() ?? '').join('\t'));
  return [`${state.model?.name ?? ''}\t${navigator.userAgent}`, ...rows].join('\n');
}
