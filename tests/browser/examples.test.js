// The web examples, as their README says: the camera without a bundler, and the photo that Vite builds.

import assert from 'node:assert/strict';
import { copyFile, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { CAT, WWW, buildWithVite, install, typeCheck } from './application.js';
import { model } from './embed.js';
import { REPOSITORY, open, serve } from './harness.js';
import { catPhoto } from './page.js';

const EXAMPLES = path.join(REPOSITORY, 'examples', 'web');
const MODEL = path.join(REPOSITORY, 'models', (await model()).file);

test('plain: the camera, live', async (t) => {
  const { folder } = await install(t);
  const root = path.join(folder, 'plain');
  await cp(path.join(EXAMPLES, 'plain'), root, { recursive: true });
  await cp(path.join(folder, 'node_modules', 'detrim', 'detrim'), path.join(root, 'detrim'), { recursive: true });
  await copyFile(MODEL, path.join(root, 'model.safetensors'));
  const site = await serve(t, { root });
  const { page } = await open(t, { site, page: 'index.html', camera: await catPhoto(t) });
  await page.getByText('Ready, on cpu.').waitFor({ timeout: 60_000 });
  await page.getByRole('button', { name: 'Start the camera' }).click();
  await page.getByText(/^[1-9]\d* objects in \d+ ms$/).waitFor({ timeout: 60_000 });
  const drawn = await page.locator('canvas').evaluate((canvas) => {
    const { width, height } = /** @type {HTMLCanvasElement} */ (canvas);
    return /** @type {HTMLCanvasElement} */ (canvas).getContext('2d')?.getImageData(0, 0, width, height).data.some((value) => value > 0);
  });
  assert.equal(drawn, true, 'boxes must be drawn');
});

test('Vite: a photo with boxes', async (t) => {
  const { folder } = await install(t);
  const root = path.join(folder, 'vite');
  await cp(path.join(EXAMPLES, 'vite'), root, { recursive: true, filter: (source) => !/node_modules|public|dist/.test(path.relative(EXAMPLES, source)) });
  await mkdir(path.join(root, 'public'), { recursive: true });
  await copyFile(MODEL, path.join(root, 'public', 'model.safetensors'));
  const compilerOptions = { strict: true, noEmit: true, target: 'es2022', module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [] };
  await writeFile(path.join(root, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['main.ts'] }));
  await typeCheck(root);
  await buildWithVite(root);

  const site = await serve(t, { root: path.join(root, 'dist') });
  const { page } = await open(t, { site, page: 'index.html' });
  await page.getByText('Ready, on cpu').waitFor({ timeout: 60_000 });
  await page.getByLabel('Choose a photo').setInputFiles(CAT);
  await page.getByText(/cat 0\.\d\d/).waitFor();
  assert.deepEqual(await page.locator('canvas').evaluate((canvas) => [/** @type {HTMLCanvasElement} */ (canvas).width, /** @type {HTMLCanvasElement} */ (canvas).height]), [451, 300]);
});

test('the examples install the package that is packed here', async () => {
  const { version } = JSON.parse(await readFile(path.join(WWW, 'package.json'), 'utf8'));
  for (const name of ['vite', 'react']) {
    const { dependencies } = JSON.parse(await readFile(path.join(EXAMPLES, name, 'package.json'), 'utf8'));
    assert.equal(dependencies.detrim, `file:../detrim-${version}.tgz`, name);
  }
});
