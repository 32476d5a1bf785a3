/** Certificates: ours, and the keys of every peer. */
import { api } from '../api.js';
import { openDialog } from '../dialog.js';
import { h } from '../dom.js';
import { field } from '../form.js';
import { counted, lookup } from '../format.js';
import { badge, button, copyButton, empty, head, panel, pinView } from '../parts.js';
import { search, table } from '../table.js';
import { certificateFacts, daysBadge, lifetime } from './identity.js';
import { addDialog } from './peering.js';

const STATES = { next: ['info', 'Next'], current: ['good', 'Current'], retiring: ['warn', 'Retiring'], revoked: ['bad', 'Revoked'] };
const ROWS = 100;

export const certificates = {
  title: 'Certificates',

  async load() {
    const [identity, { peers }] = await Promise.all([api.get('/identity'), api.get('/peers')]);
    return { identity, peers };
  },

  view({ identity, peers }, context) {
    const { can, state, redraw, reload } = context;
    const rows = peers.flatMap((peer) => (peer.pins.length > 0
      ? peer.pins.map(({ pin, state: pinState }) => ({ peer, pin, state: pinState }))
      : [{ peer, pin: null, state: peer.trust === 'ca' ? 'ca' : 'none' }]));
    const text = (state.search ?? '').toLowerCase();
    const found = rows.filter(({ peer, pin }) => text === '' || peer.domain.includes(text) || pin?.toLowerCase().startsWith(text.replace(/\s/g, '')));
    return [
      head({
        title: 'Certificates', lead: 'Our own, and what every peer is recognised by.',
        actions: can('admin') && button({ id: 'certificate-add', kind: 'primary', sign: 'plus', label: 'Add a certificate', onclick: () => chooseDialog(peers, reload) }),
      }),
      h('div.stack', { key: 'certificates' },
        h('div.split', {}, own('own-current', 'Ours, in use', identity.current), identity.next
          ? own('own-next', 'Ours, next', identity.next)
          : panel({ id: 'own-next', title: 'Ours, next' }, empty({ sign: 'key', compact: true, title: 'None is announced', text: 'Make the next one well before it is needed.', actions: button({ action: 'rotation', href: '#/identity', label: 'Rotation' }) }))),
        h('section.panel', { key: 'peers', id: 'peer-certificates', 'aria-labelledby': 'peer-certificates-title' },
          h('header', {}, h('h2#peer-certificates-title', {}, 'Of peers'), h('span.note', {}, counted(rows.filter(({ pin }) => pin).length, 'pin'))),
          rows.length === 0 ? empty({ sign: 'certificate', title: 'No peers yet', text: 'A peer’s certificate comes with its bundle.', actions: button({ action: 'go-peers', href: '#/peers', label: 'Peers' }) }) : [
            h('div.toolbar', {}, search({ id: 'certificate-search', label: 'Search a domain, or the beginning of a pin', value: '', oninput: (value) => { state.search = value; redraw(); } })),
            found.length === 0 ? empty({ sign: 'search', compact: true, title: 'No pin fits', text: 'Search for another domain or pin.' }) : pins(found.slice(0, state.rows ?? ROWS)),
            found.length > (state.rows ?? ROWS) && h('div.more', {}, button({ id: 'certificates-more', label: 'Show more', onclick: () => { state.rows = (state.rows ?? ROWS) + 500; redraw(); } })),
          ])),
    ];
  },
};

function own(id, title, pair) {
  return panel({ id, title, actions: daysBadge(pair.not_after) },
    lifetime(pair), certificateFacts(pair),
    h('div.copyable', {}, pinView(pair.pin), copyButton(pair.pin, 'the pin', { id: `${id}-copy-pin` })),
    h('details', {}, h('summary', {}, 'PEM'), h('div.stack.tight', {}, h('pre', { tabindex: 0, 'aria-label': `PEM: ${title}` }, pair.certificate), h('div.actions', {}, copyButton(pair.certificate, 'the certificate', { id: `${id}-copy-pem` })))));
}

function pins(rows) {
  return table({
    id: 'pins-table', caption: 'Pins of peers', items: rows, key: ({ peer, pin }) => `${peer.domain}/${pin}`,
    row: ({ peer, pin, state }) => ({ 'data-domain': peer.domain, 'data-pin': pin, 'data-state': state }),
    columns: [
      { label: 'Peer', header: true, cell: ({ peer }) => h('a', { href: `#/peers/${peer.domain}` }, peer.domain) },
      { label: 'Trusted by', cell: ({ peer }) => (peer.trust === 'ca' ? 'authority' : 'pin') },
      { label: 'State', cell: ({ state }) => (lookup(STATES, state) ? badge(...lookup(STATES, state)) : badge('', state === 'ca' ? 'Any of the authority' : 'None yet')) },
      { label: 'Pin', cell: ({ pin, state }) => (pin ? pinView(pin) : h('span.quiet', {}, state === 'ca' ? 'checked at each connection' : 'comes with its bundle')) },
      { label: 'Actions', kind: 'actions', cell: ({ pin }) => pin && copyButton(pin, 'the pin', { action: 'copy-pin', kind: 'small plain' }) },
    ],
  });
}

function chooseDialog(peers, reload) {
  const fresh = '';
  if (peers.length === 0) {
    addDialog(reload);
    return;
  }
  openDialog({
    id: 'choose-dialog', title: 'Add a certificate', submit: 'Continue',
    content: [
      h('p', {}, 'Best is to let the peer announce its next certificate by itself, or to accept a bundle. By hand is for when neither is possible.'),
      field({ id: 'choose-domain', name: 'domain', tag: 'select', label: 'Whose', value: peers[0].domain, options: [...peers.map(({ domain }) => [domain, domain]), [fresh, 'A new peer']] }),
    ],
    run: async ({ domain }) => {
      // The first dialog closes before the next opens.
      setTimeout(() => addDialog(reload, peers.find((peer) => peer.domain === domain) ?? {}));
    },
  });
}
