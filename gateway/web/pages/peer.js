/** One peer: how it goes, how it is trusted, and what can be done about it. */
import { api, segment } from '../api.js';
import { confirm } from '../dialog.js';
import { h, icon } from '../dom.js';
import { oldestText, takeSample, throughput, trafficCharts } from '../figures.js';
import { bytes, count, counted, errorWords, isPausedThere, latency, list, lookup, rate, soon, span } from '../format.js';
import { badge, button, copyButton, empty, facts, head, notice, panel, peerBadge, pinView, stat, tags, transportName, when } from '../parts.js';
import { table } from '../table.js';
import { acceptDialog } from './peering.js';
import { chartPanel } from './overview.js';
import { departuresTable, laneStrip, purgeDialog } from './queue.js';

const BACK = { href: '#/peers', label: 'Peers' };
const PIN_STATES = {
  next: ['info', 'Next', 'announced, will be used'],
  current: ['good', 'Current', 'in use'],
  retiring: ['warn', 'Retiring', 'still accepted'],
  revoked: ['bad', 'Revoked', 'never accepted again'],
};
const pinState = (state) => lookup(PIN_STATES, state) ?? ['', state, ''];

export const peer = {
  title: 'Peer',
  back: BACK,
  everyMs: 4_000,

  load: ({ parameters }) => api.get(`/peers/${segment(parameters[0])}`),

  sample: (data, sample) => takeSample([data], sample),

  view(data, context) {
    const { domain, label } = data;
    return [
      head({ title: domain, mark: peerBadge(data), lead: label, back: BACK, actions: actions(data, context) }),
      h('div.stack', { key: `peer-${domain}`, 'data-domain': domain },
        situation(data, context),
        data.claimed_domains && claims(data, context),
        data.state !== 'invited' && figures(data),
        data.state !== 'invited' && graphs(domain),
        h('div.split', {},
          h('div.stack', {}, data.state !== 'invited' && queue(data, context), domainsPanel(data)),
          h('div.stack', {}, trust(data, context), reach(data)))),
    ];
  },
};

function actions(data, context) {
  const { domain, state, link } = data;
  const { can, run, busy } = context;
  const act = (verb, done) => run(`peer-${verb}`, () => api.post(`/peers/${segment(domain)}/${verb}`), done);
  const stopped = state === 'paused' || link === 'alarm';
  return [
    can('operator') && state === 'active' && link !== 'up' && link !== 'alarm' && button({
      id: 'peer-retry', sign: 'retry', label: 'Dial now', busy: busy('peer-retry'),
      onclick: () => run('peer-retry', () => api.post('/outbox/retry', { domain }), `${domain} is being dialled`),
    }),
    can('operator') && state === 'active' && link !== 'alarm' && button({ id: 'peer-pause', sign: 'pause', label: 'Pause', busy: busy('peer-pause'), onclick: () => act('pause', `${domain} is paused`) }),
    can('operator') && stopped && link !== 'alarm' && button({ id: 'peer-resume', kind: 'primary', sign: 'play', label: 'Resume', busy: busy('peer-resume'), onclick: () => act('resume', `${domain} goes on`) }),
    can('operator') && link === 'alarm' && button({ id: 'peer-resume', kind: 'primary', sign: 'play', label: 'Resume…', onclick: () => resumeAlarm(data, context) }),
    can('admin') && state === 'invited' && button({ id: 'peer-accept', kind: 'primary', sign: 'upload', label: 'Accept its bundle', onclick: () => acceptDialog(context) }),
    can('admin') && button({ id: 'peer-remove', kind: 'danger', sign: 'trash', label: 'Remove', onclick: () => removeDialog(data) }),
  ];
}

function resumeAlarm({ domain, last_error: text }, { reload }) {
  confirm({
    id: 'resume-dialog', title: `Resume ${domain} after the alarm?`, submit: 'Resume', danger: true,
    intro: text,
    consequences: [
      'The peering goes on from what both sides hold now.',
      'Depending on which side went back, envelopes that were acknowledged may be lost, or some be delivered twice.',
      'The decision is written to the audit log.',
    ],
    run: async () => {
      await api.post(`/peers/${segment(domain)}/resume`);
      await reload();
    },
  });
}

