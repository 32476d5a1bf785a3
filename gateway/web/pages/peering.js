/** Making a peering: inviting, accepting a bundle after looking at it, and adding by hand. */
import { api } from '../api.js';
import { openDialog, showSecrets } from '../dialog.js';
import { h, icon } from '../dom.js';
import { check, field, Wrong } from '../form.js';
import { isDomain, isEndpoint, left, moment, words } from '../format.js';
import { badge, button, copyButton, copyable, download, facts, notice, pinView, tags } from '../parts.js';

const VALID = [['86400', 'a day'], ['604800', 'a week'], ['2592000', '30 days']];
/** A bundle has a certificate and a few lists. What is larger is something else, and is not read. */
const BUNDLE_BYTES_MAX = 1024 * 1024;

/** Writes an invitation and hands it out. */
export function inviteDialog(reload) {
  openDialog({
    id: 'invite-dialog', title: 'Invite a peer', submit: 'Make the invitation',
    content: [
      h('p', {}, 'A signed bundle is written for one deployment: our certificate, pin, endpoints and local domains, and an API key. Send it to its operator.'),
      field({ id: 'invite-domain', name: 'domain', label: 'Its federation domain', placeholder: 'beta.example', autocapitalize: 'none', autofocus: true, required: true }),
      field({ id: 'invite-valid', name: 'valid_s', label: 'Good for', tag: 'select', options: VALID, value: '604800', hint: 'It holds a secret, so it should not lie around.' }),
    ],
    run: async ({ domain, valid_s: valid }) => {
      if (!isDomain(domain)) throw new Wrong('domain', 'Enter a domain name, such as beta.example.');
      const bundle = await api.post('/peers/invite', { domain: domain.toLowerCase(), valid_s: Number(valid) });
      await reload();
      showBundle({
        id: 'bundle-dialog', title: `The invitation for ${domain}`, bundle, name: `invitation-for-${domain}.json`,
        intro: `Send this to the operator of ${domain}, over a channel that others do not read: it holds an API key, and is not shown again.`,
        next: ['They accept it and get an answering bundle.', 'They send that back to you.', 'You accept it here, and the peering begins.'],
      });
    },
  });
}

/** A bundle to copy or to save. */
function showBundle({ id, title, bundle, name, intro, next }) {
  const text = `${JSON.stringify(bundle, null, 2)}\n`;
  openDialog({
    id, title, close: 'Done', wide: true, stubborn: true,
    content: [
      h('p', {}, intro),
      h('div.actions', {},
        button({ id: 'bundle-download', kind: 'primary', sign: 'download', label: 'Download', onclick: () => download(name, text, 'application/json') }),
        copyButton(text, 'the bundle', { id: 'bundle-copy', label: 'Copy the bundle', kind: '' })),
      h('textarea.input.bundle', { id: 'bundle-text', readonly: true, rows: 8, 'aria-label': 'The bundle', value: text }),
      h('div', {}, h('h3', {}, 'What comes next'), h('ol.steps', {}, next.map((step) => h('li', {}, step)))),
    ],
  });
}

