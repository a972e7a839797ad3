// The page of a document: what the page says while no layout model is there, and a dropped one (an RT-DETRv2 with random weights and docling's seventeen
// classes) with its own labels.

import assert from 'node:assert/strict';
import { cp, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { knowsDocuments } from '../../www/app/knows_documents.js';
import { placeAnyway, placeInCrowd } from '../../www/app/places.js';
import { install } from './application.js';
import { REPOSITORY, open, serve } from './harness.js';
import { labels, picture, ready, saved, shownIn } from './page.js';

const FOLDER = path.join(REPOSITORY, 'tests', 'fixtures', 'family', 'rt_detr_v2');
const PAGE = path.join(REPOSITORY, 'www', 'samples', 'document.jpg');
const LABELS = [
  'Caption', 'Footnote', 'Formula', 'List-item', 'Page-footer', 'Page-header', 'Picture', 'Section-header', 'Table', 'Text', 'Title', 'Document Index', 'Code',
  'Checkbox-Selected', 'Checkbox-Unselected', 'Form', 'Key-Value Region',
];

/**
 * The fixture's weights with as many classes: those it has, each time with their features in another order.
 * @param {Buffer} file @param {number} classes
 */
function widen(file, classes) {
  const start = 8 + Number(file.readBigUInt64LE());
  const { __metadata__: metadata, ...tensors } = JSON.parse(file.toString('utf8', 8, start));
  /** @type {Record<string, unknown>} */
  const header = { __metadata__: metadata };
  const parts = [];
  let offset = 0;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(tensors)) {
    const old = file.subarray(start + from, start + to);
    const head = /class_embed|enc_score_head/.test(name);
    // For denoising there is one more, which stands for no object.
    const rows = name.includes('denoising') ? classes + 1 : classes;
    const row = old.length / shape[0];
    const turned = (/** @type {number} */ i) => {
      const one = old.subarray((i % shape[0]) * row, ((i % shape[0]) + 1) * row);
      const from = row > 2 ? 2 * Math.floor(i / shape[0]) : 0;
      return Buffer.concat([one.subarray(from), one.subarray(0, from)]);
    };
    const data = head ? Buffer.concat(Array.from({ length: rows }, (_, i) => turned(i))) : old;
    header[name] = { dtype, shape: head ? [rows, ...shape.slice(1)] : shape, data_offsets: [offset, offset + data.length] };
    parts.push(data);
    offset += data.length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...parts]);
}

