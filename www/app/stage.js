// What fills the frame: nothing yet, a photo or the camera. And the row of photos to choose from.

import { byId, make } from './dom.js';
import { show } from './pictures.js';
import { state, watch } from './state.js';

const frames = byId('frames', HTMLElement);
const frame = byId('frame', HTMLElement);
const photo = byId('photo', HTMLImageElement);
const video = byId('video', HTMLVideoElement);
const empty = byId('empty', HTMLElement);
const queue = byId('queue', HTMLUListElement);
const section = byId('queue-section', HTMLElement);

export function startStage() {
  watch(['mode', 'current', 'mirrored'], () => {
    const { mode, current } = state;
    empty.hidden = mode !== 'empty';
    video.hidden = mode !== 'camera';
    video.classList.toggle('mirrored', state.mirrored);
    photo.hidden = mode !== 'photo' || !current;
    frame.dataset.mode = mode;
    if (mode === 'photo' && current) {
      if (photo.src !== current.url) photo.src = current.url;
      photo.alt = current.name;
      setAspect(current.width, current.height);
    } else {
      photo.removeAttribute('src');
      photo.alt = '';
    }
  });
  video.addEventListener('resize', () => setAspect(video.videoWidth, video.videoHeight));
  watch(['pictures', 'current', 'mode'], renderQueue);
}

/** @param {number} width @param {number} height */
function setAspect(width, height) {
  if (width && height) frames.style.setProperty('--aspect', String(width / height));
}

/** @type {Map<number, HTMLButtonElement>} */
const buttons = new Map();

function renderQueue() {
  const { pictures, current, mode } = state;
  section.hidden = pictures.length < 2 && !(mode === 'camera' && pictures.length > 0);
  for (const [id, button] of buttons) {
    if (pictures.some((picture) => picture.id === id)) continue;
    button.parentElement?.remove();
    buttons.delete(id);
  }
  for (const picture of pictures) {
    let button = buttons.get(picture.id);
    if (!button) {
      button = make('button', { type: 'button', class: 'thumb' }, picture.thumb);
      button.addEventListener('click', () => show(picture));
      queue.append(make('li', {}, button));
      buttons.set(picture.id, button);
    }
    button.setAttribute('aria-label', `${picture.name}, ${picture.status}`);
    button.dataset.status = picture.status;
    if (mode === 'photo' && picture === current) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
  }
}
