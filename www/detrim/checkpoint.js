// A detector's files, wherever they are: detrim's own is one file; a checkpoint as Hugging Face keeps it is weights, in one file or several, with
// config.json and preprocessor_config.json beside them.

import { mistaken } from './contents.js';
import { get, receive, shortened } from './download.js';
import { DetrimError } from './errors.js';
import { called, fetchFile, nameOf, tag } from './file.js';
import { HUB, downloadAdvice, parseRepository, repositoryUrl } from './hub.js';

/** @typedef {import('./file.js').FileSource} FileSource */

/**
 * A checkpoint in its parts. A text that was read already is given as what it holds.
 *
 * @typedef {object} CheckpointParts
 * @property {FileSource | FileSource[]} weights `model.safetensors`, or all files of a sharded one
 * @property {FileSource | {[key: string]: unknown}} [config] `config.json`
 * @property {FileSource | {[key: string]: unknown}} [preprocessor] `preprocessor_config.json`
 */

/** Whatever a model can come from. @typedef {FileSource | CheckpointParts | File[] | FileList} ModelSource */

/** What an engine loads; `name` is for messages. @typedef {{weights: Blob[], config?: string, preprocessor?: string, name: string}} ModelFiles */

/**
 * @typedef {object} Fetching
 * @property {string | undefined} hub the origin that `hf:` means, where that is allowed
 * @property {AbortSignal} signal
 * @property {(loaded: number, total: number | null) => void} onBytes of all weights together
 */

/** WebAssembly has 4 GB, in which both the file and the network have to fit. */
const MAX_BYTES = 2 ** 31;

/** Names of files with weights. */
export const WEIGHTS = /\.(safetensors|pth?|bin)$/i;

/**
 * @param {ModelSource | PromiseLike<ModelSource>} source
 * @param {Fetching} fetching
 * @returns {Promise<ModelFiles>}
 */
export async function gather(source, { onBytes, ...fetching }) {
  const files = await find(await promised(source), {
    ...fetching,
    onBytes: (loaded, total) => {
      checkSize(Math.max(loaded, total ?? 0));
      onBytes(loaded, total);
    },
  });
  checkSize(files.weights.reduce((sum, { size }) => sum + size, 0));
  return files;
}

/** @param {number} bytes */
function checkSize(bytes) {
  if (bytes > MAX_BYTES) throw new DetrimError('model', `the model has ${(bytes / 1e9).toFixed(1)} GB; a browser can load ${(MAX_BYTES / 1e9).toFixed(1)} GB at most`);
}

/**
 * @param {ModelSource} model
 * @param {Fetching} fetching
 * @returns {Promise<ModelFiles>}
 */
async function find(model, fetching) {
  const kind = tag(model);
  if (kind === 'Array' || kind === 'FileList') return await chosen([.../** @type {Iterable<File>} */ (model)], fetching);
  if (kind === 'Object' && 'weights' in /** @type {object} */ (model)) return await assembled(/** @type {CheckpointParts} */ (model), fetching);
  const directory = directoryOf(model, fetching.hub);
  if (directory) return await fromDirectory(directory, fetching);
  const file = /** @type {FileSource} */ (model);
  return { weights: [await fetchFile(file, fetching.signal, fetching.onBytes)], name: nameOf(file) };
}

/** @param {ModelSource | PromiseLike<ModelSource>} source */
async function promised(source) {
  try {
    return await source;
  } catch (error) {
    throw DetrimError.from(error, 'network', 'the model');
  }
}

/**
 * @param {CheckpointParts} parts
 * @param {Fetching} fetching
 * @returns {Promise<ModelFiles>}
 */
async function assembled({ weights, config, preprocessor }, { signal, onBytes }) {
  const sources = Array.isArray(weights) ? weights : [weights];
  if (sources.length === 0) throw new DetrimError('argument', '`weights` has no file');
  const counting = together(sources.length, onBytes);
  const [files, ...texts] = await Promise.all([
    Promise.all(sources.map((source, i) => fetchFile(source, signal, counting[i]))), textOf(config, 'config', signal), textOf(preprocessor, 'preprocessor', signal),
  ]);
  return { weights: files, config: texts[0], preprocessor: texts[1], name: nameOf(sources[0]) };
}

