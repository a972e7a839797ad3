// How fast the networks of a report's folder are in a browser. They take turns (the parent, one after another of the others, the parent again …),
// so that whatever else the machine does slows all of them, and each is compared with its parent round by round. Each runs once before it is
// timed, as after another frame (but on a GPU that is a program, which takes its time anyway).

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { openBench } from './bench-page.js';

/** @typedef {'cpu' | 'webgpu'} Backend */
/** @typedef {{sha256: string, ms: number, ratio: number}} Turn milliseconds of the network alone; `ratio` is to the parent's */
/** @typedef {{adapter: string, software: boolean, rounds: number, networks: Record<string, Turn>}} Turns */
/** @typedef {{browser: string, wasm?: Turns, webgpu?: Turns}} Times what `detrim report --browser` reads */
/** @typedef {{backends?: Backend[], rounds?: number, args?: string[], say?: (text: string) => void}} Options `args` are Chromium's */

/** Rounds unless the user says otherwise: on a GPU that is a program, networks take minutes and nobody goes by them. */
const ROUNDS = 10;
const SOFTWARE_ROUNDS = 3;

/**
 * The times of a report's parent and of each of its recipes.
 * @param {string} folder what `detrim report --out` has filled
 * @param {Options} [options]
 */
export async function timeReport(folder, options) {
  const { size, names } = await readReport(folder);
  return await timeInTurns(Object.fromEntries(names.map((name) => [name, path.join(folder, `${name}.safetensors`)])), size, options);
}

/**
 * The times of networks, each beside the first's. A backend that isn't there is told of and left out.
 * @param {Record<string, string>} files by the networks' names
 * @param {{height: number, width: number}} size of the first's input
 * @param {Options} [options]
 * @returns {Promise<Times>}
 */
export async function timeInTurns(files, size, { backends = ['cpu', 'webgpu'], rounds, args, say = () => {} } = {}) {
  const names = Object.keys(files);
  /** @type {Record<string, string>} */
  const models = {};
  /** @type {Record<string, string>} */
  const sha256 = {};
  for (const name of names) {
    models[address(name)] = files[name];
    sha256[name] = createHash('sha256').update(await readFile(files[name])).digest('hex');
  }
  /** @type {Times} */
  const found = { browser: '' };
  for (const backend of backends) {
    const { page, browser, close } = await openBench(models, { webgpu: backend === 'webgpu', args });
    try {
      const { unsupported, adapter, software, time } = await load(page, names, size, backend);
      if (unsupported) {
        say(`no WebGPU: ${unsupported}`);
        continue;
      }
      const count = rounds ?? (software ? SOFTWARE_ROUNDS : ROUNDS);
      say(`${browser}, ${backend} (${adapter}${software ? ', a program on the processor' : ''}): ${names.join(', ')}, ${count} rounds after one to warm up`);
      const times = await takeTurns(names, count, time, say);
      const networks = Object.fromEntries(names.map((name) => [name, { sha256: sha256[name], ...compare(times[name], times[names[0]]) }]));
      found[backend === 'cpu' ? 'wasm' : 'webgpu'] = { adapter, software, rounds: count, networks };
      found.browser = browser;
    } finally {
      await close();
    }
  }
  if (!found.wasm && !found.webgpu) throw new Error('nothing could be measured');
  return found;
}

/**
 * What was measured, for people.
 * @param {Times} times
 */
export function print(times) {
  for (const [name, turns] of /** @type {[string, Turns][]} */ (Object.entries(times).filter(([name]) => name !== 'browser'))) {
    console.log(`${name} in ${times.browser} (${turns.adapter}${turns.software ? ', a program on the processor' : ''}), ${turns.rounds} rounds`);
    const rows = Object.entries(turns.networks).map(([network, { ms, ratio }]) => [network, { 'median ms': +ms.toFixed(1), 'of the first': +ratio.toFixed(3) }]);
    console.table(Object.fromEntries(rows));
  }
}

/** @param {string} name */
const address = (name) => `/networks/${encodeURIComponent(name)}.safetensors`;

