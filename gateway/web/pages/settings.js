/** Settings: how the gateway behaves, who may use it, and whether it is well. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { empty, head } from '../parts.js';
import { accountTab } from './account.js';
import { administratorsTab, loadAdministrators, loadTokens, tokensTab } from './access.js';
import { doctorTab } from './doctor.js';
import { generalTab } from './general.js';

/** Tabs: name, label, least role, what they load, how they look. */
const TABS = [
  ['general', 'General', 'viewer', () => api.get('/settings'), generalTab],
  ['administrators', 'Administrators', 'admin', loadAdministrators, administratorsTab],
  ['tokens', 'API tokens', 'admin', loadTokens, tokensTab],
  ['account', 'My account', 'viewer', ({ refreshSession }) => refreshSession(), accountTab],
  ['doctor', 'Doctor', 'operator', async () => ({}), doctorTab],
];

export const settings = {
  title: 'Settings',

  unsaved: ({ state }) => Object.keys(state.draft ?? {}).length > 0,

  load: async (context) => ({ content: refused(context) ? null : await tabOf(context)[3](context) }),

  view({ content }, context) {
    const beyond = refused(context);
    const shown = beyond ?? tabOf(context);
    return [
      head({ title: 'Settings' }),
      h('nav.tabs', { key: 'tabs', 'aria-label': 'Settings' }, h('ul', {}, tabsFor(context).map(([name, label]) => h('li', {},
        h('a', { href: `#/settings/${name}`, 'data-tab': name, 'aria-current': name === shown[0] ? 'page' : null }, label))))),
      h('div.stack', { key: `tab-${shown[0]}`, id: `tab-${shown[0]}` }, beyond ? notFor(beyond, context) : shown[4](content, context)),
    ];
  },
};

const tabsFor = ({ can, session }) => TABS.filter(([name, , role]) => can(role) && (name !== 'account' || session.via !== 'token'));

/** The tab that the address names, when it takes more than the session's role. */
const refused = ({ can, parameters }) => TABS.find(([name, , role]) => name === parameters[0] && !can(role));

function notFor([, label, role], { session }) {
  return h('section.panel', { 'aria-label': label }, empty({
    id: 'tab-refused', sign: 'lock', title: `The page “${label}” needs the role ${role}`, text: `You have the role ${session.role}. An administrator can give you another.`,
  }));
}

function tabOf(context) {
  const tabs = tabsFor(context);
  return tabs.find(([name]) => name === context.parameters[0]) ?? tabs[0];
}
