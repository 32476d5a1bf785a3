import { head } from '../parts.js';
export const network = { title: 'network', load: async () => ({}), view: () => [head({ title: 'network' })] };
