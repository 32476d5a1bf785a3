/** One network: its domains, its policy, and its way to the messaging server. */
import { api, segment } from '../api.js';
import { confirm, showError, showSecrets } from '../dialog.js';
import { h, icon } from '../dom.js';
import { check, choices, clearWrong, field, Wrong } from '../form.js';
import { bytes, count, counted, isAddress, isDomain, isNetworkId, lookup, words } from '../format.js';
import { badge, button, empty, facts, head, notice, panel, tags, when } from '../parts.js';
import { search } from '../table.js';
import { toast } from '../toast.js';
import { POLICIES, policyBadge } from './networks.js';

const BACK = { href: '#/networks', label: 'Networks' };
const FEDERATION = [
  ['disabled', 'Disabled', 'Its users write to each other only. Nothing leaves, nothing comes in.'],
  ['open', 'Open', 'With every network of every peer, unless theirs says otherwise.'],
  ['restricted', 'Restricted', 'With the networks you list, and these must list this one too.'],
];
/** Rows of a list that is searched. */
const BLOCKED_SHOWN = 40;

/** A network as the API takes it back. A webhook without a secret keeps the one it has. */
export function specOf({ id, label, local_domains: domains, hidden_domains: hidden, policy, webhook }) {
  return { id, label, local_domains: domains, hidden_domains: hidden ?? [], policy, webhook: webhook ? { url: webhook.url } : null };
}

export const network = {
  title: 'Network',
  back: BACK,
  everyMs: 10_000,

  unsaved: ({ state }) => Boolean(state.changed),

  async load({ parameters, state }) {
    const [now, { peers }] = await Promise.all([api.get(`/networks/${segment(parameters[0])}`), api.get('/peers')]);
    // What is being edited stays what it is.
    if (!state.changed) state.draft = structuredClone(specOf(now));
    return { now, peers };
  },

  view({ now, peers }, context) {
    const { state, can } = context;
    const { draft } = state;
    const isAdmin = can('admin');
    const title = head({
      title: now.id, mark: policyBadge(now.policy), lead: now.label, back: BACK,
      actions: isAdmin && [
        button({ id: 'new-token', sign: 'key', label: 'New token', onclick: () => tokenDialog(now, context) }),
        button({ id: 'network-remove', kind: 'danger', sign: 'trash', label: 'Remove', onclick: () => removeDialog(now, context) }),
      ],
    });
    if (!isAdmin) return [title, h('div.stack', { key: 'network', 'data-network': now.id }, readOnly(now), mail(now))];
    const edit = (change) => {
      change?.(draft);
      state.changed = true;
      context.redraw();
    };
    return [title, h('form.stack', { key: `network-${now.id}-${state.version ?? 0}`, id: 'network-form', novalidate: true, 'data-network': now.id, onsubmit: (event) => save(event, now, context) },
      panel({ id: 'policy', title: 'Who it federates with' },
        choices({ name: 'federation', label: 'Federation', value: draft.policy.federation, options: FEDERATION, onchange: (value) => edit(({ policy }) => { policy.federation = value; }) }),
        draft.policy.federation === 'restricted' && permitted(draft, peers, edit),
        check({ id: 'allow_guests', label: 'Guests may take part', hint: 'Guests of other networks may write to it, and its own guests to others.', checked: draft.policy.allow_guests, onchange: (event) => edit(({ policy }) => { policy.allow_guests = event.target.checked; }) })),
      h('div.split', {},
        panel({ id: 'general', title: 'Names' },
          field({ id: 'label', label: 'Label', hint: 'For you.', value: draft.label, oninput: (event) => edit((spec) => { spec.label = event.target.value; }) }),
          localDomains(draft, edit)),
        blocked(draft, context, edit)),
      h('div.split', {}, mail(now), webhook(draft, now, edit)),
      h('div', { key: 'problem', role: 'alert' }, state.problem && notice('bad', state.problem, { id: 'network-problem' })),
      state.changed && h('div.savebar', { key: 'savebar', id: 'savebar' }, h('span', { role: 'status' }, 'There are changes that are not saved.'), h('div.actions', {},
        button({ id: 'network-discard', label: 'Discard', onclick: () => reset(context, now) }),
        button({ id: 'network-save', kind: 'primary', type: 'submit', label: 'Save', busy: state.saving }))))];
  },
};

function reset({ state, redraw }, now) {
  Object.assign(state, { draft: structuredClone(specOf(now)), changed: false, problem: null, version: (state.version ?? 0) + 1 });
  redraw();
}

