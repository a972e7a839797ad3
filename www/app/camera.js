// The camera: asked for, chosen, switched, paused with its tab, and every refusal explained.

import { byId, make } from './dom.js';
import { startLive, stopLive, takeFrame } from './live.js';
import { dismiss, notify } from './notices.js';
import { add } from './pictures.js';
import { state, update, watch } from './state.js';

const video = byId('video', HTMLVideoElement);
const startButton = byId('camera-start', HTMLButtonElement);
const stopButton = byId('camera-stop', HTMLButtonElement);
const flipButton = byId('camera-flip', HTMLButtonElement);
const takeButton = byId('camera-take', HTMLButtonElement);
const picker = byId('camera-picker', HTMLElement);
const select = byId('camera-device', HTMLSelectElement);

/** @typedef {{deviceId?: string, facing?: 'user' | 'environment'}} Wish */

/** @type {MediaStream | null} */
let stream = null;
/** Counts requests, so that a late answer to an old one is dropped. */
let request = 0;
/** @type {MediaDeviceInfo[]} */
let devices = [];
/** What was asked for last: a phone takes the camera away in a hidden tab, and it's asked for again. @type {Wish} */
let wish = {};

export function startCamera() {
  startButton.addEventListener('click', () => void openCamera({ facing: 'environment' }));
  stopButton.addEventListener('click', closeCamera);
  flipButton.addEventListener('click', () => void flipCamera());
  takeButton.addEventListener('click', () => void keepFrame());
  select.addEventListener('change', () => void openCamera({ deviceId: select.value }));
  document.addEventListener('visibilitychange', () => void followTab());
  navigator.mediaDevices?.addEventListener?.('devicechange', () => stream && void listDevices());
  watch(['camera'], () => {
    const on = state.camera !== 'off';
    startButton.hidden = on;
    stopButton.hidden = !on;
    takeButton.hidden = !on;
    if (!on) flipButton.hidden = picker.hidden = true;
  });
  // Showing a photo, or clearing, ends the camera.
  watch(['mode'], () => {
    if (state.mode !== 'camera') release();
  });
}

export function toggleCamera() {
  if (state.camera === 'off') void openCamera({ facing: 'environment' });
  else closeCamera();
}

/** @param {Wish} wanted */
async function openCamera(wanted) {
  dismiss('camera');
  const impossible = whyNot();
  if (impossible) return notify('warning', 'camera', impossible);
  const mine = ++request;
  wish = wanted;
  // Most phones open one camera at a time.
  stop();
  update({ mode: 'camera', camera: 'starting', result: null, active: null });
  try {
    const opened = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: {
        ...(wanted.deviceId ? { deviceId: { exact: wanted.deviceId } } : { facingMode: { ideal: wanted.facing } }),
        width: { ideal: 1280 },
        height: { ideal: 720 },
      },
    });
    if (mine !== request) return end(opened);
    stream = opened;
    const [track] = opened.getVideoTracks();
    track.addEventListener('ended', () => {
      if (stream === opened && !document.hidden) lost();
    });
    update({ mirrored: track.getSettings().facingMode === 'user' });
    video.srcObject = opened;
    await video.play();
    if (mine !== request) return;
    await listDevices();
    update({ camera: document.hidden ? 'paused' : 'on' });
    startLive(video);
  } catch (error) {
    if (mine !== request) return;
    closeCamera();
    notify('warning', 'camera', refusal(error));
  }
}

/** Why there can't be a camera here, whatever the user says. */
function whyNot() {
  if (!isSecureContext) return 'Browsers give the camera only to pages opened over https or on localhost. Open this page over https: ./build.sh serve --https prints the address.';
  if (!navigator.mediaDevices?.getUserMedia) return 'This browser gives pages no camera.';
  return '';
}

/** @param {unknown} error */
function refusal(error) {
  const name = error instanceof Error ? error.name : '';
  if (name === 'NotAllowedError') return 'The camera was refused. Allow it in the browser’s settings for this site (the icon beside the address), then start it again.';
  if (name === 'NotFoundError' || name === 'OverconstrainedError') return 'No camera was found on this device. Connect one, or choose a photo.';
  if (name === 'NotReadableError' || name === 'AbortError') return 'The camera is there but can’t be opened: another program may be using it.';
  return `The camera couldn’t be opened (${error instanceof Error ? error.message : error}).`;
}

export function closeCamera() {
  if (state.camera === 'off') return;
  const photo = state.current;
  update({ mode: photo ? 'photo' : 'empty', result: photo?.result ?? null, active: null });
  // The watcher of the mode has released the camera.
  startButton.focus({ preventScroll: true });
}

function release() {
  request += 1;
  stop();
  update({ camera: 'off', mirrored: false, fps: 0 });
}

function stop() {
  stopLive();
  if (stream) end(stream);
  stream = null;
  video.srcObject = null;
}

/** @param {MediaStream} ended */
function end(ended) {
  for (const track of ended.getTracks()) track.stop();
}

function lost() {
  closeCamera();
  notify('warning', 'camera', 'The camera went away: it was unplugged, or the system took it back.');
}

/** The other side of a phone; elsewhere the next camera in the list. */
export async function flipCamera() {
  const track = stream?.getVideoTracks()[0];
  if (!track) return;
  const { facingMode, deviceId } = track.getSettings();
  if (facingMode === 'user' || facingMode === 'environment') return openCamera({ facing: facingMode === 'user' ? 'environment' : 'user' });
  const next = devices[(devices.findIndex((device) => device.deviceId === deviceId) + 1) % devices.length];
  if (next) await openCamera({ deviceId: next.deviceId });
}

/** Names are told only once the camera has been allowed. */
async function listDevices() {
  devices = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === 'videoinput');
  const current = stream?.getVideoTracks()[0]?.getSettings().deviceId ?? '';
  select.replaceChildren(...devices.map((device, i) => make('option', { value: device.deviceId, selected: device.deviceId === current }, device.label || `Camera ${i + 1}`)));
  picker.hidden = flipButton.hidden = devices.length < 2;
}

/** A hidden tab needs no camera: the light goes off, and on again when the tab is back. */
async function followTab() {
  const track = stream?.getVideoTracks()[0];
  if (!track) return;
  if (document.hidden) {
    track.enabled = false;
    video.pause();
    update({ camera: 'paused' });
  } else if (track.readyState === 'ended') {
    await openCamera(wish);
  } else {
    track.enabled = true;
    await video.play();
    update({ camera: 'on' });
  }
}

/** The frame on show becomes a photo of its own, and the camera stops. */
export async function keepFrame() {
  const blob = await takeFrame();
  if (!blob) return;
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
  await add([blob], { name: `Camera ${stamp}` });
}
