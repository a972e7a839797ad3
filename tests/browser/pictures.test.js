// Pictures of all kinds in the browser: with the meaning that they have for the native command, whatever the browser makes of them by itself.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { embed, model } from './embed.js';
import { REPOSITORY, open } from './harness.js';
import { ready } from './page.js';

/** @typedef {import('../../www/detrim/index.js').Detection} Detection */
/** @typedef {{width: number, height: number, found: Pick<Detection, 'label' | 'score' | 'box'>[]}} Found */

const { file } = await model();
const MODEL = `/models/${file}`;
const PICTURES = path.join(REPOSITORY, 'tests', 'fixtures', 'pictures');

/** @param {string} name */
const fixture = (name) => readFile(path.join(PICTURES, name));

/**
 * What the package finds in these files, all of its queries.
 * @param {import('node:test').TestContext} t
 * @param {Record<string, Buffer>} files
 * @returns {Promise<Record<string, Found>>}
 */
async function detect(t, files) {
  const served = Object.fromEntries(Object.entries(files).map(([name, bytes]) => [`/${name}`, bytes]));
  const { page, api } = await embed(t, { files: served });
  return await page.evaluate(async ({ api, MODEL, names }) => {
    const d = await api.Detrim.load(MODEL, { backend: 'cpu' });
    /** @type {Record<string, Found>} */
    const all = {};
    for (const name of names) {
      const found = await d.detect(`/${name}`, { threshold: 0 });
      all[name] = { width: found.width, height: found.height, found: found.map(({ label, score, box }) => ({ label, score, box })) };
    }
    return all;
  }, { api, MODEL, names: Object.keys(files) });
}

/** What the native command finds. @param {string} name @returns {Promise<Found>} */
async function natively(name) {
  const { stdout } = await promisify(execFile)(path.join(REPOSITORY, 'target', 'release', 'detrim'), [
    'detect', path.join(PICTURES, name), '--model', path.join(REPOSITORY, 'models', file), '--backend', 'cpu', '--threshold', '0', '--json', '-',
  ]);
  const [{ width, height, detections }] = JSON.parse(stdout);
  return { width, height, found: detections };
}

/** @param {Found} here @param {Found} there @param {number} score @param {number} pixels @param {string} name */
function assertAlike(here, there, score, pixels, name) {
  assert.deepEqual([here.width, here.height, here.found.length], [there.width, there.height, there.found.length], name);
  // Of the best; queries that found nothing may change places.
  for (const [i, { label, score: wanted, box }] of there.found.slice(0, 2).entries()) {
    const found = here.found[i];
    assert.equal(found.label, label, name);
    assert.ok(Math.abs(found.score - wanted) < score, `${name}: score ${found.score}, natively ${wanted}`);
    for (const side of /** @type {const} */ (['xmin', 'ymin', 'xmax', 'ymax'])) {
      assert.ok(Math.abs(found.box[side] - box[side]) < pixels, `${name}: ${side} ${found.box[side]}, natively ${box[side]}`);
    }
  }
}

test('a transparent PNG and a WebP that is stored lying are to the page what they are to the command', async (t) => {
  const found = await detect(t, { 'cutout.png': await fixture('cutout.png'), 'lying.webp': await fixture('lying.webp') });
  assertAlike(found['cutout.png'], await natively('cutout.png'), 1e-3, 0.05, 'cutout.png');
  // Decoders of lossy WebP round differently.
  assertAlike(found['lying.webp'], await natively('lying.webp'), 0.02, 2, 'lying.webp');
  assert.equal(found['lying.webp'].found[0].label, 'motorcycle');
});

test('all orientations of WebP and PNG are turned upright, and what is transparent is white', async (t) => {
  // The first is what all others of its row must be the same as, number by number.
  const rows = [
    ['rgb.png', ...[1, 2, 3, 4, 5, 6, 7, 8].flatMap((n) => [`orientation_${n}.webp`, `orientation_${n}.png`]), 'late.png', 'prefixed.webp', 'rgb.bmp'],
    ['alpha_rgb.png', 'alpha.png', 'alpha.webp'],
    ['grey_alpha_rgb.png', 'grey_alpha.png'],
    ['palette_alpha_rgb.png', 'palette_alpha.png'],
    ['first_frame_rgb.png', 'first_frame.gif'],
  ];
  /** @type {Record<string, Buffer>} */
  const made = { 'late.png': exifLast(await fixture('orientation_6.png')), 'prefixed.webp': prefixed(await fixture('orientation_6.webp')) };
  /** @type {Record<string, Buffer>} */
  const files = {};
  for (const name of rows.flat()) files[name] = made[name] ?? (await fixture(name));
  const found = await detect(t, files);
  for (const [first, ...others] of rows) {
    assert.deepEqual([found[first].width, found[first].height], [32, 24]);
    for (const name of others) assert.deepEqual(found[name], found[first], name);
  }
});

/** EXIF data after the pixels, as PNG allows. @param {Buffer} png */
function exifLast(png) {
  const start = png.indexOf('eXIf') - 4;
  const end = start + 12 + png.readUInt32BE(start);
  return Buffer.concat([png.subarray(0, start), png.subarray(end, -12), png.subarray(start, end), png.subarray(-12)]);
}

