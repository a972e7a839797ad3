// Where a model can come from: an address, or bytes in any form that JavaScript has them in.

import { HEAD, mistakenModel } from './contents.js';
import { download, receive, shortened } from './download.js';
import { DetrimError } from './errors.js';

/**
 * Whatever a model can come from.
 *
 * @typedef {string | URL | Blob | ArrayBuffer | ArrayBufferView | Response | FileSystemFileHandle} ModelSource
 */

const EXPECTED = 'an address (a string or URL), Blob, File, ArrayBuffer, typed array or Response was expected';

/**
 * @param {ModelSource | PromiseLike<ModelSource>} source
 * @param {AbortSignal} signal
 * @param {(loaded: number, total: number | null) => void} onBytes
 * @returns {Promise<Blob>}
 */
export async function fetchModel(source, signal, onBytes) {
  const model = await promised(source);
  const blob = await toBlob(model, signal, onBytes);
  const name = tag(model) === 'String' || tag(model) === 'URL' ? shortened(/** @type {string | URL} */ (model)) : 'the model';
  if (blob.size === 0) throw new DetrimError('model', `${name}: the file is empty`);
  const problem = mistakenModel(new Uint8Array(await read(blob.slice(0, HEAD))));
  if (problem) throw new DetrimError('model', `${name}: this is ${problem}`);
  return blob;
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
 * @param {ModelSource} model
 * @param {AbortSignal} signal
 * @param {(loaded: number, total: number | null) => void} onBytes
 * @returns {Promise<Blob>}
 */
async function toBlob(model, signal, onBytes) {
  if (ArrayBuffer.isView(model)) return new Blob([unshared(model)]);
  // By its tag and not by instanceof, so that what another window made is known too.
  switch (tag(model)) {
    case 'String':
      if (String(model).trim() === '') throw new DetrimError('argument', `the model's address is empty; ${EXPECTED}`);
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
      const response = /** @type {Response} */ (model);
      return await receive(response, response.url ? shortened(response.url) : 'the model', signal, onBytes);
    }
    case 'FileSystemFileHandle':
      return await /** @type {FileSystemFileHandle} */ (model).getFile();
  }
  throw new DetrimError('argument', `no model can be loaded from ${called(model)}: ${EXPECTED}`);
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

/** @param {unknown} value */
function tag(value) {
  return Object.prototype.toString.call(value).slice(8, -1);
}

/** What something is, in a word or two however large it is. @param {unknown} value */
export function called(value) {
  const kind = tag(value);
  if (kind === 'Undefined' || kind === 'Null') return kind.toLowerCase();
  return /^[aeio]/i.test(kind) ? `an ${kind}` : `a ${kind}`;
}
