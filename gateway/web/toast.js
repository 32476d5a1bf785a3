/**
 * Says that something was done, for a few seconds. What went wrong is said where it went wrong, and stays.
 *
 * @module toast
 */
import { h, icon } from './dom.js';

const SHOWN_MS = 4_000;

export function toast(text) {
  const note = h('div.toast', {}, icon('check'), h('span', {}, text));
  document.getElementById('toasts').append(note);
  setTimeout(() => note.remove(), SHOWN_MS);
}

/** Says something to those who listen, and shows nothing. */
export function announce(text) {
  document.getElementById('announcer').textContent = text;
}