function removeDialog({ domain, outbox, local_domains: locals }) {
  confirm({
    id: 'remove-dialog', title: `Remove ${domain}?`, submit: 'Remove this peer', word: domain,
    consequences: [
      outbox.depth > 0 ? `${counted(outbox.depth, 'envelope that waits', 'envelopes that wait')} for it (${bytes(outbox.bytes)}) ${outbox.depth === 1 ? 'is' : 'are'} purged; the senders get receipts that say so.` : 'Nothing waits for it, so nothing is purged.',
      locals.length > 0 ? `${counted(locals.length, 'local domain')} of it can no longer be written to: ${list(locals.map((local) => local.domain))}.` : 'It has no local domains.',
      'Its pins and the API keys on both sides are forgotten. Its operator is not told; their side shows us as down.',
      'To come back, both sides peer anew, with new bundles.',
    ],
    run: async () => {
      await api.delete(`/peers/${segment(domain)}`);
      location.hash = '#/peers';
    },
  });
}

function situation(data, { can }) {
  const { domain, state, link, next_dial: next, since } = data;
  const text = errorWords(data);
  if (state === 'invited') {
    return notice('info', [h('strong', {}, 'Invited, not answered yet.'), h('p', {}, 'Send the bundle to its operator if you did not. When the answering bundle comes back, accept it, and the peering begins. An invitation that got lost is replaced by inviting again.')], { id: 'peer-situation' });
  }
  if (link === 'alarm') {
    return notice('bad', [h('strong', {}, 'Stopped: watermarks disagree.'), h('p', {}, text),
      h('p', {}, 'One of the two stores went back to an older state, for instance by a restored backup. Speak with the other operator before you resume.')], { id: 'peer-situation' });
  }
  if (state === 'paused') {
    return notice('warn', [h('strong', {}, 'Paused.'), h('p', {}, `What is for this peer waits until somebody resumes it${can('operator') ? '' : ', which takes an operator'}. What expires meanwhile is returned with a receipt.`)], { id: 'peer-situation' });
  }
  if (link !== 'up') {
    const again = next && `It is dialled again ${soon(next)}.`;
    if (isPausedThere(data)) {
      return notice('info', [h('strong', {}, `Paused by ${domain}’s operator.`), h('p', {}, 'What is for this peer waits until they resume it. What expires meanwhile is returned with a receipt.'), again && h('p', {}, again)], { id: 'peer-situation' });
    }
    return notice('bad', [h('strong', {}, 'Not connected for ', when(since, (at) => span(Date.now() - at)), '.'), text && h('p.break', { id: 'peer-error' }, text), again && h('p', {}, again)], { id: 'peer-situation' });
  }
  // A pause that is over is nothing that went wrong.
  return text && text === data.last_error && notice('warn', [h('strong', {}, 'The last thing that went wrong'), h('p.break', { id: 'peer-error' }, text)], { id: 'peer-situation' });
}

function claims({ domain, local_domains: approved, claimed_domains: claimed }, { can, run, busy }) {
  const names = (entries) => entries.map((entry) => `${entry.domain} (${entry.network})`);
  const [before, after] = [names(approved), names(claimed)];
  const [added, gone] = [after.filter((name) => !before.includes(name)), before.filter((name) => !after.includes(name))];
  return panel({
    id: 'peer-claims', title: 'Changed claim of local domains',
    actions: can('admin') && button({
      id: 'approve-domains', kind: 'primary', sign: 'check', label: 'Approve', busy: busy('approve-domains'),
      onclick: () => run('approve-domains', () => api.post(`/peers/${segment(domain)}/approve-domains`), 'The claim is approved'),
    }),
  },
  h('p', {}, `${domain} announced other local domains than those that you approved. Until you approve, the old ones hold. Ask its operator when a new one surprises you: who owns a domain receives what is written to it.`),
  facts([
    ['New', added.length > 0 ? tags(added) : null],
    ['Gone', gone.length > 0 ? tags(gone) : null],
    ['Same', tags(after.filter((name) => before.includes(name)))],
  ]));
}

