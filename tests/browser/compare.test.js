// Two models side by side.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open } from './harness.js';
import { labels, pick, ready, runs, shownIn, surest, twoModels } from './page.js';

/** @typedef {import('./harness.js').Page} Page */

/** Waits until the second model has said something. @param {Page} page @param {RegExp} line */
const says = (page, line) => page.waitForFunction((pattern) => new RegExp(pattern).test(document.getElementById('second-caption')?.textContent ?? ''), line.source);

/** What is drawn for the second. @param {Page} page */
const picture = (page) => page.locator('#second-picture').evaluate((canvas) => /** @type {HTMLCanvasElement} */ (canvas).toDataURL());

test('the same photo through two models: boxes, count and time of each, under one threshold and one filter', async (t) => {
  const { first, second, server } = await twoModels();
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  assert.ok(await page.locator('#second').isHidden());
  await pick(page, 'Eileen Collins');
  await page.locator('#threshold').fill('10');
  const many = await shownIn(page);
  await page.locator('#rival').selectOption(second.name);
  await says(page, /^the-other: \d+ objects, [\d.]+ m?s$/);
  assert.equal(page.workers().length, 2);
  assert.equal(await runs(page), 1, 'the first has nothing to do');
  assert.match(await page.locator('#first-caption').innerText(), new RegExp(`^${first.name}: ${many} objects, `));
  // The same weights, unrounded: a box on the threshold's edge may go either way.
  const other = Number((await page.locator('#second-caption').innerText()).match(/: (\d+)/)?.[1]);
  assert.ok(Math.abs(other - many) <= 2, `${many} and ${other}`);
  const { name, threshold } = await surest(page);
  assert.match(String(await page.locator('#second-picture').getAttribute('aria-label')), new RegExp(`^the-other: .*${name} \\d+%`));

  const crowded = await picture(page);
  await page.locator('#threshold').fill(threshold);
  await says(page, /: 1 object,/);
  const single = await picture(page);
  assert.notEqual(single, crowded);
  await page.locator('.chip', { hasText: name }).click();
  await says(page, /: 0 objects,/);
  assert.notEqual(await picture(page), single);
  await page.locator('.chip', { hasText: name }).click();

  await page.locator('#threshold').fill('50');
  await pick(page, 'Chelsea the cat');
  await says(page, /: 1 object,/);
  assert.match(String(await page.locator('#second-picture').getAttribute('aria-label')), /cat \d+%/);
  const [left, right] = await boxes(page);
  assert.ok(right.x >= left.x + left.width && right.y === left.y && Math.abs(right.width - left.width) < 2, 'side by side');

  await page.getByRole('button', { name: 'End the comparison' }).click();
  assert.ok(await page.locator('#second').isHidden());
  assert.equal(await page.locator('#rival').inputValue(), '');
  for (let tries = 0; page.workers().length > 1 && tries < 100; tries++) await page.waitForTimeout(20);
  assert.equal(page.workers().length, 1, 'its worker is gone');
});

/** Where the two pictures lie. @param {Page} page */
const boxes = (page) => page.locator('.pane .frame').evaluateAll((frames) => frames.map((frame) => /** @type {DOMRect} */ (frame.getBoundingClientRect().toJSON())));

test('on a phone the two are stacked, and both in sight', async (t) => {
  const { second, server } = await twoModels();
  const { page } = await open(t, { server, context: { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true } });
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  await page.locator('#rival').selectOption(second.name);
  await says(page, /: 1 object,/);
  const [upper, lower] = await boxes(page);
  assert.ok(lower.y >= upper.y + upper.height && lower.x === upper.x);
  assert.ok(upper.y >= 0 && lower.y + lower.height <= 740, `${upper.y} to ${lower.y + lower.height}`);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
});

test('the second model’s loading is told and can be ended; a failure is reported; the first goes on', async (t) => {
  const { first, second, server, release } = await twoModels({ damaged: true });
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  await page.locator('#rival').selectOption(second.name);
  const notice = page.locator('.notice.error');
  await notice.waitFor();
  assert.match(await notice.innerText(), /the-other: The model file is damaged/);
  assert.equal(await page.locator('#rival').inputValue(), '');
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  release();
  await notice.getByRole('button', { name: 'Try again' }).click();
  await says(page, /: 1 object,/);
  // What is compared with becomes what is used: there is nothing to compare any more.
  await page.locator('#models label', { hasText: second.name }).click();
  await page.locator('#app[data-engine="ready"][data-runs="2"]').waitFor();
  assert.ok(await page.locator('#second').isHidden());
  assert.deepEqual(await page.locator('#rival option').allInnerTexts(), ['nothing', first.name]);
});

test('loading the second model can be ended', async (t) => {
  const { second, server } = await twoModels({ hold: true });
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  await page.locator('#rival option').evaluateAll((options) => options.forEach((option) => option.classList.add('open')));
  await page.locator('#rival').selectOption(second.name);
  await says(page, /^the-other is loading: 1\.0 MB of \d+\.\d MB/);
  assert.equal(await page.locator('#rival option.open').count(), 2, 'the menu, which may be open, isn’t made anew');
  await page.locator('#rival').selectOption('nothing');
  assert.ok(await page.locator('#second').isHidden());
  assert.equal(await page.locator('.notice').count(), 0);
});
