// A colour for every class, the same on every picture, in every model and on every visit: it comes from the name alone.
//
// Chosen in OKLCH (https://bottosson.github.io/posts/oklab/), where equal lightness looks equally light, so that dark text
// can be read on each of them; converted here because older browsers' canvases don't know `oklch()`.

/** Text on a class colour. */
export const INK = '#14171a';

/** @type {Map<string, string>} */
const known = new Map();

/** @param {string} label */
export function colourOf(label) {
  let colour = known.get(label);
  if (!colour) {
    const hash = fnv(label);
    colour = oklch(0.76 + 0.05 * ((hash >>> 9) % 3), 0.14, (hash % 360) * (Math.PI / 180));
    known.set(label, colour);
  }
  return colour;
}

/** Where the hash starts: of 60,000 numbers the one that keeps everyday classes furthest from each other. */
const SEED = 24370;

/**
 * FNV-1a with a final mix, for its low bits alone aren't even on short names.
 * @param {string} text
 */
function fnv(text) {
  let hash = SEED;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** @param {number} lightness @param {number} chroma @param {number} hue in radians */
function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue);
  const b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const [red, green, blue] = linear.map((x) => {
    const c = Math.min(1, Math.max(0, x));
    return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
  });
  return `rgb(${red}, ${green}, ${blue})`;
}
