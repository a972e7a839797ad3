// Where the label of a box goes, so that labels cover each other, and on the page of a document what is read, as little as can be.

/** @typedef {{x: number, y: number, width: number, height: number}} Area */
/** @typedef {{width: number, height: number}} Size */

/**
 * The first free place over its box, inside of it or under it; where none is free, the first.
 * @param {Area} box
 * @param {Size} label
 * @param {number} unit
 * @param {Area} picture
 * @param {Area[]} taken by other labels
 * @returns {Area}
 */
export function placeAnyway(box, { width, height }, unit, picture, taken) {
  const x = Math.max(picture.x, Math.min(box.x, picture.x + picture.width - width));
  const inset = 6 * unit;
  const inner = Math.min(x + inset, picture.x + picture.width - width);
  const places = [
    { x, y: box.y - height + unit },
    { x: inner, y: box.y + inset },
    { x, y: box.y + box.height - unit },
    { x: inner, y: box.y + box.height - height - inset },
    // In a crowd: the next free line inside the box.
    ...Array.from({ length: 6 }, (_, i) => ({ x: inner, y: box.y + inset + (i + 1) * (height + 2 * unit) })),
  ].map((place) => ({ ...place, width, height }));
  const inside = places.filter((place) => place.y >= picture.y && place.y + height <= picture.y + picture.height);
  return inside.find((place) => !taken.some((other) => overlap(place, other))) ?? inside[0] ?? places[1];
}

/**
 * The first place at its box that covers no label and no other box, or else no label. There may be none.
 * @param {Area} box
 * @param {Size} label
 * @param {number} unit
 * @param {Area} picture
 * @param {Area[]} taken by other labels
 * @param {Area[]} boxes all of them
 * @returns {Area | undefined}
 */
export function placeInCrowd(box, { width, height }, unit, picture, taken, boxes) {
  const [over, under] = [box.y - height + unit, box.y + box.height - unit];
  const [before, after] = [box.x - width + unit, box.x + box.width - unit];
  const places = [[box.x, over], [before, box.y], [after, box.y], [after - width, over], [box.x, under], [after - width, box.y + 2 * unit]]
    .map(([x, y]) => ({ x, y, width, height }))
    .filter((place) => place.x >= picture.x && place.y >= picture.y && place.x + width <= picture.x + picture.width && place.y + height <= picture.y + picture.height)
    .filter((place) => !taken.some((other) => overlap(place, other)));
  // Neighbours may touch.
  const slim = (/** @type {Area} */ { x, y }) => ({ x: x + 3 * unit, y: y + 3 * unit, width: width - 6 * unit, height: height - 6 * unit });
  return places.find((place) => !boxes.some((other) => overlap(slim(place), other))) ?? places[0];
}

/** @param {Area} a @param {Area} b */
function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}
