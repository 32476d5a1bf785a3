import { head } from '../parts.js';
export const settings = { title: 'settings', load: async () => ({}), view: () => [head({ title: 'settings' })] };
