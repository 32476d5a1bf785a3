/** Federation identity: who we are to peers, and changing the key without losing anybody. */
import { api } from '../api.js';
import { confirm } from '../dialog.js';
import { h, icon } from '../dom.js';
import { counted, day, daysLeft, list } from '../format.js';
import { badge, button, copyable, download, empty, facts, head, meter, notice, panel, pinView, tags } from '../parts.js';
import { inviteDialog } from './peering.js';

/** Days left at which the badge warns. */
const DAYS_SOON = 30;
/** More than this is meant to be for ever: a date that says "none" has to be something. */
const DAYS_FOREVER = 365 * 1000;

export const identity = {
  title: 'Federation identity',

  load: () => api.get('/identity'),

  view(data, context) {
    const { domain, mode, current } = data;
    const { can, reload } = context;
    return [
      head({
        title: 'Federation identity', lead: 'Who this deployment is to its peers.',
        actions: can('admin') && button({ id: 'make-invitation', kind: 'primary', sign: 'plus', label: 'Make an invitation', onclick: () => inviteDialog(reload) }),
      }),
      h('div.stack', { key: 'identity' },
        h('section.panel', { id: 'federation-id', 'aria-label': 'Federation ID' }, h('div.body.federation-id', {},
          h('div.field', {}, h('span.label', {}, 'Domain'), copyable(h('output.big', { id: 'our-domain' }, domain), domain, 'the domain', { id: 'copy-domain' })),
          h('div.field', {}, h('span.label', {}, 'Pin'),
            copyable(pinView(current.pin, { large: true, id: 'our-pin' }), current.pin, 'the pin', { id: 'copy-pin' }),
            h('p.hint', {}, 'What you read to another operator by telephone. It is the SHA-256 of our public key, and changes only when the key does.')))),
        h('div.split', {}, certificatePanel(current, mode), rotation(data, context))),
    ];
  },
};

/** How long a certificate is good, in a word. */
export function daysBadge(notAfter) {
  const days = daysLeft(notAfter);
  if (days < 0) return badge('bad', `Expired ${counted(-days, 'day')} ago`);
  if (days > DAYS_FOREVER) return badge('good', 'Does not expire');
  return badge(days < DAYS_SOON ? 'warn' : 'good', `${counted(days, 'day')} left`);
}

/** What a certificate says. */
export function certificateFacts({ subject, issuer, dns_names: names, not_before: from, not_after: to }) {
  return facts([
    ['Subject', subject],
    ['Issuer', issuer === subject ? 'itself (self-signed)' : issuer],
    ['DNS names', tags(names)],
    ['Valid', `${day(from)} to ${day(to)}`],
  ]);
}

/** How much of its time a certificate has used. */
export function lifetime({ not_before: from, not_after: to }) {
  const used = Math.min(1, Math.max(0, (Date.now() - from) / (to - from)));
  return meter([{ name: 'used', value: used, tone: daysLeft(to) < DAYS_SOON ? 'warn' : null }], 1, `${Math.round(used * 100)} % of its time is over`);
}

function certificatePanel(current, mode) {
  return panel({ id: 'certificate', title: 'Certificate', actions: [
    daysBadge(current.not_after),
    button({ id: 'download-certificate', kind: 'small', sign: 'download', label: 'Download PEM', onclick: save }),
  ] },
  lifetime(current),
  certificateFacts(current),
  h('p.quiet.small', {}, mode === 'pinned'
    ? 'Peers trust its key, by the pin; its expiry and who issued it do not matter to them.'
    : 'Peers trust the authority that issued it. Replace the certificate and key files before it expires; the gateway notices by itself.'));
}

async function save() {
  const { domain } = await api.get('/identity');
  download(`${domain}.crt`, await api.get('/identity/certificate'), 'application/x-pem-file');
}

