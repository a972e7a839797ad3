// Whether memory stays flat over thousands of pictures: `node tests/browser/soak.js [--frames 10000] [--backend cpu|webgpu]
// [--model FILE|FOLDER] [--samples 40] [--out FILE.json]`, with the site built before. WebGPU is Chromium's software adapter, on which a small model is advisable.
//
// The pictures come in turns from everything that a picture can come from; some are broken, some are given up. After every sample garbage is
// collected, and what is left is measured: WebAssembly's memory, JavaScript's heap, and the processes of the browser as the system sees them (Linux).
// It ends with an error where any of them still grows in the second half. The first half is for warming up: the browser's caches and pools find their size.

import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openBench } from './bench-page.js';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** @typedef {{frames: number, seconds: number, wasm: number, heap: number, processes: number | null}} Sample bytes, after so many frames */

/** How much each may grow from the third quarter's median to the last's: WebAssembly's never shrinks and so mustn't grow; the others fluctuate. */
const MAX_GROWTH = { wasm: 0, heap: 0.1, processes: 0.05 };

/**
 * In the page: a detector, and `run` for more pictures.
 * @param {{backend: 'cpu' | 'webgpu', address: string}} options
 */
async function prepare({ backend, address }) {
  /** @type {typeof import('../../www/detrim/index.js')} */
  const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
  const detector = await Detrim.load(address, { backend });
  const cat = await createImageBitmap(await (await fetch('/samples/chelsea.png')).blob());
  const canvas = Object.assign(document.createElement('canvas'), { width: 320, height: 240 });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  const blob = /** @type {Promise<Blob>} */ (new Promise((resolve) => canvas.toBlob((made) => resolve(/** @type {Blob} */ (made)), 'image/jpeg')));
  const closing = (/** @type {ImageBitmap | VideoFrame} */ frame) => ({ source: frame, close: () => frame.close() });
  const kinds = [
    async () => closing(await createImageBitmap(canvas)), async () => closing(new VideoFrame(canvas, { timestamp: 0 })), async () => ({ source: canvas }),
    async () => ({ source: context.getImageData(0, 0, canvas.width, canvas.height) }), async () => ({ source: await blob }),
  ];
  let frame = 0;
  let detections = 0;
  /** @param {number} frames */
  const run = async (frames) => {
    for (const end = frame + frames; frame < end; frame += 1) {
      // Each differs: sizes too, so that whatever is kept by size would show.
      canvas.width = 240 + (frame % 16) * 10;
      context.drawImage(cat, (frame % 40) - 20, (frame % 30) - 15, canvas.width, canvas.height);
      const { source, close } = /** @type {{source: any, close?: () => void}} */ (await kinds[frame % kinds.length]());
      if (frame % 50 === 49) await detector.detect(new Blob(['broken'])).catch(() => {});
      const controller = new AbortController();
      const found = detector.detect(source, { threshold: 0, signal: controller.signal });
      if (frame % 25 === 24) {
        controller.abort();
        await found.catch(() => {});
      } else {
        detections += (await found).length;
      }
      close?.();
    }
    return { wasm: detector.info.memory.wasm, backend: detector.info.backend, adapter: detector.info.adapter, model: detector.info.model, detections };
  };
  Object.assign(globalThis, { soak: run });
}

/** Bytes of the processes that descend from this one, each page of memory counted once; null where the system doesn't tell. */
async function processes() {
  try {
    /** @type {Map<number, number>} */
    const parents = new Map();
    for (const name of (await readdir('/proc')).filter((one) => /^\d+$/.test(one))) {
      const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
      const parent = /^\d+ \(.*\) \S (\d+)/s.exec(stat)?.[1];
      if (parent) parents.set(Number(name), Number(parent));
    }
    const isOurs = (/** @type {number} */ pid) => {
      for (let at = parents.get(pid); at; at = parents.get(at)) if (at === process.pid) return true;
      return false;
    };
    let total = 0;
    for (const pid of parents.keys()) {
      if (!isOurs(pid)) continue;
      const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '');
      total += 1024 * Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
    }
    return total || null;
  } catch {
    return null;
  }
}

/**
 * What grew from the third quarter to the last, as shares.
 * @param {Sample[]} samples
 */
