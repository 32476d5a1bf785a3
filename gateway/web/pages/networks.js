/** Networks: all of them, and a new one. */
import { api } from '../api.js';
import { openDialog, showSecrets } from '../dialog.js';
import { h } from '../dom.js';
import { field, Wrong } from '../form.js';
import { count, counted, isDomain, isNetworkId, lookup, words } from '../format.js';
import { badge, button, empty, head, tags } from '../parts.js';
import { table } from '../table.js';

export const POLICIES = {
  disabled: ['bad', 'Disabled', 'lock'],
  open: ['good', 'Open', 'check'],
  restricted: ['info', 'Restricted', 'networks'],
};
/** A policy in a word. */
export const policyBadge = ({ federation }) => badge(...(lookup(POLICIES, federation) ?? ['', federation]));
/** Domains in a cell; the rest is counted. */
const DOMAINS_SHOWN = 3;

export const networks = {
  title: 'Networks',
  everyMs: 10_000,

  load: () => api.get('/networks'),

  view({ networks: all }, { can, reload }) {
    const add = can('admin') && button({ id: 'network-add', kind: 'primary', sign: 'plus', label: 'New network', onclick: () => addDialog(reload) });
    return [
      head({ title: 'Networks', lead: 'Tenants of this deployment: each has its own domains, its own token for its messaging server, and its own policy.', actions: add }),
      h('section.panel', { key: 'networks', 'aria-label': 'All networks' }, all.length === 0
        ? empty({
          id: 'networks-empty', sign: 'networks', title: 'No networks yet',
          text: 'A messaging server hands envelopes in and takes them out as a network. Make the first one: it gets a token, which goes into the messaging server’s configuration.',
          actions: can('admin') && button({ id: 'empty-network-add', kind: 'primary', sign: 'plus', label: 'New network', onclick: () => addDialog(reload) }),
        })
        : h('div.flush', {}, list(all))),
    ];
  },
};

function list(items) {
  return table({
    id: 'networks-table', caption: 'Networks', items, key: ({ id }) => id, row: ({ id, policy }) => ({ 'data-network': id, 'data-federation': policy.federation }),
    columns: [
      { label: 'Network', header: true, cell: ({ id, label }) => [h('a', { href: `#/networks/${id}` }, id), label && h('span.sub', {}, label)] },
      { label: 'Federation', cell: ({ policy }) => [policyBadge(policy), policy.federation === 'restricted' && h('span.sub', {}, `with ${counted(policy.permitted.length, 'network')}`)] },
      { label: 'Local domains', cell: ({ local_domains: domains }) => [tags(domains.slice(0, DOMAINS_SHOWN)), domains.length > DOMAINS_SHOWN && h('span.sub', {}, `and ${domains.length - DOMAINS_SHOWN} more`)] },
      { label: 'Guests', cell: ({ policy }) => (policy.allow_guests ? 'allowed' : 'not allowed') },
      { label: 'Blocked', kind: 'number', cell: ({ policy }) => count(policy.blocked.length) },
      { label: 'Delivered by', cell: ({ webhook }) => (webhook ? 'webhook' : 'inbox') },
      { label: 'In its inbox', kind: 'number', cell: ({ inbox }) => count(inbox.depth) },
    ],
  });
}

function addDialog(reload) {
  openDialog({
    id: 'network-dialog', title: 'New network', submit: 'Make the network',
    content: [
      field({ id: 'network-id', name: 'id', label: 'Id', placeholder: 'main', autocapitalize: 'none', autofocus: true, required: true, maxlength: 64, hint: 'a–z, 0–9, - and _. Peers see it, and it stays.' }),
      field({ id: 'network-label', name: 'label', label: 'Label', hint: 'For you.' }),
      field({ id: 'network-domains', name: 'local_domains', tag: 'textarea', rows: 3, label: 'Local domains', placeholder: 'alpha.example', hint: 'The part after @ in its users’ names. Separated by spaces or lines.' }),
      h('p.quiet.small', {}, 'It begins open to all networks of all peers. Its policy is on its page.'),
    ],
    run: async ({ id, label, local_domains: text }) => {
      if (!isNetworkId(id)) throw new Wrong('id', 'Use 1 to 64 of a–z, 0–9, - and _.');
      const domains = words(text);
      const bad = domains.find((domain) => !isDomain(domain));
      if (bad) throw new Wrong('local_domains', `${bad} is not a domain name.`);
      const { token } = await api.post('/networks', { id, label, local_domains: domains });
      await reload();
      setTimeout(() => showSecrets({
        id: 'token-dialog', title: `Network ${id} is there`, intro: 'Put this token into its messaging server’s configuration now. It opens the local API as this network, and is not shown again.',
        secrets: [{ id: 'network-token', label: 'Token', value: token }],
      }));
    },
  });
}
