// The parts of a document's page, by a layout model as Hugging Face keeps it, such as docling-project/docling-layout-heron. Nothing is uploaded.
import { Detrim } from './detrim/index.js';

const [model, page, state, counts, picture] = ['model', 'page', 'state', 'counts', 'picture'].map((id) => document.getElementById(id));
let detector;

model.onchange = async () => {
  try {
    state.textContent = 'Loading …';
    const loaded = await Detrim.load([...model.files]);
    detector?.dispose();
    detector = loaded;
    state.textContent = `It knows ${detector.info.labels.join(', ')}.`;
    page.disabled = false;
  } catch (error) {
    state.textContent = error.message;
  }
};

page.onchange = async () => {
  const image = await createImageBitmap(page.files[0]);
  const parts = await detector.detect(image);
  // As they are read: line by line, parts of one line from the left.
  parts.sort((a, b) => a.box.ymin - b.box.ymin || a.box.xmin - b.box.xmin);
  const found = Map.groupBy(parts, ({ label }) => label);
  counts.replaceChildren(...[...found].map(([label, { length }]) => Object.assign(document.createElement('li'), { textContent: `${label}: ${length}` })));
  state.textContent = `${parts.length} parts in ${parts.times.total.toFixed(0)} ms`;

  [picture.width, picture.height] = [image.width, image.height];
  const context = picture.getContext('2d');
  context.drawImage(image, 0, 0);
  context.font = '14px sans-serif';
  for (const { label, box } of parts) {
    context.fillStyle = context.strokeStyle = `hsl(${detector.info.labels.indexOf(label) * 137.5} 70% 40%)`;
    context.strokeRect(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin);
    context.fillText(label, box.xmin, box.ymin - 3);
  }
};