export function growth(samples) {
  const median = (/** @type {number[]} */ values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
  const quarter = Math.floor(samples.length / 4);
  /** @type {Record<string, number>} */
  const grown = {};
  for (const key of /** @type {const} */ (['wasm', 'heap', 'processes'])) {
    const [early, late] = [samples.slice(-2 * quarter, -quarter), samples.slice(-quarter)].map((part) => part.map((sample) => sample[key] ?? 0));
    if (quarter > 0 && median(early) > 0) grown[key] = median(late) / median(early) - 1;
  }
  return grown;
}

/** The growths that are too large. @param {Sample[]} samples */
export function leaks(samples) {
  return Object.entries(growth(samples)).filter(([key, share]) => share > MAX_GROWTH[/** @type {keyof typeof MAX_GROWTH} */ (key)])
    .map(([key, share]) => `${key} grew by ${(100 * share).toFixed(1)}%`);
}

/** @param {string[]} argv */
async function main(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      frames: { type: 'string', default: '10000' }, backend: { type: 'string', default: 'cpu' }, samples: { type: 'string', default: '40' },
      model: { type: 'string' }, out: { type: 'string' },
    },
  });
  const [frames, count] = [Number(values.frames), Number(values.samples)];
  const backend = /** @type {'cpu' | 'webgpu'} */ (values.backend);
  if (!(frames >= count && count >= 8 && Number.isInteger(count)) || !['cpu', 'webgpu'].includes(backend)) {
    throw new Error('usage: node tests/browser/soak.js [--frames N] [--backend cpu|webgpu] [--model FILE|FOLDER] [--samples N, 8 or more] [--out FILE.json]');
  }
  const listed = JSON.parse(await readFile(path.join(REPOSITORY, 'models', 'index.json'), 'utf8'))[0];
  const model = values.model ?? path.join(REPOSITORY, 'models', listed.file);
  const isFolder = (await stat(model)).isDirectory();
  const address = isFolder ? '/soak/' : '/soak.safetensors';
  const files = isFolder ? Object.fromEntries((await readdir(model)).map((name) => [`${address}${name}`, path.join(model, name)])) : { [address]: model };
  const { page, browser, close } = await openBench(files, { webgpu: backend === 'webgpu', args: ['--js-flags=--expose-gc'] });
  try {
    await page.evaluate(prepare, { backend, address });
    const session = await page.context().newCDPSession(page);
    const begun = performance.now();
    /** @type {Sample[]} */
    const samples = [];
    let about;
    for (let i = 1; i <= count; i += 1) {
      const upTo = Math.round((frames * i) / count);
      about = await page.evaluate((more) => /** @type {any} */ (globalThis).soak(more), upTo - (samples.at(-1)?.frames ?? 0));
      // The worker's, too, whose garbage is pictures: the browser would let it grow to some hundred megabytes first.
      for (const worker of page.workers()) await worker.evaluate(() => /** @type {any} */ (globalThis).gc());
      await session.send('HeapProfiler.collectGarbage');
      const { usedSize } = await session.send('Runtime.getHeapUsage');
      samples.push({ frames: upTo, seconds: Math.round((performance.now() - begun) / 1000), wasm: about.wasm, heap: usedSize, processes: await processes() });
      console.log(line(/** @type {Sample} */ (samples.at(-1))));
      // What was measured stays, should the rest be interrupted.
      if (values.out) await writeFile(values.out, `${JSON.stringify({ browser, ...about, frames, samples, growth: growth(samples) }, null, 1)}\n`);
    }
    const grown = Object.entries(growth(samples)).map(([key, share]) => `${key} ${(100 * share).toFixed(2)}%`).join(', ');
    console.log(`${about.model} on ${about.backend} (${about.adapter}), ${browser}: ${frames} frames, ${about.detections} detections; from the third quarter to the last: ${grown}`);
    const problems = leaks(samples);
    if (problems.length > 0) throw new Error(problems.join('; '));
  } finally {
    await close();
  }
}

/** @param {Sample} sample */
function line({ frames, seconds, wasm, heap, processes: all }) {
  const mega = (/** @type {number | null} */ bytes) => (bytes === null ? '-' : (bytes / 1e6).toFixed(1)).padStart(8);
  return `${String(frames).padStart(8)} frames ${String(seconds).padStart(7)} s   wasm${mega(wasm)}   heap${mega(heap)}   processes${mega(all)} MB`;
}

if (process.argv[1] && path.resolve(process.argv[1]) === import.meta.filename) {
  await main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
