// The page of a document needs a model that knows its parts. While another one looks at it, this says which does and how it comes here.

import { downloadAdvice, repositoryPage } from '../detrim/hub.js';
import { byId, make } from './dom.js';
import { knowsDocuments } from './knows_documents.js';
import { state, watch } from './state.js';

/** Docling's layout model: an RT-DETRv2 with ResNet-50. */
const LAYOUT = { name: 'docling-project/docling-layout-heron', revision: 'main' };

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
    // So they are called where config.json has no names.
    if (model.labels.length > 0 && model.labels.every((label, i) => label === `class ${i}`)) {
      text.textContent = `${model.name} may know titles, captions and tables, but its config.json doesn’t name its classes. Write their names into its “id2label”, and drop the files on this page again.`;
      return;
    }
    const address = repositoryPage(LAYOUT);
    const advice = downloadAdvice(LAYOUT).slice(0, -address.length);
    text.replaceChildren(`${model.name} doesn’t know titles, captions and tables. Docling’s layout model does: ${advice}`,
      make('a', { href: address, rel: 'noreferrer', target: '_blank' }, address), ' and drop them on this page together.');
  });
}