async function save(event, now, context) {
  event.preventDefault();
  const { state, redraw, reload } = context;
  const form = event.target;
  clearWrong(form);
  Object.assign(state, { saving: true, problem: null });
  redraw();
  try {
    const spec = checked(state.draft);
    const { webhook_secret: secret } = await api.put(`/networks/${segment(now.id)}`, spec);
    Object.assign(state, { changed: false, saving: false, version: (state.version ?? 0) + 1 });
    await reload();
    toast(`Network ${now.id} is saved`);
    if (secret) showSecrets({ id: 'webhook-dialog', title: 'The webhook’s secret', intro: 'The messaging server checks the signature of each delivery with it. It is not shown again.', secrets: [{ id: 'webhook-secret', label: 'Secret', value: secret }] });
  } catch (error) {
    state.saving = false;
    redraw();
    showError(form, error, (text) => {
      state.problem = text;
      redraw();
    });
  }
}

function checked(draft) {
  const { policy, local_domains: domains, hidden_domains: hidden } = draft;
  if (policy.federation === 'restricted') {
    for (const { domain, network: id } of policy.permitted) {
      if (!isDomain(domain)) throw new Wrong('permitted', domain ? `${domain} is not a federation domain.` : 'Fill in the deployment’s federation domain, or take the line away.');
      if (!isNetworkId(id)) throw new Wrong('permitted', id ? `${id} is not a network’s id.` : `Which network of ${domain}? Fill in its id.`);
    }
  }
  if (draft.webhook && !/^https?:\/\//.test(draft.webhook.url)) throw new Wrong('webhook', 'Expected an address that begins with https:// or http://.');
  return { ...draft, hidden_domains: hidden.filter((domain) => domains.includes(domain)) };
}

function permitted(draft, peers, edit) {
  const known = peers.flatMap((peer) => [...new Set(peer.local_domains.map((local) => local.network))].map((id) => ({ domain: peer.domain, network: id })));
  const { permitted: pairs } = draft.policy;
  const set = (index, name) => (event) => edit(({ policy }) => { policy.permitted[index][name] = event.target.value.trim().toLowerCase(); });
  const missing = known.filter((pair) => !pairs.some(({ domain, network: id }) => domain === pair.domain && id === pair.network));
  return h('fieldset.pairs', { 'data-field': 'permitted', id: 'permitted' }, h('legend', {}, 'Permitted networks'),
    h('datalist#known-peers', {}, [...new Set(peers.map(({ domain }) => domain))].map((domain) => h('option', { value: domain }))),
    pairs.length === 0 && h('p.quiet', {}, 'None yet: as it is, nobody outside may exchange envelopes with it.'),
    pairs.map(({ domain, network: id }, index) => h('div.pair', { key: `pair-${index}`, 'data-domain': domain, 'data-network': id },
      h('input.input', { 'aria-label': `Federation domain ${index + 1}`, list: 'known-peers', value: domain, placeholder: 'beta.example', autocapitalize: 'none', spellcheck: 'false', 'data-action': 'pair-domain', oninput: set(index, 'domain') }),
      h('input.input', { 'aria-label': `Its network ${index + 1}`, value: id, placeholder: 'network', autocapitalize: 'none', spellcheck: 'false', 'data-action': 'pair-network', oninput: set(index, 'network') }),
      button({ action: 'pair-remove', kind: 'plain square', sign: 'close', label: `Remove ${domain || 'this line'}`, onclick: () => edit((spec) => {
        spec.policy.permitted.splice(index, 1);
        renumber(spec);
      }) }))),
    h('div.wrong', { id: 'permitted-wrong', hidden: true }),
    h('div.actions', {}, button({ id: 'pair-add', kind: 'small', sign: 'plus', label: 'Add a network', onclick: () => edit(({ policy }) => { policy.permitted.push({ domain: '', network: '' }); }) }),
      missing.slice(0, 6).map((pair) => button({ action: 'pair-suggest', 'data-domain': pair.domain, 'data-network': pair.network, kind: 'small plain', sign: 'plus', label: `${pair.domain} / ${pair.network}`, onclick: () => edit(({ policy }) => { policy.permitted.push({ ...pair }); }) }))));
}

/** Inputs keep what was typed into them; after a line went, they must be made anew. */
function renumber(spec) {
  for (const [index, { domain, network: id }] of spec.policy.permitted.entries()) {
    const line = document.querySelectorAll('#permitted .pair')[index];
    line.querySelector('[data-action="pair-domain"]').value = domain;
    line.querySelector('[data-action="pair-network"]').value = id;
  }
}

function localDomains(draft, edit) {
  const add = () => {
    const input = document.getElementById('domain-add');
    const found = words(input.value);
    const bad = found.find((domain) => !isDomain(domain));
    if (bad) {
      input.setAttribute('aria-invalid', 'true');
      toastWrong('local_domains', `${bad} is not a domain name.`);
      return;
    }
    input.value = '';
    input.removeAttribute('aria-invalid');
    document.getElementById('local_domains-wrong').hidden = true;
    edit((spec) => { spec.local_domains = [...new Set([...spec.local_domains, ...found])].sort(); });
  };
  return h('div.field', { 'data-field': 'local_domains' }, h('span.label', {}, 'Local domains'),
    draft.local_domains.length === 0 ? h('p.quiet', {}, 'None: nobody can be written to in this network.') : h('ul.lines', {}, draft.local_domains.map((domain) => {
      const isHidden = draft.hidden_domains.includes(domain);
      return h('li', { key: domain, 'data-domain': domain }, h('span.break', {}, domain), isHidden && badge('', 'hidden', 'hidden'), h('span.actions', {},
        button({ action: 'domain-hide', kind: 'small plain', label: isHidden ? 'Show' : 'Hide', hidden: domain, onclick: () => edit((spec) => { spec.hidden_domains = isHidden ? spec.hidden_domains.filter((name) => name !== domain) : [...spec.hidden_domains, domain]; }) }),
        button({ action: 'domain-remove', kind: 'small plain square', sign: 'close', label: `Remove ${domain}`, onclick: () => edit((spec) => { spec.local_domains = spec.local_domains.filter((name) => name !== domain); }) })));
    })),
    h('div.join', {},
      h('input.input', { id: 'domain-add', 'aria-label': 'Another domain', placeholder: 'another.example', autocapitalize: 'none', autocomplete: 'off', spellcheck: 'false', onkeydown: (event) => {
        if (event.key !== 'Enter') return;
        event.preventDefault();
        add();
      } }),
      button({ id: 'domain-add-button', label: 'Add', onclick: add })),
    h('div.wrong', { id: 'local_domains-wrong', hidden: true }));
}

function toastWrong(name, text) {
  const place = document.getElementById(`${name}-wrong`);
  place.replaceChildren(icon('error'), h('span', {}, text));
  place.hidden = false;
}

function blocked(draft, { state, redraw }, edit) {
  const all = draft.policy.blocked;
  const text = (state.blockedSearch ?? '').toLowerCase();
  const found = text === '' ? all : all.filter((address) => address.toLowerCase().includes(text));
  const add = () => {
    const area = document.getElementById('blocked-add');
    const fresh = words(area.value, true);
    const bad = fresh.find((address) => !isAddress(address));
    if (bad) {
      toastWrong('blocked', `${bad} is not an address: expected name@domain.`);
      return;
    }
    area.value = '';
    document.getElementById('blocked-wrong').hidden = true;
    edit(({ policy }) => { policy.blocked = [...new Set([...fresh, ...policy.blocked])]; });
  };
  return panel({ id: 'blocked-panel', title: 'Blocked addresses', note: counted(all.length, 'address', 'addresses') },
    h('div.field', { 'data-field': 'blocked' },
      h('p.quiet.small', {}, 'They may neither write to this network nor be written to from it.'),
      all.length > 8 && search({ id: 'blocked-search', label: 'Search blocked addresses', value: '', oninput: (value) => { state.blockedSearch = value; redraw(); } }),
      found.length > 0 && h('ul.lines.tall', { tabindex: 0, 'aria-label': 'Blocked addresses' }, found.slice(0, BLOCKED_SHOWN).map((address) => h('li', { key: address, 'data-address': address }, h('span.break', {}, address), h('span.actions', {},
        button({ action: 'blocked-remove', kind: 'small plain square', sign: 'close', label: `Unblock ${address}`, onclick: () => edit(({ policy }) => { policy.blocked = policy.blocked.filter((other) => other !== address); }) })))),
      found.length > BLOCKED_SHOWN && h('li.quiet', { key: 'more' }, `${count(found.length - BLOCKED_SHOWN)} more: search to find one.`)),
      all.length > 0 && found.length === 0 && h('p.quiet', {}, 'No blocked address fits.'),
      h('textarea.input', { id: 'blocked-add', rows: 2, 'aria-label': 'Addresses to block', placeholder: 'mallory@example.org, one or many', spellcheck: 'false' }),
      h('div.actions', {}, button({ id: 'blocked-add-button', kind: 'small', sign: 'plus', label: 'Block', onclick: add })),
      h('div.wrong', { id: 'blocked-wrong', hidden: true })));
}

function mail({ tokens, inbox, receipts, webhook: hook }) {
  const queue = ({ depth, bytes: size, oldest }) => (depth === 0 ? 'empty' : [`${counted(depth, 'entry', 'entries')}, ${bytes(size)}, oldest `, when(oldest)]);
  return panel({ id: 'delivery', title: 'Towards its messaging server' }, facts([
    ['Inbox', queue(inbox)],
    ['Receipts', queue(receipts)],
    ['Delivered by', hook ? ['webhook to ', h('code.break', {}, hook.url)] : 'the server reading its inbox'],
    ['Tokens', tokens === 2 ? '2: the old one works until you make another' : counted(tokens, 'token')],
  ]));
}

function webhook(draft, now, edit) {
  const isOn = draft.webhook !== null;
  return panel({ id: 'webhook-panel', title: 'Webhook' },
    check({ id: 'webhook-on', label: 'Push envelopes to the messaging server', hint: 'Instead of letting it read its inbox.', checked: isOn, onchange: (event) => edit((spec) => { spec.webhook = event.target.checked ? { url: now.webhook?.url ?? '' } : null; }) }),
    isOn && field({ id: 'webhook', name: 'webhook', label: 'Address', type: 'url', value: draft.webhook.url, placeholder: 'https://messaging.example/trunkline', oninput: (event) => edit((spec) => { spec.webhook.url = event.target.value.trim(); }) }),
    isOn && field({
      id: 'webhook-secret-field', name: 'secret', label: 'Secret', value: '', hint: now.webhook ? 'Empty: the one it has stays.' : 'Empty: one is made, and shown once.',
      oninput: (event) => edit((spec) => {
        if (event.target.value === '') delete spec.webhook.secret;
        else spec.webhook.secret = event.target.value;
      }),
    }));
}

function readOnly({ local_domains: domains, policy }) {
  return h('div.split', {},
    panel({ id: 'policy', title: 'Who it federates with' },
      h('p', {}, h('strong', {}, lookup(POLICIES, policy.federation)?.[1] ?? policy.federation), '. ', FEDERATION.find(([name]) => name === policy.federation)?.[2]),
      facts([
        policy.federation === 'restricted' && ['Permitted', tags(policy.permitted.map((pair) => `${pair.domain} / ${pair.network}`))],
        ['Guests', policy.allow_guests ? 'may take part' : 'may not take part'],
        ['Blocked', counted(policy.blocked.length, 'address', 'addresses')],
      ])),
    panel({ id: 'general', title: 'Local domains' }, domains.length > 0 ? tags(domains) : empty({ sign: 'domains', compact: true, title: 'None that you may see', text: 'An administrator can add some.' })));
}

function tokenDialog({ id, tokens }, { reload }) {
  confirm({
    id: 'new-token-dialog', title: 'A new token?', submit: 'Make it', danger: tokens > 1,
    consequences: [
      tokens > 1 ? 'There are two already: the older of them stops working at once.' : 'The present one goes on working beside it, so that you can change the messaging server without haste.',
      'It is shown once.',
    ],
    run: async () => {
      const { token } = await api.post(`/networks/${segment(id)}/token`);
      await reload();
      setTimeout(() => showSecrets({ id: 'token-dialog', title: `New token of ${id}`, intro: 'Put it into the messaging server’s configuration now. It is not shown again.', secrets: [{ id: 'network-token', label: 'Token', value: token }] }));
    },
  });
}

function removeDialog({ id, inbox, receipts, local_domains: domains }, { state }) {
  const waiting = inbox.depth + receipts.depth;
  confirm({
    id: 'network-remove-dialog', title: `Remove network ${id}?`, submit: 'Remove this network', word: id,
    consequences: [
      waiting > 0 ? `${counted(inbox.depth, 'envelope')} and ${counted(receipts.depth, 'receipt')} that its server did not fetch are lost.` : 'Nothing waits in its inbox.',
      domains.length > 0 ? `Nobody at ${domains.join(', ')} can be reached any more; peers are told.` : 'It has no local domains.',
      'Its tokens stop working at once.',
    ],
    run: async () => {
      await api.delete(`/networks/${segment(id)}${waiting > 0 ? '?purge=true' : ''}`);
      state.changed = false;
      location.hash = '#/networks';
    },
  });
}
