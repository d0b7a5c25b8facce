/* The picture of a call: both channels on one axis, and what happened when. Axes, cursor and zoom are uPlot's. */
(() => {
  "use strict";

  const { palette } = busyhour;
  const TOP = 24, FOOT = 16, AXIS = 30, GUTTER = 52; // CSS pixels
  const PRINTED = 680; // wide, on paper

  const octets = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  const clock = (seconds, digits = 0) => {
    const units = Math.round(Math.max(0, seconds) * 10 ** digits);
    const minute = 60 * 10 ** digits;
    const rest = ((units % minute) / 10 ** digits).toFixed(digits);
    return `${Math.floor(units / minute)}:${rest.padStart(digits ? digits + 3 : 2, "0")}`;
  };

  class Picture {
    static printing = false; // on white paper, of a known width

    constructor(host, data, seek) {
      this.host = host;
      this.data = data;
      this.waves = data.waves && {
        bin: data.waves.bin_s,
        caller: octets(data.waves.caller),
        agent: octets(data.waves.agent),
      };
      this.at = 0;
      this.family = getComputedStyle(host).fontFamily || "sans-serif";
      this.plot = new uPlot(this.options(), [[0, data.seconds], [null, null]], host);
      this.head = document.createElement("div");
      this.head.className = "call-head-line";
      this.plot.over.append(this.head);
      this.followClicks(seek);
      this.resizing = new ResizeObserver(() => this.fit());
      this.resizing.observe(host);
      this.place(0);
    }

    options() {
      const { data } = this;
      const muted = () => palette().muted;
      const line = () => palette().line;
      return {
        width: this.width(),
        height: this.height(),
        padding: [0, 8, 0, GUTTER],
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, dist: 6 } },
        scales: { x: { time: false, range: (_, from, to) => [Math.max(0, from), Math.min(data.seconds, to)] }, y: { range: () => [0, 1] } },
        axes: [
          {
            stroke: muted, grid: { stroke: line, width: 1 }, ticks: { stroke: line, size: 4 }, size: AXIS, gap: 4,
            font: `11px ${this.family}`, space: 56,
            incrs: [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600],
            values: (plot, splits, axis, space, increment) =>
              splits.map((at) => clock(at + data.from, increment < 1 ? 1 : 0)),
          },
          { show: false },
        ],
        series: [{}, { show: false }],
        hooks: { drawAxes: [(plot) => this.draw(plot)], setScale: [() => this.place(this.at)], setSize: [() => this.place(this.at)] },
      };
    }

    width() { return Picture.printing ? PRINTED : Math.max(240, this.host.clientWidth || PRINTED); }
    height() { return this.width() < 600 ? 220 : 260; }

    fit() {
      if (!Picture.printing && this.host.clientWidth && this.host.clientWidth !== this.plot.width) this.resize();
    }

    resize() { this.plot.setSize({ width: this.width(), height: this.height() }); }

    followClicks(seek) {
      let pressed = null;
      this.plot.over.addEventListener("pointerdown", (event) => { pressed = event.clientX; });
      this.plot.over.addEventListener("click", (event) => {
        if (pressed !== null && Math.abs(event.clientX - pressed) > 5) return;
        const left = event.clientX - this.plot.over.getBoundingClientRect().left;
        seek(this.plot.posToVal(left, "x"));
      });
    }

    zoom(from, to) { this.plot.setScale("x", { min: from, max: to }); }
    get zoomed() { return this.plot.scales.x.max - this.plot.scales.x.min < this.data.seconds * 0.999; }

    place(seconds) {
      this.at = seconds;
      if (!this.head) return;
      const left = this.plot.valToPos(seconds, "x");
      this.head.hidden = left < 0 || left > this.plot.over.clientWidth;
      this.head.style.transform = `translateX(${left}px)`;
    }

    /* Keeps the playhead in sight while it moves through a part of the call. */
    follow(seconds) {
      const { min, max } = this.plot.scales.x;
      if (this.zoomed && (seconds > max || seconds < min)) {
        const from = Math.min(Math.max(0, seconds - (max - min) * 0.1), this.data.seconds - (max - min));
        this.zoom(from, from + max - min);
      }
      this.place(seconds);
    }

    /* ---------------------------------------------------------- drawing */

    draw(plot) {
      const ratio = devicePixelRatio;
      const box = plot.bbox;
      const { ctx } = plot;
      const tone = palette();
      const faults = this.data.spans.some(([kind]) => kind === "fault");
      const top = box.top + TOP * ratio;
      const lanes = box.height - (TOP + (faults ? FOOT : 0) + 6) * ratio;
      const lane = { caller: [top, lanes / 2], agent: [top + lanes / 2, lanes / 2] };
      const place = { ratio, box, tone, lane, x: (seconds) => plot.valToPos(seconds, "x", true) };
      ctx.save();
      this.names(ctx, place);
      ctx.beginPath();
      ctx.rect(box.left, box.top, box.width, box.height);
      ctx.clip();
      this.spans(ctx, place);
      this.middle(ctx, place);
      if (this.waves) {
        this.wave(ctx, place, "caller", tone["series-1"]);
        this.wave(ctx, place, "agent", tone["series-2"]);
      }
      this.ticks(ctx, place);
      this.labels(ctx, place);
      ctx.restore();
    }

    names(ctx, { ratio, box, tone, lane }) {
      ctx.font = `${12 * ratio}px ${this.family}`;
      ctx.textAlign = "right";
      ctx.textBaseline = "middle";
      for (const [who, colour] of [["caller", tone["series-1"]], ["agent", tone["series-2"]]]) {
        ctx.fillStyle = colour;
        ctx.fillText(who, box.left - 8 * ratio, lane[who][0] + lane[who][1] / 2);
      }
    }

    spans(ctx, place) {
      const order = ["fault", "response", "greeting", "pause", "early", "barge_in", "underrun", "speech"];
      for (const kind of order) {
        for (const span of this.data.spans) if (span[0] === kind) this.span(ctx, place, span);
      }
    }

    span(ctx, { ratio, box, tone, lane, x }, [kind, who, from, to, , bad]) {
      const left = x(from);
      const width = Math.max(ratio, x(to) - left);
      const [agentTop, height] = lane.agent;
      const [callerTop] = lane.caller;
      const fill = (colour, alpha, top, tall) => {
        ctx.globalAlpha = alpha;
        ctx.fillStyle = colour;
        ctx.fillRect(left, top, width, tall);
        ctx.globalAlpha = 1;
      };
      switch (kind) {
        case "speech": {
          const [top, tall] = lane[who === "caller" ? "caller" : "agent"];
          const colour = tone[who === "caller" ? "series-1" : "series-2"];
          if (!this.waves) fill(colour, 0.75, top + tall * 0.25, tall * 0.5);
          else fill(colour, 1, top + tall - 3 * ratio, 2 * ratio);
          break;
        }
        case "fault":
          fill(tone.fail, 0.06, box.top, box.height);
          this.hatch(ctx, tone.fail, left, box.top + box.height - FOOT * ratio, width, FOOT * ratio, ratio);
          break;
        case "underrun":
          fill(tone.fail, 0.85, agentTop + height * 0.4, height * 0.2);
          if (bad === 2) this.worst(ctx, tone.fail, left, width, agentTop, height, ratio);
          break;
        case "early":
          this.hatch(ctx, tone.warn, left, callerTop, width, 2 * height, ratio);
          if (bad === 2) this.worst(ctx, tone.fail, left, width, callerTop, 2 * height, ratio);
          break;
        case "barge_in":
          this.hatch(ctx, bad ? tone.fail : tone.warn, left, agentTop, width, height, ratio);
          if (bad === 2) this.worst(ctx, tone.fail, left, width, agentTop, height, ratio);
          break;
        default: {
          const worst = bad === 2;
          fill(bad ? tone.fail : tone.warn, worst ? 0.22 : bad ? 0.16 : 0.13, callerTop, 2 * height);
          if (bad) this.edges(ctx, tone.fail, left, width, callerTop, 2 * height, worst ? 2 * ratio : ratio);
        }
      }
    }

    worst(ctx, colour, left, width, top, height, ratio) {
      ctx.globalAlpha = 0.22;
      ctx.fillStyle = colour;
      ctx.fillRect(left, top, width, height);
      ctx.globalAlpha = 1;
      this.edges(ctx, colour, left, width, top, height, 2 * ratio);
    }

    edges(ctx, colour, left, width, top, height, thick) {
      ctx.fillStyle = colour;
      for (const edge of [left, left + width - thick]) ctx.fillRect(edge, top, thick, height);
    }

    hatch(ctx, colour, left, top, width, height, ratio) {
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, width, height);
      ctx.clip();
      ctx.globalAlpha = 0.55;
      ctx.strokeStyle = colour;
      ctx.lineWidth = ratio;
      ctx.beginPath();
      const first = Math.max(left, 0);
      const last = Math.min(left + width, ctx.canvas.width);
      for (let at = first - height; at < last; at += 6 * ratio) {
        ctx.moveTo(at, top + height);
        ctx.lineTo(at + height, top);
      }
      ctx.stroke();
      ctx.restore();
    }

    middle(ctx, { ratio, box, tone, lane }) {
      ctx.fillStyle = tone.line;
      for (const [top, height] of Object.values(lane)) ctx.fillRect(box.left, top + height / 2, box.width, ratio);
    }

    /* For each pixel the loudest of the bins that it covers. */
    wave(ctx, { ratio, box, lane, x }, who, colour) {
      const heights = this.waves[who];
      const { bin } = this.waves;
      const [top, height] = lane[who];
      const centre = top + height / 2;
      const reach = height / 2 - 5 * ratio;
      const zero = x(0);
      const pixels = (x(1) - zero) * bin; // of a bin
      ctx.fillStyle = colour;
      const step = Math.max(ratio, 1);
      for (let at = box.left; at < box.left + box.width; at += step) {
        const first = Math.max(0, Math.floor((at - zero) / pixels));
        const last = Math.min(heights.length, Math.max(first + 1, Math.ceil((at + step - zero) / pixels)));
        let most = 0;
        for (let index = first; index < last; index += 1) if (heights[index] > most) most = heights[index];
        if (most > 3) ctx.fillRect(at, centre - (reach * most) / 255, step, (2 * reach * most) / 255);
      }
    }

    ticks(ctx, { ratio, tone, lane, x }) {
      const [top, height] = lane.agent;
      const foot = top + height;
      for (const [kind, at] of this.data.ticks) {
        const left = x(at);
        if (kind === "mark") {
          ctx.fillStyle = tone.muted;
          ctx.beginPath();
          ctx.moveTo(left - 4 * ratio, foot);
          ctx.lineTo(left + 4 * ratio, foot);
          ctx.lineTo(left, foot - 6 * ratio);
          ctx.fill();
        } else {
          ctx.strokeStyle = kind === "clear" ? tone.ink : tone.muted;
          ctx.lineWidth = 1.5 * ratio;
          ctx.setLineDash(kind === "clear" ? [4 * ratio, 3 * ratio] : []);
          ctx.beginPath();
          ctx.moveTo(left, kind === "clear" ? top + 2 * ratio : lane.caller[0]);
          ctx.lineTo(left, foot);
          ctx.stroke();
          ctx.setLineDash([]);
        }
      }
    }

    /* What was worst is always named; the others where there is room. */
    labels(ctx, place) {
      const { ratio, box, tone, lane, x } = place;
      const taken = [];
      const put = (text, centre, top, colour, bold) => {
        ctx.font = `${bold ? "600 " : ""}${(bold ? 12 : 11) * ratio}px ${this.family}`;
        const half = ctx.measureText(text).width / 2 + 4 * ratio;
        const middle = Math.min(Math.max(centre, box.left + half), box.left + box.width - half);
        if (taken.some((other) => other.top === top && other.from < middle + half && middle - half < other.to)) return;
        taken.push({ top, from: middle - half, to: middle + half });
        ctx.fillStyle = tone.paper;
        ctx.globalAlpha = 0.8;
        ctx.fillRect(middle - half, top - 7 * ratio, 2 * half, 14 * ratio);
        ctx.globalAlpha = 1;
        ctx.fillStyle = colour;
        ctx.textAlign = "center";
        ctx.textBaseline = "middle";
        ctx.fillText(text, middle, top);
      };
      const seen = ([, , from, to]) => x(to) >= box.left && x(from) <= box.left + box.width;
      const centre = ([, , from, to]) => (Math.max(x(from), box.left) + Math.min(x(to), box.left + box.width)) / 2;
      const named = this.data.spans.filter((span) => span[4] && seen(span)).sort((one, other) => other[5] - one[5]);
      for (const span of named) {
        if (span[0] === "fault") put(span[4], centre(span), box.top + box.height - (FOOT / 2) * ratio, tone.ink, false);
        else if (span[0] === "underrun" && span[5] !== 2) continue;
        else put(span[4], centre(span), box.top + (TOP / 2) * ratio, span[5] ? tone.fail : tone.muted, span[5] > 0);
      }
      for (const [kind, at] of this.data.ticks) {
        if (kind === "clear" && x(at) >= box.left) put("clear", x(at) + 20 * ratio, lane.agent[0] + 10 * ratio, tone.ink, false);
      }
    }
  }

  Object.assign(busyhour, { CallPicture: Picture, octets, clock });
})();
