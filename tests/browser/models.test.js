// The menu of models.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { model, models } from './embed.js';
import { open } from './harness.js';
import { parseListing } from '../../www/app/listing.js';
import { about, labels, listing, pick, ready, runs, twoModels } from './page.js';

/** The row of a model. @param {import('./harness.js').Page} page @param {string} name */
const row = (page, name) => page.locator('#models label', { hasText: name });

test('the menu tells size, accuracy and time; what is loaded answers until the chosen one is there, and the choice is remembered', async (t) => {
  const { first, second, server, release } = await twoModels({ hold: true });
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), first.name);
  assert.equal(await row(page, first.name).locator('.facts').innerText(), about(first).join(' · '));
  assert.equal(await row(page, second.name).locator('.facts').innerText(), `${(second.bytes / 1e6).toFixed(1)} MB · 1.3× as fast`, 'until it has been timed here');

  await row(page, second.name).click();
  await page.waitForFunction(() => /model 1\.0 MB of \d+\.\d MB/.test(document.getElementById('status')?.textContent ?? ''));
  await page.locator('#samples').getByRole('button', { name: 'Chelsea the cat' }).click();
  await page.locator('#app[data-runs="1"]:not([data-shown=""])').waitFor();
  assert.deepEqual(await labels(page), ['cat'], 'the first answers meanwhile');
  assert.match(await row(page, first.name).locator('.facts').innerText(), / · [\d.]+ m?s a picture$/);

  release();
  await page.locator('#app[data-engine="ready"][data-runs="2"]').waitFor();
  await page.waitForFunction((name) => [...document.querySelectorAll('#models label')].some((label) => label.textContent?.includes(name) && label.textContent.includes('a picture')), second.name);
  assert.deepEqual(await labels(page), ['cat'], 'the picture on show has run again');
  assert.match(await page.locator('#model-about').innerText(), new RegExp(`^the-other: ${first.labels.length} classes`));
  await page.reload();
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), second.name);
});

test('a choice can be cancelled, with the keyboard too', async (t) => {
  const { first, second, server } = await twoModels({ hold: true });
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  await row(page, first.name).locator('input').focus();
  await page.keyboard.press('ArrowDown');
  await page.locator('#app[data-engine="loading"]').waitFor();
  assert.equal(await page.locator('#models input:checked').inputValue(), second.name);
  await page.keyboard.press('Escape');
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), first.name);
  assert.equal(await page.locator('.notice').count(), 0);
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  await page.reload();
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), first.name, 'what never came isn’t remembered');
});

test('a model that fails is reported, leaves the other in use, and can be tried again', async (t) => {
  const { first, second, server, release } = await twoModels({ damaged: true });
  const { page } = await open(t, { server });
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  await row(page, second.name).click();
  const notice = page.locator('.notice.error');
  await notice.waitFor();
  assert.match(await notice.innerText(), new RegExp(`The model file is damaged.* ${first.name} stays in use\\.`, 's'));
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), first.name);
  assert.equal(await runs(page), 1);
  release();
  await notice.getByRole('button', { name: 'Try again' }).click();
  await page.locator('#app[data-engine="ready"][data-runs="2"]').waitFor();
  assert.equal(await page.locator('#models input:checked').inputValue(), second.name);
});

test('the address names a model, and a choice by hand changes it', async (t) => {
  const { first, second, server } = await twoModels();
  const { page } = await open(t, { server, page: '?model=the-other&bench' });
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), second.name);
  await row(page, first.name).click();
  await page.waitForURL(new RegExp(`model=${first.name}`));
  await page.reload();
  await ready(page, 'cpu');
  assert.equal(await page.locator('#models input:checked').inputValue(), first.name);
});

test('where there is one model, nothing asks for a choice', async (t) => {
  const only = await model();
  const { page } = await open(t, { server: { intercept: listing([only]) } });
  await ready(page, 'cpu');
  assert.ok(await page.locator('#models').isHidden());
  const [size, ap] = about(only);
  const expected = `${only.name}: ${only.labels.length} classes, ${size}, ${only.licence}. ${ap} on ${only.metrics?.on}`;
  assert.ok((await page.locator('#model-about').innerText()).startsWith(expected), expected);
});

test('every model of the menu loads and finds the cat', async (t) => {
  const [{ page }, all] = await Promise.all([open(t), models()]);
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  for (const [number, { name }] of all.entries()) {
    if (number > 0) await page.locator('#models input').nth(number).check();
    await page.locator(`#app[data-engine="ready"][data-runs="${number + 1}"]`).waitFor();
    assert.equal(await page.locator('#models input:checked').inputValue(), name);
    assert.deepEqual(await labels(page), ['cat'], name);
  }
});

test('a list of models that is broken is explained', async (t) => {
  const [first] = await models();
  const broken = /** @type {[string, RegExp][]} */ ([
    ['', /isn’t JSON.*detrim convert/], ['[{"name": "a",]', /isn’t JSON/], ['<!doctype html><title>Home</title>', /web page in its place/], ['{"models": []}', /must hold a list/],
    ['[]', /lists no model/], ['[null]', /model 1 of 1 isn’t an object/], [JSON.stringify([first, { ...first, file: 7 }]), /model 2 of 2 needs “file”/],
    [JSON.stringify([{ ...first, sha256: 'abc' }]), /needs “sha256”: 64 hexadecimal digits/], [JSON.stringify([{ ...first, labels: undefined }]), /needs “labels”/],
    [JSON.stringify([{ ...first, bytes: '9' }]), /needs “bytes”/],
  ]);
  for (const [text, problem] of broken) assert.throws(() => parseListing(text), problem, text.slice(0, 40));
  assert.equal(parseListing(JSON.stringify([first])).length, 1);

  // On the page it is a notice, and what is mended is found.
  let content = '[{"name": "half",';
  const { page } = await open(t, {
    server: {
      intercept: (request, response) => {
        if (request.url !== '/models/index.json') return false;
        response.writeHead(200, { 'Content-Type': 'application/json' }).end(content);
        return true;
      },
    },
  });
  const notice = page.locator('.notice.error');
  await notice.waitFor();
  assert.match(await notice.innerText(), /models\/index\.json isn’t JSON/);
  content = JSON.stringify([first]);
  await notice.getByRole('button', { name: 'Try again' }).click();
  await ready(page, 'cpu');
});