function figures(data) {
  const { now } = throughput(data.domain);
  return h('div.stats', { id: 'peer-figures' },
    stat({ id: 'peer-transport', label: 'Transport', value: transportName(data.transport), note: data.link === 'up' ? ['up for ', when(data.since, (at) => span(Date.now() - at))] : null }),
    stat({ id: 'peer-throughput', label: 'Throughput', value: rate(now), unit: 'per second' }),
    stat({ id: 'peer-latency', label: 'Latency', value: latency(data.latency_ms) }),
    stat({ id: 'peer-depth', label: 'Waiting', value: count(data.outbox.depth), note: data.outbox.depth > 0 ? `${bytes(data.outbox.bytes)}, oldest ${oldestText(data.outbox.oldest)}` : null }),
    stat({ id: 'peer-sent', label: 'Sent', value: count(data.sent), note: 'since start' }),
    stat({ id: 'peer-received', label: 'Received', value: count(data.received), note: `${count(data.refused)} of ours refused` }));
}

function graphs(domain) {
  const charts = trafficCharts(domain);
  return h('div.thirds', {}, chartPanel('throughput', charts.throughput), chartPanel('latency', charts.latency), chartPanel('depth', charts.depth));
}

function queue(data, { can, reload }) {
  const { domain, outbox, lanes = [], departures = [] } = data;
  const purge = can('operator') && outbox.depth > 0
    && button({ id: 'peer-purge', kind: 'small danger', sign: 'trash', label: 'Purge', onclick: () => purgeDialog(data, null, reload) });
  return h('section.panel', { id: 'peer-queue', 'aria-labelledby': 'peer-queue-title' },
    h('header', {}, h('h2#peer-queue-title', {}, 'Queue'), purge && h('div.actions', {}, purge)),
    h('div.body', {}, h('p.quiet.small', {}, 'Envelopes waiting in each lane. A conversation keeps to one lane, so that it stays in order.'), laneStrip(lanes, domain)),
    h('div.flush', {}, h('h3.inset', {}, 'Not delivered, since the gateway started'), departuresTable(departures, 'peer-departures')));
}

function trust(data, context) {
  const { domain, trust: mode, pins, keys_issued: issued, keys_held: held, next_certificate_ready: ready } = data;
  const isAdmin = context.can('admin');
  const post = (id, verb, done) => context.run(id, () => api.post(`/peers/${segment(domain)}/${verb}`), done);
  return panel({ id: 'peer-trust', title: 'Pins and keys' },
    mode === 'ca' ? h('p', {}, 'Trusted by a certificate authority: its certificate must chain to the authority you gave and name its federation domain.') : pinLine(data, context),
    ready !== null && ready !== undefined && notice(ready ? 'good' : 'warn', ready ? 'It has stored our next certificate.' : 'It has not stored our next certificate yet: it would refuse us if it were activated now.', { id: 'peer-ready' }),
    h('div.keys', {},
      keyList('API keys that we issued', issued, 'It shows one of these when it connects.'),
      keyList('API keys that it issued', held, 'We show the newest when we connect.')),
    isAdmin && data.state !== 'invited' && h('div.actions', {},
      button({ id: 'rotate-key', kind: 'small', sign: 'key', label: 'Rotate the API key', busy: context.busy('rotate-key'), onclick: () => post('rotate-key', 'rotate-key', 'A new API key is on its way to the peer') }),
      issued.length > 1 && button({ id: 'retire-keys', kind: 'small', label: 'Retire old keys', onclick: () => retireDialog(data, context.reload) })));
}

