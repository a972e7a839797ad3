// The camera: live results, pause and stop, and everything that can stand in its way.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, serve } from './harness.js';
import { catPhoto, labels, pick, ready, runs, saved, twoModels } from './page.js';

/** @typedef {import('../../www/node_modules/playwright-core/index.js').Page} Page */
/** @typedef {import('node:test').TestContext} TestContext */

/** @param {Page} page @param {string} state */
const camera = (page, state) => page.locator(`#app[data-camera="${state}"]`).waitFor();

/** @param {Page} page @param {number} count */
const runsReach = (page, count) => page.waitForFunction((least) => Number(document.getElementById('app')?.dataset.runs) >= least, count, { timeout: 120_000 });

test('live boxes, paused in a hidden tab, kept as a photo, saved and stopped', async (t) => {
  const { page } = await open(t, { camera: await catPhoto(t) });
  await ready(page, 'cpu');
  // The page's own clock, to see that it never stands still.
  await page.evaluate(() => {
    let beats = 0;
    const beat = () => {
      document.documentElement.dataset.beats = String((beats += 1));
      requestAnimationFrame(beat);
    };
    beat();
  });
  await page.getByRole('button', { name: 'Camera' }).click();
  await camera(page, 'on');
  await runsReach(page, 4);
  assert.deepEqual([...new Set(await labels(page))], ['cat']);
  const { beats, done } = await page.evaluate(() => ({ beats: Number(document.documentElement.dataset.beats), done: Number(document.getElementById('app')?.dataset.runs) }));
  assert.ok(beats > 2 * done, `${beats} frames painted during ${done} runs`);
  assert.match(await page.locator('#status').innerText(), /^Live: 1 object, [\d.]+ frames per second$/);
  assert.deepEqual(await page.locator('#video').evaluate((video) => [video.hasAttribute('playsinline'), /** @type {HTMLVideoElement} */ (video).muted]), [true, true]);

  const png = await saved(page, () => page.locator('#save-png').click());
  assert.deepEqual([png.content.readUInt32BE(16), png.content.readUInt32BE(20)], await page.locator('#video').evaluate((v) => {
    const video = /** @type {HTMLVideoElement} */ (v);
    return [video.videoWidth, video.videoHeight];
  }));

  await hide(page, true);
  await camera(page, 'paused');
  // One frame may have been under way.
  await page.waitForTimeout(1500);
  const paused = await runs(page);
  await page.waitForTimeout(1500);
  assert.equal(await runs(page), paused, 'nothing runs in a hidden tab');
  assert.deepEqual(await tracks(page), ['live off'], 'and the camera sees nothing');
  await hide(page, false);
  await camera(page, 'on');
  await runsReach(page, paused + 2);

  await page.getByRole('button', { name: 'Keep frame' }).click();
  await page.locator('#app[data-mode="photo"][data-camera="off"]:not([data-shown=""])').waitFor();
  assert.match((await page.locator('#photo').getAttribute('alt')) ?? '', /^Camera 20/);
  assert.deepEqual(await labels(page), ['cat']);
  assert.deepEqual(await tracks(page), [], 'keeping a frame stops the camera');

  await page.getByRole('button', { name: 'Camera', exact: true }).click();
  await camera(page, 'on');
  await page.getByRole('button', { name: 'Stop camera' }).click();
  await camera(page, 'off');
  assert.deepEqual(await tracks(page), []);
  assert.equal(await page.locator('#app').getAttribute('data-mode'), 'photo', 'back to the photo');
});

