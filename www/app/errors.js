// Errors as sentences for people: what happened, and what can be done.

/** @type {Record<string, string>} the package's error codes */
const SENTENCES = {
  network: 'A file couldn’t be fetched from this page’s server. Check the connection and try again.',
  model: 'The model file is not one that this detector can read.',
  checksum: 'The model file is damaged: it isn’t the one that this page expects. Load it again; if that doesn’t help, the site needs to be built anew.',
  source: 'This isn’t a picture that the browser can read.',
  'gpu-lost': 'The graphics processor went away.',
  unsupported: 'This browser lacks something the detector needs.',
  crashed: 'The detector broke down, probably for lack of memory. It starts again with the next picture.',
};

/** @param {unknown} error */
export function codeOf(error) {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

/**
 * Whether somebody cancelled, which is no failure.
 * @param {unknown} error
 */
export function isAbort(error) {
  return error instanceof Error && error.name === 'AbortError';
}

/**
 * A sentence for people, and then the detail for those who can use it.
 * @param {unknown} error
 */
export function explain(error) {
  const detail = error instanceof Error ? error.message : String(error);
  const sentence = SENTENCES[codeOf(error)];
  return sentence ? `${sentence} (${detail})` : detail;
}
