import { head } from '../parts.js';
export const outbox = { title: 'outbox', load: async () => ({}), view: () => [head({ title: 'outbox' })] };
