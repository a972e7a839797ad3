// Firefox as the tests need it, by WebDriver BiDi (https://w3c.github.io/webdriver-bidi/), which every Firefox speaks by itself: playwright's own
// build can't be had everywhere, and its way to others needs a newer one than Debian's ESR.

import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** @type {new (address: string) => WebSocket} a dependency of the page's tests, which live with it; Node.js 20 has none of its own */
const Socket = createRequire(new URL('../../www/package.json', import.meta.url))('ws');

/** Milliseconds that a start may take. */
const PATIENCE = 30_000;

/** WebGPU on whatever Vulkan driver there is: off by default on Linux, and not for software adapters. */
const WEBGPU = { 'dom.webgpu.enabled': true, 'dom.webgpu.workers.enabled': true, 'gfx.webgpu.ignore-blocklist': true, 'dom.webgpu.wgpu-backend': 'vulkan' };
const QUIET = {
  'app.update.disabledForTesting': true, 'browser.shell.checkDefaultBrowser': false, 'browser.startup.page': 0, 'datareporting.policy.dataSubmissionEnabled': false,
  'network.captive-portal-service.enabled': false, 'network.connectivity-service.enabled': false, 'remote.prefs.recommended': true,
};

/** The browser: $FIREFOX, or one where systems keep it; nothing where there is none. */
export function findFirefox() {
  const names = ['firefox-esr', 'firefox'];
  const places = (process.env.PATH ?? '').split(path.delimiter).flatMap((folder) => names.map((name) => path.join(folder, name)));
  return [process.env.FIREFOX ?? '', ...places, '/Applications/Firefox.app/Contents/MacOS/firefox'].find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return file !== '';
    } catch {
      return false;
    }
  });
}

/**
 * One tab of a Firefox with a profile of its own, without a window.
 * @param {string} program
 * @param {{webgpu?: boolean}} [options]
 */
export async function launchFirefox(program, { webgpu = false } = {}) {
  const profile = await mkdtemp(path.join(tmpdir(), 'detrim-firefox-'));
  const preferences = Object.entries({ ...QUIET, ...(webgpu ? WEBGPU : { 'dom.webgpu.enabled': false }) });
  await writeFile(path.join(profile, 'user.js'), preferences.map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`).join(''));
  const running = spawn(program, ['--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0', 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise((resolve) => running.once('exit', resolve));
  const close = async () => {
    running.kill();
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  try {
    const socket = new Socket(`${await addressOf(running)}/session`);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error('Firefox takes no connection'));
    });
    return { ...(await talk(socket)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Where it listens, which it says on its way up. @param {import('node:child_process').ChildProcess} running @returns {Promise<string>} */
function addressOf(running) {
  return new Promise((resolve, reject) => {
    let said = '';
    const fail = () => reject(new Error(`Firefox doesn't start: ${said}`));
    const timer = setTimeout(fail, PATIENCE);
    running.once('error', reject);
    running.once('exit', fail);
    running.stderr?.on('data', (text) => {
      said += text;
      const [, address] = /WebDriver BiDi listening on (ws:\S+)/.exec(said) ?? [];
      if (!address) return;
      clearTimeout(timer);
      resolve(address);
    });
  });
}

/** @param {WebSocket} socket */
async function talk(socket) {
  /** @type {Map<number, {resolve: (result: any) => void, reject: (error: Error) => void}>} */
  const waiting = new Map();
  /** What the page logged as an error, or threw. @type {string[]} */
  const problems = [];
  let calls = 0;
  socket.onmessage = ({ data }) => {
    const { id, method, result, error, message, params } = JSON.parse(String(data));
    if (method === 'log.entryAdded' && params.level === 'error') problems.push(params.text);
    if (error) waiting.get(id)?.reject(new Error(`${error}: ${message}`));
    else waiting.get(id)?.resolve(result);
    waiting.delete(id);
  };
  socket.onclose = () => {
    for (const { reject } of waiting.values()) reject(new Error('Firefox has ended'));
  };
  /** @param {string} method @param {object} params @returns {Promise<any>} */
  const call = (method, params) => new Promise((resolve, reject) => {
    calls += 1;
    waiting.set(calls, { resolve, reject });
    socket.send(JSON.stringify({ id: calls, method, params }));
  });
  const { capabilities } = await call('session.new', { capabilities: {} });
  await call('session.subscribe', { events: ['log.entryAdded'] });
  const { contexts: [{ context }] } = await call('browsingContext.getTree', {});
  /** @param {string} url */
  const goto = async (url) => void (await call('browsingContext.navigate', { context, url, wait: 'complete' }));
  /**
   * What a function gives in the page. Both ways go as JSON.
   * @template A, R
   * @param {(argument: A) => R | Promise<R>} run
   * @param {A} argument
   * @returns {Promise<R>}
   */
  const evaluate = async (run, argument) => {
    const { result, exceptionDetails } = await call('script.callFunction', {
      functionDeclaration: `async (argument) => JSON.stringify(await (${run})(JSON.parse(argument)))`,
      arguments: [{ type: 'string', value: JSON.stringify(argument ?? null) }], target: { context }, awaitPromise: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.text);
    return JSON.parse(result.value ?? 'null');
  };
  return { version: String(capabilities.browserVersion), goto, evaluate, problems };
}
