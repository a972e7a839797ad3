// How fast any model is in Chromium: `node tests/browser/bench.js MODEL [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]`,
// with the site built before. Milliseconds, and the peak of WebAssembly's memory. Not a test: speed is the machine's.

import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { openBench } from './bench-page.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: 'string' }, backend: { type: 'string', default: 'cpu' }, runs: { type: 'string', default: '5' }, profile: { type: 'string' } },
});
const [model] = positionals;
if (!model) throw new Error('usage: node tests/browser/bench.js MODEL [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]');

const { page, close } = await openBench({ '/bench.safetensors': model }, { webgpu: values.backend === 'webgpu' });
try {
  const { profile, size, stages, info } = await page.evaluate(async ({ backend, profiled, ...options }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
    const detector = await Detrim.load('/bench.safetensors', { backend });
    return { profile: profiled ? await detector.profile(options) : undefined, ...await detector.bench(options) };
  }, {
    backend: /** @type {'cpu' | 'webgpu'} */ (values.backend),
    profiled: values.profile !== undefined,
    runs: Number(values.runs),
    size: /** @type {[number, number] | undefined} */ (values.size?.split('x').map(Number)),
  });
  if (values.profile !== undefined) await writeFile(values.profile, `${JSON.stringify(profile)}\n`);
  console.log(`${info.model} at ${size.join('×')}, ${info.backend} (${info.adapter}), ${values.runs} runs; wasm memory ${Math.round(info.memory.wasm / 1e6)} MB`);
  console.table(Object.fromEntries(stages.map(({ name, median, fastest }) => [name, { median: Math.round(median), fastest: Math.round(fastest) }])));
} finally {
  await close();
}
