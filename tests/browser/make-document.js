// Makes the page of a document among the samples: `node tests/browser/make-document.js` writes www/samples/document.jpg and its thumbnail. Set in
// Chromium with DejaVu (a free font), then laid on paper as a scanner sees it: slightly turned, unevenly lit, grainy. All of its text and its figure
// were written for this page; the facts are those of ISO 216.

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { closeBrowsers, launch } from './chromium.js';

const SAMPLES = fileURLToPath(new URL('../../www/samples', import.meta.url));
const [WIDTH, HEIGHT] = [1000, 1414];

/** A sheet of A0, halved and its half halved again; each is named on the half that is left. */
const halves = Array.from({ length: 7 }, (_, i) => {
  const [width, height] = [300 / 2 ** Math.floor(i / 2), 424 / 2 ** Math.ceil(i / 2)];
  const [x, y] = i % 2 ? [width / 2, 1.5 * height] : [1.5 * width, height / 2];
  return `<rect width="${width}" height="${height}"/>${i > 0 ? `<text x="${x}" y="${y + 5}">A${i}</text>` : ''}`;
}).join('');

/** Millimetres: each size is the half of the one before, rounded down. */
const sizes = (/** @type {number} */ width, /** @type {number} */ height) => Array.from({ length: 7 }, () => {
  const size = [width, height];
  [width, height] = [Math.floor(height / 2), width];
  return size;
});
const [a, b, c] = [sizes(841, 1189), sizes(1000, 1414), [[917, 1297], [648, 917], [458, 648], [324, 458], [229, 324], [162, 229], [114, 162]]];
const rows = a.map((size, i) => `<tr><td>${i}</td>${[size, b[i], c[i]].map(([w, h]) => `<td>${w} × ${h}</td>`).join('')}</tr>`).join('');

const PAGE = `<!doctype html><meta charset="utf-8"><style>
  * { box-sizing: border-box; margin: 0 }
  body { inline-size: ${WIDTH}px; block-size: ${HEIGHT}px; padding: 64px 84px; font: 19px/1.56 'DejaVu Serif'; color: #222; text-align: justify; hyphens: auto }
  .head, .foot { position: absolute; inset-inline: 84px; display: flex; justify-content: space-between; font: 12.5px 'DejaVu Sans'; color: #444 }
  .head { inset-block-start: 40px; border-block-end: 1px solid #777; padding-block-end: 6px } .foot { inset-block-end: 36px }
  h1 { font-size: 33px; line-height: 1.2; text-align: center; margin: 34px 0 10px } .by { text-align: center; font-style: italic; margin-block-end: 26px }
  .columns { columns: 2; column-gap: 40px } h2 { font: bold 20px 'DejaVu Sans'; margin: 18px 0 8px; text-align: start; break-after: avoid }
  .columns h2:first-child { margin-block-start: 0 } p + p { text-indent: 1.4em } .formula { text-align: center; font-style: italic; font-size: 20px; margin: 14px 0; text-indent: 0 !important }
  ul { padding-inline-start: 1.3em; margin-block: 8px } li { margin-block: 4px } figure { margin: 16px 0; break-inside: avoid; text-align: center }
  figcaption { font: 15px/1.4 'DejaVu Sans'; text-align: start; margin-block: 10px } svg { fill: none; stroke: #333; stroke-width: 1.4 } svg text { font: 14px 'DejaVu Sans'; fill: #333; stroke: none; text-anchor: middle }
  table { inline-size: 100%; border-collapse: collapse; font: 15px 'DejaVu Sans'; text-align: center } th, td { padding: 7px 2px } thead { border-block: 2px solid #333 }
  tbody { border-block-end: 2px solid #333 } .note { font-size: 13px; border-block-start: 1px solid #777; margin-block-start: 22px; padding-block-start: 6px; break-inside: avoid }
</style><html lang="en">
<div class="head"><span>Notes on paper</span><span>No. 3</span></div>
<h1>Why a Sheet of Paper Is as Tall as It Is</h1><p class="by">A page to try layout models on</p>
<div class="columns">
<h2>1&ensp;One ratio for all sizes</h2>
<p>Fold a sheet of the A series in the middle of its longer side, and the half has the shape of the whole. Only one ratio of height to width allows that.<sup>1</sup> If the width is 1 and the height is <i>h</i>, the half is <i>h</i>/2 wide and 1 tall, so that</p>
<p class="formula">h : 1 = 1 : (h / 2),&emsp;h = √2 ≈ 1.414</p>
<p>The largest sheet, A0, has an area of one square metre. Its sides follow from the area and the ratio, and every other size from halving, with the millimetres rounded down.</p>
<p>This is why a drawing on A3 fits A4 when it is copied at 71 per cent, which is 1/√2, with no margin left over and nothing cut off.</p>
<h2>2&ensp;Three series</h2>
<p>Between two sizes of the A series lies one of the B series, whose sides are the geometric means of theirs. Envelopes have the sizes of the C series, the means of A and B:</p>
<ul><li>a letter on A4 goes unfolded into C4,</li><li>folded once into C5,</li><li>folded twice into C6,</li><li>and C4 into a bag of size B4.</li></ul>
<p>Table 1 has the sizes that an office meets. Posters are printed on A0 to A2, books often on B5, and passports are B7.</p>
<h2>3&ensp;Without it</h2>
<p>A sheet of 8½ by 11 inches has the ratio 1.29. Its half has 1.55, and only the half of that has the first shape again. Two ratios take turns, and what is set for one leaves a margin on the other.</p>
<figure><svg width="304" height="428" viewBox="-2 -2 304 428">${halves}</svg><figcaption><b>Figure 1.</b> A sheet and its halves. Each has the shape of the whole.</figcaption></figure>
<figure><figcaption><b>Table 1.</b> Width and height in millimetres.</figcaption><table><thead><tr><th>Size</th><th>A</th><th>B</th><th>C</th></tr></thead><tbody>${rows}</tbody></table></figure>
<p class="note"><sup>1</sup>&ensp;ISO 216 defines the A and B series, ISO 269 the C series.</p>
</div><div class="foot"><span>Made for trying layout models; in the public domain (CC0)</span><span>17</span></div></html>`;

