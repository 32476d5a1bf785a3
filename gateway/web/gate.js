/**
 * Before the console: logging in, choosing a password of one's own, setting up two-factor authentication.
 *
 * @module gate
 */
import { api } from './api.js';
import { h, icon, render } from './dom.js';
import { field, valuesOf } from './form.js';
import { sentence } from './format.js';
import { button, copyable, notice } from './parts.js';
import { passwordFields, passwordRules } from './password.js';
import { qrPicture } from './qr.js';

/**
 * Shows the gate.
 *
 * @param {Element} root
 * @param {{reason?: ?string, step?: 'login'|'password'|'totp', name?: string, entered: () => void, leave?: () => void}} options
 *   reason: why the person is here again
 */
export function showGate(root, { reason = null, step = 'login', name = '', entered, leave }) {
  const state = { step, reason, name, problem: null, needsCode: false, busy: false, lockedUntil: 0, timer: null, enrolment: null, fresh: '' };
  const draw = () => {
    render(root, h('main#gate', { key: `gate-${state.step}` },
      h('form.card', { id: `${state.step}-form`, novalidate: true, onsubmit }, ...STEPS[state.step](state, draw, leave))));
  };

  async function onsubmit(event) {
    event.preventDefault();
    if (state.busy || lockedS(state) > 0) return;
    Object.assign(state, { busy: true, problem: null });
    draw();
    try {
      await SUBMITS[state.step](state, valuesOf(event.target));
    } catch (error) {
      state.busy = false;
      refuse(error);
      return;
    }
    state.busy = false;
    if (state.step === 'enrol') draw();
    else entered();
  }

  function refuse(error) {
    state.reason = null;
    if (error.type === 'code-needed') {
      // The first time it is a question, afterwards an answer that was wrong.
      state.problem = state.needsCode ? 'That code is not right. Codes change every 30 seconds: enter the one that is shown now.' : null;
      state.needsCode = true;
    } else if (error.type === 'unauthenticated') {
      state.problem = 'Name or password is wrong.';
    } else {
      state.problem = sentence(error.message);
    }
    if (error.retryAfterS && error.status === 429) count(error.retryAfterS);
    draw();
    const id = state.needsCode ? 'login-code' : { login: 'login-password', password: 'old-password', totp: 'totp-password', enrol: 'totp-code' }[state.step];
    const control = document.getElementById(id);
    control?.focus();
    if (control?.id === 'login-code' || control?.id === 'totp-code') control.select();
  }

  function count(seconds) {
    state.lockedUntil = Date.now() + seconds * 1000;
    clearInterval(state.timer);
    state.timer = setInterval(() => {
      if (lockedS(state) <= 0) {
        clearInterval(state.timer);
        state.problem = null;
      }
      // The gate may be gone by then.
      if (document.getElementById('gate')) draw();
    }, 1000);
  }

  document.title = 'Log in · Trunkline';
  draw();
  document.getElementById({ login: 'login-name', password: 'old-password', totp: 'totp-password' }[step])?.focus();
}

const lockedS = ({ lockedUntil }) => Math.ceil((lockedUntil - Date.now()) / 1000);

function title(text, lead) {
  return [h('div.brand', {}, h('span.mark', {}, icon('mark')), h('span.product', {}, 'Trunkline')),
    h('div.titles', {}, h('h1#page-title', { tabindex: -1 }, text), lead && h('p.quiet', {}, lead))];
}

function problemBox(state) {
  const seconds = lockedS(state);
  const text = seconds > 0 ? [`Too many attempts. Try again in `, h('strong#lock-out', { 'data-seconds': seconds }, `${seconds} s`), '.'] : state.problem;
  // A countdown that is read out every second would drown everything else.
  return h('div', { key: 'problem', role: 'alert', 'aria-live': seconds > 0 ? 'off' : null }, text && notice('bad', h('p', {}, text), { id: 'gate-problem' }));
}

