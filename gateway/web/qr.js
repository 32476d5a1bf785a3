/**
 * A QR code as a picture, from the rows of modules that the gateway answers.
 *
 * @module qr
 */
import { s } from './dom.js';

/** Modules of light around it, which readers need. */
const QUIET = 4;

/** One rectangle per run of dark modules, as a path. */
export function qrPath(rows) {
  return rows.map((row, y) => [...row.matchAll(/1+/g)].map(({ 0: run, index }) => `M${index} ${y}h${run.length}v1h-${run.length}z`).join('')).join('');
}

/** The picture. Always dark on light: readers do not take the opposite. */
export function qrPicture(rows) {
  const size = rows.length + 2 * QUIET;
  return s('svg.qr', { id: 'totp-qr', role: 'img', 'aria-label': 'QR code with the secret below', viewBox: `${-QUIET} ${-QUIET} ${size} ${size}`, 'shape-rendering': 'crispEdges' },
    s('rect', { x: -QUIET, y: -QUIET, width: size, height: size, fill: '#fff' }),
    s('path', { d: qrPath(rows), fill: '#000' }));
}
