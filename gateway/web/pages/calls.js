/** Calls: the deployment's relays, what goes on there, and how well. */
import { api, segment } from '../api.js';
import { lineChart } from '../chart.js';
import { confirm, openDialog } from '../dialog.js';
import { h } from '../dom.js';
import { Wrong } from '../form.js';
import { UNITS, count, counted, latency, percent, span } from '../format.js';
import { badge, button, empty, head, meter, notice, panel, stat, when } from '../parts.js';
import { condense } from '../scale.js';
import { table } from '../table.js';
import { chartPanel } from './overview.js';

const POINTS = 150;
const EXAMPLE = `[[relays]]
name = "relay-1"
url = "https://relay-1.alpha.example:8444"
admin_token_file = "relay-1.token"
# ca_file = "relays-ca.crt"`;
/** Loss from which on people notice, and from which on they complain. */
const LOSS_FAIR = 0.02;
const LOSS_POOR = 0.05;

export const calls = {
  title: 'Calls',
  everyMs: 3_000,

  async load() {
    const [{ relays }, { calls: live, errors }, history] = await Promise.all([api.get('/relays'), api.get('/calls'), api.get('/calls/history')]);
    return { relays, calls: live, errors, history };
  },

  view(data, context) {
    const { relays, calls: live } = data;
    const title = head({ title: 'Calls', lead: 'Live calls on this deployment’s relays. Participants are counted, never named.' });
    if (relays.length === 0) return [title, h('section.panel', { key: 'none' }, unconfigured())];
    return [title, h('div.stack', { key: 'calls' },
      data.errors.filter(({ relay }) => relays.find(({ name }) => name === relay)?.state !== 'down').map(({ relay, error }) => notice('warn', `The calls of ${relay} are missing here: ${error}`, { id: `calls-error-${relay}` })),
      figures(data), charts(data.history),
      panel({ id: 'live-calls', title: 'Live calls', note: counted(live.length, 'call'), flush: true }, live.length === 0
        ? empty({ id: 'calls-empty', sign: 'calls', compact: true, title: 'No calls at the moment', text: 'Calls appear here within seconds of their first participant.' })
        : callsTable(live, context)),
      panel({ id: 'relays', title: 'Relays', flush: true }, relaysTable(relays, context)))];
  },
};

function unconfigured() {
  return empty({
    id: 'calls-unconfigured', sign: 'relay', title: 'No relays are configured',
    text: [
      h('p', {}, 'This page shows what goes on at the deployment’s relays, once the gateway knows them. Add each to gateway.toml, put the relay’s admin token into the file, and restart the gateway:'),
      h('pre', { tabindex: 0, 'aria-label': 'Example for gateway.toml' }, EXAMPLE),
    ],
  });
}

function figures({ relays, calls: live }) {
  const up = relays.filter(({ state }) => state === 'up');
  const loss = weighed(live);
  return h('div.stats', {},
    stat({ id: 'calls-count', label: 'Live calls', value: count(live.length) }),
    stat({ id: 'calls-participants', label: 'Participants', value: count(live.reduce((all, call) => all + call.participants, 0)) }),
    stat({ id: 'calls-loss', label: 'Loss', value: percent(loss), note: 'mean over participants', tone: loss >= LOSS_POOR ? 'bad' : loss >= LOSS_FAIR ? 'warn' : null }),
    stat({ id: 'calls-busy', label: 'Busiest relay', value: up.length > 0 ? percent(Math.max(...up.map(({ busy }) => busy ?? 0))) : '–', note: 'of its media threads’ time' }),
    stat({ id: 'calls-relays', label: 'Relays up', value: count(up.length), unit: `of ${count(relays.length)}`, tone: up.length < relays.length ? 'bad' : null }));
}

function weighed(live) {
  const people = live.reduce((all, call) => all + call.participants, 0);
  if (people === 0) return null;
  return live.reduce((all, call) => all + Math.max(call.uplink_loss ?? 0, call.downlink_loss ?? 0) * call.participants, 0) / people;
}

