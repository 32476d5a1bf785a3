/** Overview: what needs somebody first, then how it goes. */
import { api } from '../api.js';
import { attention } from '../attention.js';
import { sparkLine } from '../chart.js';
import { h, icon } from '../dom.js';
import { oldestText, takeSample, throughput, trafficCharts } from '../figures.js';
import { count, counted, isPausedThere, latency, percent, rate, span } from '../format.js';
import { badge, button, empty, head, notice, panel, peerBadge, stat, transportName, when } from '../parts.js';
import { table } from '../table.js';

/** Peers at a glance; the rest is on their page. */
const PEERS_SHOWN = 8;

export const overview = {
  title: 'Overview',
  everyMs: 10_000,

  async load() {
    const [status, { peers }, identity, { relays = [], problem: noRelays }, { calls = [], errors = [], problem: noCalls }] = await Promise.all([
      api.get('/status'), api.get('/peers'), api.get('/identity'), alone(api.get('/relays')), alone(api.get('/calls')),
    ]);
    return { status, peers, identity, relays, calls, errors, callsProblem: noRelays ?? noCalls ?? null };
  },

  sample(data, sample) {
    takeSample(data.peers, sample);
    data.status.totals = sample.totals ?? data.status.totals;
    data.status.outbox_depth = data.peers.reduce((all, { outbox }) => all + outbox.depth, 0);
    const waiting = data.peers.map(({ outbox }) => outbox.oldest).filter(Boolean);
    data.status.outbox_oldest = waiting.length > 0 ? Math.min(...waiting) : null;
  },

  view(data, context) {
    const { status, peers } = data;
    const charts = trafficCharts();
    return [
      head({
        title: 'Overview',
        lead: [h('span.strong', {}, status.domain), ` · Trunkline ${status.version} · up for ${span(status.uptime_s * 1000)}`],
      }),
      h('div.stack', { key: 'overview' },
        wants(attention(data), peers.length),
        figures(data),
        h('div.thirds', {},
          chartPanel('throughput', charts.throughput), chartPanel('latency', charts.latency), chartPanel('depth', charts.depth)),
        peersPanel(peers, context),
        replicasPanel(status.replicas),
        callsPanel(data)),
    ];
  },
};

/** What may fail without taking the page along: its panel says what went wrong. */
async function alone(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error.status === undefined || error.status === 401) throw error;
    return { problem: error.detail };
  }
}

export function chartPanel(name, chart) {
  return h('section.panel', { id: `chart-${name}` }, h('div.body', {}, chart));
}

function wants(items, peers) {
  if (items.length === 0) {
    const words = {
      0: [h('strong', {}, 'No peers yet.'), ' Nothing is wrong, and nothing goes in or out.'],
      1: [h('strong', {}, 'All is well.'), ' The one peer is connected, and nothing waits for long.'],
    }[peers] ?? [h('strong', {}, 'All is well.'), ` All ${count(peers)} peers are connected, and nothing waits for long.`];
    return h('section.panel.calm', { id: 'attention', 'aria-label': 'What needs attention' },
      h('div.body', {}, icon(peers === 0 ? 'peers' : 'check'), h('p', {}, words)));
  }
  return panel({ id: 'attention', title: 'Needs attention', note: counted(items.length, 'thing'), flush: true },
    h('ul.attention', {}, items.map(({ key, tone, text, detail, href, link }) => h('li', { key, 'data-tone': tone, 'data-attention': key },
      icon({ bad: 'error', warn: 'warning', info: 'info' }[tone]),
      h('div.words', {}, h('span.unseen', {}, { bad: 'Problem: ', warn: 'Warning: ', info: 'Note: ' }[tone]), text, detail && h('span.sub', {}, detail)),
      href && h('a', { href }, link, h('span.unseen', {}, `: ${text}`))))));
}

function figures({ status, peers }) {
  const { now } = throughput();
  const known = peers.map((peer) => peer.latency_ms).filter((ms) => ms !== null && ms !== undefined);
  const mean = known.length > 0 ? known.reduce((all, ms) => all + ms, 0) / known.length : null;
  // Those who were invited are no peers yet; those who pause are, and nothing is wrong with them.
  const peered = peers.filter(({ state }) => state !== 'invited');
  const up = peered.filter(({ state, link }) => state === 'active' && link === 'up').length;
  const isMissing = peered.some((peer) => peer.state === 'active' && peer.link !== 'up' && !isPausedThere(peer));
  return h('div.stats', { id: 'figures' },
    stat({ id: 'figure-peers', label: 'Peers connected', value: count(up), unit: peered.length > 0 ? `of ${count(peered.length)}` : null, note: others(peers), tone: isMissing ? 'bad' : null, href: '#/peers' }),
    stat({ id: 'figure-throughput', label: 'Throughput', value: rate(now), unit: 'per second', note: `sent and received · ${count(status.totals.delivered)} delivered` }),
    stat({ id: 'figure-latency', label: 'Latency', value: latency(mean), note: 'submitted to acknowledged, with the wait while paused' }),
    stat({ id: 'figure-outbox', label: 'Waiting', value: count(status.outbox_depth), note: status.outbox_oldest ? `oldest ${oldestText(status.outbox_oldest)}` : 'nothing is late', href: '#/outbox' }),
    stat({ id: 'figure-received', label: 'Received', value: count(status.totals.received), note: `${count(status.totals.rejected)} rejected` }),
    stat({ id: 'figure-inbox', label: 'In inboxes', value: count(status.inbox_depth), note: counted(status.networks, 'network'), href: '#/networks' }));
}

