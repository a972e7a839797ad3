// The package as others use it: from a page of their own, by its public module alone.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { embed, model, models, noWorker } from './embed.js';
import { REPOSITORY } from './harness.js';

/** @typedef {import('../../www/detrim/index.js').Detection} Detection */

const { file, sha256, bytes, labels, threshold } = await model();
const MODEL = `/models/${file}`;
/** What the trimmer takes is profiled: DETR. */
const DETR = `/models/${(await models()).find(({ name }) => name.startsWith('detr'))?.file}`;
const CAT = '/samples/chelsea.png';

test('every kind of source gives the same cat, and stays the caller\'s', async (t) => {
  const { page, api } = await embed(t);
  /** @type {{found: Record<string, Detection[]>, still: boolean[], size: number[]}} */
  const { found, still, size } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const blob = await (await fetch(CAT)).blob();
    const img = new Image();
    img.src = CAT;
    await img.decode();
    const canvas = Object.assign(document.createElement('canvas'), { width: img.naturalWidth, height: img.naturalHeight });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    context.drawImage(img, 0, 0);
    const offscreen = new OffscreenCanvas(canvas.width, canvas.height);
    offscreen.getContext('2d')?.drawImage(img, 0, 0);
    const video = Object.assign(document.createElement('video'), { muted: true, srcObject: canvas.captureStream() });
    // A stream of a canvas has a frame whenever the canvas was drawn to.
    const drawing = setInterval(() => context.drawImage(img, 0, 0), 50);
    await video.play();
    const bitmap = await createImageBitmap(blob);
    const frame = new VideoFrame(canvas, { timestamp: 0 });
    const sources = {
      string: CAT, URL: new URL(CAT, location.href), Blob: blob, File: new File([blob], 'cat.png'), ImageBitmap: bitmap,
      ImageData: context.getImageData(0, 0, canvas.width, canvas.height), img, canvas, OffscreenCanvas: offscreen, video, VideoFrame: frame,
    };
    /** @type {Record<string, Detection[]>} */
    const found = {};
    for (const [kind, source] of Object.entries(sources)) {
      const detections = await d.detect(source);
      if (detections.width !== img.naturalWidth || detections.height !== img.naturalHeight) throw new Error(`${kind}: ${detections.width}×${detections.height}`);
      found[kind] = detections;
    }
    clearInterval(drawing);
    return { found, still: [bitmap.width > 0, frame.codedWidth > 0, offscreen.width > 0, sources.ImageData.data.length > 0], size: [img.naturalWidth, img.naturalHeight] };
  }, { api, MODEL, CAT });

  const [cat] = found.string;
  assert.equal(cat.label, 'cat');
  assert.ok(cat.score > 0.8 && cat.box.xmax - cat.box.xmin > size[0] / 2, JSON.stringify(cat));
  // Frames of a video are YUV, and so not quite the same numbers.
  const { video, VideoFrame: videoFrame, ...exact } = found;
  for (const [kind, detections] of Object.entries(exact)) assert.deepEqual(detections, found.string, kind);
  for (const [kind, [detection]] of Object.entries({ video, videoFrame })) {
    assert.equal(detection.label, 'cat', kind);
    assert.ok(Math.abs(detection.score - cat.score) < 0.05, `${kind}: ${detection.score}, not ${cat.score}`);
    for (const side of /** @type {const} */ (['xmin', 'ymin', 'xmax', 'ymax'])) {
      assert.ok(Math.abs(detection.box[side] - cat.box[side]) < 0.02 * size[0], `${kind}: ${side} ${detection.box[side]}, not ${cat.box[side]}`);
    }
  }
  assert.deepEqual(still, [true, true, true, true]);
});

