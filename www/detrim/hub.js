// The Hugging Face Hub: which repository a text means, where its files lie, and how they come to a page that doesn't fetch them.

import { shortened } from './download.js';
import { DetrimError } from './errors.js';

/** @typedef {{name: string, revision: string}} Repository `name` with its owner: OWNER/NAME */

export const HUB = 'https://huggingface.co';

/** @param {boolean | string | URL | undefined} hub what a page allows @returns {string | undefined} the origin that `hf:` means there */
export function hubOrigin(hub) {
  if (hub === undefined || hub === false || hub === null) return undefined;
  if (hub === true) return HUB;
  try {
    return new URL(hub).origin;
  } catch {
    throw new DetrimError('argument', `\`hub\` is true or an address such as '${HUB}', not '${shortened(hub)}'`);
  }
}

/**
 * @param {string} text hf:OWNER/NAME or hf:OWNER/NAME@REVISION
 * @returns {Repository | undefined} nothing where it is neither
 */
export function parseRepository(text) {
  const [, name, revision = 'main'] = /^hf:((?:[\w.-]+\/)?[\w.-]+)(?:@([\w./-]+))?$/.exec(text.trim()) ?? [];
  return name && !/(^|\/)\.+($|\/)/.test(name) ? { name, revision } : undefined;
}

/**
 * The folder of a repository's files.
 *
 * @param {Repository} repository
 * @param {string} origin the Hub's, or a mirror's
 */
export function repositoryUrl({ name, revision }, origin) {
  return new URL(`${origin}/${name}/resolve/${encodeURIComponent(revision)}/`);
}

/** Where somebody downloads a repository's files. @param {Repository} repository */
export function repositoryPage({ name, revision }) {
  return `${HUB}/${name}/tree/${revision}`;
}

/** What to do where a page fetches nothing from the Hub: ends in the address, and goes on with what is done with the files. @param {Repository} repository */
export function downloadAdvice(repository) {
  return `download model.safetensors, config.json and preprocessor_config.json from ${repositoryPage(repository)}`;
}
