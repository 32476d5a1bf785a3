/**
 * From samples to charts, and from a live sample to the data of a page.
 *
 * @module figures
 */
import { lineChart } from './chart.js';
import { latency, rate, short, span } from './format.js';
import { live } from './live.js';
import { condense } from './scale.js';

/** Points of a chart: more do not show, and make it restless. */
const POINTS = 150;
/** Samples of a sparkline: five minutes. */
const SPARK_SAMPLES = 150;

/** Charts of a peer, or of all together. */
export function trafficCharts(domain = '') {
  const { everyS, samples } = live.history(domain);
  const shown = condense(samples, POINTS);
  const times = shown.map(({ at }) => at);
  const values = (name, scale = 1) => shown.map((sample) => (sample[name] === null || sample[name] === undefined ? null : sample[name] * scale));
  return {
    throughput: lineChart({
      title: 'Throughput, envelopes per second', times, format: rate, least: 2,
      series: [
        { name: 'sent', values: values('sent', 1 / everyS) },
        { name: 'received', values: values('received', 1 / everyS) },
        { name: 'refused', values: values('refused', 1 / everyS) },
      ],
    }),
    latency: lineChart({
      title: 'Latency, submitted to acknowledged', times, format: latency, least: 10,
      series: [{ name: 'latency', values: values('latency_ms') }], isClipped: true,
      nothing: 'No envelope was acknowledged yet.',
    }),
    depth: lineChart({
      title: 'Waiting envelopes', times, format: (value) => (value === null ? '–' : short(Math.round(value))), isWhole: true,
      series: [{ name: 'waiting', values: values('depth') }],
    }),
    oldest: lineChart({
      title: 'Age of the oldest', times, format: (value) => (value === null ? '–' : span(value * 1000)),
      series: [{ name: 'age', values: values('oldest_age_s') }],
    }),
  };
}

/**
 * What goes through a peer, of late: values per second for a sparkline, and the newest of the chart of throughput,
 * sent and received together, so that the figure and the chart's legend agree.
 */
export function throughput(domain = '') {
  const { everyS, samples } = live.history(domain);
  const both = samples.slice(-SPARK_SAMPLES).map(({ at, sent, received }) => ({ at, both: (sent + received) / everyS }));
  const newest = condense(samples, POINTS).at(-1);
  const now = newest ? asShown(newest.sent / everyS) + asShown(newest.received / everyS) : null;
  return { now, values: condense(both, 40).map((sample) => sample.both) };
}

/** A rate as far as `rate` tells it: a sum of two is then the sum of what is read. */
const asShown = (value) => (value < 10 ? Math.round(value * 10) / 10 : Math.round(value));

/** Takes a live sample over into peers as the API lists them. */
export function takeSample(peers, sample) {
  const fresh = new Map(sample.peers.map((peer) => [peer.domain, peer]));
  for (const peer of peers) {
    const now = fresh.get(peer.domain);
    if (!now) continue;
    const { state, link, transport, sent, received, refused, latency_ms: latencyMs, depth, bytes, oldest } = now;
    Object.assign(peer, { state, link, transport, sent, received, refused, latency_ms: latencyMs });
    Object.assign(peer.outbox, { depth, bytes, oldest });
  }
}

/** `12 envelopes, 3 KiB, the oldest 5 min old`, as far as there is anything. */
export function oldestText(oldest, now = Date.now()) {
  return oldest ? span(now - oldest) : '–';
}

