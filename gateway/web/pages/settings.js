/** Settings: how the gateway behaves, who may use it, and whether it is well. */
import { api } from '../api.js';
import { h } from '../dom.js';
import { head } from '../parts.js';
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

  load: (context) => tabOf(context)[3](context).then((content) => ({ content })),

  view({ content }, context) {
    const shown = tabOf(context);
    return [
      head({ title: 'Settings' }),
      h('nav.tabs', { key: 'tabs', 'aria-label': 'Settings' }, h('ul', {}, tabsFor(context).map(([name, label]) => h('li', {},
        h('a', { href: `#/settings/${name}`, 'data-tab': name, 'aria-current': name === shown[0] ? 'page' : null }, label))))),
      h('div.stack', { key: `tab-${shown[0]}`, id: `tab-${shown[0]}` }, shown[4](content, context)),
    ];
  },
};

const tabsFor = ({ can, session }) => TABS.filter(([name, , role]) => can(role) && (name !== 'account' || session.via !== 'token'));

function tabOf(context) {
  const tabs = tabsFor(context);
  return tabs.find(([name]) => name === context.parameters[0]) ?? tabs[0];
}