/** EXIF data that begin as in a JPEG, as some programs write them. @param {Buffer} webp */
function prefixed(webp) {
  const start = webp.indexOf('EXIF', 12);
  const data = webp.subarray(start + 8, start + 8 + webp.readUInt32LE(start + 4));
  const head = Buffer.from(webp.subarray(0, start + 8));
  head.writeUInt32LE(data.length + 6, start + 4);
  const all = Buffer.concat([head, Buffer.from('Exif\0\0', 'latin1'), data, Buffer.alloc(data.length % 2)]);
  all.writeUInt32LE(all.length - 8, 4);
  return all;
}

test('transparent pixels that a page hands over are put on white too', async (t) => {
  const { page, api } = await embed(t, { files: { '/alpha.png': await fixture('alpha.png'), '/white.png': await fixture('alpha_rgb.png') } });
  const { canvas, data, white } = await page.evaluate(async ({ api, MODEL }) => {
    const d = await api.Detrim.load(MODEL, { backend: 'cpu' });
    /** @param {string} address @param {number} side */
    const drawn = async (address, side) => {
      const canvas = Object.assign(document.createElement('canvas'), { width: side, height: side });
      canvas.getContext('2d')?.drawImage(await createImageBitmap(await (await fetch(address)).blob()), 0, 0);
      return canvas;
    };
    // The canvas is larger than the picture: what was never drawn on is transparent, too.
    const canvas = await drawn('/alpha.png', 40);
    const white = Object.assign(document.createElement('canvas'), { width: 40, height: 40 });
    const context = /** @type {CanvasRenderingContext2D} */ (white.getContext('2d'));
    context.fillStyle = '#fff';
    context.fillRect(0, 0, 40, 40);
    context.drawImage(await drawn('/white.png', 40), 0, 0);
    const data = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')).getImageData(0, 0, 40, 40);
    /** @param {import('../../www/detrim/index.js').Source} source */
    const scores = async (source) => (await d.detect(source, { threshold: 0 })).map(({ score }) => score);
    return { canvas: await scores(canvas), data: await scores(data), white: await scores(white) };
  }, { api, MODEL });
  // A canvas keeps colours multiplied by their alpha, which rounds them.
  for (const [name, scores] of Object.entries({ canvas, data })) {
    for (const [i, score] of scores.slice(0, 3).entries()) assert.ok(Math.abs(score - white[i]) < 5e-3, `${name}: ${scores.slice(0, 3)}, on white ${white.slice(0, 3)}`);
  }
});

test('a file that is cut off is refused, wherever', async (t) => {
  /** @type {Record<string, Buffer>} */
  const files = {};
  for (const name of ['rgb.jpg', 'progressive.jpg', 'alpha.png', 'rgb.webp', 'orientation_6.webp', 'orientation_6.png']) {
    const whole = await fixture(name);
    for (const left of [0.3, 0.6, 0.9]) files[`/${left}-${name}`] = whole.subarray(0, Math.round(whole.length * left));
    files[`/-5-${name}`] = whole.subarray(0, -5);
  }
  const { page, api } = await embed(t, { files });
  const codes = await page.evaluate(async ({ api, MODEL, names }) => {
    const d = await api.Detrim.load(MODEL, { backend: 'cpu' });
    /** @type {Record<string, string>} */
    const codes = {};
    for (const name of names) codes[name] = await d.detect(name).then(() => 'none', (error) => error.code);
    return codes;
  }, { api, MODEL, names: Object.keys(files) });
  assert.deepEqual(codes, Object.fromEntries(Object.keys(files).map((name) => [name, 'source'])));
});

test('pictures that are thin as a thread or larger than a canvas end no engine', async (t) => {
  const { page, api } = await embed(t);
  const { sizes, after } = await page.evaluate(async ({ api, MODEL }) => {
    const d = await api.Detrim.load(MODEL, { backend: 'cpu' });
    const sizes = [];
    for (const [width, height] of [[1, 60_000], [60_000, 1], [1, 300_000], [5000, 5000]]) {
      const found = await d.detect(new ImageData(width, height), { threshold: 0 }).then(({ width, height }) => `${width}×${height}`, ({ code }) => code);
      sizes.push(found);
    }
    return { sizes, after: (await d.detect('/samples/chelsea.png'))[0].label };
  }, { api, MODEL });
  assert.deepEqual(sizes, ['1×60000', '60000×1', '1×300000', '5000×5000']);
  assert.equal(after, 'cat');
});

test('the page shows a WebP that is stored lying upright, with its box where it belongs', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await page.locator('#file').setInputFiles({ name: 'lying.webp', mimeType: 'image/webp', buffer: await fixture('lying.webp') });
  await page.locator('#app[data-runs="1"]:not([data-shown=""])').waitFor();
  const shown = await page.locator('#photo').evaluate((photo) => [/** @type {HTMLImageElement} */ (photo).naturalWidth, /** @type {HTMLImageElement} */ (photo).naturalHeight]);
  assert.deepEqual(shown, [320, 216]);
});
