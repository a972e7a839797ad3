// detrim beside onnxruntime-web on the same network: `node tests/browser/bench-ort.js MODEL.safetensors MODEL.onnx ORT [--backend cpu|webgpu]
// [--size HEIGHTxWIDTH] [--rounds N]`, with the site built before. ORT is the folder that `npm install onnxruntime-web` makes. The ONNX file is
// what the repositories of RT-DETR, D-FINE and DEIMv2 export: inputs `images` and `orig_target_sizes`, outputs `labels`, `boxes` and `scores`.
//
// One page, one thread each, one image, which has the network's size already. The two take turns, and each runs once before it is timed, so that
// whatever else the machine does slows both. Timed is the network alone: detrim's `times.network`, onnxruntime-web's `session.run`. What both find
// must be the same, or nothing is compared. Not a test: speed is the machine's.

import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { openBench } from './bench-page.js';
import { compare, takeTurns } from './turns.js';

/** @typedef {{label: string, score: number, box: number[]}} Found boxes as xmin, ymin, xmax, ymax in pixels */

const USAGE = 'usage: node tests/browser/bench-ort.js MODEL.safetensors MODEL.onnx ORT [--backend cpu|webgpu] [--size HEIGHTxWIDTH] [--rounds N]';
/** From this score on, both must have found the same. */
const COMPARED = 0.3;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { backend: { type: 'string', default: 'cpu' }, size: { type: 'string', default: '416x416' }, rounds: { type: 'string', default: '20' } },
});
const [model, onnx, ort, ...more] = positionals;
const { backend } = values;
const [height, width] = values.size.split('x').map(Number);
const rounds = Number(values.rounds);
if (!ort || more.length > 0 || !['cpu', 'webgpu'].includes(backend) || !(height > 0 && width > 0) || !(rounds > 0)) throw new Error(USAGE);

const dist = path.join(ort, 'dist');
const scripts = (await readdir(dist)).filter((name) => /\.(mjs|wasm)$/.test(name));
const files = { '/bench.safetensors': model, '/bench.onnx': onnx, ...Object.fromEntries(scripts.map((name) => [`/ort/${name}`, path.join(dist, name)])) };
const { version } = JSON.parse(await readFile(path.join(ort, 'package.json'), 'utf8'));
const { page, browser, close } = await openBench(files, { webgpu: backend === 'webgpu' });
try {
  const both = await page.evaluateHandle(async ({ backend, height, width }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
    const ort = await import(backend === 'cpu' ? '/ort/ort.wasm.min.mjs' : '/ort/ort.webgpu.min.mjs');
    Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: '/ort/' });
    const session = await ort.InferenceSession.create('/bench.onnx', { executionProviders: [backend === 'cpu' ? 'wasm' : 'webgpu'], graphOptimizationLevel: 'all' });
    const detector = await Detrim.load('/bench.safetensors', { backend: /** @type {'cpu' | 'webgpu'} */ (backend) });

    const bitmap = await createImageBitmap(await (await fetch('/samples/chelsea.png')).blob());
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext('2d'));
    context.drawImage(bitmap, 0, 0, width, height);
    const image = context.getImageData(0, 0, width, height);
    const planes = new Float32Array(3 * height * width);
    for (let i = 0; i < planes.length; i += 1) planes[i] = image.data[4 * (i % (height * width)) + Math.floor(i / (height * width))] / 255;
    const feeds = {
      images: new ort.Tensor('float32', planes, [1, 3, height, width]),
      orig_target_sizes: new ort.Tensor('int64', BigInt64Array.of(BigInt(width), BigInt(height)), [1, 2]),
    };
    return { detector, session, image, feeds };
  }, { backend, height, width });

  /** @type {Record<'detrim' | 'onnxruntime-web', Found[]>} */
  const found = await both.evaluate(async ({ detector, session, image, feeds }) => {
    const { labels, boxes, scores } = await session.run(feeds);
    const four = (/** @type {number} */ i) => /** @type {number[]} */ ([...boxes.data.slice(4 * i, 4 * i + 4)]);
    return {
      detrim: (await detector.detect(image, { threshold: 0.05 })).map(({ label, score, box }) => ({ label, score, box: [box.xmin, box.ymin, box.xmax, box.ymax] })),
      'onnxruntime-web': [...scores.data].map((score, i) => ({ label: detector.info.labels[Number(labels.data[i])], score, box: four(i) })),
    };
  });
  const objects = found['onnxruntime-web'].filter(({ score }) => score >= COMPARED);
  if (objects.length === 0) throw new Error(`onnxruntime-web finds nothing that scores ${COMPARED}: there is nothing to compare`);
  for (const object of objects) {
    if (!found.detrim.some((other) => isSame(object, other))) throw new Error(`detrim doesn't find ${describe(object)}, which onnxruntime-web does: ${found.detrim.slice(0, 5).map(describe).join(', ')}`);
  }

  const { adapter, memory } = await both.evaluate(({ detector }) => detector.info);
  const software = backend === 'webgpu' && /swiftshader|llvmpipe|basic render/i.test(adapter);
  const time = (/** @type {string} */ name) => both.evaluate(async ({ detector, session, image, feeds }, name) => {
    if (name === 'detrim') {
      await detector.detect(image);
      return (await detector.detect(image)).times.network;
    }
    await session.run(feeds);
    const begun = performance.now();
    await session.run(feeds);
    return performance.now() - begun;
  }, name);
  const times = await takeTurns(['onnxruntime-web', 'detrim'], rounds, time, (text) => console.error(text));

  const ours = compare(times.detrim, times['onnxruntime-web']);
  const theirs = compare(times['onnxruntime-web'], times['onnxruntime-web']);
  console.log(`${browser}, ${backend} (${adapter}${software ? ', a program on the processor: its times say nothing about graphics processors' : ', one thread'}), ${height}×${width}, ${rounds} rounds`);
  console.log(`both find ${objects.map(describe).join(', ')}`);
  console.table({
    [`onnxruntime-web ${version}, ${path.basename(onnx)}`]: { 'median ms': +theirs.ms.toFixed(1) },
    [`detrim, ${path.basename(model)}`]: { 'median ms': +ours.ms.toFixed(1), ratio: +ours.ratio.toFixed(3), 'wasm memory MB': Math.round(memory.wasm / 1e6) },
  });
} finally {
  await close();
}

/** @param {Found} object */
function describe({ label, score }) {
  return `${label} ${score.toFixed(3)}`;
}

/** The same object, but for rounding and the weights' type. @param {Found} a @param {Found} b */
function isSame(a, b) {
  const side = (/** @type {number} */ i) => Math.max(0, Math.min(a.box[i + 2], b.box[i + 2]) - Math.max(a.box[i], b.box[i]));
  const area = ({ box: [xmin, ymin, xmax, ymax] } = a) => (xmax - xmin) * (ymax - ymin);
  const common = side(0) * side(1);
  return a.label === b.label && Math.abs(a.score - b.score) < 0.02 && common / (area(a) + area(b) - common) > 0.95;
}
