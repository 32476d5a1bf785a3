import { head } from '../parts.js';
export const networks = { title: 'networks', load: async () => ({}), view: () => [head({ title: 'networks' })] };
