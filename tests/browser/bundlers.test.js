// The package in applications that are built by other bundlers than Vite, each configured as the package's README says.

import { createRequire } from 'node:module';
import { copyFile, cp, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { WWW, install, pageOf, provide, visit } from './application.js';

/** What an application might be. With a worker of `workerUrl`, if the bundler needs one. @param {string} options */
const application = (options) => `
import { Detrim } from 'detrim';

const detector = await Detrim.load('./model.safetensors', { backend: 'cpu', worker: location.hash !== '#here', ${options} });
const found = await detector.detect(document.querySelector('img'));
const { worker } = detector.info;
detector.dispose();
document.title = 'done';
document.body.dataset.result = JSON.stringify({ label: found[0].label, worker });
`;

const { resolve } = createRequire(path.join(WWW, 'package.json'));
/** A tool of the page's, which the application has from elsewhere. @param {string} name @returns {Promise<any>} */
const tool = async (name) => await import(pathToFileURL(resolve(name)).href);

/** @type {string} */
let folder;
/** @type {(() => unknown)[]} */
const endings = [];
before(async () => {
  ({ folder } = await install(/** @type {any} */ ({ after: (/** @type {() => unknown} */ end) => endings.push(end) })));
});
after(async () => {
  for (const end of endings) await end();
});

/** A folder for what a bundler makes, with all but the script in it. @param {string} [options] of `Detrim.load` */
async function prepare(options = '') {
  const root = await mkdtemp(path.join(folder, 'app-'));
  const dist = path.join(root, 'dist');
  await mkdir(dist);
  await provide(dist);
  await writeFile(path.join(root, 'app.js'), application(options));
  await writeFile(path.join(dist, 'index.html'), pageOf('./app.js'));
  return { root, dist, detrim: path.join(folder, 'node_modules', 'detrim', 'detrim') };
}

/** @param {{label: string, worker: boolean}} result @param {boolean} worker */
function check(result, worker) {
  assert.deepEqual(result, { label: 'cat', worker });
}

test('esbuild', async (t) => {
  const { root, dist, detrim } = await prepare();
  const { build } = await tool('esbuild');
  await build({ absWorkingDir: root, entryPoints: { app: 'app.js', worker: path.join(detrim, 'worker.js') }, bundle: true, format: 'esm', outdir: dist, logLevel: 'error' });
  await mkdir(path.join(dist, 'wasm'));
  await copyFile(path.join(detrim, 'wasm', 'detrim_bg.wasm'), path.join(dist, 'wasm', 'detrim_bg.wasm'));
  await visit(t, dist, check);
});

test('Rollup', async (t) => {
  const { root, dist, detrim } = await prepare();
  const [{ rollup }, { nodeResolve }] = await Promise.all([tool('rollup'), tool('@rollup/plugin-node-resolve')]);
  const bundle = await rollup({ input: { app: path.join(root, 'app.js'), worker: path.join(detrim, 'worker.js') }, plugins: [nodeResolve()] });
  await bundle.write({ dir: dist, entryFileNames: '[name].js' });
  await bundle.close();
  await mkdir(path.join(dist, 'wasm'));
  await copyFile(path.join(detrim, 'wasm', 'detrim_bg.wasm'), path.join(dist, 'wasm', 'detrim_bg.wasm'));
  await visit(t, dist, check);
});

test('webpack', async (t) => {
  const { root, dist } = await prepare();
  const { default: webpack } = await tool('webpack');
  const stats = await promisify(webpack)({ context: root, mode: 'production', entry: './app.js', output: { path: dist, filename: 'app.js' } });
  assert.equal(stats.hasErrors(), false, stats.toString());
  await visit(t, dist, check);
});

test('any bundler, with the package’s files copied beside what it makes', async (t) => {
  // As for Angular, and whatever knows neither workers nor `import.meta.url`.
  const { root, dist, detrim } = await prepare('workerUrl: \'./detrim/worker.js\', wasmUrl: \'./detrim/wasm/detrim_bg.wasm\'');
  const { build } = await tool('esbuild');
  await build({ absWorkingDir: root, entryPoints: ['app.js'], bundle: true, format: 'esm', outdir: dist, define: { 'import.meta.url': '"about:blank"' }, logLevel: 'error' });
  await cp(detrim, path.join(dist, 'detrim'), { recursive: true });
  await visit(t, dist, check);
});
