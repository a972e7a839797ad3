// The camera's objects, live. A secure page is needed: localhost or https.
import { Detrim } from './detrim/index.js';

const [start, state, video, boxes] = ['start', 'state', 'video', 'boxes'].map((id) => document.getElementById(id));
const detector = await Detrim.load('./model.safetensors');
state.textContent = `Ready, on ${detector.info.backend}.`;
start.disabled = false;

start.onclick = async () => {
  start.disabled = true;
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  await video.play();
  [boxes.width, boxes.height] = [video.videoWidth, video.videoHeight];
  const context = boxes.getContext('2d');
  // One frame after another: a call for each animation frame would only queue up.
  while (video.srcObject.active) {
    const found = await detector.detect(video);
    context.clearRect(0, 0, boxes.width, boxes.height);
    context.strokeStyle = context.fillStyle = '#0c8';
    context.font = '16px sans-serif';
    for (const { label, score, box } of found) {
      context.strokeRect(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin);
      context.fillText(`${label} ${score.toFixed(2)}`, box.xmin + 4, box.ymin + 18);
    }
    state.textContent = `${found.length} objects in ${found.times.total.toFixed(0)} ms`;
  }
};