function charts({ samples }) {
  const shown = condense(samples, POINTS);
  const times = shown.map(({ at }) => at);
  const values = (name) => shown.map((sample) => sample[name] ?? null);
  const whole = (value) => (value === null ? '–' : count(Math.round(value)));
  return h('div.thirds', {},
    chartPanel('participants', lineChart({ title: 'People and calls', times, format: whole, isWhole: true, series: [{ name: 'participants', values: values('participants') }, { name: 'calls', values: values('calls') }] })),
    chartPanel('busy', lineChart({ title: 'CPU of the media threads', times, format: percent, least: 0.1, series: [{ name: 'busy', values: values('busy') }] })),
    chartPanel('loss', lineChart({ title: 'Packet loss', times, format: percent, least: 0.01, series: [{ name: 'loss', values: values('loss') }] })));
}

function callsTable(items, { can, reload }) {
  return table({
    id: 'calls-table', caption: 'Live calls', items, key: ({ call_id: id }) => id, row: ({ call_id: id, relay }) => ({ 'data-call': id, 'data-relay': relay }),
    columns: [
      { label: 'Call', header: true, cell: ({ call_id: id, mode, meeting_id: meeting, moved }) => [h('code', { title: id }, `${id.slice(0, 4)}…${id.slice(-6)}`), h('span.sub', {}, [mode, meeting, moved && 'moved away'].filter(Boolean).map((part, index) => [index > 0 && ' · ', h('bdi', {}, part)]))] },
      { label: 'Relay', cell: ({ relay }) => relay },
      { label: 'Since', cell: ({ created_at: at }) => when(at, (time) => span(Date.now() - time)) },
      { label: 'Participants', kind: 'number', cell: ({ participants, max_participants: most }) => [count(participants), h('span.quiet', {}, ` of ${count(most)}`)] },
      { label: 'Transport', cell: transportMix },
      { label: 'Loss up', kind: 'number', cell: ({ uplink_loss: loss }) => lossText(loss) },
      { label: 'Loss down', kind: 'number', cell: ({ downlink_loss: loss }) => lossText(loss) },
      { label: 'Round trip', kind: 'number', cell: ({ rtt_ms: rtt }) => latency(rtt) },
      can('operator') && { label: 'Actions', kind: 'actions', cell: (call) => button({ action: 'end-call', kind: 'small danger', label: 'End', hidden: `call ${call.call_id}`, onclick: () => endDialog(call, reload) }) },
    ],
  });
}

function transportMix({ transports }) {
  const { udp = 0, tcp = 0, tls = 0 } = transports ?? {};
  const parts = [{ name: 'UDP', value: udp }, { name: 'TCP', value: tcp }, { name: 'TLS', value: tls }];
  if (udp + tcp + tls === 0) return '–';
  return h('div.mix', {}, meter(parts), h('span.sub', {}, parts.filter(({ value }) => value > 0).map(({ name, value }) => `${value} ${name}`).join(' · ')));
}

function lossText(loss) {
  if (loss === null || loss === undefined) return '–';
  const tone = loss >= LOSS_POOR ? 'bad' : loss >= LOSS_FAIR ? 'warn' : null;
  return tone ? badge(tone, percent(loss)) : percent(loss);
}

