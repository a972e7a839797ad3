// A photo and the boxes of what is in it. Vite finds the package's worker and wasm by itself.
import { Detrim, type Detection } from 'detrim';

const state = document.querySelector<HTMLElement>('#state')!;
const canvas = document.querySelector<HTMLCanvasElement>('#canvas')!;
const detector = await Detrim.load('./model.safetensors', {
  onProgress: ({ phase, loaded, total }) => (state.textContent = `${phase} ${total ? Math.round((100 * loaded) / total) : ''}%`),
});
state.textContent = `Ready, on ${detector.info.backend}. Choose a photo.`;

document.querySelector<HTMLInputElement>('#photo')!.onchange = async ({ target }) => {
  const photo = await createImageBitmap((target as HTMLInputElement).files![0]);
  const found = await detector.detect(photo);
  draw(photo, found);
  state.textContent = found.map(({ label, score }) => `${label} ${score.toFixed(2)}`).join(', ') || 'Nothing found.';
};

function draw(photo: ImageBitmap, found: Detection[]) {
  [canvas.width, canvas.height] = [photo.width, photo.height];
  const context = canvas.getContext('2d')!;
  context.drawImage(photo, 0, 0);
  context.lineWidth = 2;
  context.strokeStyle = '#0c8';
  for (const { box } of found) context.strokeRect(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin);
}