function keyList(title, ids, text) {
  return h('div.key-list', {}, h('h3', {}, title), h('p.quiet.small', {}, text),
    ids.length === 0 ? h('p.quiet', {}, 'none') : h('ol', {}, ids.map((id, index) => h('li', { key: id }, icon('key'), h('code', {}, id), index === ids.length - 1 ? badge('good', 'newest') : badge('warn', 'old')))));
}

function retireDialog({ domain, keys_issued: issued }, reload) {
  confirm({
    id: 'retire-dialog', title: 'Retire old API keys?', submit: 'Retire',
    consequences: [
      `${counted(issued.length - 1, 'old key stops', 'old keys stop')} working at once; the newest stays.`,
      `If ${domain} has not stored the newest yet, it is refused until you peer with it anew.`,
    ],
    run: async () => {
      await api.post(`/peers/${segment(domain)}/retire-keys`);
      await reload();
    },
  });
}

function pinLine({ domain, pins, link }, { can, reload }) {
  if (pins.length === 0) return h('p.quiet', {}, 'No pin is known yet: it comes with its bundle.');
  const order = Object.keys(PIN_STATES);
  const sorted = [...pins].sort((a, b) => order.indexOf(b.state) - order.indexOf(a.state));
  return h('ol.timeline', { id: 'peer-pins', 'aria-label': 'Pins, from old to new' }, sorted.map(({ pin, state }) => h('li', { key: pin, 'data-pin': pin, 'data-state': state },
    h('div.mark', { 'data-tone': pinState(state)[0] }),
    h('div.words', {}, h('div.line', {}, badge(...pinState(state).slice(0, 2)), h('span.quiet.small', {}, pinState(state)[2])), pinView(pin)),
    h('div.actions', {}, copyButton(pin, 'the pin', { action: 'copy-pin', kind: 'small plain' }),
      can('admin') && state !== 'revoked' && button({ action: 'revoke-pin', kind: 'small plain danger', label: 'Revoke', hidden: `pin ${pin.slice(0, 8)}`, onclick: () => revokeDialog({ domain, pin, state, link }, reload) })))));
}

function revokeDialog({ domain, pin, state, link }, reload) {
  confirm({
    id: 'revoke-dialog', title: 'Revoke this pin?', submit: 'Revoke', word: state === 'current' ? domain : null,
    extra: pinView(pin),
    consequences: [
      'A certificate with this key is never accepted again from this peer, whatever a bundle or an announcement says.',
      state === 'current' && link === 'up' ? `It is the one in use: the link to ${domain} ends now, and comes back only with another pin.` : 'It is not the one in use: the link stays as it is.',
      'Do this when the peer’s key was stolen or lost.',
    ],
    run: async () => {
      await api.post(`/peers/${segment(domain)}/revoke-pin`, { pin });
      await reload();
    },
  });
}

function domainsPanel({ local_domains: locals }) {
  return panel({ id: 'peer-domains', title: 'Its local domains', flush: true },
    locals.length === 0 ? empty({ sign: 'domains', compact: true, title: 'None approved', text: 'Nobody there can be written to. They come with its bundle.' }) : table({
      id: 'peer-domains-table', caption: 'Local domains of this peer', items: locals, key: (local) => local.domain, row: (local) => ({ 'data-domain': local.domain }),
      columns: [
        { label: 'Domain', header: true, cell: (local) => local.domain },
        { label: 'Its network', cell: (local) => h('code', {}, local.network) },
      ],
    }));
}

function reach({ endpoints, domain, allow_private_ips: isPrivate, since, state }) {
  return panel({ id: 'peer-reach', title: 'How it is reached' }, facts([
    ['Endpoints', endpoints.length > 0 ? tags(endpoints) : ['by DNS: ', h('code', {}, `_trunkline._udp.${domain}`)]],
    ['Private addresses', isPrivate ? 'may be dialled' : 'are not dialled'],
    ['Peering', state],
    ['Link as it is since', when(since)],
  ]));
}
