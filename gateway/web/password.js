/**
 * Choosing a password: the fields, and the rules as they are met.
 *
 * @module password
 */
import { h, icon } from './dom.js';
import { field } from './form.js';

const LENGTH_MIN = 12;
const LENGTH_MAX = 128;

/**
 * The gateway's rules, and that both entries are the same.
 *
 * @param {{name: string, old: string, fresh: string, repeated: string}} entered
 * @returns {{text: string, met: boolean}[]}
 */
export function passwordRules({ name, old, fresh, repeated }) {
  const length = [...fresh].length;
  return [
    { text: `${LENGTH_MIN} to ${LENGTH_MAX} characters`, met: length >= LENGTH_MIN && length <= LENGTH_MAX },
    { text: 'Another one than before', met: fresh !== '' && fresh !== old },
    { text: 'Not your name', met: fresh !== '' && fresh.toLowerCase() !== name.toLowerCase() },
    { text: 'Twice the same', met: fresh !== '' && fresh === repeated },
  ];
}

/**
 * The three fields and the rules.
 *
 * @param {{name: string, old?: string, fresh?: string, repeated?: string}} state keeps what is typed
 * @param {() => void} redraw
 */
export function passwordFields(state, redraw) {
  const typed = (name) => (event) => {
    state[name] = event.target.value;
    redraw();
  };
  const rules = passwordRules({ name: state.name, old: state.old ?? '', fresh: state.fresh ?? '', repeated: state.repeated ?? '' });
  return [
    field({ id: 'old-password', name: 'old', label: 'Present password', type: 'password', autocomplete: 'current-password', required: true, oninput: typed('old') }),
    field({ id: 'new-password', name: 'fresh', label: 'New password', type: 'password', autocomplete: 'new-password', required: true, oninput: typed('fresh') }),
    field({ id: 'repeated-password', name: 'repeated', label: 'New password again', type: 'password', autocomplete: 'new-password', required: true, oninput: typed('repeated') }),
    h('ul.tick-list', { key: 'rules', id: 'password-rules', 'aria-label': 'Rules for the new password' }, rules.map(({ text, met }) =>
      h('li', { 'data-met': String(met) }, icon(met ? 'check' : 'info'), text, h('span.unseen', {}, met ? ' (met)' : ' (not met yet)')))),
  ];
}
