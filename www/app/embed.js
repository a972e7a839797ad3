// The snippet that puts the detector into somebody's own page.

import { byId } from './dom.js';
import { copyText } from './clipboard.js';
import { state, watch } from './state.js';

const snippet = byId('snippet', HTMLElement);
const button = byId('snippet-copy', HTMLButtonElement);

export function startEmbed() {
  watch(['model', 'threshold'], () => {
    snippet.textContent = text(state.model?.file ?? 'model.safetensors', state.threshold);
  });
  button.addEventListener('click', () => void copyText(snippet.textContent ?? '', button, snippet));
}

/** @param {string} file @param {number} threshold */
function text(file, threshold) {
  return `<script type="module">
  import { Detrim } from './detrim/index.js';

  const detector = await Detrim.load('./models/${file}');
  const found = await detector.detect('./photo.jpg', { threshold: ${threshold} });
  for (const { label, score, box } of found) {
    console.log(label, score, box.xmin, box.ymin, box.xmax, box.ymax);
  }
</script>`;
}
