import { head } from '../parts.js';
export const audit = { title: 'audit', load: async () => ({}), view: () => [head({ title: 'audit' })] };
