/** Who may use the admin API: administrators with their passwords, programs with their tokens. */
import { api, segment } from '../api.js';
import { confirm, openDialog, showSecrets } from '../dialog.js';
import { h } from '../dom.js';
import { choices, field, Wrong } from '../form.js';
import { day, lookup } from '../format.js';
import { badge, button, empty } from '../parts.js';
import { table } from '../table.js';

const ROLES = [
  ['viewer', 'Viewer', 'Looks at everything, except hidden domains.'],
  ['operator', 'Operator', 'Also keeps things going: pause, resume, retry, purge, calls.'],
  ['admin', 'Admin', 'Also decides whom this deployment trusts, and who administers it.'],
];
const ROLE_TONES = { viewer: '', operator: 'info', admin: 'warn' };
const roleBadge = (role) => badge(lookup(ROLE_TONES, role) ?? '', role, role === 'admin' ? 'key' : null);

export const loadAdministrators = () => api.get('/administrators');
export const loadTokens = () => api.get('/tokens');

export function administratorsTab({ administrators }, context) {
  const { reload, session } = context;
  return h('section.panel', { 'aria-labelledby': 'administrators-title' },
    h('header', {}, h('h2#administrators-title', {}, 'Administrators'), h('div.actions', {}, button({ id: 'administrator-add', kind: 'small primary', sign: 'plus', label: 'New administrator', onclick: () => addAdministrator(reload) }))),
    h('div.flush', {}, table({
      id: 'administrators-table', caption: 'Administrators', items: administrators, key: ({ name }) => name, row: ({ name, role }) => ({ 'data-name': name, 'data-role': role }),
      columns: [
        { label: 'Name', header: true, cell: ({ name }) => [name, name === session.name && h('span.quiet', {}, ' (you)')] },
        { label: 'Role', cell: ({ role }) => roleBadge(role) },
        { label: 'Two-factor', cell: ({ totp }) => (totp ? badge('good', 'on') : badge('', 'off')) },
        { label: 'State', cell: ({ active, must_change_password: fresh }) => (active ? badge('good', 'logged in') : fresh ? badge('info', 'has a first password') : h('span.quiet', {}, 'not logged in')) },
        { label: 'Since', cell: ({ created }) => day(created) },
        { label: 'Actions', kind: 'actions', cell: (administrator) => [
          button({ action: 'administrator-role', kind: 'small', label: 'Role', hidden: `of ${administrator.name}`, onclick: () => roleDialog(administrator, reload) }),
          button({ action: 'administrator-password', kind: 'small', label: 'Reset password', hidden: `of ${administrator.name}`, onclick: () => resetDialog(administrator, reload) }),
          administrator.totp && button({ action: 'administrator-totp-off', kind: 'small', label: 'Two-factor off', hidden: `for ${administrator.name}`, onclick: () => totpOffDialog(administrator, reload) }),
          button({ action: 'administrator-remove', kind: 'small plain danger square', sign: 'trash', label: `Remove ${administrator.name}`, onclick: () => removeAdministrator(administrator, reload) }),
        ] },
      ],
    })));
}

function addAdministrator(reload) {
  openDialog({
    id: 'administrator-dialog', title: 'New administrator', submit: 'Make the account',
    content: [
      field({ id: 'administrator-name', name: 'name', label: 'Name', autocapitalize: 'none', autofocus: true, required: true, maxlength: 64, hint: 'a–z, 0–9, - _ . and @. It stands in the audit log.' }),
      choices({ name: 'role', label: 'Role', value: 'operator', options: ROLES }),
    ],
    run: async ({ name, role }) => {
      if (name === '') throw new Wrong('name', 'Enter a name.');
      const { password } = await api.post('/administrators', { name, role });
      await reload();
      setTimeout(() => firstPassword(name, password));
    },
  });
}

function firstPassword(name, password) {
  showSecrets({
    id: 'password-dialog', title: `First password of ${name}`, intro: `Hand it to ${name}. It must be changed at the first log-in, and is not shown again.`,
    secrets: [{ id: 'first-password', label: 'Password', value: password }],
  });
}

