/** What the gateway may do, how long it keeps things, and what it writes down. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { clearWrong, showWrong, blame, Wrong } from '../form.js';
import { UNITS, duration, splitDuration } from '../format.js';
import { badge, button, notice, panel } from '../parts.js';
import { toast } from '../toast.js';

const LOG_DETAILS = [
  ['activity', 'Activity only'],
  ['ip', 'And addresses of machines'],
  ['messaging', 'And envelope ids'],
  ['username', 'And addresses of people'],
];
const GROUPS = [
  ['Federation', [
    ['allow_private_ips', 'switch', 'Dial private addresses', 'Whether new peers may be at private, loopback and link-local addresses, unless it is said for one. Off, a peer’s DNS cannot point this gateway into your own network.'],
    ['retention_s', 'duration', 'Retention', 'How long envelopes that are accepted from now on wait for their peer at most. Senders may ask for less.'],
  ]],
  ['Log', [
    ['log_detail', 'level', 'Detail', 'What may stand in the log. Content never does.'],
  ]],
  ['Sessions of this console', [
    ['session_idle_s', 'duration', 'Idle time', 'A session ends when nothing was done for so long.'],
    ['session_max_s', 'duration', 'Longest session', 'A session ends after so long, whatever was done.'],
    ['require_totp', 'switch', 'Require two-factor authentication', 'Administrators without it must set it up at their next request.'],
  ]],
];

export function generalTab(content, context) {
  const { state, can } = context;
  const isAdmin = can('admin');
  state.draft ??= {};
  const changed = Object.keys(state.draft).length > 0;
  return h('form.stack', { key: `settings-${state.version ?? 0}`, id: 'settings-form', novalidate: true, onsubmit: (event) => save(event, context) },
    GROUPS.map(([title, entries]) => panel({ id: `settings-${title.split(' ')[0].toLowerCase()}`, title },
      h('div.settings', {}, entries.filter(([name]) => content[name]).map((entry) => setting(entry, content[entry[0]], context, isAdmin))))),
    h('div', { key: 'problem', role: 'alert' }, state.problem && notice('bad', state.problem, { id: 'settings-problem' })),
    changed && h('div.savebar', { key: 'savebar', id: 'savebar' }, h('span', { role: 'status' }, 'There are changes that are not saved.'), h('div.actions', {},
      button({ id: 'settings-discard', label: 'Discard', onclick: () => begin(context) }),
      button({ id: 'settings-save', kind: 'primary', type: 'submit', label: 'Save', busy: state.saving }))));
}

function begin({ state, redraw }) {
  Object.assign(state, { draft: {}, problem: null, version: (state.version ?? 0) + 1 });
  redraw();
}

async function save(event, context) {
  event.preventDefault();
  const { state, redraw, reload } = context;
  const form = event.target;
  clearWrong(form);
  Object.assign(state, { saving: true, problem: null });
  try {
    for (const [name, value] of Object.entries(state.draft)) {
      if (typeof value === 'number' && !(Number.isInteger(value) && value > 0)) throw new Wrong(name, 'Expected a whole number above zero.');
    }
    await api.put('/settings', state.draft);
    Object.assign(state, { draft: {}, saving: false, version: (state.version ?? 0) + 1 });
    await reload();
    toast('The settings are saved, and hold from now on');
  } catch (error) {
    state.saving = false;
    redraw();
    const { name, text } = error instanceof Wrong ? { name: error.field, text: error.message } : blame(error.message, Object.keys(state.draft));
    if (!showWrong(form, name, text)) {
      state.problem = text;
      redraw();
    }
  }
}

function setting([name, kind, label, hint], { value, configured, overridden }, { state, redraw, run, busy }, isAdmin) {
  const edit = (fresh) => {
    if (fresh === value) delete state.draft[name];
    else state.draft[name] = fresh;
    redraw();
  };
  const shown = SHOW[kind];
  const back = overridden && isAdmin && button({
    action: 'setting-reset', 'data-setting': name, kind: 'small plain', label: `Back to ${shown(configured)}`, hidden: `for ${label}`, busy: busy(`reset-${name}`),
    onclick: () => run(`reset-${name}`, async () => {
      await api.put('/settings', { [name]: null });
      delete state.draft[name];
      state.version = (state.version ?? 0) + 1;
    }, `${label} is as in the configuration file`),
  });
  return h('div.setting', { 'data-field': name, 'data-setting': name, 'data-overridden': String(overridden) },
    h('div.words', {}, h('label.strong', { for: name }, label), h('p.quiet.small', { id: `${name}-hint` }, hint),
      h('div.line', {}, overridden ? badge('info', 'Changed here', 'edit') : h('span.quiet.small', {}, 'As in the configuration file'), back)),
    h('div.value', {}, isAdmin ? CONTROLS[kind](name, value, edit, label) : h('strong', {}, shown(value)), h('div.wrong', { id: `${name}-wrong`, hidden: true })));
}

const SHOW = {
  switch: (value) => (value ? 'on' : 'off'),
  duration: (value) => duration(value),
  level: (value) => LOG_DETAILS.find(([name]) => name === value)?.[1] ?? value,
};

const CONTROLS = {
  switch: (name, value, edit) => h('input.switch', { id: name, type: 'checkbox', role: 'switch', checked: value, 'aria-describedby': `${name}-hint`, onchange: (event) => edit(event.target.checked) }),
  level: (name, value, edit) => {
    const options = LOG_DETAILS.some(([option]) => option === value) ? LOG_DETAILS : [[value, value], ...LOG_DETAILS];
    return h('select.input', { id: name, 'aria-describedby': `${name}-hint`, onchange: (event) => edit(event.target.value) },
      options.map(([option, text]) => h('option', { value: option, selected: option === value }, text)));
  },
  duration: (name, value, edit, label) => {
    const [amount, unit] = splitDuration(value);
    const read = () => edit(Number(document.getElementById(name).value) * UNITS[document.getElementById(`${name}-unit`).value]);
    return h('div.join', {},
      h('input.input', { id: name, type: 'number', min: 1, inputmode: 'numeric', value: amount, autocomplete: 'off', 'aria-describedby': `${name}-hint`, oninput: read }),
      h('select.input', { id: `${name}-unit`, 'aria-label': `Unit of ${label}`, onchange: read }, Object.keys(UNITS).map((option) => h('option', { value: option, selected: option === unit }, option))));
  },
};
