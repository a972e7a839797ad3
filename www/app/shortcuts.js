// Single keys for everything, listed in a dialog, and a switch for those whom they disturb.

import { closeAttention } from './attention.js';
import { flipCamera, keepFrame, toggleCamera } from './camera.js';
import { byId, make } from './dom.js';
import { moveThreshold } from './filters.js';
import { chooseFile } from './inputs.js';
import { recall, remember } from './memory.js';
import { again, clear, showNext, undo } from './pictures.js';
import { pick } from './samples.js';
import { saveJson, savePicture } from './save.js';
import { state } from './state.js';
import { cancelAll } from './status.js';

const dialog = byId('keys', HTMLDialogElement);
const list = byId('keys-list', HTMLElement);
const enabled = byId('keys-on', HTMLInputElement);
const REMEMBERED = 'shortcuts';

/** @type {{keys: string[], shown?: string[], text: string, run: (key: string) => void}[]} */
const SHORTCUTS = [
  { keys: ['o'], text: 'Choose photos', run: chooseFile },
  { keys: ['1', '2', '3', '4', '5', '6', '7', '8', '9'], shown: ['1', '…', '9'], text: 'Try a sample', run: (key) => void pick(Number(key) - 1) },
  { keys: ['c'], text: 'Start or stop the camera', run: toggleCamera },
  { keys: ['f'], text: 'Switch camera', run: () => void flipCamera() },
  { keys: ['k'], text: 'Keep the camera frame', run: () => void keepFrame() },
  { keys: ['ArrowLeft', 'ArrowRight'], shown: ['←', '→'], text: 'Previous or next photo', run: (key) => showNext(key === 'ArrowLeft' ? -1 : 1) },
  { keys: ['[', ']'], text: 'Lower or raise the threshold', run: (key) => moveThreshold(key === '[' ? -5 : 5) },
  { keys: ['r'], text: 'Detect again', run: again },
  { keys: ['s'], text: 'Save the picture', run: () => void savePicture() },
  { keys: ['j'], text: 'Save the JSON', run: saveJson },
  { keys: ['Delete'], text: 'Clear', run: clear },
  { keys: ['u'], text: 'Undo clearing', run: undo },
  { keys: ['?'], text: 'Show this list', run: openKeys },
];

export function startShortcuts() {
  for (const { keys, shown = keys, text } of SHORTCUTS) {
    list.append(make('div', {}, make('dt', {}, ...shown.map((key) => (key === '…' ? ' to ' : make('kbd', {}, key.length === 1 ? key.toUpperCase() : key)))), make('dd', {}, text)));
  }
  list.append(make('div', {}, make('dt', {}, make('kbd', {}, 'Enter')), make('dd', {}, 'On an object: where the network looked for it')));
  list.append(make('div', {}, make('dt', {}, make('kbd', {}, 'Esc')), make('dd', {}, 'Close the heat map, else cancel')));
  byId('keys-open', HTMLButtonElement).addEventListener('click', openKeys);
  enabled.checked = recall(REMEMBERED) !== 'off';
  enabled.addEventListener('change', () => remember(REMEMBERED, enabled.checked ? 'on' : 'off'));
  document.addEventListener('keydown', onKey);
}

function openKeys() {
  dialog.showModal();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (dialog.open || event.defaultPrevented) return;
  if (event.key === 'Escape') return void (closeAttention() || cancelAll());
  if ((event.ctrlKey || event.metaKey) && event.key === 'z') return undo();
  if (!enabled.checked || event.ctrlKey || event.metaKey || event.altKey || ownsKeys(event)) return;
  const shortcut = SHORTCUTS.find(({ keys }) => keys.includes(event.key));
  if (!shortcut) return;
  event.preventDefault();
  shortcut.run(event.key);
}

/**
 * Whether the focused element needs this key for itself.
 * @param {KeyboardEvent} event
 */
function ownsKeys({ target, key }) {
  if (target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement) return true;
  if (!(target instanceof HTMLInputElement)) return target instanceof HTMLElement && target.tabIndex >= 0 && target.tagName !== 'BUTTON' && key.startsWith('Arrow');
  if (target.type === 'range' || target.type === 'radio') return key.startsWith('Arrow');
  return target.type === 'number';
}