function roleDialog({ name, role }, reload) {
  openDialog({
    id: 'role-dialog', title: `Role of ${name}`, submit: 'Save',
    content: choices({ name: 'role', label: 'Role', value: role, options: ROLES }),
    run: async ({ role: fresh }) => {
      await api.put(`/administrators/${segment(name)}`, { role: fresh });
      await reload();
    },
  });
}

function resetDialog({ name }, reload) {
  confirm({
    id: 'reset-dialog', title: `Reset the password of ${name}?`, submit: 'Reset',
    consequences: ['The present password stops working, and a session with it ends.', 'A new first password is shown once. It must be changed at the next log-in.'],
    run: async () => {
      const { password } = await api.post(`/administrators/${segment(name)}/password`);
      await reload();
      setTimeout(() => firstPassword(name, password));
    },
  });
}

function totpOffDialog({ name }, reload) {
  confirm({
    id: 'totp-off-dialog', title: `Switch two-factor off for ${name}?`, submit: 'Switch off',
    consequences: ['The password alone is enough from then on.', 'For when a phone was lost: make sure that it is really them who ask.'],
    run: async () => {
      await api.post(`/administrators/${segment(name)}/totp/off`);
      await reload();
    },
  });
}

function removeAdministrator({ name, active }, reload) {
  confirm({
    id: 'administrator-remove-dialog', title: `Remove ${name}?`, submit: 'Remove', word: name,
    consequences: [active ? 'Their session ends at once.' : 'They are not logged in.', 'What they did stays in the audit log.'],
    run: async () => {
      await api.delete(`/administrators/${segment(name)}`);
      await reload();
    },
  });
}

export function tokensTab({ tokens }, { reload }) {
  const add = button({ id: 'token-add', kind: 'small primary', sign: 'plus', label: 'New token', onclick: () => addToken(reload) });
  return h('section.panel', { 'aria-labelledby': 'tokens-title' },
    h('header', {}, h('h2#tokens-title', {}, 'API tokens'), h('div.actions', {}, add)),
    tokens.length === 0 ? empty({ sign: 'key', title: 'No tokens', text: 'Programs and the command line use the admin API with a token. Give each its own, so that each can be taken away.' }) : h('div.flush', {}, table({
      id: 'tokens-table', caption: 'API tokens', items: tokens, key: ({ label }) => label, row: ({ label, role }) => ({ 'data-label': label, 'data-role': role }),
      columns: [
        { label: 'Label', header: true, cell: ({ label }) => label },
        { label: 'Role', cell: ({ role }) => roleBadge(role) },
        { label: 'Made', cell: ({ created }) => day(created) },
        { label: 'Actions', kind: 'actions', cell: (token) => button({ action: 'token-remove', kind: 'small plain danger', sign: 'trash', label: 'Revoke', hidden: token.label, onclick: () => removeToken(token, reload) }) },
      ],
    })));
}

function addToken(reload) {
  openDialog({
    id: 'token-add-dialog', title: 'New API token', submit: 'Make the token',
    content: [
      field({ id: 'token-label', name: 'label', label: 'Label', placeholder: 'monitoring', autocapitalize: 'none', autofocus: true, required: true, maxlength: 64, hint: 'What it is for. It stands in the audit log.' }),
      choices({ name: 'role', label: 'Role', value: 'viewer', options: ROLES }),
    ],
    run: async ({ label, role }) => {
      if (label === '') throw new Wrong('label', 'Enter a label.');
      const { token } = await api.post('/tokens', { label, role });
      await reload();
      setTimeout(() => showSecrets({ id: 'token-dialog', title: `Token ${label}`, intro: 'Copy it now: it is stored as a hash, and is not shown again.', secrets: [{ id: 'admin-token', label: 'Token', value: token }] }));
    },
  });
}

function removeToken({ label, role }, reload) {
  confirm({
    id: 'token-remove-dialog', title: `Revoke ${label}?`, submit: 'Revoke',
    consequences: [`Programs that use this ${role} token are refused at once.`, 'It cannot be brought back; a new one can be made.'],
    run: async () => {
      await api.delete(`/tokens/${segment(label)}`);
      await reload();
    },
  });
}
