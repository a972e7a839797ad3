// Ways for a photo to come in: chosen, dropped, pasted.

import { byId } from './dom.js';
import { filesOf } from './dropped.js';
import { explainHub, repositoryOf } from './hub.js';
import { notify } from './notices.js';
import { isModelFile, openModel } from './own_model.js';
import { add } from './pictures.js';

const input = byId('file', HTMLInputElement);
const pasteButton = byId('paste', HTMLButtonElement);

export function startInputs() {
  input.addEventListener('change', () => {
    void add([...(input.files ?? [])]);
    // So that choosing the same file again is a change too.
    input.value = '';
  });
  startDrop();
  document.addEventListener('paste', (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) void add(files);
    else if (!(event.target instanceof HTMLInputElement)) noPicture();
  });
  // For phones, which have no Ctrl+V.
  pasteButton.hidden = !navigator.clipboard?.read;
  pasteButton.addEventListener('click', paste);
}

export function chooseFile() {
  input.click();
}

function startDrop() {
  const { body } = document;
  // Entering a child comes before leaving its parent: only the balance tells whether the file is still over the page.
  let depth = 0;
  const over = (/** @type {number} */ change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    body.classList.toggle('dragging', depth > 0);
  };
  document.addEventListener('dragenter', () => over(1));
  document.addEventListener('dragleave', () => over(-1));
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    over(0);
    if (event.dataTransfer) void take(event.dataTransfer);
  });
}

/** @param {DataTransfer} transfer */
async function take(transfer) {
  const repository = repositoryOf(transfer.getData('text/plain'));
  const files = await filesOf(transfer);
  const model = files.filter(isModelFile);
  // Beside a model may lie a licence or a description, which are no pictures.
  const pictures = files.filter((file) => !isModelFile(file) && (model.length === 0 || file.type.startsWith('image/')));
  if (model.length > 0) void openModel(model);
  if (pictures.length > 0) void add(pictures);
  if (files.length > 0) return;
  if (repository) notify('info', 'hub', explainHub(repository));
  else notify('warning', 'file', 'That was a link, not a file. Save the picture first: this page contacts no other site.');
}

async function paste() {
  try {
    const items = await navigator.clipboard.read();
    const blobs = [];
    for (const item of items) {
      const type = item.types.find((t) => t.startsWith('image/'));
      if (type) blobs.push(await item.getType(type));
    }
    if (blobs.length > 0) await add(blobs, { name: 'Pasted picture' });
    else noPicture();
  } catch {
    notify('warning', 'file', 'The browser didn’t let this page read the clipboard.');
  }
}

function noPicture() {
  notify('warning', 'file', 'There is no picture in the clipboard.');
}