/**
 * The networks of a report, the parent first, and the size of their input.
 * @param {string} folder
 */
async function readReport(folder) {
  const file = path.join(folder, 'report.json');
  const text = await readFile(file, 'utf8').catch(() => {
    throw new Error(`${file} can't be read: \`detrim report … --out ${folder}\` makes the folder`);
  });
  try {
    /** @type {{rows: {name: string, costs: {size: [number, number]}}[]}} */
    const { rows } = JSON.parse(text);
    const names = rows.map(({ name }) => name);
    const [height, width] = rows[0].costs.size;
    if (names[0] !== 'parent' || !(height > 0 && width > 0)) throw new Error('the parent comes first in a report');
    return { size: { height, width }, names };
  } catch (error) {
    throw new Error(`${file} isn't a report that \`detrim report\` wrote`, { cause: error });
  }
}

/**
 * All networks in the page, each in a worker of its own, and a made-up photo, twice as large as the networks' input as in `detrim report`.
 * @param {import('./bench-page.js').Page} page @param {string[]} names @param {{height: number, width: number}} size @param {Backend} backend
 */
async function load(page, names, { height, width }, backend) {
  const handle = await page.evaluateHandle(async ({ networks, height, width, backend }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(/** @type {string} */ ('/detrim/index.js'));
    const adapter = backend === 'webgpu' ? await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' }) : null;
    /** @type {Record<string, import('../../www/detrim/index.js').Detrim>} */
    const detectors = {};
    /** @type {{name: string, code: string, message: string} | undefined} */
    let problem;
    for (const { name, address } of networks) {
      try {
        detectors[name] = await Detrim.load(address, { backend });
      } catch (error) {
        const { code, message } = /** @type {import('../../www/detrim/index.js').DetrimError} */ (error);
        problem = { name, code, message };
        break;
      }
    }
    const photo = new ImageData(2 * width, 2 * height);
    for (let i = 0; i < photo.data.length; i += 1) photo.data[i] = i % 251;
    const named = detectors[networks[0].name]?.info.adapter ?? '';
    const software = adapter?.info?.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(named);
    return { detectors, photo, adapter: named, software, problem };
  }, { networks: names.map((name) => ({ name, address: address(name) })), height, width, backend });
  const { problem, ...kind } = await handle.evaluate(({ adapter, software, problem }) => ({ adapter, software, problem }));
  if (problem && problem.code !== 'unsupported') throw new Error(`${problem.name}: ${problem.message}`);
  /** Milliseconds. @param {string} name */
  const time = (name) => handle.evaluate(async ({ detectors, photo, software }, { name, backend }) => {
    if (backend === 'cpu' || !software) await detectors[name].detect(photo);
    const { times } = await detectors[name].detect(photo);
    if (detectors[name].info.backend !== backend) throw new Error(`${name} has left ${backend}: ${detectors[name].info.why}`);
    return times.network;
  }, { name, backend });
  return { ...kind, unsupported: problem?.message, time };
}

/**
 * The times of each network, round by round, after a round to warm up.
 * @param {string[]} names @param {number} rounds @param {(name: string) => Promise<number>} time @param {(text: string) => void} say
 */
export async function takeTurns(names, rounds, time, say) {
  /** @type {Record<string, number[]>} */
  const times = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round <= rounds; round += 1) {
    /** @type {string[]} */
    const told = [];
    for (const name of names) {
      const ms = await time(name);
      if (round > 0) times[name].push(ms);
      told.push(`${name} ${ms.toFixed(1)}`);
    }
    say(`${round === 0 ? 'warm-up' : `round ${round} of ${rounds}`}: ${told.join(', ')} ms`);
  }
  return times;
}

/**
 * The median time, and the median of the ratios within a round, which isn't the ratio of the medians.
 * @param {number[]} times @param {number[]} parent
 */
export function compare(times, parent) {
  return { ms: median(times), ratio: median(times.map((ms, round) => ms / parent[round])) };
}

/** @param {number[]} numbers */
export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
