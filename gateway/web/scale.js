/**
 * The arithmetic of charts. Pure, so that `test/units.js` can try it anywhere.
 *
 * @module scale
 */

const MINUTE = 60_000;
/** Samples are so far apart. */
const SAMPLE_MS = 2_000;

/**
 * Three or four round numbers from nothing to at least `most`.
 *
 * @param {number} most
 * @param {boolean} [isWhole] whether parts make no sense
 * @param {number} [least] the top at least, so that noise does not fill the picture
 * @returns {number[]}
 */
export function ticks(most, isWhole = false, least = isWhole ? 3 : 0.01) {
  const top = Math.max(most, least);
  const rough = top / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough - power * 1e-9);
  if (isWhole) step = Math.max(1, Math.ceil(step));
  const steps = Math.ceil(top / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/**
 * Where an axis may end when few values are far above the others: at the value that 95 in 100 do not pass, if the
 * highest is more than twice as high; else at the highest.
 *
 * @param {number[]} values
 * @returns {number}
 */
export function ceiling(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const most = sorted.at(-1) ?? 0;
  const usual = sorted[Math.ceil(sorted.length * 0.95) - 1] ?? 0;
  return usual > 0 && most > 2 * usual ? usual : most;
}

/** The text of a path through points; `null` interrupts it. */
export function path(points) {
  let isDown = false;
  return points.map((point) => {
    const command = point === null ? '' : `${isDown ? 'L' : 'M'}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    isDown = point !== null;
    return command;
  }).join('');
}

/** Closes each run of points down to the base line. */
export function area(points, base) {
  const runs = [];
  let run = [];
  for (const point of [...points, null]) {
    if (point) run.push(point);
    else if (run.length > 1) runs.push(run);
    if (!point) run = [];
  }
  return runs.map((run) => `${path(run)}L${run.at(-1)[0].toFixed(1)} ${base}L${run[0][0].toFixed(1)} ${base}Z`).join('');
}

/** Whole minutes between two times, about as many as there is room for. */
export function clockMarks(first, last, room) {
  const step = [1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE).find((size) => (last - first) / size <= room) ?? 60 * MINUTE;
  const marks = [];
  for (let at = Math.ceil(first / step) * step; at <= last; at += step) marks.push(at);
  return marks;
}

/**
 * Puts samples together so that a chart of `points` stays calm: sums of counts, means of others.
 *
 * @param {Object[]} samples
 * @param {number} points
 * @returns {Object[]}
 */
export function condense(samples, points) {
  const size = Math.ceil(samples.length / points);
  if (size <= 1) return samples;
  const groups = [];
  // Groups are counted from the epoch, so that they do not change as samples move through the window.
  for (const sample of samples) {
    const group = Math.floor(sample.at / (size * SAMPLE_MS));
    if (groups.at(-1)?.group === group) groups.at(-1).members.push(sample);
    else groups.push({ group, members: [sample] });
  }
  return groups.map(({ members }) => mean(members));
}

function mean(members) {
  const result = { at: members.at(-1).at };
  for (const name of Object.keys(members[0])) {
    if (name === 'at') continue;
    const known = members.map((member) => member[name]).filter((value) => value !== null && value !== undefined);
    result[name] = known.length === 0 ? null : known.reduce((all, value) => all + value, 0) / known.length;
  }
  return result;
}
