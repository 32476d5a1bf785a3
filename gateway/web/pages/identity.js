import { head } from '../parts.js';
export const identity = { title: 'identity', load: async () => ({}), view: () => [head({ title: 'identity' })] };
