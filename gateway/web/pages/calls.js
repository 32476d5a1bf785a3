import { head } from '../parts.js';
export const calls = { title: 'calls', load: async () => ({}), view: () => [head({ title: 'calls' })] };
