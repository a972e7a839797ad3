// How fast any model is in Chromium: `node tests/browser/bench.js MODEL [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]`,
// with the site built before. Milliseconds, and the peak of WebAssembly's memory. Not a test: speed is the machine's.

import { createReadStream } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startServer } from '../../www/serve.js';
import { closeBrowsers, launch } from './chromium.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: 'string' }, backend: { type: 'string', default: 'cpu' }, runs: { type: 'string', default: '5' }, profile: { type: 'string' } },
});
const [model] = positionals;
if (!model) throw new Error('usage: node tests/browser/bench.js MODEL [--size HEIGHTxWIDTH] [--backend cpu|webgpu] [--runs N] [--profile FILE]');
const { size: bytes } = await stat(model);

const server = await startServer({
  root: fileURLToPath(new URL('../../www/dist', import.meta.url)),
  intercept(request, response) {
    if (request.url === '/bench.html') response.writeHead(200, { 'Content-Type': 'text/html' }).end('<title>Bench</title>');
    else if (request.url === '/bench.safetensors') createReadStream(model).pipe(response.writeHead(200, { 'Content-Length': bytes }));
    else return false;
    return true;
  },
});
try {
  const browser = await launch({ webgpu: values.backend === 'webgpu' });
  const page = await browser.newPage();
  await page.goto(`${server.url}bench.html`);
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
  await closeBrowsers();
  await server.close();
}
