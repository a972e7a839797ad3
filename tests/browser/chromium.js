// Chromium as the tests need it: silent, with or without WebGPU (on a software GPU) and a camera (that shows one photo).

import { accessSync, constants } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';

// The npm packages live with the page, not at the top.
const playwright = createRequire(new URL('../../www/package.json', import.meta.url))('playwright-core');
const { chromium, devices } = /** @type {typeof import('../../www/node_modules/playwright-core/index.js')} */ (playwright);
export { devices };

/** @typedef {import('../../www/node_modules/playwright-core/index.js').Browser} Browser */

/**
 * @typedef {object} Launch
 * @property {boolean} [webgpu] whether the browser has WebGPU (default: no)
 * @property {string} [camera] a JPEG that a fake camera shows; without it there is no camera
 * @property {string[]} [args] further arguments of Chromium
 */

const QUIET = [
  '--no-sandbox', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
  // Any host but ours is unknown, so that a stray request fails at once and is seen.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
];
const WEBGPU = ['--enable-unsafe-webgpu'];
const NO_WEBGPU = ['--disable-features=WebGPU', '--disable-gpu', '--disable-blink-features=WebGPU'];

/** @type {Map<string, Promise<Browser>>} */
const browsers = new Map();
/** @type {Map<string, Promise<string>>} */
const films = new Map();
/** @type {string[]} */
const folders = [];

/** One browser for each set of arguments, shared by all that ask for them. @param {Launch} options */
export async function launch(options) {
  const args = [...QUIET, ...(options.webgpu ? WEBGPU : NO_WEBGPU), ...(options.args ?? [])];
  if (options.camera) {
    args.push('--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream', `--use-file-for-fake-video-capture=${await film(options.camera)}`);
  }
  const key = args.join(' ');
  const browser = browsers.get(key) ?? chromium.launch({ executablePath: findChromium(), headless: true, args });
  browsers.set(key, browser);
  return browser;
}

/** Ends what was launched. */
export async function closeBrowsers() {
  for (const browser of browsers.values()) await browser.then((running) => running.close());
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
  browsers.clear();
  films.clear();
}

/** A film of one JPEG, as Chromium's fake camera wants it: frames one after another. @param {string} photo */
function film(photo) {
  const made = films.get(photo) ?? (async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'detrim-camera-'));
    folders.push(folder);
    const file = path.join(folder, 'camera.mjpeg');
    const frame = await readFile(photo);
    await writeFile(file, Buffer.concat([frame, frame]));
    return file;
  })();
  films.set(photo, made);
  return made;
}

/** The browser: $CHROMIUM, or one where systems keep it. */
function findChromium() {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const places = (process.env.PATH ?? '').split(path.delimiter).flatMap((folder) => names.map((name) => path.join(folder, name)));
  const apps = ['/Applications/Google Chrome.app/Contents/MacOS/Google Chrome', '/Applications/Chromium.app/Contents/MacOS/Chromium'];
  const found = [process.env.CHROMIUM ?? '', ...places, ...apps].find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return file !== '';
    } catch {
      return false;
    }
  });
  if (!found) throw new Error('no Chromium or Chrome found: install one, or name it in the environment variable CHROMIUM');
  return found;
}
