/**
 * Dialogs. The browser keeps the focus inside, and gives it back.
 *
 * @module dialog
 */
import { h, render } from './dom.js';
import { blame, clearWrong, field, showWrong, valuesOf, Wrong } from './form.js';
import { lookup } from './format.js';
import { button, copyable, download, notice } from './parts.js';

/**
 * Opens a dialog with a form. It closes when what it does was done, by Escape and by its buttons.
 *
 * @param {Object} parts
 * @param {string} parts.id
 * @param {string} parts.title
 * @param {*} parts.content nodes; or a function of the dialog that makes them, called again by `dialog.redraw()`
 * @param {string} [parts.submit] the button's label; without it there is nothing to do but to close
 * @param {boolean} [parts.danger]
 * @param {boolean} [parts.wide]
 * @param {(values: Object, dialog: HTMLDialogElement) => Promise<*>} [parts.run] throws what then is shown;
 *   answers `false` to stay open
 * @param {() => boolean} [parts.ready] whether there is something to do yet
 * @param {string} [parts.close] label of the other button
 * @param {boolean} [parts.stubborn] Escape does not close it
 * @returns {HTMLDialogElement}
 */
export function openDialog({ id, title, content, submit, danger = false, wide = false, run, ready, close = 'Cancel', stubborn = false, onclose }) {
  const state = { busy: false, problem: null };
  // A dialog that follows another gives the focus back to where the first one was opened.
  const opener = document.activeElement?.closest('dialog')?.opener ?? document.activeElement;
  const form = h('form', { id: `${id}-form`, method: 'dialog', novalidate: true, onsubmit });
  const dialog = h('dialog', { id, class: wide ? 'wide' : '', 'aria-labelledby': `${id}-title` });
  // What does not change is made once: putting it in again would cost it the focus and what was typed.
  const body = h('div.fields', {}, typeof content === 'function' ? null : content);
  const trouble = h('div', { role: 'alert' });
  const footer = h('footer', {});
  form.append(h('div.content', {}, body, trouble), footer);
  dialog.opener = opener;
  dialog.redraw = () => {
    const isReady = ready?.() ?? true;
    if (typeof content === 'function') render(body, content(dialog));
    render(trouble, state.problem && notice('bad', state.problem, { id: `${id}-problem` }));
    render(footer,
      button({ id: `${id}-close`, label: close, onclick: () => dialog.close(), kind: submit ? '' : 'primary' }),
      submit && button({
        id: `${id}-submit`, type: 'submit', kind: danger ? 'primary danger' : 'primary', label: submit, busy: state.busy,
        ...(isReady ? {} : { 'aria-disabled': 'true' }),
      }));
  };
  dialog.refuse = (text) => {
    state.problem = text;
    dialog.redraw();
  };
  dialog.append(
    h('header', {}, h('h2', { id: `${id}-title` }, title),
      button({ id: `${id}-x`, kind: 'plain square small', sign: 'close', label: 'Close', onclick: () => dialog.close() })),
    form);
  dialog.addEventListener('cancel', (event) => stubborn && event.preventDefault());
  dialog.addEventListener('close', () => {
    dialog.remove();
    if (!document.querySelector('dialog[open]') && document.activeElement === document.body) opener?.focus();
    onclose?.();
  });
  dialog.redraw();
  document.body.append(dialog);
  dialog.showModal();
  (dialog.querySelector('[autofocus]') ?? form.querySelector('input:not([type="hidden"]), textarea, select, .primary'))?.focus();
  return dialog;

  async function onsubmit(event) {
    event.preventDefault();
    if (!run || state.busy || !(ready?.() ?? true)) return;
    clearWrong(form);
    Object.assign(state, { busy: true, problem: null });
    dialog.redraw();
    try {
      const stays = await run(valuesOf(form), dialog);
      state.busy = false;
      if (stays === false) dialog.redraw();
      else dialog.close();
    } catch (error) {
      state.busy = false;
      dialog.redraw();
      showError(form, error, (text) => dialog.refuse(text));
    }
  }
}

/** Fields that an error without a name is about. */
const SECRETS = { 'wrong-password': ['old', 'password'], 'wrong-code': ['code'] };

/** Shows an error at its field, or where `otherwise` puts it. */
export function showError(form, error, otherwise) {
  const names = [...form.querySelectorAll('[data-field]')].map((place) => place.dataset.field);
  const isPlain = !(error instanceof Wrong);
  const secret = isPlain && lookup(SECRETS, error.type)?.find((field) => names.includes(field));
  if (secret && showWrong(form, secret, blame(error.message, []).text)) return;
  const { name, text } = !isPlain ? { name: error.field, text: error.message } : blame(error.message, names);
  if (!showWrong(form, name, text)) otherwise(text);
}

/**
 * Asks before something that cannot be taken back.
 *
 * @param {Object} parts
 * @param {string} parts.id
 * @param {string} parts.title a question
 * @param {string} [parts.intro]
 * @param {*[]} parts.consequences what follows, in numbers where there are any
 * @param {string} [parts.word] what must be typed, for the gravest
 * @param {string} parts.submit
 * @param {() => Promise<*>} parts.run
 */
export function confirm({ id, title, intro, consequences = [], word, submit, run, danger = true, extra }) {
  let typed = '';
  const dialog = openDialog({
    id, title, submit, danger,
    content: () => [
      intro && h('p', {}, intro),
      consequences.length > 0 && h('ul.consequences', {}, consequences.map((text) => h('li', {}, text))),
      extra,
      word && field({
        id: `${id}-word`, name: 'word', label: `Type ${word} to go on`, autocapitalize: 'none', autofocus: true,
        oninput: (event) => {
          typed = event.target.value.trim();
          dialog.redraw();
        },
      }),
    ],
    ready: () => !word || typed.toLowerCase() === word.toLowerCase(),
    run,
  });
  return dialog;
}

/**
 * Shows what is shown once.
 *
 * @param {{id: string, title: string, intro: string, secrets: {label: string, value: string, id: string}[],
 *   file?: {name: string, text: string, label: string}}} parts
 */
export function showSecrets({ id, title, intro, secrets = [], file, more }) {
  return openDialog({
    id, title, close: 'Done', stubborn: true,
    content: [
      h('p', {}, intro),
      secrets.map(({ id: name, label, value }) => h('div.field', {},
        h('span.label', {}, label), copyable(h('output.secret', { id: name }, value), value, label.toLowerCase(), { id: `${name}-copy` }))),
      file && h('div.actions', {},
        button({ id: `${id}-download`, kind: 'primary', sign: 'download', label: file.label, onclick: () => download(file.name, file.text, 'application/json') })),
      more,
    ],
  });
}