const STEPS = {
  login: (state) => [
    ...title('Log in'),
    state.reason && notice('info', h('p', {}, state.reason), { id: 'login-reason', role: 'status' }),
    problemBox(state),
    field({ id: 'login-name', name: 'name', label: 'Name', autocomplete: 'username', autocapitalize: 'none', required: true }),
    field({ id: 'login-password', name: 'password', label: 'Password', type: 'password', autocomplete: 'current-password', required: true }),
    state.needsCode && field({
      id: 'login-code', name: 'code', label: 'Code', inputmode: 'numeric', autocomplete: 'one-time-code', maxlength: 6, required: true,
      hint: 'The six digits that your authenticator app shows now.',
    }),
    button({ id: 'login-submit', type: 'submit', kind: 'primary', label: 'Log in', busy: state.busy, ...(lockedS(state) > 0 ? { 'aria-disabled': 'true' } : {}) }),
    h('p.quiet.small', {}, 'The first password of a new deployment is in the file ', h('code', {}, 'admin.password'), ', which ', h('code', {}, 'trunkline-gateway init'), ' wrote.'),
  ],
  password: (state, draw, leave) => [
    ...title('Choose your password', `${state.name ? `Hello ${state.name}. ` : ''}The one you logged in with was made for you and is known to whoever set you up.`),
    problemBox(state),
    passwordFields(state, draw),
    button({ id: 'password-submit', type: 'submit', kind: 'primary', label: 'Use this password', busy: state.busy }),
    button({ id: 'gate-leave', kind: 'plain', label: 'Log out', onclick: leave }),
  ],
  totp: (state, draw, leave) => [
    ...title('Two-factor authentication', 'This deployment asks for a second factor: a code from an authenticator app on your phone. It takes a minute.'),
    problemBox(state),
    field({ id: 'totp-password', name: 'password', label: 'Your password', type: 'password', autocomplete: 'current-password', required: true }),
    button({ id: 'totp-begin', type: 'submit', kind: 'primary', label: 'Begin', busy: state.busy }),
    button({ id: 'gate-leave', kind: 'plain', label: 'Log out', onclick: leave }),
  ],
  enrol: (state, draw, leave) => [
    ...title('Scan this code', 'Open your authenticator app, add an account, and point it here.'),
    problemBox(state),
    ...enrolmentFields(state.enrolment),
    button({ id: 'totp-confirm', type: 'submit', kind: 'primary', label: 'Switch it on', busy: state.busy }),
    button({ id: 'gate-leave', kind: 'plain', label: 'Log out', onclick: leave }),
  ],
};

/** The QR code, the secret as text, and the field for the first code. Also used by the account page. */
export function enrolmentFields({ secret, qr }) {
  return [
    qrPicture(qr),
    h('div.field', {}, h('span.label', {}, 'Or enter this secret'), copyable(h('output.secret', { id: 'totp-secret' }, secret.match(/.{1,4}/g).join(' ')), secret, 'the secret')),
    field({
      id: 'totp-code', name: 'code', label: 'Code', inputmode: 'numeric', autocomplete: 'one-time-code', maxlength: 6, required: true,
      hint: 'The six digits that the app shows now, to see that it works.',
    }),
  ];
}

const SUBMITS = {
  login: async (state, { name, password, code }) => {
    state.name = name;
    const digits = code?.replace(/\s/g, '');
    await api.post('/session', digits ? { name, password, code: digits } : { name, password }, { quiet: true });
  },
  password: async (state, { old, fresh, repeated }) => {
    const unmet = passwordRules({ name: state.name, old, fresh, repeated }).find(({ met }) => !met);
    if (unmet) throw new Error(`Not yet: ${unmet.text.toLowerCase()}.`);
    await api.post('/session/password', { old, new: fresh }, { quiet: true });
  },
  totp: async (state, { password }) => {
    state.enrolment = await api.post('/session/totp', { password }, { quiet: true });
    state.step = 'enrol';
  },
  enrol: async (state, { code }) => {
    await api.put('/session/totp', { code: code.replace(/\s/g, '') }, { quiet: true });
    state.step = 'done';
  },
};
