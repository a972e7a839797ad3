// models/index.json: which models there are. Whoever hosts the page may have written it, and hears what is wrong with it.

/** @typedef {import('./state.js').Model} Model */

const FILE = 'models/index.json';
const HINT = '`detrim convert … --index models/index.json` writes such entries.';

/** What each entry needs, and what is needed of it. @type {[keyof Model, string, (value: any) => boolean][]} */
const NEEDED = [
  ['name', 'a name', (value) => typeof value === 'string' && value !== ''],
  ['file', 'the name of a file beside it', (value) => typeof value === 'string' && value !== ''],
  ['bytes', 'the size of the file', (value) => Number.isFinite(value) && value > 0],
  ['sha256', '64 hexadecimal digits', (value) => typeof value === 'string' && /^[0-9a-f]{64}$/i.test(value)],
  ['labels', 'a list of labels', Array.isArray],
];

/** @returns {Promise<Model[]>} */
export async function readListing() {
  const response = await fetch(FILE);
  if (!response.ok) throw new Error(`${FILE}: the server answered ${response.status}`);
  return parseListing(await response.text());
}

/**
 * @param {string} text
 * @returns {Model[]}
 */
export function parseListing(text) {
  if (text.trimStart().startsWith('<')) throw new Error(`${FILE}: the server sent a web page in its place. Is the file there?`);
  /** @type {unknown} */
  let models;
  try {
    models = JSON.parse(text);
  } catch (error) {
    throw new Error(`${FILE} isn’t JSON: ${/** @type {Error} */ (error).message}. ${HINT}`);
  }
  if (!Array.isArray(models)) throw new Error(`${FILE} must hold a list of models.`);
  for (const [i, model] of models.entries()) {
    const problem = problemOf(model);
    if (problem) throw new Error(`${FILE}: model ${i + 1} of ${models.length} ${problem}. ${HINT}`);
  }
  if (models.length === 0) throw new Error(`${FILE} lists no model.`);
  return models;
}

/** @param {any} model */
function problemOf(model) {
  if (typeof model !== 'object' || model === null) return 'isn’t an object';
  const wrong = NEEDED.find(([key, , fits]) => !fits(model[key]));
  return wrong && `needs “${wrong[0]}”: ${wrong[1]}`;
}
