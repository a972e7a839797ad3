// Starts the page. If this never runs, the text in index.html stays and says what is missing.

import { startAnnounce } from './announce.js';
import { startAttention } from './attention.js';
import { startBench } from './bench.js';
import { startCamera } from './camera.js';
import { startCompare } from './compare.js';
import { startDocument } from './document.js';
import { byId } from './dom.js';
import { startEmbed } from './embed.js';
import { load, readModels } from './engine.js';
import { startFilters } from './filters.js';
import { startInputs } from './inputs.js';
import { startList } from './list.js';
import { startModels } from './models.js';
import { notify } from './notices.js';
import { startOwnModel } from './own_model.js';
import { startOverlay } from './overlay.js';
import { startPictures } from './pictures.js';
import { startRunsOn } from './runs_on.js';
import { startSamples } from './samples.js';
import { startSave } from './save.js';
import { startSecond } from './second.js';
import { startShortcuts } from './shortcuts.js';
import { startStage } from './stage.js';
import { startStatus } from './status.js';
import { startTimes } from './times.js';
import { shown, state, update, watch } from './state.js';

const app = byId('app', HTMLElement);
const address = new URLSearchParams(location.search);

if (typeof WebAssembly === 'object' && typeof Worker === 'function') {
  byId('needs', HTMLElement).hidden = true;
  start();
} else {
  byId('needs-title', HTMLElement).textContent = 'This browser can’t run the detector';
  byId('needs', HTMLElement).classList.add('certain');
}

function start() {
  const backend = address.get('backend');
  if (backend === 'cpu' || backend === 'webgpu' || backend === 'auto') update({ backend });
  for (const part of [startStage, startOverlay, startList, startFilters, startAttention, startPictures, startInputs, startCamera, startStatus, startTimes, startRunsOn, startModels, startOwnModel, startCompare, startSecond, startDocument, startSave, startEmbed, startShortcuts, startAnnounce]) part();
  describe();
  if (address.has('bench')) startBench();
  void startSamples();
  loadUnlessDear();
}

/** What runs, for style sheets and for tests, which must not take a silent fallback for the real thing. */
function describe() {
  watch(['engine', 'mode', 'camera', 'info', 'runs', 'result', 'threshold', 'hidden', 'attention'], () => {
    const { dataset } = app;
    dataset.engine = state.engine;
    dataset.mode = state.mode;
    dataset.camera = state.camera;
    dataset.backend = state.info?.backend ?? '';
    dataset.dispatches = String(state.info?.dispatches ?? '');
    dataset.runs = String(state.runs);
    dataset.attention = state.attention ? (state.attention.maps ? headOf(state.attention.head) : 'loading') : '';
    dataset.shown = state.result ? String(shown().length) : '';
  });
}

/** @param {number | null} head */
function headOf(head) {
  return head === null ? 'all' : String(head + 1);
}

/** Loads at once, so that the model is there when a photo has been chosen; but not over a connection that is to be spared. */
function loadUnlessDear() {
  const connection = /** @type {{saveData?: boolean} | undefined} */ (/** @type {any} */ (navigator).connection);
  if (!connection?.saveData) return void load().catch(() => {});
  readModels().then(
    () => notify('info', 'data', 'The browser saves data, so the model is fetched only when the first photo is chosen.'),
    (error) => notify('error', 'engine', error.message),
  );
}