/** Pretends that the tab is hidden or shown: a headless browser hides none. @param {Page} page @param {boolean} hidden */
async function hide(page, hidden) {
  await page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { value, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
}

/** The camera's tracks and whether they are on. @param {Page} page */
async function tracks(page) {
  return page.locator('#video').evaluate((video) => {
    const stream = /** @type {MediaStream | null} */ (/** @type {HTMLVideoElement} */ (video).srcObject);
    return (stream?.getTracks() ?? []).map((track) => `${track.readyState} ${track.enabled ? 'on' : 'off'}`);
  });
}

test('every frame goes through two models that are compared', async (t) => {
  const { second, server } = await twoModels();
  const { page } = await open(t, { camera: await catPhoto(t), server });
  await ready(page, 'cpu');
  await page.locator('#rival').selectOption(second.name);
  await page.locator('#camera-start').click();
  await camera(page, 'on');
  await runsReach(page, 2);
  const caption = page.locator('#second-caption', { hasText: /: 1 object, / });
  await caption.waitFor();
  const painted = await page.locator('#second-picture').evaluate((canvas) => /** @type {HTMLCanvasElement} */ (canvas).getContext('2d')?.getImageData(200, 100, 1, 1).data[3]);
  assert.equal(painted, 255, 'the frame is shown');
  await page.locator('#camera-stop').click();
  await camera(page, 'off');
});

test('with several cameras one can pick and switch', async (t) => {
  // Chromium's own moving picture: a film would be one device only.
  const { page, context, url } = await open(t, { args: ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream=device-count=2'] });
  await context.grantPermissions(['camera'], { origin: new URL(url).origin });
  await ready(page, 'cpu');
  await page.keyboard.press('c');
  await camera(page, 'on');
  const options = await page.locator('#camera-device option').evaluateAll((all) => all.map((option) => /** @type {HTMLOptionElement} */ (option).value));
  assert.equal(options.length, 2);
  const current = () => page.locator('#video').evaluate((video) => /** @type {MediaStream} */ (/** @type {HTMLVideoElement} */ (video).srcObject).getVideoTracks()[0].getSettings().deviceId);
  const first = await current();
  await page.getByRole('button', { name: 'Switch camera' }).click();
  await page.locator(`#camera-device`).evaluate((select, old) => new Promise((resolve) => {
    const look = () => (/** @type {HTMLSelectElement} */ (select).value !== old ? resolve(null) : setTimeout(look, 20));
    look();
  }), first);
  await camera(page, 'on');
  assert.notEqual(await current(), first);
  await page.locator('#camera-device').selectOption(String(first));
  await page.waitForFunction((wanted) => {
    const stream = /** @type {MediaStream | null} */ (/** @type {HTMLVideoElement | null} */ (document.querySelector('#video'))?.srcObject);
    return stream?.getVideoTracks()[0]?.getSettings().deviceId === wanted;
  }, first);
});

test('a refused camera is explained, and photos go on', async (t) => {
  const { page } = await open(t, { args: ['--use-fake-device-for-media-stream', '--deny-permission-prompts'] });
  await ready(page, 'cpu');
  await page.getByRole('button', { name: 'Camera' }).click();
  assert.match(await notice(page), /The camera was refused\. Allow it in the browser’s settings/);
  assert.equal(await page.locator('#app').getAttribute('data-mode'), 'empty');
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
});

test('a device without a camera is explained', async (t) => {
  const { page, context, url } = await open(t);
  await context.grantPermissions(['camera'], { origin: new URL(url).origin });
  await ready(page, 'cpu');
  await page.getByRole('button', { name: 'Camera' }).click();
  assert.match(await notice(page), /No camera was found/);
});

test('over plain http the camera is explained, and photos work', async (t) => {
  const site = await serve(t);
  const { port } = new URL(site.url);
  // Any name but localhost is insecure over http, like a phone's view of a computer on the same network.
  const { page } = await open(t, {
    site: { ...site, url: `http://computer.test:${port}/` },
    args: ['--host-resolver-rules=MAP computer.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
    // The server isolates the page, which counts for nothing over http; Chromium says so.
    expected: [/Cross-Origin-Opener-Policy header has been ignored/],
  });
  assert.equal(await page.evaluate(() => isSecureContext), false);
  await ready(page, 'cpu');
  await page.getByRole('button', { name: 'Camera' }).click();
  assert.match(await notice(page), /only to pages opened over https or on localhost.*serve --https/);
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
});

/** @param {Page} page */
async function notice(page) {
  const shown = page.locator('.notice.warning');
  await shown.waitFor();
  return shown.innerText();
}
