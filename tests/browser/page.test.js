// The page as people use it: photos in, boxes out, on both backends, with mouse, finger and keyboard.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { DIST, open, serve } from './harness.js';
import { entries, heat, labels, picture, pick, ready, runs, saved, shownIn, surest } from './page.js';

/** A sample as a file that somebody chooses. @param {string} name */
const sample = async (name) => ({ name, mimeType: 'image/png', buffer: await readFile(path.join(DIST, 'samples', name)) });

const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

test('a sample gives its object on the CPU, and the page asks for nothing but that sample', async (t) => {
  const { page, site } = await open(t, { webgpu: false });
  await ready(page, 'cpu');
  assert.match(await page.locator('#engine-why').innerText(), /WebGPU/, 'says why it isn’t WebGPU');
  const before = site.requests.length;
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  assert.equal(await runs(page), 1);
  assert.match(await page.locator('#status').innerText(), /^1 object in [\d.]+ m?s\. Photo: Stéfan van der Walt, CC0$/);
  assert.match(await page.locator('#live').innerText(), /1 object: cat\./);
  // The thumbnails came with the page; the sample is the only thing that picking it takes.
  assert.deepEqual(site.requests.slice(before).map((request) => request.path), ['/samples/chelsea.png']);
});

test('a sample gives its object on WebGPU', async (t) => {
  const { page } = await open(t, { webgpu: true, page: '?backend=webgpu' });
  await ready(page, 'webgpu');
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  assert.ok(Number(await page.locator('#app').getAttribute('data-dispatches')) > 0, 'kernels ran on the GPU');
  assert.equal(await page.locator('#engine-short').innerText(), 'WebGPU');
  // What a query looked at is computed on the CPU here too.
  await page.locator('#photo').click();
  await page.locator('#app[data-attention="all"][data-backend="webgpu"]').waitFor();
});

test('threshold and class filter choose among what was found, without another run', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await pick(page, 'Eileen Collins');
  assert.equal((await labels(page))[0], 'person');
  await page.locator('#threshold').fill('10');
  const many = await shownIn(page);
  assert.ok(many >= 3, `at 10%: ${many}`);
  assert.equal((await entries(page)).length, many);
  const { name, threshold } = await surest(page);
  await page.locator('#threshold').fill(threshold);
  assert.equal(await shownIn(page), 1);
  const chip = page.locator('.chip', { hasText: name });
  await chip.click();
  assert.equal(await shownIn(page), 0);
  assert.equal(await chip.getAttribute('aria-pressed'), 'false');
  assert.match(await page.locator('#list-hint').innerText(), /1 object is hidden/);
  await page.getByRole('button', { name: 'Show all' }).click();
  assert.equal(await shownIn(page), 1);
  await page.locator('#threshold').fill('95');
  assert.match(await page.locator('#list-hint').innerText(), new RegExp(`Nothing reaches 95%\\. The best guess is ${name}`));
  assert.equal(await runs(page), 1, 'all of it from one run');
});

test('pointing at an entry lifts its box, and at a box its entry', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  const plain = await picture(page);
  await page.locator('#list .entry').first().hover();
  assert.match(await page.locator('#status').innerText(), /^cat \d+%, \d+ × \d+ px$/);
  await page.waitForTimeout(50);
  assert.notEqual(await picture(page), plain, 'the box is drawn otherwise');
  await page.mouse.move(2, 2);
  await page.waitForTimeout(50);
  assert.equal(await picture(page), plain, 'and as before afterwards');
  await page.locator('#frame').click();
  assert.ok(await page.locator('#list .entry').first().evaluate((entry) => entry === document.activeElement && entry.classList.contains('active')));
});