function rotation(data, context) {
  const { mode, next } = data;
  const isAdmin = context.can('admin');
  if (mode === 'ca') {
    return panel({ id: 'rotation', title: 'Next certificate' }, empty({ sign: 'certificate', compact: true, title: 'Renewed by your authority', text: 'With identity.mode = "ca" the next certificate comes from your authority: replace the files, and the gateway uses them within seconds.' }));
  }
  if (!next) {
    return panel({ id: 'rotation', title: 'Next certificate' }, empty({
      sign: 'key', compact: true, title: 'None is announced',
      text: 'Changing the key takes two steps, so that no peer is lost: a next one is made and announced, peers store it, then it is activated. Envelopes keep flowing all the time.',
      actions: isAdmin && button({ id: 'rotate', sign: 'key', label: 'Make the next certificate', busy: context.busy('rotate'), onclick: () => context.run('rotate', () => api.post('/identity/rotate'), 'The next certificate is announced') }),
    }));
  }
  const { ready, not_ready: late } = next;
  const all = ready.length + late.length;
  return panel({
    id: 'rotation', title: 'Next certificate',
    actions: isAdmin && [
      button({ id: 'activate', kind: `small ${late.length === 0 ? 'primary' : ''}`, label: 'Activate', onclick: () => activateDialog(data, context.reload) }),
    ],
  },
  steps(late.length === 0),
  h('div.field', {}, h('span.label', { id: 'ready-count' }, all === 0 ? 'There are no peers that must store it.' : `${ready.length} of ${counted(all, 'peer')} stored it`),
    all > 0 && meter([{ name: 'stored it', value: ready.length }, ], all, `${ready.length} of ${counted(all, 'peer')} stored the next certificate`)),
  late.length > 0 && h('ul.readiness', { 'aria-label': 'Peers that did not store it yet' }, late.map((domain) => h('li', { key: domain, 'data-domain': domain, 'data-ready': 'false' }, icon('warning'), h('a', { href: `#/peers/${domain}` }, domain), h('span.quiet.small', {}, 'not yet')))),
  ready.length > 0 && h('ul.readiness', { 'aria-label': 'Peers that stored it' }, ready.slice(0, 20).map((domain) => h('li', { key: domain, 'data-domain': domain, 'data-ready': 'true' }, icon('check'), h('a', { href: `#/peers/${domain}` }, domain))),
    ready.length > 20 && h('li', {}, `and ${ready.length - 20} more`)),
  late.length > 0 && h('p.quiet.small', {}, 'A peer is told as soon as it is connected, and stores it by itself.'),
  h('div.field', {}, h('span.label', {}, 'Its pin'), copyable(pinView(next.pin, { id: 'next-pin' }), next.pin, 'the next pin', { id: 'copy-next-pin' })),
  h('p.quiet.small', {}, `Valid ${day(next.not_before)} to ${day(next.not_after)}.`));
}

function steps(isReady) {
  const step = (state, text) => h('li', { 'data-state': state }, h('span.unseen', {}, { done: 'Done: ', now: 'Now: ', later: 'Then: ' }[state]), text);
  return h('ol.progress', { 'aria-label': 'Steps of the rotation' }, step('done', 'Made and announced'), step(isReady ? 'done' : 'now', 'Peers store it'), step(isReady ? 'now' : 'later', 'Activate'));
}

function activateDialog({ domain, next }, reload) {
  const { ready, not_ready: late } = next;
  const isForced = late.length > 0;
  confirm({
    id: 'activate-dialog', title: isForced ? 'Activate although peers are not ready?' : 'Activate the next certificate?',
    submit: 'Activate', danger: isForced, word: isForced ? domain : null,
    extra: isForced && notice('bad', `${list(late)} did not store it: ${late.length === 1 ? 'it refuses us' : 'they refuse us'} until you peer again, with new bundles. Envelopes for ${late.length === 1 ? 'it' : 'them'} wait until then.`),
    consequences: [
      ready.length > 0 ? `${counted(ready.length, 'peer knows', 'peers know')} the new key. It is used from the next link on: those that are up stay up, and nothing is lost.` : 'No peer knows the new key yet.',
      'To use it at once with a peer, pause and resume that peer. Operators who compare pins by telephone must be told the new one.',
    ],
    run: async () => {
      await api.post('/identity/activate', { force: isForced });
      await reload();
    },
  });
}
