/**
 * Charts as small pictures: `<line-chart>` with axes and a legend that tells the figures under the pointer, and
 * `<spark-line>` for a cell of a table. Both say in words what they show.
 *
 * @module chart
 */
import { h, render, s } from './dom.js';
import { area, ceiling, clockMarks, path, ticks } from './scale.js';

const HEIGHT = 132;
const MARGIN = { top: 8, right: 4, bottom: 18, left: 40 };
const MINUTE = 60_000;

class LineChart extends HTMLElement {
  #config = null;
  #width = 0;
  #hover = null;
  #observer = new ResizeObserver(([{ contentRect }]) => {
    const width = Math.round(contentRect.width);
    if (width === this.#width) return;
    this.#width = width;
    this.#draw();
  });

  /**
   * @param {Object} config
   * @param {string} config.title
   * @param {number[]} config.times milliseconds since the epoch
   * @param {{name: string, values: (number|null)[]}[]} config.series at most four; the first is filled
   * @param {(value: number) => string} config.format
   * @param {number} [config.least] the axis reaches up to here at least
   * @param {boolean} [config.isWhole] whether only whole numbers make sense
   * @param {boolean} [config.isClipped] whether few high values are cut off, and said so, for the others to be seen
   * @param {string} [config.nothing] said when there is nothing to show yet
   */
  set config(config) {
    this.#config = config;
    if (this.isConnected) this.#draw();
  }

  connectedCallback() {
    this.#observer.observe(this);
    this.#width = Math.round(this.clientWidth);
    this.#draw();
  }

  disconnectedCallback() {
    this.#observer.disconnect();
  }

  #draw() {
    if (!this.#config || this.#width === 0) return;
    const { title, times, series, format } = this.#config;
    const shown = this.#hover !== null && this.#hover < times.length ? this.#hover : times.length - 1;
    const legend = series.map(({ name, values }, index) => h('span.entry', {},
      s('svg', { viewBox: '0 0 18 8', 'aria-hidden': 'true' }, s('path.line', { 'data-series': index + 1, d: 'M1 4H17' })),
      `${name} `, h('b', {}, format(values[shown] ?? null))));
    const when = this.#hover === null ? null : h('span.entry', {}, clock(times[shown], true));
    render(this, h('figure', {},
      h('figcaption.chart-head', {}, h('span.chart-title', {}, title), h('div.legend', { 'aria-hidden': 'true' }, when, legend)),
      this.#plot(shown)));
  }

  #plot(shown) {
    const { times, series, format, isWhole, least, isClipped, nothing } = this.#config;
    const [width, height] = [this.#width, HEIGHT];
    const [left, right, base] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
    const known = series.flatMap(({ values }) => values.filter((value) => value !== null && value !== undefined));
    const most = Math.max(0, ...known);
    const marks = ticks(isClipped ? ceiling(known) : most, isWhole, least);
    const top = marks.at(-1);
    const y = (value) => base - (Math.min(value, top) / top) * (base - MARGIN.top);
    const last = times.at(-1) ?? Date.now();
    const first = Math.min(times[0] ?? last, last - MINUTE);
    const x = (at) => left + ((at - first) / (last - first)) * (right - left);
    const lines = marks.map((mark) => [
      s('line.grid', { x1: left, x2: right, y1: Math.round(y(mark)) + 0.5, y2: Math.round(y(mark)) + 0.5 }),
      s('text', { x: left - 6, y: y(mark) + 4, 'text-anchor': 'end' }, format(mark).replace(/ /g, '\u202f')),
    ]);
    const hours = times.length < 2 ? [] : clockMarks(first, last, Math.max(2, Math.floor(width / 90))).map((at) =>
      s('text', { x: x(at), y: height - 3, 'text-anchor': x(at) > right - 16 ? 'end' : 'middle' }, clock(at)));
    const beyond = most <= top ? null
      : s('text.beyond', { x: right, y: MARGIN.top + 12, 'text-anchor': 'end' }, `▲ cut off, up to ${format(most)}`);
    const drawn = series.map(({ values }, index) => {
      const points = values.map((value, at) => (value === null || value === undefined ? null : [x(times[at]), y(value)]));
      const spot = points[shown] ?? null;
      return [
        index === 0 && s('path.area', { 'data-series': 1, d: area(points, base) }),
        s('path.line', { 'data-series': index + 1, d: path(points) }),
        spot && s('circle.spot', { 'data-series': index + 1, cx: spot[0].toFixed(1), cy: spot[1].toFixed(1), r: 3.5 }),
      ];
    });
    const cursor = this.#hover === null ? null
      : s('line.cursor', { x1: x(times[shown]), x2: x(times[shown]), y1: MARGIN.top, y2: base });
    const blank = times.length > 0 ? null
      : s('text', { x: (left + right) / 2, y: base / 2 + 6, 'text-anchor': 'middle' }, nothing ?? 'The first figures come in a moment.');
    return s('svg.plot', {
      role: 'img', 'aria-label': this.#words(), viewBox: `0 0 ${width} ${height}`, width, height,
      onpointermove: (event) => this.#point(event, first, last, left, right),
      onpointerleave: () => { this.#hover = null; this.#draw(); },
    }, lines, hours, drawn, beyond, cursor, blank);
  }

  #point(event, first, last, left, right) {
    const { times } = this.#config;
    const at = first + ((event.offsetX - left) / (right - left)) * (last - first);
    let nearest = null;
    times.forEach((time, index) => {
      if (nearest === null || Math.abs(time - at) < Math.abs(times[nearest] - at)) nearest = index;
    });
    this.#hover = nearest;
    this.#draw();
  }

  /** What the picture shows, for those who do not see it. */
  #words() {
    const { title, times, series, format } = this.#config;
    if (times.length === 0) return `${title}: no figures yet.`;
    const minutes = Math.max(1, Math.round((times.at(-1) - times[0]) / MINUTE));
    const parts = series.map(({ name, values }) => {
      const known = values.filter((value) => value !== null && value !== undefined);
      if (known.length === 0) return `${name}: none`;
      const now = values.at(-1) ?? null;
      return `${name}: now ${format(now)}, between ${format(Math.min(...known))} and ${format(Math.max(...known))}`;
    });
    return `${title}, the last ${minutes === 1 ? 'minute' : `${minutes} minutes`}. ${parts.join('; ')}.`;
  }
}

class SparkLine extends HTMLElement {
  /** @param {{label: string, values: (number|null)[]}} config */
  set config({ label, values }) {
    const [width, height] = [104, 24];
    const most = Math.max(1, ...values);
    const points = values.map((value, index) => (value === null ? null
      : [values.length < 2 ? 0 : (index / (values.length - 1)) * width, height - 2 - (value / most) * (height - 4)]));
    render(this, s('svg', { 'data-idle': String(values.every((value) => !value)), viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, preserveAspectRatio: 'none' },
      s('path.area', { 'data-series': 1, d: area(points, height) }),
      s('path.line', { 'data-series': 1, d: path(points), 'vector-effect': 'non-scaling-stroke' })));
  }
}

function clock(at, withSeconds = false) {
  const date = new Date(at);
  const two = (value) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ''}`;
}

customElements.define('line-chart', LineChart);
customElements.define('spark-line', SparkLine);

/** A chart of samples: see {@link LineChart}. */
export function lineChart(config) {
  return h('line-chart', { '.config': config });
}

/** A line in a cell. */
export function sparkLine(label, values) {
  return h('spark-line', { '.config': { label, values } });
}