/** Its files, with these names of classes. @param {string[]} names */
async function layoutModel(names) {
  const config = JSON.parse(await readFile(path.join(FOLDER, 'config.json'), 'utf8'));
  const id2label = Object.fromEntries(names.entries());
  const label2id = Object.fromEntries(names.map((name, i) => [name, i]));
  return [
    { name: 'config.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify({ ...config, num_queries: 60, id2label, label2id })) },
    { name: 'preprocessor_config.json', mimeType: 'application/json', buffer: await readFile(path.join(FOLDER, 'preprocessor_config.json')) },
    { name: 'layout.safetensors', mimeType: '', buffer: widen(await readFile(path.join(FOLDER, 'model.safetensors')), names.length) },
  ];
}

test('a document asks for a layout model, and one that is dropped shows its own labels on it', async (t) => {
  const { page } = await open(t, { page: '?document' });
  await ready(page, 'cpu');
  const card = page.locator('#document');
  await card.waitFor();
  assert.match(await card.innerText(), /deimv2-femto doesn’t know titles, captions and tables\. Docling’s layout model does: download .*config\.json from https:\/\/huggingface\.co\/docling-project\/docling-layout-heron\/tree\/main and drop/s);
  await page.locator('#app:not([data-shown=""])').waitFor();
  assert.match(await page.locator('#status').innerText(), /Photo: detrim, CC0/);
  const before = await picture(page);

  const nameless = LABELS.map((_, i) => `LABEL_${i}`);
  await page.locator('#model-file').setInputFiles(await layoutModel(nameless));
  await page.locator('#document', { hasText: 'layout may know titles, captions and tables, but its config.json doesn’t name its classes' }).waitFor();

  await page.locator('#model-file').setInputFiles(await layoutModel(LABELS));
  await page.locator('#threshold').fill('5');
  await page.waitForFunction((names) => {
    const found = [...document.querySelectorAll('#list li:not([hidden]) .name')].map(({ textContent }) => textContent ?? '');
    return found.length > 12 && names.includes(found[0]);
  }, LABELS);
  assert.equal(await card.isHidden(), true);
  const found = await labels(page);
  assert.ok(found.every((label) => LABELS.includes(label)), String(found));
  assert.ok(new Set(found).size > 1, 'several kinds are found');
  for (const kind of new Set(found)) {
    const chip = (await page.locator('#chips .chip', { hasText: kind }).innerText()).replace(/\s+/g, ' ');
    assert.equal(chip, `${kind} ${found.filter((label) => label === kind).length}`, 'each kind stands with its number above the list');
  }
  assert.notEqual(await picture(page), before);
  assert.equal(await page.locator('#photo').getAttribute('alt'), 'A printed page', 'the picture stays');
  const { content } = await saved(page, () => page.locator('#save-json').click());
  assert.deepEqual(new Set(JSON.parse(String(content)).detections.map((/** @type {{label: string}} */ { label }) => label)), new Set(found));
  assert.equal(await shownIn(page), found.length);

  // A photo keeps its usual place.
  await page.locator('#models input[value="deimv2-femto"]').check();
  await page.locator('#samples').getByRole('button', { name: 'Chelsea the cat' }).click();
  await page.locator('#frame[data-kind=""]').waitFor();
  assert.equal(await card.isHidden(), true);
});

test('a layout model is known by its labels', () => {
  assert.equal(knowsDocuments(LABELS), true);
  assert.equal(knowsDocuments(['Text', 'Title', 'List', 'Table', 'Figure']), true, 'PubLayNet’s');
  assert.equal(knowsDocuments(['table', 'table column', 'table row', 'table column header', 'table projected row header', 'table spanning cell']), true, 'a table’s structure');
  assert.equal(knowsDocuments(['person', 'dining table', 'book', 'tv', 'text']), false);
  assert.equal(knowsDocuments([]), false);
});

test('in a crowd a label stands beside its box where that covers no other, and not at all where it would cover a label', () => {
  const picture = { x: 0, y: 0, width: 400, height: 300 };
  const label = { width: 50, height: 20 };
  const box = { x: 100, y: 100, width: 100, height: 40 };
  const at = (/** @type {import('../../www/app/places.js').Area | undefined} */ place) => place && [place.x, place.y];
  const around = {
    over: { x: 90, y: 60, width: 200, height: 40 }, before: { x: 20, y: 100, width: 80, height: 40 },
    after: { x: 200, y: 100, width: 100, height: 40 }, under: { x: 90, y: 140, width: 200, height: 40 },
  };
  const place = (/** @type {(keyof typeof around)[]} */ sides, /** @type {import('../../www/app/places.js').Area[]} */ taken = []) => {
    return at(placeInCrowd(box, label, 1, picture, taken, [box, ...sides.map((side) => around[side])]));
  };
  assert.deepEqual(place([]), [100, 81], 'over it');
  assert.deepEqual(place(['over']), [51, 100], 'before it');
  assert.deepEqual(place(['over', 'before']), [199, 100], 'after it');
  assert.deepEqual(place(['over', 'before', 'after']), [100, 139], 'under it');
  assert.deepEqual(place(['over', 'before', 'after', 'under']), [100, 81], 'over it, on its neighbour');
  assert.equal(place([], [picture]), undefined);
  assert.deepEqual(at(placeAnyway(box, label, 1, picture, [picture])), [100, 81], 'the one that is pointed at has its label anyway');
  assert.deepEqual(at(placeInCrowd({ ...box, x: 0, y: 0 }, label, 1, picture, [], [])), [99, 0], 'none leaves the picture');
});

test('the example: a layout model’s parts of a page', async (t) => {
  const { folder } = await install(t);
  const root = path.join(folder, 'document');
  await cp(path.join(REPOSITORY, 'examples', 'web', 'document'), root, { recursive: true });
  await cp(path.join(folder, 'node_modules', 'detrim', 'detrim'), path.join(root, 'detrim'), { recursive: true });
  const site = await serve(t, { root });
  const { page } = await open(t, { site, page: 'index.html' });
  await page.getByLabel('A layout model\'s files').setInputFiles(await layoutModel(LABELS));
  await page.getByText('It knows Caption, Footnote').waitFor({ timeout: 60_000 });
  await page.getByLabel('A page as a picture').setInputFiles(PAGE);
  await page.getByText(/^[1-9]\d* parts in \d+ ms$/).waitFor();
  const counts = await page.locator('#counts li').allInnerTexts();
  assert.ok(counts.length > 0 && counts.every((line) => LABELS.includes(line.replace(/: \d+$/, ''))), String(counts));
  assert.deepEqual(await page.locator('canvas').evaluate((canvas) => /** @type {HTMLCanvasElement} */ (canvas).height), 1414);
});
