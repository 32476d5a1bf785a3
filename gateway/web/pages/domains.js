import { head } from '../parts.js';
export const domains = { title: 'domains', load: async () => ({}), view: () => [head({ title: 'domains' })] };
