// What the tests of the page have in common: its state as it tells it, and its results.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';

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

/** A file that the page saves. @param {Page} page @param {() => Promise<void>} act */
export async function saved(page, act) {
  const [download] = await Promise.all([page.waitForEvent('download'), act()]);
  return { name: download.suggestedFilename(), content: await readFile(await download.path()) };
}