/** Takes a bundle: dropped, chosen or pasted; shows what it says; trusts it. */
export function acceptDialog({ reload }) {
  // What holds for peers of whom nothing is said. The box begins as it says, and what is sent is what the box says.
  const settings = api.get('/settings').catch(() => null);
  const state = { usual: null, text: '', bundle: null, preview: null, reading: null, over: false, problem: null };
  const dialog = openDialog({
    id: 'accept-dialog', title: 'Accept a bundle', submit: 'Trust this peer', wide: true,
    ready: () => state.preview !== null,
    content: () => (state.preview ? previewed() : asking()),
    run: async ({ allow_private_ips: isPrivate }) => {
      const { domain, answer } = await api.post('/peers/accept', { bundle: state.bundle, allow_private_ips: isPrivate });
      await reload();
      if (answer) {
        showBundle({
          id: 'answer-dialog', title: `The answer for ${domain}`, bundle: answer, name: `answer-for-${domain}.json`,
          intro: `${domain} is trusted here. Now send this answering bundle back to its operator: the peering begins when they accept it. It holds an API key, and is not shown again.`,
          next: ['They accept this bundle.', 'Both gateways connect by themselves; the peer shows as connected.'],
        });
      } else {
        showSecrets({ id: 'accepted-dialog', title: `${domain} is a peer now`, intro: 'It answered our invitation, so both sides are ready. The gateways connect by themselves within seconds.' });
      }
    },
  });

  function asking() {
    return [
      h('p', {}, 'A bundle comes from the other deployment’s operator: an invitation, or the answer to yours. Nothing is trusted before you have seen what it says.'),
      h('div.drop', {
        id: 'bundle-drop', 'data-over': String(state.over),
        ondragover: (event) => { event.preventDefault(); over(true); },
        ondragleave: () => over(false),
        ondrop: (event) => { event.preventDefault(); over(false); readFile(event.dataTransfer.files[0]); },
      },
      icon('upload'), h('span', {}, 'Drop the file here, or'),
      h('label.button.small.file', {}, 'Choose a file', h('input', { id: 'bundle-file', type: 'file', accept: '.json,.bundle,application/json', onchange: (event) => readFile(event.target.files[0]) }))),
      field({ id: 'bundle-paste', name: 'bundle', tag: 'textarea', rows: 6, label: 'Or paste it', placeholder: '{"format": "trunkline-bundle-1", …}', oninput: (event) => read(event.target.value) }),
      h('div', { key: 'bundle-problem', role: 'alert' }, state.problem && notice('bad', state.problem, { id: 'bundle-problem' })),
    ];
  }

  function previewed() {
    const { domain, pin, local_domains: locals, endpoints, expires, answer, known } = state.preview;
    return [
      h('div.trusting', { id: 'bundle-preview', 'data-domain': domain },
        h('p.quiet.small', {}, 'You are about to trust'), h('p.big', {}, domain),
        h('div.tags', {}, answer ? badge('good', 'Answers our invitation') : badge('info', 'Invites us'), known ? badge('', 'Known here already') : badge('', 'New here'))),
      notice('warn', [h('strong', {}, 'Compare the pin by telephone.'), h('p', {}, `Call the operator of ${domain} at a number you already have, and read it to each other. Whoever could change this bundle on its way could change anything in it, except what you hear.`)]),
      h('div.field', {}, h('span.label', {}, 'Pin'), copyable(pinView(pin, { large: true, id: 'preview-pin' }), pin, 'the pin')),
      facts([
        ['Its local domains', tags(locals.map((local) => `${local.domain} (${local.network})`))],
        ['Endpoints', endpoints.length > 0 ? tags(endpoints) : 'by DNS'],
        ['Bundle good until', `${moment(expires)}, for another ${left(expires - Date.now())}`],
      ]),
      check({ id: 'accept-private', name: 'allow_private_ips', label: 'It may be at private addresses', checked: state.usual === true,
        hint: `Only for peers within your own network: otherwise its DNS could point this gateway at your own machines. ${usually(state.usual)}` }),
      h('div.actions', {}, button({ id: 'bundle-other', kind: 'small', label: 'Another bundle', onclick: () => { Object.assign(state, { preview: null, bundle: null, problem: null }); dialog.redraw(); } })),
    ];
  }

  function over(value) {
    if (state.over === value) return;
    state.over = value;
    dialog.redraw();
  }

  async function readFile(file) {
    if (!file) return;
    if (file.size > BUNDLE_BYTES_MAX) refuse('This file is too large to be a bundle.');
    else read(await file.text());
  }

  async function read(text) {
    const trimmed = text.trim();
    state.reading = trimmed;
    if (trimmed === '') {
      refuse(null);
      return;
    }
    let bundle;
    try {
      bundle = JSON.parse(trimmed);
    } catch {
      refuse('This is not a bundle: it does not read as JSON. Take the whole file, from { to }.');
      return;
    }
    try {
      const [preview, inForce] = await Promise.all([api.post('/peers/preview', { bundle }), settings]);
      if (state.reading !== trimmed) return;
      Object.assign(state, { bundle, preview, problem: null, usual: inForce?.allow_private_ips?.value ?? null });
      dialog.redraw();
      document.getElementById('accept-dialog-submit')?.focus();
    } catch (error) {
      refuse(error.message.replace(/^bundle: /, 'This bundle is not good: '));
    }
  }

  function refuse(text) {
    state.problem = text;
    dialog.redraw();
  }
}

