/** My account: password and two-factor authentication. */
import { api } from '../api.js';
import { openDialog } from '../dialog.js';
import { h } from '../dom.js';
import { field } from '../form.js';
import { moment } from '../format.js';
import { enrolmentFields } from '../gate.js';
import { badge, button, facts, panel } from '../parts.js';
import { passwordFields, passwordRules } from '../password.js';
import { toast } from '../toast.js';

export function accountTab(content, { session, reload }) {
  const { name, role, totp, expires_at: expires } = session;
  return [
    panel({ id: 'account-panel', title: 'Account' }, facts([
      ['Name', name],
      ['Role', role],
      ['This session', expires ? `ends on ${moment(expires)} if nothing more is done` : 'is open'],
      ['Elsewhere', 'Logging in at another place ends this session: there is one per administrator.'],
    ])),
    h('div.split', {},
      panel({ id: 'password-panel', title: 'Password' },
        h('p', {}, 'Changing it ends other sessions of yours.'),
        h('div.actions', {}, button({ id: 'change-password', label: 'Change the password', sign: 'key', onclick: () => passwordDialog(name) }))),
      panel({ id: 'totp-panel', title: 'Two-factor authentication', actions: totp ? badge('good', 'On') : badge('warn', 'Off') },
        h('p', {}, totp ? 'Each log-in takes a code from your authenticator app.' : 'A stolen password alone is not enough when each log-in takes a code from your phone as well.'),
        h('div.actions', {}, totp
          ? button({ id: 'totp-off', kind: 'danger', label: 'Switch off', onclick: () => offDialog(reload) })
          : button({ id: 'totp-on', kind: 'primary', label: 'Set it up', onclick: () => enrolDialog(reload) })))),
  ];
}

function passwordDialog(name) {
  const state = { name };
  openDialog({
    id: 'change-password-dialog', title: 'Change the password', submit: 'Change it',
    content: (dialog) => passwordFields(state, () => dialog.redraw()),
    ready: () => passwordRules({ name, old: state.old ?? '', fresh: state.fresh ?? '', repeated: state.repeated ?? '' }).every(({ met }) => met),
    run: async ({ old, fresh }) => {
      await api.post('/session/password', { old, new: fresh });
      toast('The password is changed');
    },
  });
}

function enrolDialog(reload) {
  const state = { enrolment: null };
  openDialog({
    id: 'enrol-dialog', title: 'Two-factor authentication', submit: 'Continue',
    content: () => (state.enrolment
      ? [h('p', {}, 'Scan this with your authenticator app, then enter the code that it shows.'), ...enrolmentFields(state.enrolment)]
      : [h('p', {}, 'First your password, so that nobody sets this up at your unlocked screen.'), field({ id: 'totp-password', name: 'password', label: 'Password', type: 'password', autocomplete: 'current-password' })]),
    run: async ({ password, code }, dialog) => {
      if (!state.enrolment) {
        state.enrolment = await api.post('/session/totp', { password });
        dialog.redraw();
        document.getElementById('totp-code')?.focus();
        return false;
      }
      await api.put('/session/totp', { code: code.replace(/\s/g, '') });
      toast('Two-factor authentication is on');
      await reload();
      return true;
    },
  });
}

function offDialog(reload) {
  openDialog({
    id: 'totp-off-own-dialog', title: 'Switch two-factor off?', submit: 'Switch off', danger: true,
    content: [h('p', {}, 'Your password alone is enough from then on.'), field({ id: 'totp-off-password', name: 'password', label: 'Password', type: 'password', autocomplete: 'current-password' })],
    run: async ({ password }) => {
      await api.post('/session/totp/off', { password });
      await reload();
    },
  });
}
