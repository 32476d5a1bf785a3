/**
 * Tables whose rows become cards in narrow windows, and a search field above them.
 *
 * @module table
 */
import { h, icon } from './dom.js';

/**
 * @param {Object} parts
 * @param {string} parts.caption what the table holds; for those who do not see the heading above it
 * @param {{label: string, cell: (item: *) => *, kind?: 'number'|'actions', header?: boolean}[]} parts.columns
 *   `header`: the column that names the row
 * @param {*[]} parts.items
 * @param {(item: *) => string} parts.key
 * @param {(item: *) => Object} [parts.row] attributes of a row
 * @param {string} [parts.id]
 */
export function table({ caption, columns, items, key, row, id }) {
  const shown = columns.filter(Boolean);
  return h('div.table-box', { key: id, role: 'group', 'aria-label': caption, tabindex: 0 },
    h('table.cards', { id },
      h('caption.unseen', {}, caption),
      h('thead', {}, h('tr', {}, shown.map(({ label, kind }) =>
        h('th', { scope: 'col', class: kind === 'number' ? 'number' : '' }, kind === 'actions' ? h('span.unseen', {}, label) : label)))),
      h('tbody', {}, items.map((item) => h('tr', { key: key(item), ...row?.(item) }, shown.map((column) => cell(column, item)))))));
}

function cell({ label, cell: content, kind, header }, item) {
  const value = content(item);
  if (header) return h('th', { scope: 'row' }, h('div', {}, value));
  const isNothing = value === null || value === undefined || value === '–' || (Array.isArray(value) && value.filter(Boolean).length === 0);
  const kinds = [kind === 'number' && 'number', kind === 'actions' && 'row-actions', isNothing && 'nothing'].filter(Boolean).join(' ');
  return h('td', { class: kinds, 'data-label': label }, kind === 'actions' ? h('div.actions', {}, value) : h('div', {}, value));
}

/** A field that narrows a list as it is typed into. */
export function search({ id, label, value, oninput }) {
  return h('label.search', {}, icon('search'), h('span.unseen', {}, label),
    h('input.input', { id, type: 'search', placeholder: label, autocomplete: 'off', spellcheck: 'false', value, oninput: (event) => oninput(event.target.value) }));
}