function others(peers) {
  if (peers.length === 0) return 'no peers yet';
  const parts = [
    [peers.filter(({ state }) => state === 'paused').length, 'paused'],
    [peers.filter(isPausedThere).length, 'paused there'],
    [peers.filter(({ state }) => state === 'invited').length, 'invited'],
  ].filter(([number]) => number > 0).map(([number, word], index) => `${index === 0 ? counted(number, 'peer is', 'peers are') : count(number)} ${word}`);
  return parts.length > 0 ? parts.join(', ') : null;
}

function peersPanel(peers, context) {
  if (peers.length === 0) {
    return panel({ id: 'glance-peers', title: 'Peers' }, empty({
      sign: 'peers', title: 'No peers yet', compact: true,
      text: 'Invite another deployment: write a bundle for it, send it to its operator, and accept the one that comes back.',
      actions: context.can('admin') && button({ id: 'first-invite', kind: 'primary', href: '#/peers', label: 'Invite a peer', sign: 'plus' }),
    }));
  }
  const worst = [...peers].sort((a, b) => urgency(b) - urgency(a) || b.sent + b.received - a.sent - a.received).slice(0, PEERS_SHOWN);
  return panel({ id: 'glance-peers', title: 'Peers', actions: h('a.small', { href: '#/peers' }, `All ${count(peers.length)}`), flush: true }, table({
    id: 'glance-peers-table', caption: 'Peers at a glance', items: worst, key: ({ domain }) => domain, row: ({ domain }) => ({ 'data-domain': domain }),
    columns: [
      { label: 'Peer', header: true, cell: ({ domain, label }) => [h('a', { href: `#/peers/${domain}` }, domain), label && h('span.sub', {}, label)] },
      { label: 'State', cell: peerBadge },
      { label: 'Transport', cell: ({ transport }) => transportName(transport) },
      { label: 'Throughput', cell: ({ domain }) => traffic(domain) },
      { label: 'Latency', kind: 'number', cell: (peer) => latency(peer.latency_ms) },
      { label: 'Waiting', kind: 'number', cell: ({ outbox }) => count(outbox.depth) },
      { label: 'Oldest', kind: 'number', cell: ({ outbox }) => oldestText(outbox.oldest) },
    ],
  }));
}

/** A sparkline and the figure it ends at. */
export function traffic(domain) {
  const { now, values } = throughput(domain);
  return h('span.traffic', {}, sparkLine(`Throughput of the last five minutes, now ${rate(now)} per second`, values), h('span', {}, `${rate(now)}/s`));
}

function urgency({ state, link, outbox }) {
  if (link === 'alarm') return 4;
  if (state === 'active' && link !== 'up') return 3;
  if (state === 'paused') return 2;
  return outbox.depth > 0 ? 1 : 0;
}

/** Gateways that share the store; nothing where this one is alone, or a leader of an older release tells of none. */
function replicasPanel(replicas = []) {
  if (replicas.length === 0) return null;
  const followers = replicas.filter(({ leads }) => !leads).length;
  return panel({ id: 'glance-replicas', title: 'Replicas', note: followers > 0 ? `${counted(followers, 'follows', 'follow')} the leader` : 'nobody takes over when the leader goes', flush: true }, table({
    id: 'glance-replicas-table', caption: 'Replicas of this gateway', items: replicas, key: ({ address, since }) => `${address} ${since}`,
    columns: [
      { label: 'Replica', header: true, cell: ({ address }) => address ?? 'unknown' },
      { label: 'Standing', cell: ({ leads }) => (leads ? badge('good', 'Leads') : badge('info', 'Follows')) },
      { label: 'For', cell: ({ since }) => when(since, (at) => span(Date.now() - at)) },
      { label: 'Release', cell: ({ version }) => version ?? 'an older one' },
    ],
  }));
}

function callsPanel({ relays, calls, errors, callsProblem }) {
  if (callsProblem) return panel({ id: 'glance-calls', title: 'Calls' }, notice('bad', callsProblem, { id: 'glance-calls-problem' }));
  if (relays.length === 0) {
    return panel({ id: 'glance-calls', title: 'Calls' }, empty({
      sign: 'calls', title: 'No relays are configured', compact: true,
      text: 'Name the relays of this deployment in gateway.toml, and their calls are shown here.',
      actions: button({ href: '#/calls', label: 'How to' , action: 'calls-help' }),
    }));
  }
  const people = calls.reduce((all, call) => all + call.participants, 0);
  const busiest = Math.max(0, ...relays.map(({ busy }) => busy ?? 0));
  const up = relays.filter(({ state }) => state === 'up').length;
  return panel({ id: 'glance-calls', title: 'Calls', actions: h('a.small', { href: '#/calls' }, 'All calls'), flush: true },
    h('div.stats.inside', {},
      stat({ label: 'Live calls', value: count(calls.length) }),
      stat({ label: 'Participants', value: count(people) }),
      stat({ label: 'Relays', value: count(up), unit: `of ${count(relays.length)}`, tone: up < relays.length || errors.length > 0 ? 'bad' : null }),
      stat({ label: 'Busiest relay', value: percent(busiest), note: 'of its media threads’ time' })));
}

