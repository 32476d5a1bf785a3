/** Local domains: whose users have which domain, here and at peers. */
import { api, segment } from '../api.js';
import { h } from '../dom.js';
import { count, counted } from '../format.js';
import { badge, button, empty, head, notice } from '../parts.js';
import { search, table } from '../table.js';
import { specOf } from './network.js';

const ROWS = 100;

export const domains = {
  title: 'Local domains',

  async load() {
    const [{ networks }, { peers }] = await Promise.all([api.get('/networks'), api.get('/peers')]);
    return { networks, peers };
  },

  view({ networks, peers }, context) {
    const { can } = context;
    const ours = networks.flatMap((network) => network.local_domains.map((domain) => ({ domain, network, isHidden: (network.hidden_domains ?? []).includes(domain) })));
    const theirs = peers.flatMap((peer) => peer.local_domains.map(({ domain, network }) => ({ domain, network, peer })));
    const claims = peers.filter((peer) => peer.claimed_domains);
    return [
      head({ title: 'Local domains', lead: 'The part after @ in users’ names, and who answers for it. A domain belongs to one network of one deployment.' }),
      h('div.stack', { key: 'domains' },
        claims.map(({ domain }) => notice('warn', [h('strong', {}, `${domain} says that its local domains changed.`), h('p', {}, 'The old ones hold until you approve.')],
          { id: `claim-${domain}`, actions: button({ action: 'compare-claim', kind: 'small', href: `#/peers/${domain}`, label: 'Compare', hidden: `claim of ${domain}` }) })),
        section('ours', 'Ours', ours, context, (items) => oursTable(items, context), empty({
          sign: 'domains', title: 'No local domains', text: 'A network says which domains its users have.',
          actions: can('admin') && button({ action: 'go-networks', kind: 'primary', href: '#/networks', label: 'Networks' }),
        }), can('admin') && h('p.quiet.small', {}, 'A hidden domain works like any other, but only administrators of role admin see it.')),
        section('theirs', 'Of peers, approved', theirs, context, theirsTable, empty({ sign: 'peers', title: 'No domains of peers', text: 'They come with a peer’s bundle, and are approved with it.', actions: button({ action: 'go-peers', href: '#/peers', label: 'Peers' }) }))),
    ];
  },
};

function section(id, title, all, { state, redraw }, show, none, note) {
  const text = (state[id] ?? '').toLowerCase();
  const found = all.filter(({ domain, peer }) => domain.includes(text) || peer?.domain.includes(text));
  const rows = state[`${id}-rows`] ?? ROWS;
  return h('section.panel', { key: id, id: `domains-${id}`, 'aria-labelledby': `domains-${id}-title` },
    h('header', {}, h('h2', { id: `domains-${id}-title` }, title), h('span.note', {}, counted(all.length, 'domain'))),
    all.length === 0 ? none : [
      h('div.toolbar', {}, search({ id: `domain-search-${id}`, label: 'Search domains', value: '', oninput: (value) => { state[id] = value; redraw(); } }), note),
      found.length === 0 ? empty({ sign: 'search', compact: true, title: 'No domain fits', text: 'Search for something else.' }) : show(found.slice(0, rows)),
      found.length > rows && h('div.more', {}, button({ id: `domains-more-${id}`, label: `Show more of ${count(found.length)}`, onclick: () => { state[`${id}-rows`] = rows + 500; redraw(); } })),
    ]);
}

function oursTable(items, { can, run, busy }) {
  const toggle = ({ domain, network, isHidden }) => run(`hide-${domain}`, async () => {
    // Somebody may have changed the network meanwhile: begin from what it is now.
    const now = await api.get(`/networks/${segment(network.id)}`);
    const hidden = (now.hidden_domains ?? []).filter((name) => name !== domain);
    await api.put(`/networks/${segment(network.id)}`, { ...specOf(now), hidden_domains: isHidden ? hidden : [...hidden, domain] });
  }, isHidden ? `${domain} is shown to all roles` : `${domain} is hidden from lower roles`);
  return table({
    id: 'our-domains-table', caption: 'Our local domains', items, key: ({ domain }) => domain, row: ({ domain, network, isHidden }) => ({ 'data-domain': domain, 'data-network': network.id, 'data-hidden': String(isHidden) }),
    columns: [
      { label: 'Domain', header: true, cell: ({ domain }) => domain },
      { label: 'Network', cell: ({ network }) => [h('a', { href: `#/networks/${network.id}` }, h('code', {}, network.id)), network.label && h('span.sub', {}, network.label)] },
      can('admin') && { label: 'Seen by', cell: ({ isHidden }) => (isHidden ? badge('', 'role admin only', 'hidden') : 'everybody here') },
      can('admin') && { label: 'Actions', kind: 'actions', cell: (item) => button({
        action: item.isHidden ? 'show-domain' : 'hide-domain', kind: 'small', label: item.isHidden ? 'Show' : 'Hide', hidden: item.domain, busy: busy(`hide-${item.domain}`), onclick: () => toggle(item),
      }) },
    ],
  });
}

function theirsTable(items) {
  return table({
    id: 'their-domains-table', caption: 'Local domains of peers', items, key: ({ domain }) => domain, row: ({ domain, peer }) => ({ 'data-domain': domain, 'data-peer': peer.domain }),
    columns: [
      { label: 'Domain', header: true, cell: ({ domain }) => domain },
      { label: 'Peer', cell: ({ peer }) => h('a', { href: `#/peers/${peer.domain}` }, peer.domain) },
      { label: 'Its network', cell: ({ network }) => h('code', {}, network) },
    ],
  });
}
