// Ways for a photo to come in: chosen, dropped, pasted.

import { byId } from './dom.js';
import { notify } from './notices.js';
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
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length > 0) void add(files);
    else notify('warning', 'file', 'That was a link, not a file. Save the picture first: this page contacts no other site.');
  });
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
