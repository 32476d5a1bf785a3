import { head } from '../parts.js';
export const certificates = { title: 'certificates', load: async () => ({}), view: () => [head({ title: 'certificates' })] };
