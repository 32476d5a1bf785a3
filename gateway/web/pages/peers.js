/** Peers: all of them, and making new ones. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { oldestText, takeSample } from '../figures.js';
import { count, counted, errorWords, isPausedThere, latency, soon, span } from '../format.js';
import { button, empty, head, peerBadge, transportName, when } from '../parts.js';
import { search, table } from '../table.js';
import { traffic } from './overview.js';
import { acceptDialog, addDialog, inviteDialog } from './peering.js';

/** Rows at first. Each has a chart, whose history is asked for. */
const ROWS = 50;
const FILTERS = [['all', 'All'], ['down', 'Not connected'], ['paused', 'Paused'], ['invited', 'Invited'], ['waiting', 'With envelopes waiting']];

const FITS = {
  all: () => true,
  down: ({ state, link }) => link === 'alarm' || (state === 'active' && link !== 'up'),
  paused: ({ state }) => state === 'paused',
  invited: ({ state }) => state === 'invited',
  waiting: ({ outbox }) => outbox.depth > 0,
};

export const peers = {
  title: 'Peers',

  load: () => api.get('/peers'),

  sample: (data, sample) => takeSample(data.peers, sample),

  view({ peers: all }, context) {
    const { state, can, redraw, reload } = context;
    const actions = can('admin') && [
      button({ id: 'peer-add', label: 'Add by hand', onclick: () => addDialog(reload) }),
      button({ id: 'peer-accept', label: 'Accept a bundle', sign: 'upload', onclick: () => acceptDialog(context) }),
      button({ id: 'peer-invite', kind: 'primary', label: 'Invite', sign: 'plus', onclick: () => inviteDialog(reload) }),
    ];
    const title = head({ title: 'Peers', lead: 'Deployments that this one exchanges envelopes with.', actions });
    if (all.length === 0) {
      return [title, h('section.panel', { key: 'none' }, empty({
        id: 'peers-empty', sign: 'peers', title: 'No peers yet',
        text: can('admin')
          ? 'Two steps make a peering. Invite: a bundle for the other deployment is written, and you send it to its operator. Accept: the bundle that comes back is checked and trusted. If they invited you, begin with accepting.'
          : 'An administrator invites the first one.',
        actions: can('admin') && [
          button({ id: 'empty-invite', kind: 'primary', label: 'Invite a peer', sign: 'plus', onclick: () => inviteDialog(reload) }),
          button({ id: 'empty-accept', label: 'Accept a bundle', sign: 'upload', onclick: () => acceptDialog(context) }),
        ],
      }))];
    }
    const text = (state.search ?? '').toLowerCase();
    const filter = state.filter ?? 'all';
    const found = all.filter((peer) => FITS[filter](peer) && (text === '' || matches(peer, text)));
    const shown = found.slice(0, state.rows ?? ROWS);
    return [title, h('section.panel', { key: 'peers', 'aria-label': 'Peers' },
      h('div.toolbar', {},
        search({ id: 'peer-search', label: 'Search domains and labels', value: '', oninput: (value) => { state.search = value; redraw(); } }),
        h('label', {}, h('span.unseen', {}, 'Show'),
          h('select.input', { id: 'peer-filter', onchange: (event) => { state.filter = event.target.value; redraw(); } },
            FILTERS.map(([value, name]) => h('option', { value, selected: value === filter }, `${name} (${count(all.filter(FITS[value]).length)})`)))),
        h('span.note', { role: 'status' }, found.length === all.length ? counted(all.length, 'peer') : `${count(found.length)} of ${counted(all.length, 'peer')}`)),
      found.length === 0 ? empty({ sign: 'search', title: 'No peer fits', text: 'Search for something else, or show all.', compact: true }) : list(shown),
      found.length > shown.length && h('div.more', {}, button({
        id: 'peers-more', label: `Show ${count(Math.min(200, found.length - shown.length))} more`, onclick: () => { state.rows = shown.length + 200; redraw(); },
      })))];
  },
};

function matches({ domain, label, local_domains: domains }, text) {
  return domain.includes(text) || label.toLowerCase().includes(text) || domains.some((local) => local.domain.includes(text));
}

function list(items) {
  return table({
    id: 'peers-table', caption: 'Peers', items, key: ({ domain }) => domain, row: ({ domain, state, link }) => ({ 'data-domain': domain, 'data-state': state, 'data-link': link }),
    columns: [
      { label: 'Peer', header: true, cell: (peer) => [h('a', { href: `#/peers/${peer.domain}` }, peer.domain), peer.label && h('span.sub', {}, peer.label), errorText(peer)] },
      { label: 'State', cell: stateCell },
      { label: 'Transport', cell: ({ transport }) => transportName(transport) },
      { label: 'Throughput', cell: ({ domain }) => traffic(domain) },
      { label: 'Latency', kind: 'number', cell: (peer) => latency(peer.latency_ms) },
      { label: 'Waiting', kind: 'number', cell: ({ outbox }) => count(outbox.depth) },
      { label: 'Oldest', kind: 'number', cell: ({ outbox }) => oldestText(outbox.oldest) },
    ],
  });
}

function stateCell(peer) {
  return [peerBadge(peer), h('span.sub', {}, 'for ', when(peer.since, (at) => span(Date.now() - at)), peer.claimed_domains && ' · claims to approve')];
}

function errorText(peer) {
  const { next_dial: next, state, link } = peer;
  const text = errorWords(peer);
  if (!text) return null;
  const isDialled = state === 'active' && link !== 'up' && next;
  const dials = isDialled && ` · dialled again ${soon(next)}`;
  return h('span.sub.error-text', { title: text }, h('bdi', {}, text), dials);
}