test('choosing a box shows where the network looked for it, head by head, until it is chosen again', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  const app = (/** @type {string} */ attention) => page.locator(`#app[data-attention="${attention}"]`).waitFor();
  const entry = page.locator('#list .entry').first();
  await page.locator('#photo').click();
  await app('all');
  assert.equal(await entry.getAttribute('aria-pressed'), 'true');
  assert.match(await page.locator('#status').innerText(), /^Looked here for “cat”$/);
  await page.waitForTimeout(50);
  const [all, drawn] = [await heat(page), await picture(page)];
  assert.ok(all.painted > 0.95, `the map covers the picture: ${all.painted}`);
  assert.ok(all.brightest > 2 * all.median, `and has a bright spot: ${JSON.stringify(all)}`);

  await page.locator('#head').selectOption('Head 2');
  await app('2');
  await page.waitForTimeout(50);
  assert.notEqual(await picture(page), drawn, 'a head by itself looks otherwise');
  await page.locator('#photo').click();
  await app('');
  assert.ok(await page.locator('#heads').isHidden());
  await page.mouse.move(2, 2);
  await page.waitForTimeout(50);
  assert.ok((await heat(page)).painted < 0.3, 'only the box is left');

  await entry.focus();
  await page.keyboard.press('Enter');
  await app('2');
  await page.keyboard.press('Escape');
  await app('');
  assert.ok(await entry.evaluate((button) => button === document.activeElement));
  await page.keyboard.press('Enter');
  await app('2');
  await page.locator('#threshold').fill('95');
  await app('');
  assert.equal(await runs(page), 1, 'nothing was detected anew');
});

test('several files are chosen; one that is no picture is reported and the rest go on', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  const chooser = page.waitForEvent('filechooser');
  await page.locator('label[for="file"]').click();
  await (await chooser).setFiles([
    await sample('chelsea.png'),
    { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('no picture') },
    await sample('astronaut.png'),
  ]);
  await page.locator('#queue .thumb[data-status="done"]').nth(1).waitFor();
  assert.equal(await page.locator('#queue li').count(), 2);
  assert.match(await page.locator('.notice.error').innerText(), /notes\.txt: not a picture/);
  assert.deepEqual(await labels(page), ['cat'], 'the first is on show');
  await page.locator('#queue .thumb').nth(1).click();
  assert.ok((await labels(page)).includes('person'));
  assert.equal(await runs(page), 2, 'looking at another photo runs nothing again');
});

test('a photo can be dropped and pasted', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  const bytes = [...(await readFile(path.join(DIST, 'samples', 'chelsea.png')))];
  /** @param {string} kind */
  const bring = (kind) => page.evaluate(([how, data]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(/** @type {number[]} */ (data))], `${how}.png`, { type: 'image/png' }));
    const event = how === 'drop'
      ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
      : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }, /** @type {[string, number[]]} */ ([kind, bytes]));
  await bring('drop');
  await page.locator('#app[data-runs="1"]:not([data-shown=""])').waitFor();
  assert.deepEqual(await labels(page), ['cat']);
  await bring('paste');
  await page.locator('#queue .thumb[data-status="done"]').nth(1).waitFor();
  assert.equal(await page.locator('#photo').getAttribute('alt'), 'paste.png');
});

test('clearing can be undone', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  await page.getByRole('button', { name: 'Clear' }).click();
  assert.equal(await page.locator('#app').getAttribute('data-mode'), 'empty');
  assert.equal(await page.locator('#list .entry:visible').count(), 0);
  await page.getByRole('button', { name: 'Undo' }).click();
  assert.deepEqual(await labels(page), ['cat']);
  assert.equal(await runs(page), 1);
});

test('the picture is saved in its own size, and the boxes as JSON', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  const png = await saved(page, () => page.locator('#save-png').click());
  assert.equal(png.name, 'chelsea-the-cat-detrim.png');
  // A PNG's header: width and height, big-endian, from its 16th byte.
  assert.deepEqual([png.content.readUInt32BE(16), png.content.readUInt32BE(20)], [451, 300]);
  assert.ok(!png.content.equals(await readFile(path.join(DIST, 'samples', 'chelsea.png'))), 'with boxes on it');
  const json = await saved(page, () => page.locator('#save-json').click());
  assert.equal(json.name, 'chelsea-the-cat-detrim.json');
  const report = JSON.parse(json.content.toString());
  assert.deepEqual(report.image, { name: 'Chelsea the cat', width: 451, height: 300 });
  assert.equal(report.backend, 'cpu');
  assert.equal(report.detections[0].label, 'cat');
  // In pixels of the picture: the cat fills most of it.
  assert.ok(report.detections[0].box.xmax > 300);
});