function relaysTable(items, { can, run, busy, reload }) {
  return table({
    id: 'relays-table', caption: 'Relays', items, key: ({ name }) => name, row: ({ name, state, draining }) => ({ 'data-relay': name, 'data-state': state, 'data-draining': String(Boolean(draining)) }),
    columns: [
      { label: 'Relay', header: true, cell: ({ name, url, kind }) => [name, h('span.sub', {}, kind === 'ingress' ? `ingress · ${url}` : url)] },
      { label: 'State', cell: ({ state, draining, error, since }) => [
        state === 'down' ? badge('bad', 'Down') : state === 'up' ? (draining ? badge('warn', 'Draining', 'pause') : badge('good', 'Up')) : badge('', 'Not asked yet'),
        h('span.sub', {}, error ?? (since ? ['for ', when(since, (at) => span(Date.now() - at))] : null)),
      ] },
      { label: 'Calls', kind: 'number', cell: ({ calls: live, calls_max: most }) => (live === null || live === undefined ? null : [count(live), most && h('span.quiet', {}, ` of ${count(most)}`)]) },
      { label: 'Participants', kind: 'number', cell: ({ participants }) => (participants === null || participants === undefined ? null : count(participants)) },
      { label: 'Busy', cell: ({ busy: share }) => (share === null || share === undefined ? null : h('div.mix', {}, meter([{ name: 'busy', value: share, tone: share > 0.8 ? 'warn' : null }], 1, `busy: ${percent(share)}`), h('span.sub', {}, percent(share)))) },
      { label: 'Running for', cell: ({ started_at: at }) => (at ? when(at, (time) => span(Date.now() - time)) : null) },
      can('operator') && { label: 'Actions', kind: 'actions', cell: (relay) => (relay.draining
        ? button({ action: 'undrain', kind: 'small', sign: 'play', label: 'Take calls again', hidden: relay.name, busy: busy(`undrain-${relay.name}`), onclick: () => run(`undrain-${relay.name}`, () => api.delete(`/relays/${segment(relay.name)}/drain`), `${relay.name} takes calls again`) })
        : relay.state === 'up' && relay.kind !== 'ingress' && button({ action: 'drain', kind: 'small', sign: 'pause', label: 'Drain', hidden: relay.name, onclick: () => drainDialog(relay, reload) })) },
    ],
  });
}

function endDialog({ call_id: id, participants, meeting_id: meeting }, reload) {
  confirm({
    id: 'end-dialog', title: meeting ? `End the call “${meeting}”?` : 'End this call?', submit: 'End the call',
    consequences: [`${counted(participants, 'person is', 'people are')} put out of it at once and told that the call is over.`, 'It cannot be taken back; a new call can be made.'],
    run: async () => {
      await api.delete(`/calls/${segment(id)}`);
      await reload();
    },
  });
}

function drainDialog({ name, calls: live, participants }, reload) {
  openDialog({
    id: 'drain-dialog', title: `Drain ${name}?`, submit: 'Drain',
    content: [
      h('ul.consequences', {},
        h('li', {}, 'It takes no new calls and nobody new.'),
        h('li', {}, `${counted(live, 'call')} with ${counted(participants, 'participant')} ${live === 1 ? 'goes' : 'go'} on. With a deadline, what is left then is handed over to another node where there is an ingress, or ended.`),
        h('li', {}, 'You can undo it; what was handed over stays so.')),
      h('div.field', { 'data-field': 'deadline_s' }, h('label', { for: 'drain-amount' }, 'Deadline'), h('div.join', {},
        h('input.input', { id: 'drain-amount', name: 'amount', type: 'number', min: 1, inputmode: 'numeric', placeholder: 'none', autocomplete: 'off' }),
        h('select.input', { id: 'drain-unit', name: 'unit', 'aria-label': 'Unit of the deadline' }, ['min', 'h', 's'].map((unit) => h('option', { value: unit }, unit)))),
      h('div.hint', {}, 'Empty: calls go on until they end by themselves.'), h('div.wrong', { hidden: true })),
    ],
    run: async ({ amount, unit }) => {
      const seconds = amount === '' ? null : Math.round(Number(amount) * UNITS[unit]);
      if (seconds !== null && !(seconds > 0)) throw new Wrong('deadline_s', 'Expected a number above zero, or nothing.');
      await api.post(`/relays/${segment(name)}/drain`, seconds === null ? {} : { deadline_s: seconds });
      await reload();
    },
  });
}
