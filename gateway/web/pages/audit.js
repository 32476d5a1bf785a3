/** Audit: who did what, and whether the log is whole. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { count, counted, moment } from '../format.js';
import { badge, button, copyable, empty, head, notice, when } from '../parts.js';
import { search, table } from '../table.js';

const PAGE = 100;
/** Waits for the rest of a word before it asks. */
const TYPING_MS = 250;

export const audit = {
  title: 'Audit',

  async load({ state, signal }) {
    const { entries, next } = await page(state.q ?? '', null, signal);
    state.entries ??= new Map();
    // A gap between what is shown and what is new cannot stay: begin anew then.
    const overlaps = entries.some(({ seq }) => state.entries.has(seq));
    if (!overlaps) {
      state.entries.clear();
      state.next = next ?? null;
    }
    for (const entry of entries) state.entries.set(entry.seq, entry);
    return {};
  },

  view(data, context) {
    const { state, run, busy } = context;
    const entries = [...state.entries.values()].sort((a, b) => b.seq - a.seq);
    const isSearching = (state.q ?? '') !== '';
    return [
      head({
        title: 'Audit', lead: 'Every change and who made it. Each entry holds the hash of the one before, so that a rewritten log shows.',
        actions: button({ id: 'audit-verify', sign: 'check', label: 'Verify the chain', busy: busy('verify'), onclick: () => run('verify', async () => { state.verified = await api.get('/audit/verify'); }) }),
      }),
      h('div.stack', { key: 'audit' },
        h('div', { key: 'verified', 'aria-live': 'polite' }, state.verified && verdict(state.verified)),
        h('section.panel', { key: 'entries', 'aria-label': 'Entries' },
          h('div.toolbar', {}, search({ id: 'audit-search', label: 'Search the audit log', value: '', oninput: (value) => ask(value, context) }),
            h('span.note', { role: 'status' }, state.asking ? 'Searching…' : `${count(entries.length)} shown${state.next ? '' : ', which is all'}`)),
          entries.length === 0
            ? empty({ id: 'audit-empty', sign: 'audit', title: isSearching ? 'No entry fits' : 'Nothing has been done yet', text: isSearching ? 'Search looks at actor, action, target and outcome.' : 'Every change that somebody makes will be here.' })
            : list(entries),
          state.next && h('div.more', { key: 'more' }, button({ id: 'audit-more', label: 'Show older entries', busy: busy('more'), onclick: () => run('more', () => older(context)) })))),
    ];
  },
};

function page(q, before, signal) {
  const query = new URLSearchParams({ order: 'newest', max: PAGE });
  if (before !== null) query.set('before', before);
  if (q !== '') query.set('q', q);
  return api.get(`/audit?${query}`, { signal });
}

function ask(value, { state, reload, redraw }) {
  clearTimeout(state.timer);
  state.asking = true;
  redraw();
  state.timer = setTimeout(async () => {
    state.q = value.trim();
    state.entries.clear();
    state.asking = false;
    await reload();
  }, TYPING_MS);
}

async function older({ state, signal }) {
  const { entries, next } = await page(state.q ?? '', state.next, signal);
  for (const entry of entries) state.entries.set(entry.seq, entry);
  state.next = next ?? null;
}

function verdict({ ok, entries, from_genesis: whole, broken_at: broken, head: hash }) {
  if (!ok) {
    return notice('bad', [h('strong', {}, `The chain breaks at entry ${count(broken)}.`), h('p', {}, 'It, or one before it, was changed or taken out after it was written. Compare with a backup, and find out who could write to the store.')], { id: 'audit-verdict' });
  }
  return notice('good', [
    h('strong', {}, `The chain holds over ${counted(entries, 'entry', 'entries')}.`),
    h('p', {}, whole ? 'It begins with the first entry there ever was.' : 'Older entries were left out as the log grew; those that are here fit together.'),
    hash && h('p', {}, 'Note this hash elsewhere: if it is still in the chain later, nothing before it was rewritten.'),
    hash && copyable(h('code.break', {}, hash), hash, 'the hash', { id: 'copy-hash' }),
  ], { id: 'audit-verdict' });
}

function list(items) {
  return table({
    id: 'audit-table', caption: 'Audit entries, newest first', items, key: ({ seq }) => seq, row: ({ seq, action, target }) => ({ 'data-seq': seq, 'data-action-name': action, 'data-target': target }),
    columns: [
      { label: 'When', cell: ({ at }) => h('span.nowrap', {}, when(at, moment)) },
      { label: 'Who', cell: ({ actor }) => actor },
      { label: 'What', header: true, cell: ({ action }) => h('code', {}, action) },
      { label: 'Whom', cell: ({ target }) => h('span.break', {}, target) },
      { label: 'How it went', cell: ({ outcome }) => (outcome === 'ok' ? badge('good', 'ok') : h('span.break', {}, outcome)) },
      { label: 'Entry', kind: 'number', cell: ({ seq }) => h('span.quiet', {}, count(seq)) },
    ],
  });
}
