// Where a file can come from: an address, or bytes in any form that JavaScript has them in.

import { HEAD, mistaken } from './contents.js';
import { download, receive, shortened } from './download.js';
import { DetrimError } from './errors.js';

/**
 * Whatever a file can come from.
 *
 * @typedef {string | URL | Blob | ArrayBuffer | ArrayBufferView | Response | FileSystemFileHandle} FileSource
 */

const EXPECTED = 'an address (a string or URL), Blob, File, ArrayBuffer, typed array or Response was expected';

/**
 * @param {FileSource} source
 * @param {AbortSignal} signal
 * @param {(loaded: number, total: number | null) => void} onBytes
 * @param {string} [what] which of a model's files it is to be, if not its weights
 * @returns {Promise<Blob>}
 */
export async function fetchFile(source, signal, onBytes, what) {
  const blob = await toBlob(source, signal, onBytes);
  const name = nameOf(source, what);
  if (blob.size === 0) throw new DetrimError('model', `${name}: the file is empty`);
  const head = new Uint8Array(await read(blob.slice(0, HEAD)));
  const problem = mistaken(head);
  if (problem) throw new DetrimError('model', `${name}: this is ${problem}`);
  return blob;
}

/**
 * What a file is called in messages.
 *
 * @param {FileSource} source
 * @param {string} [what] which of a model's files it is to be
 */
export function nameOf(source, what) {
  switch (tag(source)) {
    case 'String':
    case 'URL':
      return shortened(/** @type {string | URL} */ (source));
    case 'Response':
      return shortened(/** @type {Response} */ (source).url) || 'the file';
    case 'File':
    case 'FileSystemFileHandle':
      return shortened(/** @type {File | FileSystemFileHandle} */ (source).name) || 'the file';
  }
  return `the model${what ? `'s ${what}` : ''}`;
}

/**
 * @param {FileSource} model
 * @param {AbortSignal} [signal]
 * @param {(loaded: number, total: number | null) => void} [onBytes]
 * @returns {Promise<Blob>}
 */
export async function toBlob(model, signal, onBytes) {
  if (ArrayBuffer.isView(model)) return new Blob([unshared(model)]);
  // By its tag and not by instanceof, so that what another window made is known too.
  switch (tag(model)) {
    case 'String':
      if (String(model).trim() === '') throw new DetrimError('argument', `the address is empty; ${EXPECTED}`);
      return await download(String(model), signal, onBytes);
    case 'URL':
      return await download(/** @type {URL} */ (model), signal, onBytes);
    case 'Blob':
    case 'File':
      return /** @type {Blob} */ (model);
    case 'ArrayBuffer':
    case 'SharedArrayBuffer':
      return new Blob([unshared(new Uint8Array(/** @type {ArrayBuffer} */ (model)))]);
    case 'Response': {
      return await receive(/** @type {Response} */ (model), nameOf(model), signal, onBytes);
    }
    case 'FileSystemFileHandle':
      return await /** @type {FileSystemFileHandle} */ (model).getFile();
  }
  throw new DetrimError('argument', `no file can be loaded from ${called(model)}: ${EXPECTED}`);
}

/** The bytes in memory of their own, which a Blob demands. @param {ArrayBufferView} view @returns {ArrayBufferView<ArrayBuffer>} */
function unshared(view) {
  if (tag(view.buffer) === 'ArrayBuffer') return /** @type {ArrayBufferView<ArrayBuffer>} */ (view);
  return new Uint8Array(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
}

/** @param {Blob} blob */
async function read(blob) {
  try {
    return await blob.arrayBuffer();
  } catch (error) {
    throw DetrimError.from(error, 'model', 'the model\'s file can\'t be read');
  }
}

/** What something is, whichever window made it. @param {unknown} value */
export function tag(value) {
  return Object.prototype.toString.call(value).slice(8, -1);
}

/** What something is, in a word or two however large it is. @param {unknown} value */
export function called(value) {
  const kind = tag(value);
  if (kind === 'Undefined' || kind === 'Null') return kind.toLowerCase();
  return /^[aeio]/i.test(kind) ? `an ${kind}` : `a ${kind}`;
}