/**
 * @param {CheckpointParts['config']} source
 * @param {string} name
 * @param {AbortSignal} signal
 */
async function textOf(source, name, signal) {
  if (source === undefined || source === null) return undefined;
  // Read already.
  if (tag(source) === 'Object') return JSON.stringify(source);
  const blob = await fetchFile(/** @type {FileSource} */ (source), signal, () => {}, name);
  return await blob.text();
}

/**
 * Files that somebody chose or dropped together.
 *
 * @param {File[]} files
 * @param {Fetching} fetching
 * @returns {Promise<ModelFiles>}
 */
async function chosen(files, fetching) {
  const wrong = files.find(file => tag(file) !== 'File');
  if (wrong !== undefined || files.length === 0) throw new DetrimError('argument', `an array of a model's Files was expected, not of ${files.length === 0 ? 'nothing' : called(wrong)}`);
  const parts = sortFiles(files);
  return await assembled(parts, fetching);
}

/**
 * Which of a checkpoint's files is which, by their names. Browsers number what is downloaded twice: `config (1).json`.
 *
 * @template {{name: string, text(): Promise<string>}} F
 * @param {F[]} files
 * @returns {{weights: F[], config?: F, preprocessor?: F}}
 */
export function sortFiles(files) {
  const named = (/** @type {RegExp} */ pattern) => files.filter(({ name }) => pattern.test(name));
  const one = (/** @type {F[]} */ found) => {
    if (found.length > 1) throw new DetrimError('argument', `two files for one purpose: ${list(found)}`);
    return found[0];
  };
  const preprocessor = one(named(/^preprocessor_config( \(\d+\))?\.json$/i));
  const config = one(named(/^config( \(\d+\))?\.json$/i));
  const weights = named(WEIGHTS).sort((a, b) => (a.name < b.name ? -1 : 1));
  if (weights.length === 0) throw new DetrimError('argument', `no weights (a .safetensors file) are among ${list(files)}`);
  checkShards(weights);
  return { weights, config, preprocessor };
}

/** @param {{name: string}[]} files sorted */
function checkShards(files) {
  const places = files.map(({ name }) => /^(.*)-(\d+)-of-(\d+)\.\w+$/.exec(name));
  const [, stem, , count] = places[0] ?? [];
  if (files.length > 1 && places.some(place => !place || place[1] !== stem || place[3] !== count)) {
    throw new DetrimError('argument', `these are several models: ${list(files)}; one at a time, with its config.json`);
  }
  const present = new Set(places.map(place => Number(place?.[2])));
  for (let i = 1; i <= Number(count); i++) {
    if (!present.has(i)) throw new DetrimError('argument', `part ${i} of ${Number(count)} of ${stem} is missing: all its files are needed together`);
  }
}

/** @param {{name: string}[]} files */
function list(files) {
  const names = files.slice(0, 5).map(({ name }) => shortened(name)).join(', ');
  return files.length > 5 ? `${names} and ${files.length - 5} more` : names;
}

/**
 * The folder that an address stands for: it ends in a slash, or is a repository's name on the Hub.
 *
 * @param {unknown} model
 * @param {string | undefined} hub
 * @returns {URL | undefined}
 */
