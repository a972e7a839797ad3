// What detectors of RT-DETR's family cost in Chromium: `node tests/browser/family.js FOLDER [NAME…] [--backend cpu|webgpu] [--runs N]`, with the site
// and the command built before. `benches/family.py FOLDER` has made them. Prints a Markdown table, ordered by time: parameters and multiply-accumulates
// as `detrim inspect` counts them, the median of the network's time after a run to warm up, and WebAssembly's memory, which never shrinks and so is its
// peak. Each model is read as Hugging Face keeps it, in a browser of its own. Not a test: speed is the machine's.

import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { openBench } from './bench-page.js';
import { median } from './turns.js';

const DETRIM = fileURLToPath(new URL('../../target/release/detrim', import.meta.url));
const FILES = ['config.json', 'preprocessor_config.json', 'model.safetensors'];

const { values, positionals } = parseArgs({ allowPositionals: true, options: { backend: { type: 'string', default: 'cpu' }, runs: { type: 'string', default: '5' } } });
const [folder, ...wanted] = positionals;
const backend = /** @type {'cpu' | 'webgpu'} */ (values.backend);
const runs = Number(values.runs);
if (!folder || !['cpu', 'webgpu'].includes(backend) || !(runs > 0)) throw new Error('usage: node tests/browser/family.js FOLDER [NAME…] [--backend cpu|webgpu] [--runs N]');
const names = wanted.length > 0 ? wanted : (await readdir(folder, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map(({ name }) => name);

/** What a checkpoint holds. @param {string} checkpoint a folder @returns {Promise<{size: [number, number], total: {parameters: number, macs: number}}>} */
async function inspect(checkpoint) {
  const { stdout } = await promisify(execFile)(DETRIM, ['inspect', checkpoint, '--json'], { maxBuffer: 1 << 26 });
  return JSON.parse(stdout);
}

/** @param {string} checkpoint a folder */
async function measure(checkpoint) {
  const { page, browser, close } = await openBench(Object.fromEntries(FILES.map((name) => [`/model/${name}`, path.join(checkpoint, name)])), { webgpu: backend === 'webgpu' });
  try {
    const took = await page.evaluate(async ({ backend, runs }) => {
      /** @type {typeof import('../../www/detrim/index.js')} */
      const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
      const detector = await Detrim.load('/model/', { backend });
      const times = [];
      let scores = /** @type {number[]} */ ([]);
      for (let run = 0; run <= runs; run += 1) {
        const found = await detector.detect('/samples/chelsea.png', { threshold: 0 });
        times.push(found.times);
        scores = found.map(({ score }) => score);
      }
      const { memory, adapter } = detector.info;
      return { scores, memory, adapter, times: times.slice(1) };
    }, { backend, runs });
    if (took.scores.length === 0 || !took.scores.every((score) => score >= 0 && score <= 1)) throw new Error(`${checkpoint}: scores must be between 0 and 1, not ${took.scores.slice(0, 5)}`);
    return { ...took, browser, ms: median(took.times.map(({ network }) => network)) };
  } finally {
    await close();
  }
}

const rows = [];
for (const name of names) {
  const checkpoint = path.join(folder, name);
  const { size, total } = await inspect(checkpoint);
  const { ms, memory, browser, adapter, times } = await measure(checkpoint);
  const { parts = {} } = times[0];
  console.error(`${name}, ${browser}, ${adapter}: ${Object.entries({ ...parts, network: ms }).map(([part, took]) => `${part} ${took.toFixed(0)} ms`).join(', ')}`);
  const held = [memory.wasm, ...(backend === 'webgpu' ? [memory.gpu ?? 0] : [])].map((bytes) => `${Math.round(bytes / 1e6)} MB`);
  rows.push({ ms, cells: [name, size.join('×'), `${(total.parameters / 1e6).toFixed(2)} M`, `${(total.macs / 1e9).toFixed(2)} G`, `${Math.round(ms)} ms`, ...held] });
}
rows.sort((a, b) => a.ms - b.ms);
const head = ['', 'input', 'parameters', 'MACs', 'network', 'wasm memory', ...(backend === 'webgpu' ? ['GPU memory'] : [])];
for (const cells of [head, head.map(() => '---'), ...rows.map((row) => row.cells)]) console.log(`| ${cells.join(' | ')} |`);
