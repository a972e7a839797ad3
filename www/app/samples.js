// Freely licensed pictures to try, fetched from the page's own host when one is picked. `?document` picks the page of a document at once.

import { byId, make } from './dom.js';
import { notify } from './notices.js';
import { add, show } from './pictures.js';
import { state } from './state.js';

/** @typedef {{file: string, thumb: string, title: string, credit: string, licence: string, source: string, kind?: 'document'}} Sample */

const list = byId('samples', HTMLUListElement);
const section = byId('samples-section', HTMLElement);
/** @type {Sample[]} */
let samples = [];

export async function startSamples() {
  try {
    const response = await fetch('samples/index.json');
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    samples = await response.json();
  } catch (error) {
    notify('warning', 'samples', `The sample photos couldn’t be listed (${/** @type {Error} */ (error).message}).`);
    return;
  }
  for (const [i, sample] of samples.entries()) {
    const image = make('img', { src: `samples/${sample.thumb}`, alt: '', width: 144, height: 96 });
    const button = make('button', { type: 'button', class: 'thumb', 'aria-label': `${sample.title}, by ${sample.credit}` }, image);
    button.addEventListener('click', () => void pick(i));
    const link = make('a', { href: sample.source, rel: 'noreferrer', target: '_blank' }, sample.credit);
    list.append(make('li', {}, button, make('p', { class: 'credit' }, make('span', {}, sample.title), link, ` ${sample.licence}`)));
  }
  section.hidden = samples.length === 0;
  if (new URLSearchParams(location.search).has('document')) await pick(samples.findIndex(({ kind }) => kind === 'document'));
}

/** @param {number} index */
export async function pick(index) {
  const sample = samples[index];
  if (!sample) return;
  const credit = `${sample.credit}, ${sample.licence}`;
  const known = state.pictures.find((picture) => picture.name === sample.title && picture.credit === credit);
  if (known) return show(known);
  try {
    const response = await fetch(`samples/${sample.file}`);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    await add([await response.blob()], { name: sample.title, credit, kind: sample.kind });
  } catch (error) {
    notify('error', 'samples', `The sample couldn’t be fetched (${/** @type {Error} */ (error).message}).`);
  }
}