test('everything can be done with the keyboard alone', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  await page.keyboard.press('1');
  await page.locator('#app[data-runs="1"]:not([data-shown=""])').waitFor();
  assert.deepEqual(await labels(page), ['cat']);
  const before = Number(await page.locator('#threshold').inputValue());
  await page.keyboard.press(']');
  assert.equal(Number(await page.locator('#threshold').inputValue()), before + 5);
  // By Tab alone to the first entry, with a visible focus on the way.
  await page.locator('#threshold').focus();
  for (let i = 0; i < 12 && !(await page.evaluate(() => document.activeElement?.classList.contains('entry'))); i++) await page.keyboard.press('Tab');
  assert.match(await page.locator('#status').innerText(), /^cat /, 'the focused entry’s box is lifted');
  assert.notEqual(await page.evaluate(() => getComputedStyle(/** @type {Element} */ (document.activeElement)).outlineStyle), 'none');
  const json = await saved(page, () => page.keyboard.press('j'));
  assert.match(json.name, /\.json$/);
  await page.keyboard.press('?');
  assert.ok(await page.locator('#keys').isVisible());
  await page.keyboard.press('Escape');
  await page.keyboard.press('Delete');
  assert.equal(await page.locator('#app').getAttribute('data-mode'), 'empty');
  await page.keyboard.press('Control+z');
  assert.deepEqual(await labels(page), ['cat']);
});

test('every control has a name for screen readers', async (t) => {
  const { page, context } = await open(t, { page: '?bench' });
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  const session = await context.newCDPSession(page);
  const { nodes } = await session.send('Accessibility.getFullAXTree');
  const controls = nodes.filter(({ role, ignored }) => !ignored && ['button', 'link', 'slider', 'radio', 'checkbox', 'combobox', 'spinbutton', 'image'].includes(String(role?.value)));
  assert.ok(controls.length > 20, `${controls.length} controls`);
  assert.deepEqual(controls.filter(({ name }) => !String(name?.value ?? '').trim()).map(({ role, backendDOMNodeId }) => [role?.value, backendDOMNodeId]), []);
});

test('on a phone everything fits and can be hit with a finger', async (t) => {
  const { page } = await open(t, { context: PHONE });
  await ready(page, 'cpu');
  await pick(page, 'Chelsea the cat');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, 'nothing to scroll sideways');
  const small = await page.evaluate(() => [...document.querySelectorAll('button, select, summary, .button, .pill, #threshold, .segments span')]
    .filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest('dialog'))
    .map((element) => ({ what: element.id || element.className || element.tagName, ...element.getBoundingClientRect().toJSON() }))
    .filter(({ width, height }) => width < 44 || height < 44)
    .map(({ what, width, height }) => `${what}: ${width} × ${height}`));
  assert.deepEqual(small, []);
  const place = () => page.locator('.tools').evaluate((tools) => tools.getBoundingClientRect().top + scrollY);
  const before = await place();
  await page.locator('#frame').tap();
  assert.ok(await page.locator('#list .entry').first().evaluate((entry) => entry === document.activeElement), 'tapping a box selects its entry');
  assert.ok(await page.locator('#frame').evaluate((frame) => frame.getBoundingClientRect().top >= 0), 'and the picture stays in sight');
  await page.locator('#app[data-attention="all"]').waitFor();
  assert.equal(await place(), before, 'and the heat map moves nothing');
  assert.ok(await page.locator('#head').evaluate((select) => select.getBoundingClientRect().height >= 44));
});