test('a photo is turned upright, and its size is that of the upright picture', async (t) => {
  const { page, api } = await embed(t);
  const { upright, lying } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const cat = await createImageBitmap(await (await fetch(CAT)).blob());
    /** @param {boolean} turn */
    const photo = async (turn) => {
      const canvas = turn ? new OffscreenCanvas(cat.height, cat.width) : new OffscreenCanvas(cat.width, cat.height);
      const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d'));
      if (turn) context.setTransform(0, -1, 1, 0, 0, cat.width);
      context.drawImage(cat, 0, 0);
      return await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.95 });
    };
    // Of the EXIF data, orientation alone: a clockwise quarter turn is due.
    const exif = Uint8Array.of(
      0xff, 0xe1, 0, 34, 0x45, 0x78, 0x69, 0x66, 0, 0, 0x4d, 0x4d, 0, 0x2a, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0);
    const stored = await photo(true);
    const turned = new Blob([stored.slice(0, 2), exif, stored.slice(2)], { type: 'image/jpeg' });
    const img = new Image();
    img.src = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.readAsDataURL(turned);
    });
    const lying = [];
    for (const source of [turned, img]) {
      const found = await d.detect(source);
      lying.push({ size: [found.width, found.height], found });
    }
    const found = await d.detect(await photo(false));
    return { upright: { size: [found.width, found.height], found }, lying };
  }, { api, MODEL, CAT });
  assert.equal(upright.found[0].label, 'cat');
  for (const { size, found } of lying) {
    assert.deepEqual(size, upright.size);
    // It was compressed lying.
    assert.ok(Math.abs(found[0].score - upright.found[0].score) < 0.05, `score ${found[0].score}, not ${upright.found[0].score}`);
    for (const side of /** @type {const} */ (['xmin', 'ymin', 'xmax', 'ymax'])) {
      assert.ok(Math.abs(found[0].box[side] - upright.found[0].box[side]) < 0.01 * size[0], `${side}: ${JSON.stringify([found, upright.found])}`);
    }
  }
});

test('a picture may have more pixels than a phone\'s canvas, or just one', async (t) => {
  const { page, api } = await embed(t);
  const found = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const cat = await createImageBitmap(await (await fetch(CAT)).blob());
    const scale = 12;
    const canvas = new OffscreenCanvas(cat.width * scale, cat.height * scale);
    canvas.getContext('2d')?.drawImage(cat, 0, 0, canvas.width, canvas.height);
    const large = await d.detect(canvas);
    const [size, [first]] = [[large.width, large.height], large];
    return { scale, small: [cat.width, cat.height], size, first, original: (await d.detect(cat))[0], one: (await d.detect(new ImageData(1, 1), { threshold: 0 })).length };
  }, { api, MODEL, CAT });
  const { scale, small, size, first, original } = found;
  assert.ok(size[0] * size[1] > 4096 * 4096);
  assert.deepEqual(size, small.map((side) => side * scale));
  assert.equal(first.label, 'cat');
  for (const side of /** @type {const} */ (['xmin', 'ymin', 'xmax', 'ymax'])) {
    assert.ok(Math.abs(first.box[side] - scale * original.box[side]) < 0.02 * size[0], `${side}: ${first.box[side]}, not ${scale} × ${original.box[side]}`);
  }
  assert.ok(found.one > 0);
});

test('attention tells where a query looked, head by head, and the same on this thread', async (t) => {
  const { page, api } = await embed(t);
  const { cat, looked, alike, here, errors, size } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const found = await d.detect(CAT);
    const [cat] = found;
    const looked = await d.attention(CAT, cat.query);
    const other = await d.attention(CAT, cat.query === 0 ? 1 : 0);
    const alike = other.weights.every((weight, i) => weight === looked.weights[i]);
    const local = await Detrim.load(MODEL, { backend: 'cpu', worker: false });
    const here = (await local.attention(await (await fetch(CAT)).blob(), cat.query)).weights.every((weight, i) => weight === looked.weights[i]);
    /** @param {Promise<unknown>} promise */
    const codeOf = (promise) => promise.then(() => 'none', (error) => `${error.code}: ${error.message}`);
    const errors = [await codeOf(d.attention(CAT, 1e6)), await codeOf(d.attention(CAT, -1)), await codeOf(d.attention(new Blob(['no picture']), 0))];
    return { cat, looked: { ...looked, weights: [...looked.weights] }, alike, here, errors, size: [found.width, found.height] };
  }, { api, MODEL, CAT });
  const { heads, rows, columns, weights } = looked;
  assert.ok(Number.isInteger(cat.query) && heads > 1 && rows > 1 && columns > 1, JSON.stringify({ cat, heads, rows, columns }));
  assert.equal(weights.length, heads * rows * columns);
  // What a head samples outside of the picture is on no place of it.
  for (let head = 0; head < heads; head++) {
    const sum = weights.slice(head * rows * columns, (head + 1) * rows * columns).reduce((a, b) => a + b);
    assert.ok(sum > 0 && sum < 1 + 1e-4, `head ${head}: ${sum}`);
  }
  const total = weights.reduce((a, b) => a + b);
  const inside = weights.filter((_, i) => {
    const [x, y] = [(i % columns + 0.5) / columns * size[0], (Math.floor(i / columns) % rows + 0.5) / rows * size[1]];
    return x >= cat.box.xmin && x <= cat.box.xmax && y >= cat.box.ymin && y <= cat.box.ymax;
  }).reduce((a, b) => a + b, 0) / total;
  assert.ok(inside > 0.9, `${inside} of it on the cat`);
  assert.equal(alike, false, 'another query looks elsewhere');
  assert.ok(here, 'without a worker the same');
  assert.match(errors[0], /^argument: there is no query 1000000: the model has \d+$/);
  assert.match(errors[1], /^argument: /);
  assert.match(errors[2], /^source: /);
});

