// The package as npm hands it out: packed, installed into an application of its own, type-checked, bundled by Vite, and run; and without any
// bundler, as the example page has it.

import assert from 'node:assert/strict';
import { copyFile, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { CAT, WWW, buildWithVite, install, pageOf, provide, typeCheck, visit } from './application.js';
import { model } from './embed.js';
import { REPOSITORY, open, serve } from './harness.js';

const { file } = await model();

/** What somebody might write in TypeScript. It calls each thing that is promised, so that its type is checked. */
const APPLICATION = `
import { type AttentionMaps, ChangeEvent, Detrim, DetrimError, type Detection, type Detections, type Info, type Progress } from 'detrim';

const phases = new Set<Progress['phase']>();
const detector: Detrim = await Detrim.load('./model.safetensors', {
  backend: 'cpu', worker: location.hash !== '#here', onProgress: ({ phase, loaded, total }) => { if (total === null || loaded <= total) phases.add(phase); },
});
detector.addEventListener('change', (event) => { if (event instanceof ChangeEvent) console.warn(event.reason, event.info.why); });
const picture = document.querySelector('img')!;
const found: Detections = await detector.detect(picture, { threshold: 0.5, labels: ['cat'] });
const [cat]: Detection[] = found;
const maps: AttentionMaps = await detector.attention(picture, cat.query);
const info: Info = detector.info;
let code = '';
try {
  await detector.detect(new Blob(['no picture']));
} catch (error) {
  if (error instanceof DetrimError) code = error.code satisfies 'source' | string;
}
// @ts-expect-error: there is no such option
void (() => detector.detect(picture, { treshold: 0.5 }));
detector.dispose();
document.title = 'done';
document.body.dataset.result = JSON.stringify({
  cat, attention: maps.weights.length / maps.heads / maps.rows / maps.columns, width: found.width, network: found.times.network, backend: info.backend, memory: info.memory.wasm, phases: [...phases], code, worker: info.worker,
});
`;

const TSCONFIG = {
  compilerOptions: { strict: true, noEmit: true, target: 'es2022', module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [] },
  include: ['main.ts'],
};

test('the packed package works in an application that Vite builds', async (t) => {
  const { folder, names } = await install(t);
  for (const needed of ['detrim/index.js', 'detrim/worker.js', 'detrim/wasm/detrim_bg.wasm', 'detrim/local.js', 'detrim/wasm/THIRD-PARTY-NOTICES.txt', 'types/index.d.ts', 'types/checkpoint.d.ts', 'types/file.d.ts', 'README.md', 'LICENSE-APACHE', 'LICENSE-MIT']) {
    assert.ok(names.includes(needed), `${needed} is not in the package: ${names}`);
  }
  assert.ok(!names.some((name) => /^(app|node_modules|bindgen|dist|samples)\/|\.stamp|\.test\./.test(name)), String(names));

  await mkdir(path.join(folder, 'public'));
  await provide(path.join(folder, 'public'));
  await writeFile(path.join(folder, 'index.html'), pageOf('./main.ts'));
  await writeFile(path.join(folder, 'main.ts'), APPLICATION);
  await writeFile(path.join(folder, 'tsconfig.json'), JSON.stringify(TSCONFIG));

  await typeCheck(folder);
  await buildWithVite(folder);

  await visit(t, path.join(folder, 'dist'), (result, worker) => {
    assert.equal(result.cat.label, 'cat');
    assert.ok(result.cat.score > 0.8 && result.network > 0 && result.memory > 1e6, JSON.stringify(result));
    assert.deepEqual([result.backend, result.code, result.worker, result.width, result.attention], ['cpu', 'source', worker, 451, 1]);
    assert.deepEqual(result.phases.sort(), ['compile', 'download', 'load']);
  });
});

test('without a bundler: the example page, beside nothing but the package and a model', async (t) => {
  const { folder } = await install(t);
  const root = path.join(folder, 'site');
  await cp(path.join(folder, 'node_modules', 'detrim', 'detrim'), path.join(root, 'detrim'), { recursive: true });
  await cp(path.join(REPOSITORY, 'models'), path.join(root, 'models'), { recursive: true });
  const example = ['example.html', 'example.js'];
  for (const name of example) await copyFile(path.join(WWW, name), path.join(root, name));
  const lines = (await Promise.all(example.map((name) => readFile(path.join(root, name), 'utf8')))).join('').trim().split('\n');
  assert.ok(lines.length <= 20, `the example has ${lines.length} lines`);

  const { page, site } = await open(t, { site: await serve(t, { root }), page: 'example.html', expected: [/favicon/] });
  await page.getByText('Ready, on cpu').waitFor();
  const before = site.requests.length;
  await page.getByLabel('Choose a photo').setInputFiles(CAT);
  await page.getByText(/^cat 0\.[89]/).waitFor();
  assert.equal(site.requests.length, before, 'a photo that was chosen must not cause a request');
});

test('the package on another origin, with a worker script of one line on one\'s own', async (t) => {
  const packages = await serve(t, {
    intercept: (_, response) => {
      response.setHeader('Access-Control-Allow-Origin', '*');
      response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
      return false;
    },
  });
  const own = {
    '/': ['text/html', '<!doctype html><html lang="en"><title>Elsewhere</title><link rel="icon" href="data:,"></html>'],
    '/detrim-worker.js': ['text/javascript', `import '${packages.url}detrim/worker.js';`],
    '/cat.png': ['image/png', await readFile(CAT)],
  };
  const site = await serve(t, {
    intercept: (request, response) => {
      const file = own[/** @type {keyof typeof own} */ (request.url)];
      if (!file) return false;
      response.setHeader('Content-Security-Policy', `default-src 'self' data:; connect-src 'self' ${packages.url}; script-src 'self' ${packages.url} 'wasm-unsafe-eval'`);
      response.writeHead(200, { 'Content-Type': String(file[0]) }).end(file[1]);
      return true;
    },
  });
  const { page } = await open(t, { site, expected: [/asked another host/] });
  const [label, worker, code] = await page.evaluate(async ({ from, model }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(`${from}detrim/index.js`);
    const d = await Detrim.load(`${from}${model}`, { backend: 'cpu', workerUrl: '/detrim-worker.js' });
    const [{ label }] = await d.detect('/cat.png');
    const code = await Detrim.load(`${from}${model}`, { backend: 'cpu' }).then(() => 'none', (error) => error.code);
    return [label, d.info.worker, code];
  }, { from: packages.url, model: `models/${file}` });
  assert.deepEqual([label, worker], ['cat', true]);
  // Without one the browser refuses, which must be an error and not a wait without end.
  assert.equal(code, 'network');
});
