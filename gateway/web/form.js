/**
 * Fields with their hints and errors, and finding the field that an error of the API is about.
 *
 * @module form
 */
import { h, icon } from './dom.js';
import { sentence } from './format.js';

/**
 * A labelled field.
 *
 * @param {Object} parts
 * @param {string} parts.id
 * @param {string} [parts.name] its name in the API; the id unless given
 * @param {string} parts.label
 * @param {string} [parts.hint]
 * @param {'input'|'textarea'|'select'} [parts.tag]
 * @param {[string, string][]} [parts.options] value and text, of a select
 * @param {string} [parts.wrong] what is wrong with it
 */
export function field({ id, name = id, label, hint, tag = 'input', options, wrong, value, ...rest }) {
  const described = [hint && `${id}-hint`, `${id}-wrong`].filter(Boolean).join(' ');
  const control = h(`${tag}.input`, {
    id, name, 'aria-describedby': described, 'aria-invalid': wrong ? 'true' : null,
    autocomplete: 'off', ...(tag === 'select' ? {} : { spellcheck: 'false' }), ...rest, ...(options ? {} : { value }),
  }, options?.map(([option, text]) => h('option', { value: option, selected: option === value }, text)));
  return h('div.field', { key: `field-${id}`, 'data-field': name },
    h('label', { for: id }, label), control,
    hint && h('div.hint', { id: `${id}-hint` }, hint),
    h('div.wrong', { id: `${id}-wrong`, hidden: !wrong }, wrong && icon('error'), wrong && h('span', {}, wrong)));
}

/** A box to tick. */
export function check({ id, name = id, label, hint, checked, ...rest }) {
  return h('label.check', { key: `field-${id}`, 'data-field': name },
    h('input', { id, name, type: 'checkbox', checked, ...rest }),
    h('span', {}, label, hint && h('span.hint', {}, hint)));
}

/** One of a few, each explained. */
export function choices({ name, label, value, options, onchange }) {
  return h('fieldset', { 'data-field': name }, h('legend', {}, label),
    h('div.choices', {}, options.map(([option, title, hint]) => h('label.choice', {},
      h('input', { id: `${name}-${option}`, type: 'radio', name, value: option, checked: option === value, onchange: () => onchange?.(option) }),
      h('span.name', {}, title), h('span.hint', {}, hint)))));
}

/** What a person entered, by name: texts trimmed, boxes as booleans. */
export function valuesOf(form) {
  const values = {};
  for (const control of form.elements) {
    if (!control.name) continue;
    if (control.type === 'checkbox') values[control.name] = control.checked;
    else if (control.type !== 'radio') values[control.name] = control.type === 'password' ? control.value : control.value.trim();
    else if (control.checked) values[control.name] = control.value;
  }
  return values;
}

/** Wrong input that the page itself noticed, before asking. */
export class Wrong extends Error {
  constructor(name, text) {
    super(text);
    this.field = name;
  }
}

/**
 * The field an error is about, if it names one: details begin with `name:`, `name[3]:` or `policy.name:`, with or without
 * backquotes.
 *
 * @param {string} detail
 * @param {string[]} names the form's fields
 * @returns {{name: ?string, text: string}}
 */
export function blame(detail, names) {
  const [, path, rest] = /^`?([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*)`?: (.+)$/s.exec(detail) ?? [];
  const name = path?.replace(/\[\d+\]/g, '').split('.').reverse().find((part) => names.includes(part));
  return name ? { name, text: sentence(rest) } : { name: null, text: sentence(detail) };
}

/** Shows what is wrong at its field and goes there. Says whether there is such a field. */
export function showWrong(form, name, text) {
  const place = name && form.querySelector(`[data-field="${name}"]`);
  const wrong = place?.querySelector('.wrong');
  if (!wrong) return false;
  wrong.replaceChildren(icon('error'), h('span', {}, text));
  wrong.hidden = false;
  const control = place.querySelector('input, textarea, select');
  control.setAttribute('aria-invalid', 'true');
  control.focus();
  return true;
}

/** Takes all errors away. */
export function clearWrong(form) {
  for (const wrong of form.querySelectorAll('.wrong')) wrong.hidden = true;
  for (const control of form.querySelectorAll('[aria-invalid]')) control.removeAttribute('aria-invalid');
}