test('threshold and labels choose; the result is a plain array as JSON', async (t) => {
  const { page, api } = await embed(t);
  const result = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    /** @param {Promise<unknown>} promise */
    const code = (promise) => promise.then(() => 'none', (error) => error.code);
    const all = await d.detect(CAT, { threshold: 0 });
    return {
      info: d.info, all, keys: Object.keys(all), times: all.times, standard: await d.detect(CAT),
      dogs: await d.detect(CAT, { threshold: 0, labels: ['dog'] }),
      codes: await Promise.all([
        code(d.detect(CAT, { labels: ['unicorn'] })), code(d.detect(CAT, { threshold: 2 })), code(d.detect(CAT, { threshold: NaN })),
        code(Detrim.load(MODEL, { backend: /** @type {any} */ ('cuda') })), code(d.bench({ runs: 0 })),
      ]),
    };
  }, { api, MODEL, CAT });
  assert.deepEqual(result.info.labels, labels);
  assert.equal(result.info.threshold, threshold);
  assert.ok(result.info.memory.wasm > bytes);
  assert.ok(result.all.length > result.standard.length);
  assert.deepEqual(result.keys, [...result.all.keys()].map(String));
  assert.deepEqual(result.standard, result.all.filter(({ score }) => score >= threshold));
  assert.deepEqual(result.dogs, result.all.filter(({ label }) => label === 'dog'));
  assert.deepEqual(Object.keys(result.times).sort(), ['decode', 'network', 'parts', 'post', 'pre', 'total']);
  assert.ok(result.times.network > 0 && result.times.total >= result.times.network, JSON.stringify(result.times));
  assert.deepEqual(result.codes, Array(5).fill('argument'));
});

test('loading tells its progress, asks for each file once, and then for nothing', async (t) => {
  const { page, api, site } = await embed(t);
  const progress = await page.evaluate(async ({ api, MODEL, CAT, sha256 }) => {
    const { Detrim } = api;
    /** @type {import('../../www/detrim/index.js').Progress[]} */
    const progress = [];
    const d = await Detrim.load(MODEL, { backend: 'cpu', sha256: sha256.toUpperCase(), onProgress: (step) => progress.push(step) });
    await d.detect(await (await fetch(CAT)).blob());
    return progress;
  }, { api, MODEL, CAT, sha256 });
  assert.deepEqual([...new Set(progress.map(({ phase }) => phase))].sort(), ['compile', 'download', 'load']);
  for (const phase of ['download', 'compile', 'load']) {
    const loaded = progress.filter((step) => step.phase === phase).map((step) => step.loaded);
    assert.deepEqual(loaded, [...loaded].sort((a, b) => a - b), phase);
  }
  assert.deepEqual(progress.filter(({ phase }) => phase === 'download').at(-1), { phase: 'download', loaded: bytes, total: bytes });
  const paths = site.requests.map((request) => request.path);
  for (const once of [MODEL, '/detrim/wasm/detrim_bg.wasm', '/detrim/worker.js']) assert.equal(paths.filter((path) => path === once).length, 1, once);
  assert.equal(paths.at(-1), CAT);
});

