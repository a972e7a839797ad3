// Times in a browser for `detrim report --browser`: `node tests/browser/report.js DIR [--out FILE] [--rounds N] [--backend cpu|webgpu]
// [--chromium=SWITCH]…`, with the site built before. DIR is what `detrim report --out DIR` has filled. Without --backend both are measured, WebGPU
// where there is an adapter. Not a test: speed is the machine's.

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { print, timeReport } from './turns.js';

const USAGE = 'usage: node tests/browser/report.js DIR [--out FILE] [--rounds N] [--backend cpu|webgpu] [--chromium=SWITCH]…';

/** @param {string} problem @returns {never} */
function fail(problem) {
  console.error(`error: ${problem}`);
  process.exit(1);
}

/** @param {string[]} args */
function read(args) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      out: { type: 'string' },
      rounds: { type: 'string' },
      backend: { type: 'string', multiple: true },
      chromium: { type: 'string', multiple: true },
    },
  });
  const [folder, ...more] = positionals;
  if (!folder || more.length > 0) throw new Error(USAGE);
  const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
  if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds: a whole number above 0 is needed');
  const unknown = values.backend?.find((name) => !['cpu', 'webgpu'].includes(name));
  if (unknown !== undefined) throw new Error(`--backend: cpu or webgpu, not ${unknown}`);
  const backends = /** @type {import('./turns.js').Backend[] | undefined} */ (values.backend);
  return { folder, out: values.out ?? path.join(folder, 'times.json'), options: { rounds, backends, args: values.chromium } };
}

try {
  const { folder, out, options } = read(process.argv.slice(2));
  const times = await timeReport(folder, { ...options, say: (text) => console.error(text) });
  print(times);
  await writeFile(out, `${JSON.stringify(times, null, 2)}\n`);
  console.log(`wrote ${out}; now: detrim report … --browser ${out}`);
} catch (error) {
  fail(error instanceof Error ? error.message : String(error));
}
