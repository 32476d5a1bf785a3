/** Parts that the outbox and a peer's page share: lanes, departures, purging. */
import { api } from '../api.js';
import { confirm } from '../dialog.js';
import { h } from '../dom.js';
import { bytes, count, counted, lookup, span } from '../format.js';
import { badge, when } from '../parts.js';
import { table } from '../table.js';
import { toast } from '../toast.js';

const OUTCOMES = {
  refused: ['bad', 'Refused', 'the other side did not take it'],
  expired: ['warn', 'Expired', 'its time ran out'],
  purged: ['warn', 'Purged', 'an operator threw it away'],
  rejected: ['info', 'Rejected', 'we did not take it from them'],
};

/** What reasons mean; the gateway answers names. */
const REASONS = {
  'refused': 'No reason that this version knows',
  'malformed': 'Something in it is not valid',
  'too-large': 'Its payload is above the limit',
  'sender-domain': 'The sender’s domain is not one of that deployment’s',
  'unknown-domain': 'No network has the recipient’s domain',
  'federation-disabled': 'A network does not federate',
  'not-permitted': 'A restricted network does not list the other one',
  'guest': 'A network does not allow guests',
  'blocked': 'A network blocks one of the addresses',
  'time-to-live': 'It waited for longer than it was good for',
  'operator': 'An operator purged it',
};
/** Lanes between two deployments, as the protocol has it. */
const LANES = 16;

/**
 * Lanes as a strip: the fuller the colour, the more waits. Each cell says its figures, and leads to purging where that is allowed.
 *
 * @param {Object[]} lanes
 * @param {string} domain
 * @param {?(lane: Object) => void} [choose]
 */
export function laneStrip(lanes, domain, choose = null) {
  const known = new Map(lanes.map((lane) => [lane.lane, lane]));
  // Empty lanes are not told.
  const all = Array.from({ length: LANES }, (_, lane) => known.get(lane) ?? { lane, depth: 0, bytes: 0, oldest: null, in_flight: 0 });
  const most = Math.max(1, ...lanes.map(({ depth }) => depth));
  return h('div.lane-box', {}, h('ul.lanes', { 'aria-label': `Lanes to ${domain}` }, all.map((lane) => {
    const { depth, in_flight: flight, oldest } = lane;
    const words = depth === 0 ? `Lane ${lane.lane}: empty` : `Lane ${lane.lane}: ${counted(depth, 'envelope')}, ${bytes(lane.bytes)}, ${count(flight)} in flight${oldest ? `, oldest ${span(Date.now() - oldest)}` : ''}`;
    const level = depth === 0 ? 0 : Math.max(1, Math.ceil((depth / most) * 5));
    const content = [h('span.unseen', {}, words), h('span.lane-name', { 'aria-hidden': 'true' }, lane.lane), h('span.lane-depth', { 'aria-hidden': 'true' }, depth > 9999 ? '9k+' : depth)];
    return h('li', { key: lane.lane, 'data-lane': lane.lane, 'data-depth': depth }, choose && depth > 0
      ? h('button.lane', { type: 'button', 'data-level': level, 'data-action': 'lane', title: words, onclick: () => choose(lane) }, content)
      : h('span.lane', { 'data-level': level, title: words }, content));
  })));
}

/** What left a queue otherwise than delivered. */
export function departuresTable(departures, id, withPeer = false) {
  if (departures.length === 0) return h('p.quiet.inset', {}, 'None: everything that left was delivered.');
  return table({
    id, caption: 'Refused, expired and purged envelopes', items: departures, key: ({ domain, outcome, reason }) => `${domain ?? ''}/${outcome}/${reason}`,
    row: ({ outcome, reason, domain }) => ({ 'data-outcome': outcome, 'data-reason': reason, 'data-domain': domain }),
    columns: [
      { label: 'Outcome', cell: ({ outcome }) => [badge(...(lookup(OUTCOMES, outcome) ?? ['', outcome]).slice(0, 2)), h('span.sub', {}, lookup(OUTCOMES, outcome)?.[2])] },
      withPeer && { label: 'Peer', cell: ({ domain }) => h('a', { href: `#/peers/${domain}` }, domain) },
      { label: 'Reason', cell: ({ reason }) => [lookup(REASONS, reason) ?? reason, lookup(REASONS, reason) && h('span.sub', {}, h('code', {}, reason))] },
      { label: 'Envelopes', kind: 'number', cell: (departure) => count(departure.count) },
      { label: 'Last', kind: 'number', cell: ({ last }) => when(last) },
    ],
  });
}

/** Throws away what waits for a peer, in one lane or all. */
export function purgeDialog({ domain, outbox, depth = outbox?.depth, bytes: size = outbox?.bytes }, lane, reload) {
  const what = lane ? lane.depth : depth;
  confirm({
    id: 'purge-dialog', title: lane ? `Purge lane ${lane.lane} to ${domain}?` : `Purge everything for ${domain}?`, submit: `Purge ${counted(what, 'envelope')}`, word: domain,
    consequences: [
      `${counted(what, 'envelope')} (${bytes(lane ? lane.bytes : size)}) ${what === 1 ? 'is' : 'are'} thrown away for good.`,
      'Each sender gets a receipt with the outcome “purged”.',
      'What is in flight may have reached the peer all the same.',
    ],
    run: async () => {
      const { count: purged } = await api.post('/outbox/purge', lane ? { domain, lane: lane.lane } : { domain });
      toast(`Purged ${counted(purged, 'envelope')}`);
      await reload();
    },
  });
}