test('a model that is not what it should be is refused, with a code', async (t) => {
  const whole = await readFile(path.join(REPOSITORY, 'models', file));
  const files = { '/truncated': whole.subarray(0, whole.length / 2), '/garbage': Buffer.from('<!doctype html>'), '/empty': Buffer.alloc(0) };
  const { page, api } = await embed(t, { files, expected: [/404/] });
  const refused = await page.evaluate(async ({ api, MODEL, sha256 }) => {
    const { Detrim, DetrimError } = api;
    /** @param {string} url @param {string} [sha256] */
    const attempt = async (url, sha256) => {
      try {
        (await Detrim.load(url, { backend: 'cpu', sha256 })).dispose();
        return ['none', ''];
      } catch (error) {
        return [/** @type {any} */ (error).code, /** @type {Error} */ (error).message, error instanceof DetrimError];
      }
    };
    return {
      wrong: await attempt(MODEL, sha256.replace(/^./, (digit) => (digit === '0' ? '1' : '0'))), right: await attempt(MODEL, sha256),
      truncated: await attempt('/truncated'), garbage: await attempt('/garbage'), empty: await attempt('/empty'), missing: await attempt('/missing'),
    };
  }, { api, MODEL, sha256 });
  const codes = Object.fromEntries(Object.entries(refused).map(([name, [code]]) => [name, code]));
  assert.deepEqual(codes, { wrong: 'checksum', right: 'none', truncated: 'model', garbage: 'model', empty: 'model', missing: 'network' });
  for (const [name, [code, message, typed]] of Object.entries(refused)) assert.ok(code === 'none' || (typed && message.length > 20), `${name}: ${message}`);
  assert.match(String(refused.wrong[1]), new RegExp(sha256));
  assert.match(String(refused.missing[1]), /\/missing.*404/);
  await noWorker(page);
});

test('what is no picture is refused, and the next one isn\'t', async (t) => {
  const { page, api } = await embed(t, { expected: [/404/] });
  const codes = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const closed = await createImageBitmap(new ImageData(8, 8));
    closed.close();
    const broken = new Image();
    broken.src = 'data:image/png;base64,AAAA';
    /** @type {any[]} */
    const sources = [
      new Blob(['text']), closed, broken, document.createElement('video'), document.createElement('canvas').getContext('2d'),
      Object.assign(document.createElement('canvas'), { width: 0 }), null, undefined, 7, '/missing.png',
    ];
    /** @type {string[]} */
    const codes = [];
    for (const source of sources) codes.push(await d.detect(source).then(() => 'none', (error) => error.code));
    codes.push((await d.detect(CAT))[0].label);
    return codes;
  }, { api, MODEL, CAT });
  assert.deepEqual(codes, [...Array(9).fill('source'), 'network', 'cat']);
});

test('a load that is given up ends the download and the worker', { timeout: 60_000 }, async (t) => {
  /** @type {() => void} */
  let close;
  const closed = new Promise((/** @type {(value: void) => void} */ resolve) => (close = resolve));
  const server = {
    intercept: (/** @type {import('node:http').IncomingMessage} */ request, /** @type {import('node:http').ServerResponse} */ response) => {
      if (request.url !== '/slow') return false;
      response.writeHead(200, { 'Content-Length': 1_000_000 });
      response.write(Buffer.alloc(1000));
      response.on('close', () => close());
      return true;
    },
  };
  const { page, api } = await embed(t, { server });
  const errors = await page.evaluate(async ({ api }) => {
    const { Detrim } = api;
    const controller = new AbortController();
    const failed = Detrim.load('/slow', { signal: controller.signal, onProgress: ({ loaded }) => loaded && controller.abort('enough') }).catch((error) => error);
    const error = await failed;
    const early = await Detrim.load('/slow', { signal: AbortSignal.abort() }).catch((error) => error);
    return [error, early].map(({ name, code, cause }) => [name, code, String(cause)]);
  }, { api });
  assert.deepEqual(errors[0], ['AbortError', 'aborted', 'enough']);
  assert.deepEqual(errors[1].slice(0, 2), ['AbortError', 'aborted']);
  // The server hears of it a moment after the page does.
  await closed;
  await noWorker(page);
});

test('a detection that is given up ends at once; one that waits for its turn never runs', async (t) => {
  const { page, api } = await embed(t);
  const result = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const blob = await (await fetch(CAT)).blob();
    /** @type {string[]} */
    const order = [];
    const [running, waiting] = [new AbortController(), new AbortController()];
    const calls = [
      d.detect(blob, { signal: running.signal }).catch((error) => order.push(`running ${error.code}`)),
      d.detect(blob, { signal: waiting.signal }).catch((error) => order.push(`waiting ${error.code}`)),
      d.detect(blob).then(([{ label }]) => order.push(label)),
      d.detect(blob, { signal: AbortSignal.abort() }).catch((error) => order.push(`early ${error.code}`)),
    ];
    await new Promise((resolve) => setTimeout(resolve, 50));
    waiting.abort();
    running.abort();
    await Promise.all(calls);
    return order;
  }, { api, MODEL, CAT });
  assert.deepEqual(result, ['early aborted', 'waiting aborted', 'running aborted', 'cat']);
});

