/** Doctor: looks at everything from outside, and says in sentences what is wrong. */
import { api } from '../api.js';
import { h, icon } from '../dom.js';
import { counted, lookup } from '../format.js';
import { button, empty, notice } from '../parts.js';

const SIGNS = { failed: ['bad', 'error', 'Failed'], warning: ['warn', 'warning', 'Warning'], ok: ['good', 'check', 'Fine'] };

export function doctorTab(content, context) {
  const { state, run, busy } = context;
  const start = button({ id: 'doctor-run', kind: 'primary', sign: 'doctor', label: state.checks ? 'Run again' : 'Run the doctor', busy: busy('doctor'), onclick: () => run('doctor', async () => { state.checks = (await api.post('/doctor')).checks; }) });
  return h('section.panel', { 'aria-labelledby': 'doctor-title' },
    h('header', {}, h('h2#doctor-title', {}, 'Doctor'), state.checks && h('div.actions', {}, start)),
    h('div', { 'aria-live': 'polite' }, state.checks ? results(state.checks) : empty({
      id: 'doctor-empty', sign: 'doctor', title: 'Is everything as it should be?',
      text: 'The doctor dials this gateway from outside its own identity, looks at DNS, ports, pins, the clock, the disk and certificates, and asks each peer. It takes some seconds and changes nothing.',
      actions: start,
    })));
}

function results(checks) {
  const order = Object.keys(SIGNS);
  const sorted = [...checks].sort((a, b) => order.indexOf(a.outcome) - order.indexOf(b.outcome));
  const bad = checks.filter(({ outcome }) => outcome !== 'ok').length;
  return h('div.body', {},
    notice(bad === 0 ? 'good' : 'warn', h('strong', {}, bad === 0 ? checks.length === 1 ? 'The one check is fine.' : `All ${checks.length} checks are fine.` : `${counted(bad, 'thing')} of ${checks.length} to look at.`), { id: 'doctor-verdict' }),
    h('ul.checks', {}, sorted.map(({ check, subject, outcome, finding, advice }) => {
      const [tone, sign, word] = lookup(SIGNS, outcome) ?? ['info', 'info', outcome];
      return h('li', { 'data-check': check, 'data-subject': subject, 'data-outcome': outcome, 'data-tone': tone }, icon(sign),
        h('div.words', {}, h('span.unseen', {}, `${word}: `), h('p', {}, finding), advice && h('p.quiet', {}, advice), h('p.quiet.small', {}, `${check} · ${subject}`)));
    })));
}
