// Whether a model is one of a document's layout, by what it calls its classes: no file says so.

/** What models of a document's layout call its parts, letters alone. */
const PARTS = new Set([
  'author', 'caption', 'code', 'documentindex', 'figure', 'footer', 'footnote', 'form', 'formula', 'header', 'list', 'listitem', 'pagefooter', 'pageheader',
  'paragraph', 'picture', 'sectionheader', 'table', 'tablecell', 'tablecolumn', 'tablerow', 'text', 'title',
]);
/** One or two of them may name an everyday thing. */
const ENOUGH = 3;

/** Whether these are a document's parts. @param {unknown[]} labels */
export function knowsDocuments(labels) {
  return labels.filter((label) => PARTS.has(String(label).toLowerCase().replace(/[^a-z]/g, ''))).length >= ENOUGH;
}
