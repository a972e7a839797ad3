// Object detection in your own page: this file, detrim/ and a model are all that it takes. No bundler, no other host.
import { Detrim } from './detrim/index.js';
const state = document.querySelector('#state');
const [{ file, sha256 }] = await (await fetch('./models/index.json')).json();
const detector = await Detrim.load(`./models/${file}`, { sha256 });
state.textContent = `Ready, on ${detector.info.backend}. Choose a photo.`;
document.querySelector('#photo').onchange = async ({ target }) => {
  const found = await detector.detect(target.files[0]);
  state.textContent = found.map(({ label, score }) => `${label} ${score.toFixed(2)}`).join(', ') || 'Nothing found.';
};
