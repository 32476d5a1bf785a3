/** Outbox: what waits for whom, in which lane, and what left without being delivered. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { oldestText } from '../figures.js';
import { bytes, count, counted, errorWords, soon } from '../format.js';
import { button, empty, head, panel, peerBadge, stat, when } from '../parts.js';
import { search } from '../table.js';
import { departuresTable, laneStrip, purgeDialog } from './queue.js';

/** Peers at first. Those with most waiting come first, so that the rest seldom matters. */
const ROWS = 30;

export const outbox = {
  title: 'Outbox',
  everyMs: 3_000,

  load: () => api.get('/outbox'),

  sample({ peers }, sample) {
    const fresh = new Map(sample.peers.map((peer) => [peer.domain, peer]));
    for (const peer of peers) Object.assign(peer, pick(fresh.get(peer.domain)));
  },

  view(data, context) {
    const { peers } = data;
    const { can, run, busy, state, redraw } = context;
    const depth = peers.reduce((all, peer) => all + peer.depth, 0);
    const oldest = peers.map((peer) => peer.oldest).filter(Boolean).sort((a, b) => a - b)[0];
    const departures = peers.flatMap((peer) => (peer.departures ?? []).map((departure) => ({ domain: peer.domain, ...departure }))).sort((a, b) => b.last - a.last);
    const left = (outcome) => departures.filter((departure) => departure.outcome === outcome).reduce((all, departure) => all + departure.count, 0);
    const text = (state.search ?? '').toLowerCase();
    // The order stays while somebody looks: rows that jump under the pointer are how the wrong peer gets purged.
    state.order ??= [...peers].sort((a, b) => b.depth - a.depth).map(({ domain }) => domain);
    const place = (domain) => (state.order.includes(domain) ? state.order.indexOf(domain) : Infinity);
    const found = [...peers].sort((a, b) => place(a.domain) - place(b.domain)).filter(({ domain }) => domain.includes(text));
    const rows = state.rows ?? ROWS;
    return [
      head({
        title: 'Outbox', lead: 'Envelopes that wait for their peer. Each keeps until it is acknowledged, expires or is purged.',
        actions: can('operator') && peers.length > 0 && button({
          id: 'retry-all', sign: 'retry', label: 'Dial all now', busy: busy('retry-all'),
          onclick: () => run('retry-all', () => api.post('/outbox/retry', {}), 'All peers are being dialled'),
        }),
      }),
      h('div.stack', { key: 'outbox' },
        h('div.stats', {},
          stat({ id: 'outbox-depth', label: 'Waiting', value: count(depth), note: bytes(peers.reduce((all, peer) => all + peer.bytes, 0)) }),
          stat({ id: 'outbox-oldest', label: 'Oldest', value: oldestText(oldest), note: oldest ? 'since it was submitted' : 'nothing waits' }),
          stat({ id: 'outbox-refused', label: 'Refused', value: count(left('refused')), note: 'by peers, since start' }),
          stat({ id: 'outbox-expired', label: 'Expired', value: count(left('expired')), note: 'since start' }),
          stat({ id: 'outbox-purged', label: 'Purged', value: count(left('purged')), note: 'since start' })),
        peers.length === 0
          ? h('section.panel', { key: 'none' }, empty({ id: 'outbox-empty', sign: 'outbox', title: 'Nothing can wait yet', text: 'The outbox has a queue for each peer. Make the first peering.', actions: button({ action: 'go-peers', kind: 'primary', href: '#/peers', label: 'Peers' }) }))
          : h('section.panel', { key: 'queues', id: 'queues', 'aria-labelledby': 'queues-title' },
            h('header', {}, h('h2#queues-title', {}, 'Per peer and lane'), h('span.note', {}, 'the fuller the colour, the more waits')),
            peers.length > 8 && h('div.toolbar', {}, search({ id: 'outbox-search', label: 'Search peers', value: '', oninput: (value) => { state.search = value; redraw(); } })),
            h('ul.queues', {}, found.slice(0, rows).map((peer) => queue(peer, context))),
            found.length === 0 && empty({ sign: 'search', compact: true, title: 'No peer fits', text: 'Search for something else.' }),
            found.length > rows && h('div.more', {}, button({ id: 'outbox-more', label: 'Show more', onclick: () => { state.rows = rows + 100; redraw(); } }))),
        peers.length > 0 && panel({ id: 'departures', title: 'Not delivered', note: 'since the gateway started', flush: true }, departures.length === 0
          ? empty({ sign: 'check', compact: true, title: 'None', text: 'Everything that left the outbox was delivered.' }) : departuresTable(departures, 'departures-table', true))),
    ];
  },
};

function pick(now) {
  if (!now) return {};
  const { depth, bytes: size, oldest, link, state } = now;
  return { depth, bytes: size, oldest, link, state };
}

function queue(peer, { can, run, busy, reload }) {
  const { domain, depth, bytes: size, oldest, link, last_error: text, next_dial: next, lanes = [] } = peer;
  const isPaused = peer.state === 'paused';
  return h('li.queue', { key: domain, 'data-domain': domain, 'data-depth': depth },
    h('div.queue-head', {},
      h('div.queue-name', {}, h('a.strong', { href: `#/peers/${domain}` }, domain), peerBadge({ ...peer, state: peer.state ?? 'active' })),
      h('div.queue-figures', {}, depth === 0 ? h('span.quiet', {}, 'nothing waits') : [h('strong.queue-depth', {}, counted(depth, 'envelope')), h('span.quiet', {}, ` · ${bytes(size)} · oldest ${oldestText(oldest)}`)]),
      can('operator') && h('div.actions', {},
        link !== 'up' && link !== 'alarm' && (peer.state ?? 'active') === 'active' && button({ action: 'retry', kind: 'small', sign: 'retry', label: 'Retry', hidden: domain, busy: busy(`retry-${domain}`), onclick: () => run(`retry-${domain}`, () => api.post('/outbox/retry', { domain }), `${domain} is being dialled`) }),
        peer.state !== 'invited' && button({ action: 'purge', kind: 'small danger', sign: 'trash', label: 'Purge', hidden: domain, ...(depth > 0 ? {} : { 'aria-disabled': 'true' }), onclick: () => depth > 0 && purgeDialog(peer, null, reload) }))),
    peer.state !== 'invited' && laneStrip(lanes, domain, can('operator') ? (lane) => purgeDialog(peer, lane, reload) : null),
    depth > 0 && link !== 'up' && text && h('p.quiet.small.break', {}, h('bdi', {}, errorWords({ domain, state: peer.state ?? 'active', last_error: text })), next && !isPaused && [' · dialled again ', when(next, (at) => soon(at))]));
}
