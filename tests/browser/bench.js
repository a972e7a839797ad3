// How fast any model is in Chromium: `node tests/browser/bench.js MODEL [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]`,
// with the site built before. Milliseconds, and the peak of WebAssembly's memory. Several models take turns, and each is compared with the first.
// Not a test: speed is the machine's.

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { openBench } from './bench-page.js';
import { print, timeInTurns } from './turns.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: 'string' }, backend: { type: 'string', default: 'cpu' }, runs: { type: 'string', default: '5' }, profile: { type: 'string' } },
});
const [model, ...others] = positionals;
if (!model || (others.length > 0 && values.profile !== undefined)) throw new Error('usage: node tests/browser/bench.js MODEL… [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]');
const size = /** @type {[number, number] | undefined} */ (values.size?.split('x').map(Number));
const backend = /** @type {'cpu' | 'webgpu'} */ (values.backend);
if (others.length > 0) {
  // A photo twice as large as the embedded models' input, unless told otherwise.
  const [height, width] = size ?? [384, 384];
  // Files of one name in several folders are told apart by their paths.
  const names = positionals.map((file) => path.basename(file, '.safetensors'));
  const files = Object.fromEntries(positionals.map((file, i) => [names.indexOf(names[i]) === names.lastIndexOf(names[i]) ? names[i] : file, file]));
  print(await timeInTurns(files, { height, width }, { backends: [backend], rounds: Number(values.runs), say: (text) => console.error(text) }));
  process.exit(0);
}

const { page, close } = await openBench({ '/bench.safetensors': model }, { webgpu: values.backend === 'webgpu' });
try {
  const { profile, stages, info, ...took } = await page.evaluate(async ({ backend, profiled, ...options }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
    const detector = await Detrim.load('/bench.safetensors', { backend });
    return { profile: profiled ? await detector.profile(options) : undefined, ...await detector.bench(options) };
  }, {
    backend,
    profiled: values.profile !== undefined,
    runs: Number(values.runs),
    size,
  });
  if (values.profile !== undefined) await writeFile(values.profile, `${JSON.stringify(profile)}\n`);
  console.log(`${info.model} at ${took.size.join('×')}, ${info.backend} (${info.adapter}), ${values.runs} runs; wasm memory ${Math.round(info.memory.wasm / 1e6)} MB`);
  console.table(Object.fromEntries(stages.map(({ name, median, fastest }) => [name, { median: Math.round(median), fastest: Math.round(fastest) }])));
} finally {
  await close();
}