const browser = await launch({});
try {
  const page = await browser.newPage({ viewport: { width: WIDTH, height: HEIGHT } });
  await page.setContent(PAGE);
  const set = (await page.screenshot({ type: 'png' })).toString('base64');
  const [scan, thumb] = await page.evaluate(async ({ set, width, height }) => {
    const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${set}`)).blob());
    const canvas = new OffscreenCanvas(width, height);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d'));
    context.filter = 'blur(0.45px)';
    context.fillStyle = '#fff';
    context.fillRect(0, 0, width, height);
    context.setTransform(1, 0.006, -0.006, 1, 4, -3);
    context.drawImage(bitmap, 0, 0);
    const image = context.getImageData(0, 0, width, height);
    // A generator of its own, so that the file is the same each time.
    let seed = 1;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed / 2 ** 32;
    };
    for (let i = 0; i < width * height; i += 1) {
      const [x, y] = [(i % width) / width, Math.floor(i / width) / height];
      const light = 0.93 - 0.07 * x * x + 0.02 * Math.sin(3 * y) - 0.1 * Math.exp(-40 * x) + 0.03 * (random() + random() - 1);
      [1, 0.985, 0.945].forEach((tint, channel) => {
        image.data[4 * i + channel] = 10 + 245 * light * tint * (image.data[4 * i + channel] / 255) ** 0.95;
      });
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.filter = 'none';
    context.putImageData(image, 0, 0);
    const small = new OffscreenCanvas(264, 168);
    const part = /** @type {OffscreenCanvasRenderingContext2D} */ (small.getContext('2d'));
    part.imageSmoothingQuality = 'high';
    part.drawImage(canvas, 0, 30, width, (width * 168) / 264, 0, 0, 264, 168);
    const bytes = async (/** @type {OffscreenCanvas} */ from, /** @type {string} */ type, /** @type {number} */ quality) => {
      return Array.from(new Uint8Array(await (await from.convertToBlob({ type, quality })).arrayBuffer()));
    };
    return [await bytes(canvas, 'image/jpeg', 0.8), await bytes(small, 'image/webp', 0.8)];
  }, { set, width: WIDTH, height: HEIGHT });
  await writeFile(path.join(SAMPLES, 'document.jpg'), Buffer.from(scan));
  await writeFile(path.join(SAMPLES, 'thumb-document.webp'), Buffer.from(thumb));
} finally {
  await closeBrowsers();
}