export function directoryOf(model, hub) {
  if (!['String', 'URL'].includes(tag(model))) return undefined;
  const address = String(model).trim();
  if (address.startsWith('hf:')) return directoryOnHub(address, hub);
  if (!/\/(\?[^#]*)?(#.*)?$/.test(address)) return undefined;
  try {
    return new URL(address, globalThis.location?.href);
  } catch {
    return undefined;
  }
}

/** @param {string} address @param {string | undefined} hub */
function directoryOnHub(address, hub) {
  const repository = parseRepository(address);
  if (!repository) throw new DetrimError('argument', `${shortened(address)}: hf:OWNER/NAME or hf:OWNER/NAME@REVISION was expected`);
  if (!hub) {
    throw new DetrimError('argument', `${address}: this page fetches nothing from ${HUB}. Whoever embeds the detector allows it by \`hub: true\` (and in \`connect-src\`); `
      + `otherwise ${downloadAdvice(repository)} and load them together`);
  }
  return repositoryUrl(repository, hub);
}

/**
 * @param {URL} directory
 * @param {Fetching} fetching
 * @returns {Promise<ModelFiles>}
 */
async function fromDirectory(directory, { signal, onBytes }) {
  const [weights, config, preprocessor] = await Promise.all([
    weightsBelow(directory, signal, onBytes), textBelow(directory, 'config.json', signal), textBelow(directory, 'preprocessor_config.json', signal),
  ]);
  return { weights, config, preprocessor, name: shortened(directory) };
}

/**
 * @param {URL} directory
 * @param {AbortSignal} signal
 * @param {Fetching['onBytes']} onBytes
 * @returns {Promise<Blob[]>}
 */
async function weightsBelow(directory, signal, onBytes) {
  const single = await getBelow(directory, 'model.safetensors', signal);
  if (single) return [await receive(single, shortened(single.url), signal, onBytes)];
  const text = await textBelow(directory, 'model.safetensors.index.json', signal);
  if (text === undefined) throw new DetrimError('network', `${shortened(directory)}: neither model.safetensors nor model.safetensors.index.json is there`);
  const names = shardsOf(text, shortened(new URL('model.safetensors.index.json', directory)));
  const counting = together(names.length, onBytes);
  return await Promise.all(names.map((name, i) => fetchFile(new URL(name, directory), signal, counting[i])));
}

/**
 * The files that an index names.
 *
 * @param {string} text
 * @param {string} name for messages
 */
export function shardsOf(text, name) {
  /** @type {any} */
  let index;
  try {
    index = JSON.parse(text);
  } catch (error) {
    throw DetrimError.from(error, 'model', `${name} isn't JSON`);
  }
  const map = index?.weight_map;
  if (typeof map !== 'object' || map === null || Object.keys(map).length === 0) throw new DetrimError('model', `${name}: \`weight_map\` must name each tensor's file`);
  const names = [...new Set(Object.values(map))];
  for (const file of names) {
    // Files beside the index, and nothing elsewhere.
    if (typeof file !== 'string' || !/^[\w-][\w.-]*$/.test(file)) throw new DetrimError('model', `${name}: ${shortened(JSON.stringify(file))} is no file's name`);
  }
  return /** @type {string[]} */ (names).sort();
}

/**
 * A text that may be missing.
 *
 * @param {URL} directory
 * @param {string} name
 * @param {AbortSignal} signal
 */
async function textBelow(directory, name, signal) {
  const response = await getBelow(directory, name, signal);
  if (!response) return undefined;
  const text = await (await receive(response, shortened(response.url), signal)).text();
  const problem = mistaken(new TextEncoder().encode(text.slice(0, 200)));
  // Some servers have a page for whatever they don't have.
  if (problem?.startsWith('a web page')) return undefined;
  if (problem) throw new DetrimError('model', `${shortened(response.url)}: this is ${problem}`);
  return text;
}

/**
 * @param {URL} directory
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<Response | undefined>} nothing where the server has no such file
 */
async function getBelow(directory, name, signal) {
  const response = await get(new URL(name, directory), signal);
  if (response.status === 404) return undefined;
  if (response.status === 401 || response.status === 403) {
    throw new DetrimError('network', `${shortened(response.url)}: the server answered ${response.status}: who may read it has to log in. Download the files there, and load them together`);
  }
  return response;
}

/**
 * Progress of several files as that of one.
 *
 * @param {number} count
 * @param {Fetching['onBytes']} onBytes
 * @returns {Fetching['onBytes'][]} one for each file
 */
function together(count, onBytes) {
  const states = Array.from({ length: count }, () => ({ loaded: 0, total: /** @type {number | null} */ (null) }));
  return states.map(state => (loaded, total) => {
    Object.assign(state, { loaded, total });
    const known = states.every(one => one.total !== null);
    onBytes(states.reduce((sum, one) => sum + one.loaded, 0), known ? states.reduce((sum, one) => sum + Number(one.total), 0) : null);
  });
}
