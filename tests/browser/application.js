// Applications of others in the tests: folders that have the packed package installed, and nothing else of ours.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { model, noWorker } from './embed.js';
import { REPOSITORY, open, serve } from './harness.js';

/** @typedef {import('node:test').TestContext} TestContext */

const run = promisify(execFile);
export const WWW = path.join(REPOSITORY, 'www');
export const CAT = path.join(WWW, 'samples', 'chelsea.png');

/** An application that has the packed package installed, and only that. @param {TestContext} t */
export async function install(t) {
  const folder = await mkdtemp(path.join(tmpdir(), 'detrim-application-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: WWW });
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf('[')));
  await writeFile(path.join(folder, 'package.json'), JSON.stringify({ name: 'application', private: true, type: 'module' }));
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', path.join(folder, packed.filename)], { cwd: folder });
  return { folder, names: /** @type {string[]} */ (packed.files.map((/** @type {{path: string}} */ entry) => entry.path)) };
}

/** Type-checks a folder by its tsconfig.json. @param {string} folder */
export async function typeCheck(folder) {
  await run(process.execPath, [path.join(WWW, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', folder]).catch((error) => assert.fail(error.stdout));
}

/** Has Vite build a folder, into its `dist`. @param {string} root */
export async function buildWithVite(root) {
  const vite = await import(pathToFileURL(createRequire(path.join(WWW, 'package.json')).resolve('vite')).href);
  await vite.build({ root, base: './', logLevel: 'warn', build: { target: 'es2022' } });
}

/** The page of an application: a picture of a cat, and its script. @param {string} script */
export function pageOf(script) {
  return '<!doctype html><html lang="en"><title>An application</title><link rel="icon" href="data:,"><body><img src="./cat.png" alt="">'
    + `<script type="module" src="${script}"></script></body></html>`;
}

/** The files that an application fetches. @param {string} folder */
export async function provide(folder) {
  await copyFile(path.join(REPOSITORY, 'models', (await model()).file), path.join(folder, 'model.safetensors'));
  await copyFile(CAT, path.join(folder, 'cat.png'));
}

/**
 * Opens what was built, with a worker and then without (`#here`), under a sub-path as many hosts have it. It leaves what it found in its body's
 * `data-result`.
 *
 * @param {TestContext} t
 * @param {string} root
 * @param {(result: any, worker: boolean) => void} check
 */
export async function visit(t, root, check) {
  const site = await serve(t, { root, base: '/some/where/' });
  for (const where of ['', '#here']) {
    const { page } = await open(t, { site, page: `index.html${where}` });
    await page.waitForFunction(() => document.title === 'done', undefined, { timeout: 60_000 });
    check(JSON.parse(String(await page.locator('body').getAttribute('data-result'))), where === '');
    await noWorker(page);
  }
  assert.ok(site.requests.every(({ path: requested, status }) => requested.startsWith('/some/where/') && [200, 304].includes(status)), JSON.stringify(site.requests));
}
