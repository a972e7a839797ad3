// The page of a document needs a model that knows its parts. While another one looks at it, this says which does and how it comes here.

import { downloadAdvice, HUB } from '../detrim/hub.js';
import { byId, make } from './dom.js';
import { knowsDocuments } from './knows_documents.js';
import { state, watch } from './state.js';

/** Docling's layout model: an RT-DETRv2 with ResNet-50. */
const LAYOUT = 'docling-project/docling-layout-heron';

const frame = byId('frame', HTMLElement);
const card = byId('document', HTMLElement);
const text = byId('document-about', HTMLElement);

export function startDocument() {
  watch(['mode', 'current', 'model', 'models', 'engine'], () => {
    const { mode, current, model, engine } = state;
    const known = knowsDocuments(model?.labels ?? []);
    // A page is read, so that it gets more room than a photo.
    frame.dataset.kind = mode === 'photo' && (known || current?.kind === 'document') ? 'document' : '';
    card.hidden = !(mode === 'photo' && current?.kind === 'document' && model && engine !== 'loading' && !known);
    if (card.hidden || !model) return;
    // What a config.json that names no classes makes of them.
    if (model.labels.every((label, i) => label === `LABEL_${i}`)) {
      text.textContent = `${model.name} may know titles, captions and tables, but its config.json doesn’t name its classes. Write their names into its “id2label”, and drop the files on this page again.`;
      return;
    }
    const link = make('a', { href: `${HUB}/${LAYOUT}`, rel: 'noreferrer', target: '_blank' }, LAYOUT);
    text.replaceChildren(`${model.name} doesn’t know titles, captions and tables. `, link, ` does: ${downloadAdvice({ name: LAYOUT, revision: 'main' })}, and drop them on this page together.`);
  });
}
