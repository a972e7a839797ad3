// What the tests of the page have in common: its state as it tells it, and its results.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { convert, model } from './embed.js';
import { REPOSITORY, open } from './harness.js';

/** @typedef {import('../../www/node_modules/playwright-core/index.js').Page} Page */

/** SwiftShader compiles and runs slowly. */
const PATIENCE = { timeout: 180_000 };

/** Waits until the detector is there, on this backend and no other. @param {Page} page @param {'cpu' | 'webgpu'} backend */
export async function ready(page, backend) {
  const app = page.locator('#app:is([data-engine="ready"], [data-engine="failed"])');
  await app.waitFor(PATIENCE);
  assert.equal(await app.getAttribute('data-backend'), backend, await page.locator('body').innerText());
}

/** Picks a sample by its title and waits for its result. @param {Page} page @param {string} title */
export async function pick(page, title) {
  const before = await runs(page);
  await page.locator('#samples').getByRole('button', { name: title }).click();
  await page.locator(`#app[data-runs="${before + 1}"]:not([data-shown=""])`).waitFor(PATIENCE);
  // Spoken once it has settled.
  await page.waitForFunction(() => /object/.test(document.getElementById('live')?.textContent ?? ''));
}

/** What is told of a model in a few words: its size and its accuracy. @param {import('./embed.js').Entry} entry */
export function about({ bytes, metrics }) {
  return [`${(bytes / 1e6).toFixed(1)} MB`, `AP ${metrics?.AP?.toFixed(1)}`];
}

/** The class that the list begins with, and a threshold in percent that it alone reaches. @param {Page} page */
export async function surest(page) {
  const [name] = await labels(page);
  const scores = (await entries(page)).map((entry) => Number(entry.match(/(\d+)\s*%/)?.[1]));
  assert.ok(scores.length > 1 && scores[0] > scores[1] + 1, `one is surest: ${scores}`);
  return { name, threshold: String(scores[0] - 1) };
}

/** How often the network has run. @param {Page} page */
export async function runs(page) {
  return Number(await page.locator('#app').getAttribute('data-runs'));
}

/** How many detections are shown. @param {Page} page */
export async function shownIn(page) {
  return Number(await page.locator('#app').getAttribute('data-shown'));
}

/** The lines of the list. @param {Page} page */
export async function entries(page) {
  return page.locator('#list .entry:visible').allInnerTexts();
}

/** The classes in the list, in its order. @param {Page} page */
export async function labels(page) {
  return page.locator('#list .entry:visible .name').allInnerTexts();
}

/** What is drawn over the picture. @param {Page} page */
export async function picture(page) {
  return page.locator('#overlay').evaluate((canvas) => /** @type {HTMLCanvasElement} */ (canvas).toDataURL());
}

/** How much of the overlay is painted, and how bright that is. @param {Page} page */
export async function heat(page) {
  return page.locator('#overlay').evaluate((element) => {
    const canvas = /** @type {HTMLCanvasElement} */ (element);
    const picture = /** @type {HTMLImageElement} */ (document.getElementById('photo'));
    const { data } = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')).getImageData(0, 0, canvas.width, canvas.height);
    const bright = [];
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0) bright.push(data[i] + data[i + 1] + data[i + 2]);
    bright.sort((a, b) => a - b);
    const share = Math.min(canvas.width / picture.naturalWidth, canvas.height / picture.naturalHeight) ** 2 * picture.naturalWidth * picture.naturalHeight;
    return { painted: bright.length / share, brightest: bright[bright.length - 1], median: bright[bright.length >> 1] };
  });
}

/** A file that the page saves. @param {Page} page @param {() => Promise<void>} act */
export async function saved(page, act) {
  const [download] = await Promise.all([page.waitForEvent('download', PATIENCE), act()]);
  return { name: download.suggestedFilename(), content: await readFile(await download.path()) };
}

/**
 * A site whose menu has these models.
 * @param {object[]} models
 * @returns {NonNullable<import('../../www/serve.js').Options['intercept']>}
 */
export const listing = (models) => ({ url }, response) => {
  if (!url?.endsWith('/models/index.json')) return false;
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(models));
  return true;
};

/**
 * A site with a second model, which is the first in another file; `hold` keeps that file back until `release`.
 * @param {{hold?: boolean, damaged?: boolean}} [options] `damaged`: until `release`, other bytes come
 */
export async function twoModels({ hold = false, damaged = false } = {}) {
  const first = await model();
  const file = await convert(path.join(REPOSITORY, 'models', first.file), '--name', 'the-other');
  const second = { ...first, name: 'the-other', file: 'other.safetensors', bytes: file.length, sha256: createHash('sha256').update(file).digest('hex'), metrics: { speed: 1.25 } };
  /** @type {(() => void)[]} */
  const held = [];
  let free = !hold && !damaged;
  const list = listing([first, second]);
  /** @type {import('../../www/serve.js').Options['intercept']} */
  const intercept = (request, response) => {
    if (list(request, response)) return true;
    if (!request.url?.endsWith(`/${second.file}`)) return false;
    response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': file.length });
    const begun = free || hold ? file.subarray(0, 1_000_000) : Buffer.alloc(1_000_000);
    response.write(begun);
    const rest = () => response.end(file.subarray(begun.length));
    if (free || damaged) rest();
    else held.push(rest);
    return true;
  };
  const release = () => {
    free = true;
    for (const rest of held.splice(0)) rest();
  };
  return { first, second, server: { intercept }, release };
}

/**
 * The cat as a JPEG of a camera's shape, made by the browser from the sample.
 * @param {import('node:test').TestContext} t
 */
export async function catPhoto(t) {
  const { page } = await open(t);
  const data = await page.evaluate(async () => {
    const bitmap = await createImageBitmap(await (await fetch('samples/chelsea.png')).blob());
    const canvas = new OffscreenCanvas(640, 480);
    canvas.getContext('2d')?.drawImage(bitmap, 26, 0, 400, 300, 0, 0, 640, 480);
    const blob = await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.9 });
    return [...new Uint8Array(await blob.arrayBuffer())];
  });
  const folder = await mkdtemp(path.join(tmpdir(), 'detrim-photo-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'cat.jpg');
  await writeFile(file, Buffer.from(data));
  return file;
}