test('the overlay has a pixel for each of the screen’s', async (t) => {
  const { page } = await open(t, { context: { ...PHONE, deviceScaleFactor: 3 } });
  await ready(page, 'cpu');
  const sizes = await page.locator('#overlay').evaluate((canvas) => {
    const { width, height } = canvas.getBoundingClientRect();
    return [/** @type {HTMLCanvasElement} */ (canvas).width - width * 3, /** @type {HTMLCanvasElement} */ (canvas).height - height * 3];
  });
  assert.ok(sizes.every((difference) => Math.abs(difference) <= 1), String(sizes));
});

test('the site works under a sub-path, and opens with the backend that the address names', async (t) => {
  const { page, site } = await open(t, { server: { base: '/some/where/' }, page: '?backend=cpu' });
  await ready(page, 'cpu');
  assert.ok(await page.locator('input[name="backend"][value="cpu"]').isChecked());
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  assert.deepEqual(site.requests.filter((request) => !request.path.startsWith('/some/where/') || request.status >= 400), []);
});

test('WebGPU asked for where there is none: the CPU answers, and the page says so', async (t) => {
  const { page } = await open(t, { webgpu: false });
  await ready(page, 'cpu');
  await page.locator('input[name="backend"][value="webgpu"]').click();
  await page.locator('.notice.warning').waitFor();
  await ready(page, 'cpu');
  assert.match(await page.locator('.notice.warning').innerText(), /WebGPU can’t be used here, so this runs on the CPU/);
  assert.ok(await page.locator('input[name="backend"][value="cpu"]').isChecked());
});

test('when the engine breaks down the page says so, and the next photo works', async (t) => {
  const { page, url } = await open(t, { page: null });
  await page.addInitScript(() => {
    const Native = Worker;
    globalThis.Worker = class extends Native {
      /** @param {ConstructorParameters<typeof Worker>} args */
      constructor(...args) {
        super(...args);
        addEventListener('break-down', () => this.dispatchEvent(new ErrorEvent('error', { message: 'unreachable' })), { once: true });
      }
    };
  });
  await page.goto(url);
  await ready(page, 'cpu');
  await page.evaluate(() => dispatchEvent(new Event('break-down')));
  await page.locator('.notice.warning').waitFor();
  assert.match(await page.locator('.notice.warning').innerText(), /broke down and was started again; it now runs on the CPU\. \(the engine broke down: unreachable\)/);
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
});

test('a damaged model is reported, and loading can be tried again', async (t) => {
  let damaged = true;
  const { page } = await open(t, {
    server: {
      intercept: (request, response) => {
        if (!damaged || !request.url?.endsWith('.safetensors')) return false;
        response.writeHead(200, { 'Content-Type': 'application/octet-stream' }).end(Buffer.alloc(5000, 7));
        return true;
      },
    },
  });
  const notice = page.locator('.notice.error');
  await notice.waitFor();
  assert.match(await notice.innerText(), /The model file is damaged/);
  assert.equal(await page.locator('#app').getAttribute('data-engine'), 'failed');
  damaged = false;
  await notice.getByRole('button', { name: 'Try again' }).click();
  await ready(page, 'cpu');
  assert.equal(await notice.count(), 0);
});

test('the page is there before the engine; loading tells bytes, can be cancelled and taken up again', async (t) => {
  /** @type {import('node:http').ServerResponse[]} */
  const held = [];
  let holding = true;
  const { page } = await open(t, {
    server: {
      intercept: (request, response) => {
        if (!holding || !/\.(wasm|safetensors)$/.test(request.url ?? '')) return false;
        response.writeHead(200, { 'Content-Type': request.url?.endsWith('wasm') ? 'application/wasm' : 'application/octet-stream', 'Content-Length': 9_000_000 });
        response.write(Buffer.alloc(1_000_000));
        held.push(response);
        return true;
      },
    },
  });
  await page.waitForFunction(() => /model 1\.0 MB of 9\.0 MB/.test(document.getElementById('status')?.textContent ?? ''));
  const painted = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint').length);
  assert.equal(painted, 1, 'painted while the wasm is on its way');
  assert.ok(await page.locator('#samples .thumb').first().isVisible());
  await page.getByRole('button', { name: 'Cancel' }).click();
  await page.locator('#app[data-engine="off"]').waitFor();
  for (const response of held) response.destroy();
  holding = false;
  await page.getByRole('button', { name: 'Try again' }).click();
  await ready(page, 'cpu');
});

