// A model of the visitor's own: detrim's file, or a checkpoint's weights and config.json together. It stays in this browser.

import { WEIGHTS } from '../detrim/checkpoint.js';
import { isAbort } from './errors.js';
import { byId } from './dom.js';
import { useModel } from './engine.js';
import { notify } from './notices.js';

/** @typedef {import('./state.js').Model} Model */

const input = byId('model-file', HTMLInputElement);

export function startOwnModel() {
  input.addEventListener('change', () => {
    const files = [...(input.files ?? [])];
    input.value = '';
    if (files.length > 0) void openModel(files);
  });
}

/** Whether a file belongs to a model, and is no picture. @param {File} file */
export function isModelFile({ name }) {
  return WEIGHTS.test(name) || /\.json$/i.test(name);
}

/** @param {File[]} files */
export async function openModel(files) {
  const weights = files.find(({ name }) => WEIGHTS.test(name));
  if (!weights) {
    notify('error', 'engine', `${files.map(({ name }) => name).join(', ')}: the weights are missing. Drop the .safetensors file together with config.json and preprocessor_config.json.`);
    return;
  }
  await useModel({ name: nameOf(weights), file: '', bytes: files.reduce((sum, { size }) => sum + size, 0), labels: [], files }).catch((error) => {
    // The page has told already.
    if (!isAbort(error)) console.warn(error);
  });
}

/** @param {File} weights */
function nameOf({ name }) {
  const stem = name.replace(WEIGHTS, '').replace(/-\d+-of-\d+$/, '').replace(/ \(\d+\)$/, '');
  return ['model', 'pytorch_model'].includes(stem) ? 'your model' : stem;
}