function usually(value) {
  if (value === null) return 'What the settings say about new peers could not be asked: the box decides.';
  return `The settings ${value ? 'allow' : 'do not allow'} it for new peers, so the box begins ${value ? 'ticked' : 'empty'}; for this peer, the box decides.`;
}

/** Adds a peer, or replaces its details, without a bundle. */
export function addDialog(reload, known = {}) {
  openDialog({
    id: 'add-dialog', title: known.domain ? `A certificate of ${known.domain}` : 'Add a peer by hand', submit: known.domain ? 'Save' : 'Add the peer', wide: true,
    content: [
      h('p', {}, known.domain
        ? 'The key of this certificate becomes its current pin; the present one stays accepted until it is revoked. A new API key is issued as well, for its operator.'
        : 'For deployments that cannot exchange bundles. Give certificates or pins to trust its keys, or an authority to trust those it issued: exactly one of these.'),
      field({ id: 'add-domain', name: 'domain', label: 'Federation domain', value: known.domain ?? '', readonly: Boolean(known.domain), autocapitalize: 'none', autofocus: !known.domain, required: true }),
      field({ id: 'add-label', name: 'label', label: 'Note', value: known.label ?? '', hint: 'For you; the peer does not see it.' }),
      field({ id: 'add-certificates', name: 'certificates', tag: 'textarea', rows: 5, label: 'Certificates (PEM)', placeholder: '-----BEGIN CERTIFICATE-----', hint: 'The keys are pinned. A second one is taken as the next.' }),
      field({ id: 'add-pins', name: 'pins', tag: 'textarea', rows: 2, label: 'Or pins', hint: 'Base64 of the SHA-256 of the public key, one a line.' }),
      field({ id: 'add-ca', name: 'ca_pem', tag: 'textarea', rows: 3, label: 'Or its certificate authority (PEM)', placeholder: '-----BEGIN CERTIFICATE-----' }),
      field({ id: 'add-key', name: 'api_key', label: 'API key that its operator issued to us', hint: 'May come later.' }),
      field({ id: 'add-endpoints', name: 'endpoints', label: 'Endpoints', value: (known.endpoints ?? []).join(' '), placeholder: 'gateway.beta.example:8443', hint: 'host:port, separated by spaces. Empty: by DNS.' }),
      field({ id: 'add-locals', name: 'local_domains', tag: 'textarea', rows: 3, label: 'Its local domains', value: (known.local_domains ?? []).map((local) => `${local.domain} ${local.network}`).join('\n'), hint: 'One a line: the domain, a space, the id of its network there.' }),
      check({ id: 'add-private', name: 'allow_private_ips', label: 'It may be at private addresses', checked: known.allow_private_ips ?? false }),
    ],
    run: async (values) => {
      const { api_key: key } = await api.post('/peers', manualPeer(values));
      await reload();
      showSecrets({
        id: 'added-dialog', title: `${values.domain} is added`, intro: 'Hand this API key to its operator: it is what their gateway shows when it connects. It is not shown again.',
        secrets: [{ id: 'issued-key', label: 'API key', value: key }],
      });
    },
  });
}

/** What was entered as the API takes it. */
export function manualPeer({ domain, label, certificates, pins, ca_pem: authority, api_key: key, endpoints, local_domains: locals, allow_private_ips: isPrivate }) {
  if (!isDomain(domain)) throw new Wrong('domain', 'Enter a domain name, such as beta.example.');
  const found = words(endpoints, true);
  const bad = found.find((endpoint) => !isEndpoint(endpoint));
  if (bad) throw new Wrong('endpoints', `${bad} is not host:port.`);
  const pems = certificates.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  if (certificates !== '' && pems.length === 0) throw new Wrong('certificates', 'Paste the whole certificate, from BEGIN to END.');
  const domains = locals.split('\n').map((line) => line.trim().toLowerCase()).filter(Boolean).map((line) => {
    const [local, network, ...rest] = line.split(/[\s,]+/);
    if (!isDomain(local) || !network || rest.length > 0) throw new Wrong('local_domains', `“${line}”: expected a domain, a space, and a network’s id.`);
    return { domain: local, network };
  });
  return {
    domain: domain.toLowerCase(), label, certificates: pems, pins: words(pins, true), endpoints: found, local_domains: domains, allow_private_ips: isPrivate,
    ...(authority === '' ? {} : { ca_pem: authority }), ...(key === '' ? {} : { api_key: key }),
  };
}