test('a browser that saves data fetches the model with the first photo', async (t) => {
  const { page, url, site } = await open(t, { page: null });
  await page.addInitScript(() => Object.defineProperty(navigator, 'connection', { value: { saveData: true } }));
  await page.goto(url);
  await page.locator('.notice.info', { hasText: 'saves data' }).waitFor();
  const fetched = () => site.requests.filter((request) => request.path.endsWith('.safetensors')).length;
  assert.equal(fetched(), 0);
  await pick(page, 'Chelsea the cat');
  assert.deepEqual(await labels(page), ['cat']);
  assert.equal(fetched(), 1);
});

test('the snippet is copied, and what it names is there', async (t) => {
  const { page, context, url } = await open(t);
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: new URL(url).origin });
  await ready(page, 'cpu');
  await page.locator('#embed summary').click();
  await page.locator('#snippet-copy').click();
  await page.locator('#snippet-copy', { hasText: 'Copied' }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied, await page.locator('#snippet').innerText());
  const named = [...copied.matchAll(/'(\.\/(?:detrim|models)\/[^']+)'/g)].map(([, file]) => file);
  assert.equal(named.length, 2);
  for (const file of named) assert.equal((await fetch(new URL(file, url))).status, 200, file);
});

test('?bench shows medians of each stage for each backend that works', async (t) => {
  const { page } = await open(t, { webgpu: false, page: '?bench' });
  await ready(page, 'cpu');
  await page.locator('#bench-runs').fill('2');
  await page.locator('#bench-size').selectOption('320,320');
  await page.locator('#bench-run').click();
  await page.locator('#bench-status', { hasText: 'Done.' }).waitFor();
  const cells = await page.locator('#bench-table tr[data-backend="cpu"] > *').allInnerTexts();
  assert.deepEqual(cells.slice(0, 2), ['CPU', '320 × 320']);
  assert.equal(cells.length, 11);
  for (const cell of cells.slice(2, 10)) assert.match(cell, /^(< )?[\d.]+ m?s$/);
  assert.match(await page.locator('#bench-table tr.failed').innerText(), /^WebGPU\s/);
});

test('?bench saves a profile of this device for the trimmer', async (t) => {
  const { page } = await open(t, { webgpu: false, page: '?bench&model=detr-lite0-base' });
  await ready(page, 'cpu');
  await page.locator('#bench-size').selectOption('320,320');
  await page.locator('input[name="bench-backend"][value="webgpu"]').uncheck();
  const { name, content } = await saved(page, () => page.locator('#bench-profile').click());
  await page.locator('#bench-status', { hasText: 'Done.' }).waitFor();
  assert.match(name, /-cpu-profile\.json$/);
  const { device, size, measured } = JSON.parse(content.toString());
  assert.deepEqual([device, size], ['CPU (WebAssembly)', [320, 320]]);
  assert.ok(measured.operations.entries.length > 30);
});

test('without modules, and straight from a folder, the page says what it needs', async (t) => {
  const site = await serve(t);
  const { page } = await open(t, { site, context: { javaScriptEnabled: false } });
  await page.locator('#needs').waitFor();
  assert.match(await page.locator('#needs').innerText(), /JavaScript modules and WebAssembly/);
  const folder = await open(t, { site, page: null, expected: [/file:/, /origin 'null'/i, /ERR_FAILED/] });
  await folder.page.goto(pathToFileURL(path.join(DIST, 'index.html')).href);
  await folder.page.locator('#needs').waitFor();
  assert.match(await folder.page.locator('#needs').innerText(), /file:\/\//);
});

test('when all is well, what the page needs is not talked about', async (t) => {
  const { page } = await open(t);
  await ready(page, 'cpu');
  assert.ok(await page.locator('#needs').isHidden());
  assert.equal(await page.locator('.notice').count(), 0);
});