test('after dispose nothing works, and nothing is left', async (t) => {
  const { page, api } = await embed(t);
  for (const worker of [true, false]) {
    const codes = await page.evaluate(async ({ api, MODEL, CAT, worker }) => {
      const { Detrim } = api;
      const d = await Detrim.load(MODEL, { backend: 'cpu', worker });
      const blob = await (await fetch(CAT)).blob();
      /** @param {Promise<unknown>} promise */
      const code = (promise) => promise.then(() => 'none', (error) => error.code);
      const pending = [code(d.detect(blob)), code(d.detect(blob))];
      await new Promise((resolve) => setTimeout(resolve, 20));
      d.dispose();
      d.dispose();
      const codes = await Promise.all([...pending, code(d.detect(blob)), code(d.bench())]);
      try {
        return [...codes, d.info.backend];
      } catch (error) {
        return [...codes, /** @type {any} */ (error).code];
      }
    }, { api, MODEL, CAT, worker });
    // Without a worker the first may be over before the page gets to dispose of it.
    assert.deepEqual(codes.slice(1), Array(4).fill('disposed'), `worker: ${worker}`);
    assert.ok(codes[0] === 'disposed' || (!worker && codes[0] === 'none'), codes[0]);
  }
  await noWorker(page);
});

test('on the calling thread the same is found', async (t) => {
  const { page, api } = await embed(t);
  const found = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const here = await Detrim.load(MODEL, { backend: 'cpu', worker: false });
    const alone = await here.detect(CAT);
    const there = await Detrim.load(MODEL, { backend: 'cpu' });
    // Two at a time share one instance of the code.
    const second = await Detrim.load(MODEL, { backend: 'cpu', worker: false });
    const found = { alone, both: await Promise.all([here.detect(CAT), second.detect(CAT)]), there: await there.detect(CAT), workers: [here.info.worker, there.info.worker] };
    there.dispose();
    return found;
  }, { api, MODEL, CAT });
  assert.equal(found.alone[0].label, 'cat');
  assert.deepEqual(found.alone, found.there);
  assert.deepEqual(found.both, [found.alone, found.alone]);
  assert.deepEqual(found.workers, [false, true]);
  await noWorker(page);
});

test('a model from a Blob, and a bench and a profile at a size of one\'s own', async (t) => {
  const { page, api } = await embed(t);
  const result = await page.evaluate(async ({ api, DETR, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(await (await fetch(DETR)).blob(), { backend: 'cpu' });
    const small = await d.bench({ runs: 2, size: [64, 96] });
    const own = await d.bench({ runs: 1 });
    const profile = await d.profile({ size: [64, 96] });
    return { small, own, profile, after: await d.detect(CAT) };
  }, { api, DETR, CAT });
  assert.deepEqual([result.small.runs, result.small.size, result.small.info.backend], [2, [64, 96], 'cpu']);
  const [small, own] = [result.small, result.own].map(({ stages }) => Object.fromEntries(stages.map(({ name, median }) => [name, median])));
  assert.ok(small.network > 0 && small.network < own.network && own.total > own.network, JSON.stringify(result));
  assert.equal(result.after[0].label, 'cat');
  const { device, size, network, measured } = /** @type {any} */ (result.profile);
  assert.deepEqual([device, size], ['CPU (WebAssembly)', [64, 96]]);
  assert.ok(network > 0 && measured.operations.scale > 0 && measured.operations.entries.length > 30);
});

test('files that are missing are named', async (t) => {
  const server = {
    intercept: (/** @type {import('node:http').IncomingMessage} */ request, /** @type {import('node:http').ServerResponse} */ response) => {
      if (!request.url?.endsWith('.wasm')) return false;
      response.writeHead(404).end();
      return true;
    },
  };
  // The model may still be on its way when all is over.
  const { page, api } = await embed(t, { server, expected: [/404/, /worker/i, /ERR_CONTENT_LENGTH_MISMATCH/] });
  const errors = await page.evaluate(async ({ api, MODEL }) => {
    const { Detrim } = api;
    const noCode = await Detrim.load(MODEL).catch((error) => error);
    const noWorker = await Detrim.load(MODEL, { workerUrl: '/nowhere/worker.js' }).catch((error) => error);
    return [noCode, noWorker].map(({ code, message }) => [code, message]);
  }, { api, MODEL });
  assert.deepEqual(errors.map(([code]) => code), ['network', 'network']);
  assert.match(errors[0][1], /detrim_bg\.wasm.*404/);
  assert.match(errors[1][1], /worker/);
});
