/* Charts from the page's data, drawn by uPlot. What never came is drawn in a lane of its own at the top.

   {"id", "x": "time" | "percentile" | "number", "xlabel", "y": {"label", "log", "near", "never", "top", "whole"}, "tables":
   [{"xs": [...], "series": [{"label", "values": [number | null | "never"], "ink", "style", "shape", "unit"}]}], "stacked",
   "width", "stairs": [{"x", "limit", "label", "below"}], "uprights": [{"x", "label"}]}

   style: "line", "dashed", "step", "dots", "bars"; "edge": of two, a band is between them; "told": in the legend only. */
"use strict";
(() => {
  const { data, palette, faded } = window.busyhour;
  const bands = data.bands;
  const FAMILY = getComputedStyle(document.body).fontFamily;
  const DASHES = [[], [], [7, 3], [2, 3], [10, 3, 2, 3], [1, 4], [14, 4]];
  const NEVER = "never";
  const PRINTED = { wide: 680, small: 332 };
  const plots = [];
  let ink = palette();

  const { number, clock, percent, nice, decades, times, nines } = window.busyhour.axes;

  /* ---------------------------------------------------------------- what is behind and before the lines */

  const hatched = (ctx, box, step, both, dpr) => {
    ctx.save();
    ctx.beginPath();
    ctx.rect(box.x, box.y, box.w, box.h);
    ctx.clip();
    ctx.beginPath();
    for (let at = box.x - box.h; at < box.x + box.w; at += step * dpr) {
      ctx.moveTo(at, box.y + box.h);
      ctx.lineTo(at + box.h, box.y);
      if (both) {
        ctx.moveTo(at, box.y);
        ctx.lineTo(at + box.h, box.y + box.h);
      }
    }
    ctx.stroke();
    ctx.restore();
  };

  const shaded = (u) => {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const dpr = devicePixelRatio;
    const along = (one) => {
      const from = Math.max(left, u.valToPos(one.from, "x", true));
      const to = Math.min(left + width, u.valToPos(one.to, "x", true));
      return to >= left && from <= left + width ? { x: from, y: top, w: Math.max(dpr, to - from), h: height } : null;
    };
    ctx.save();
    bands.phases.forEach((one, i) => {
      const box = along(one);
      if (!box) return;
      ctx.fillStyle = i % 2 ? "transparent" : ink.band;
      ctx.fillRect(box.x, box.y, box.w, box.h);
    });
    ctx.lineWidth = dpr;
    bands.faults.forEach((one) => {
      const box = along(one);
      if (!box) return;
      ctx.fillStyle = ctx.strokeStyle = ink.warn;
      ctx.globalAlpha = 0.07;
      ctx.fillRect(box.x, box.y, box.w, box.h);
      ctx.globalAlpha = 0.75;
      hatched(ctx, { ...box, y: box.y + box.h - 7 * dpr, h: 7 * dpr }, 5, false, dpr);
      ctx.globalAlpha = 1;
    });
    bands.gaps.forEach((one) => {
      const box = along(one);
      if (!box) return;
      ctx.fillStyle = ink.band;
      ctx.fillRect(box.x, box.y, box.w, box.h);
      ctx.strokeStyle = ink.void;
      ctx.globalAlpha = 0.4;
      hatched(ctx, box, 6, true, dpr);
      ctx.globalAlpha = 1;
    });
    ctx.restore();
  };

  /* Words that lines behind them do not strike through. */
  const written = (ctx, text, x, y, colour) => {
    const dpr = devicePixelRatio;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    ctx.fillStyle = ink.paper;
    ctx.globalAlpha = 0.75;
    ctx.fillRect(x - 2 * dpr, y - dpr, ctx.measureText(text).width + 4 * dpr, 13 * dpr);
    ctx.globalAlpha = 1;
    ctx.fillStyle = colour;
    ctx.fillText(text, x, y);
  };

  /* The names of what is shaded, where there is room for them: phases above, faults below them. */
  const names = (u) => {
    const { ctx } = u;
    const { left, top, width } = u.bbox;
    const dpr = devicePixelRatio;
    ctx.save();
    ctx.font = `${10.5 * dpr}px ${FAMILY}`;
    const named = (text, one, row) => {
      const from = Math.max(left, u.valToPos(one.from, "x", true));
      const to = Math.min(left + width, u.valToPos(one.to, "x", true));
      const wide = ctx.measureText(text).width;
      if (wide + 10 * dpr > to - from) return;
      written(ctx, text, from + 5 * dpr, top + (4 + 14 * row) * dpr, ink.muted);
    };
    bands.phases.forEach((one) => named(one.name, one, 0));
    bands.faults.forEach((one) => named(`fault: ${one.name}`, one, 1));
    bands.gaps.forEach((one) => named("not watched", one, 2));
    ctx.restore();
  };

  const lane = (u, y) => {
    const { ctx } = u;
    const dpr = devicePixelRatio;
    const at = u.valToPos(y.edge, "y", true);
    ctx.save();
    ctx.strokeStyle = ink.muted;
    ctx.setLineDash([2 * dpr, 3 * dpr]);
    ctx.lineWidth = dpr;
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, at);
    ctx.lineTo(u.bbox.left + u.bbox.width, at);
    ctx.stroke();
    ctx.restore();
  };

  /* Outcomes differ in shape, not in colour alone: a disc, a cross, a ring, a square. */
  const shapes = (u, lines) => {
    const { ctx } = u;
    const dpr = devicePixelRatio;
    const r = 4.5 * dpr;
    ctx.save();
    ctx.lineWidth = 2 * dpr;
    lines.forEach((line, i) => {
      if (!line.shape || !u.series[i + 1].show) return;
      ctx.strokeStyle = ctx.fillStyle = colour(line);
      u.data[i + 1].forEach((value, row) => {
        if (value === null || value === undefined) return;
        const x = u.valToPos(u.data[0][row], "x", true);
        const y = u.valToPos(value, "y", true);
        ctx.beginPath();
        if (line.shape === "cross") {
          ctx.moveTo(x - r, y - r);
          ctx.lineTo(x + r, y + r);
          ctx.moveTo(x - r, y + r);
          ctx.lineTo(x + r, y - r);
          ctx.stroke();
        } else if (line.shape === "square") {
          ctx.strokeRect(x - r, y - r, 2 * r, 2 * r);
        } else {
          ctx.arc(x, y, r, 0, 2 * Math.PI);
          if (line.shape === "ring") ctx.stroke();
          else ctx.fill();
        }
      });
    });
    ctx.restore();
  };

  /* A cross for each that never came. */
  const crosses = (u, y, lines) => {
    const { ctx } = u;
    const dpr = devicePixelRatio;
    const at = u.valToPos(y.lane, "y", true);
    ctx.save();
    ctx.strokeStyle = ink.fail;
    ctx.lineWidth = 1.6 * dpr;
    ctx.beginPath();
    lines.forEach((line, i) => {
      if (line.style !== "dots" || !u.series[i + 1].show) return;
      u.data[i + 1].forEach((value, row) => {
        if (value !== y.lane) return;
        const x = u.valToPos(u.data[0][row], "x", true);
        if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
        const r = 3.4 * dpr;
        ctx.moveTo(x - r, at - r);
        ctx.lineTo(x + r, at + r);
        ctx.moveTo(x - r, at + r);
        ctx.lineTo(x + r, at - r);
      });
    });
    ctx.stroke();
    ctx.restore();
  };

  const stairs = (u, steps) => {
    const { ctx } = u;
    const dpr = devicePixelRatio;
    const { left, top, width } = u.bbox;
    const below = steps.filter((one) => one.below).sort((a, b) => a.x - b.x);
    const to = (x) => Math.min(left + width, u.valToPos(x, "x", true));
    const up = (value) => u.valToPos(value, "y", true);
    ctx.save();
    if (below.length) {
      const path = new Path2D();
      path.moveTo(left, up(below[0].limit));
      below.forEach((one, i) => {
        path.lineTo(to(one.x), up(one.limit));
        path.lineTo(to(one.x), i + 1 < below.length ? up(below[i + 1].limit) : top);
      });
      const area = new Path2D(path);
      area.lineTo(left, top);
      area.closePath();
      ctx.fillStyle = ink.fail;
      ctx.globalAlpha = 0.07;
      ctx.fill(area);
      ctx.globalAlpha = 1;
      ctx.strokeStyle = ink.fail;
      ctx.lineWidth = 1.6 * dpr;
      ctx.setLineDash([6 * dpr, 3 * dpr]);
      ctx.stroke(path);
    }
    ctx.setLineDash([]);
    ctx.font = `${10.5 * dpr}px ${FAMILY}`;
    ctx.fillStyle = ink.ink;
    let last = Infinity;
    [...steps].sort((a, b) => a.limit - b.limit).forEach((one) => {
      last = Math.min(up(one.limit) - 3 * dpr, last - 13 * dpr);
      const wide = ctx.measureText(one.label).width;
      const room = to(one.x) - left > wide + 8 * dpr;
      written(ctx, one.label, room ? to(one.x) - 5 * dpr - wide : to(one.x) + 5 * dpr, last - 12 * dpr, ink.ink);
      if (!one.below) {
        ctx.fillRect(to(one.x) - 6 * dpr, up(one.limit), 6 * dpr, 1.6 * dpr);
      }
    });
    ctx.restore();
  };

  const uprights = (u, marks) => {
    const { ctx } = u;
    const dpr = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ink.muted;
    ctx.fillStyle = ink.ink;
    ctx.font = `${10.5 * dpr}px ${FAMILY}`;
    ctx.setLineDash([4 * dpr, 3 * dpr]);
    ctx.lineWidth = dpr;
    ctx.textAlign = "left";
    marks.forEach((one) => {
      const x = u.valToPos(one.x, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
      ctx.fillText(one.label, x + 5 * dpr, u.bbox.top + 14 * dpr);
    });
    ctx.restore();
  };

  /* Bars of one colour differ in pattern, too. */
  const pattern = (colour, kind) => {
    if (kind <= 1) return colour;
    const dpr = devicePixelRatio;
    const size = 6 * dpr;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const ctx = tile.getContext("2d");
    ctx.fillStyle = colour;
    ctx.globalAlpha = 0.35;
    ctx.fillRect(0, 0, size, size);
    ctx.globalAlpha = 1;
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1.6 * dpr;
    ctx.beginPath();
    if (kind === 2 || kind === 4) {
      ctx.moveTo(0, size);
      ctx.lineTo(size, 0);
    }
    if (kind === 3 || kind === 4) {
      ctx.moveTo(0, 0);
      ctx.lineTo(size, size);
    }
    if (kind === 5) {
      ctx.moveTo(0, size / 2);
      ctx.lineTo(size, size / 2);
    }
    if (kind === 6) {
      ctx.moveTo(size / 2, 0);
      ctx.lineTo(size / 2, size);
    }
    ctx.stroke();
    return ctx.createPattern(tile, "repeat");
  };

  /* ---------------------------------------------------------------- one chart */

  const colour = (line) => (line.ink ? ink[`series-${line.ink}`] : ink.muted);

  const heights = (chart, lines) => {
    const finite = lines
      .filter((line) => line.style !== "told" && line.style !== "edge")
      .flatMap((line) => line.values.filter((value) => typeof value === "number"));
    const log = Boolean(chart.y.log) && finite.some((value) => value > 0);
    const positive = finite.filter((value) => value > 0);
    let top = Math.max(chart.y.top || 0, finite.reduce((a, b) => Math.max(a, b), 0)) || 1;
    const bottom = finite.reduce((a, b) => Math.min(a, b), 0);
    if (chart.stacked) {
      const sums = lines[0].values.map((_, row) => lines.reduce((sum, line) => sum + (line.values[row] || 0), 0));
      top = Math.max(1, ...sums);
    }
    if (chart.y.near) {
      const lowest = finite.reduce((a, b) => Math.min(a, b), Infinity);
      const room = 0.12 * (top - lowest) || 0.05 * top || 1;
      return { log: false, least: lowest - room, top, edge: top + 2 * room, most: top + 2 * room, never: false, lane: 0 };
    }
    const least = log ? positive.reduce((a, b) => Math.min(a, b), Infinity) / 1.3 : bottom;
    const never = Boolean(chart.y.never);
    const head = bands.phases.length && chart.x === "time" ? (log ? 2 : bands.faults.length || bands.gaps.length ? 1.2 : 1.1) : log ? 1.3 : 1.06;
    const edge = never ? top * (log ? 1.35 : 1.07) : top * head;
    const most = never ? edge * (log ? 1.9 : 1.14) : edge;
    return { log, least, top, edge, most, never, lane: never ? Math.sqrt(edge * most) : most, whole: chart.y.whole };
  };

  const joined = (chart, y) => {
    const placed = (line) =>
      line.values.map((value) => {
        if (value === NEVER) return line.style === "edge" && !y.never ? y.most : y.lane;
        return y.log && typeof value === "number" && value <= 0 ? y.least : value;
      });
    const tables = chart.tables.map((table) => [table.xs, ...table.series.map(placed)]);
    return tables.length > 1 ? uPlot.join(tables) : tables[0];
  };

  const stacked = (rows) => {
    const sums = rows[0].map(() => 0);
    return [rows[0], ...rows.slice(1).map((row) => row.map((value, i) => (sums[i] += value || 0)))];
  };

  const marked = (line) => ["solid", "solid", "dashed", "dotted", "dashed", "dotted", "dashed"][(line && line.style !== "dots" && line.ink) || 0];

  /* Each step as wide as its window, alone as it may stand: uPlot's own do not draw the last before a gap. Where another
     table of the chart has a point, and this one none, the value is undefined; null is a window without one. */
  const steps = (u, place) => {
    const stroke = new Path2D();
    const values = u.data[place];
    const rows = values.map((_, row) => row).filter((row) => values[row] !== undefined);
    const x = (row) => u.valToPos(u.data[0][row], "x", true);
    let going = false;
    rows.slice(0, -1).forEach((row, i) => {
      if (values[row] !== null) {
        const y = u.valToPos(values[row], "y", true);
        if (going) stroke.lineTo(x(row), y);
        else stroke.moveTo(x(row), y);
        stroke.lineTo(x(rows[i + 1]), y);
      }
      going = values[row] !== null;
    });
    return { stroke, fill: null, clip: null, band: null, gaps: null, flags: 0 };
  };

  const series = (line, chart, y) => {
    const stroke = colour(line);
    const plain = { label: line.label, stroke, width: 1.75, dash: DASHES[line.ink] || [], points: { show: false }, spanGaps: false, pxAlign: 0 };
    plain.value = (u, value, at, row) => {
      if (value === null || value === undefined) return "";
      const own = chart.stacked ? line.values[row] : value;
      if (y.never && own === y.lane) return NEVER;
      return `${number(own)}${line.unit ? ` ${line.unit}` : ""}`;
    };
    plain.class = line.style === "bars" ? `k-bars-${line.ink || 0}` : `k-${line.style}`;
    switch (line.style) {
      case "dots":
        return { ...plain, width: 0, paths: () => null, points: { show: !line.shape, size: line.values.length > 400 ? 3.5 : 5, stroke: "transparent", fill: line.ink ? stroke : faded(stroke, 0.55) } };
      case "bars":
        return { ...plain, width: 0, dash: [], fill: pattern(stroke, line.ink), paths: uPlot.paths.bars({ size: [0.92, 60] }) };
      case "edge":
        return { ...plain, stroke: ink["series-1"], width: 0.6, dash: [] };
      case "dashed":
        return { ...plain, width: 2.25 };
      case "step":
        return { ...plain, paths: steps };
      case "told":
        return { ...plain, stroke: "transparent", paths: () => null, scale: "told" };
      default:
        return plain;
    }
  };

  const xAxis = (chart, xs, small) => {
    if (chart.x === "time") {
      const { factor, label } = bands.axis;
      return {
        label,
        range: bands.ends,
        ticks: (least, most, wanted) => times(least, most, wanted),
        told: (at) => number(at / factor),
        legend: (at) => clock(at),
      };
    }
    if (chart.x === "percentile") {
      const most = Math.max(10, xs[xs.length - 1]);
      return { label: "percentile", range: [1, most], log: true, ticks: () => nines(most), told: percent, legend: percent };
    }
    const most = xs.reduce((a, b) => Math.max(a, b), 1);
    return { label: chart.xlabel || "", range: [0, most * 1.04], ticks: (a, b, n) => nice(a, b, n, false), told: number, legend: number };
  };

  /* Ticks whose words would meet are left out. */
  const apart = (u, ticks) => {
    let last = -Infinity;
    return ticks.filter((at) => {
      const place = u.valToPos(at, "x");
      if (place - last < 34) return false;
      last = place;
      return true;
    });
  };

  const options = (chart, host, small) => {
    const lines = chart.tables.flatMap((table) => table.series);
    const y = heights(chart, lines);
    let rows = joined(chart, y);
    if (chart.stacked) rows = stacked(rows);
    const x = xAxis(chart, rows[0], small);
    const font = `11px ${FAMILY}`;
    const axis = { stroke: ink.muted, font, labelFont: font, labelSize: 18, labelGap: 2, grid: { stroke: ink.line, width: 1 }, ticks: { stroke: ink.line, size: 4, width: 1 } };
    const yTicks = (u, i, least, most) => {
      const wanted = Math.max(2, Math.floor(u.bbox.height / devicePixelRatio / 42));
      const found = (y.log ? decades(Math.max(least, 1e-9), most, wanted * 2) : nice(least, most, wanted, y.whole)).filter((at) => at <= (y.never ? y.top * 1.02 : most));
      return y.never ? [...found, y.lane] : found;
    };
    const edges = lines.map((line, i) => (line.style === "edge" ? i + 1 : 0)).filter(Boolean);
    const opts = {
      width: 300,
      height: small ? 230 : 300,
      padding: [8, 10, 0, 0],
      legend: { live: true, markers: { width: 2, stroke: (u, i) => (i ? colour(lines[i - 1]) : "transparent"), dash: (u, i) => marked(lines[i - 1]) } },
      cursor: { y: false, drag: { x: true, y: false, dist: 8 }, points: { size: 7 }, ...(chart.x === "time" ? { sync: { key: "time", setSeries: false } } : {}) },
      scales: {
        x: { time: false, distr: x.log ? 3 : 1, range: (u, from, to) => (from === null || (from <= rows[0][0] && to >= rows[0][rows[0].length - 1]) ? x.range : [from, to]) },
        y: { distr: y.log ? 3 : 1, range: () => [y.least, y.most] },
        told: { range: () => [0, 1] },
      },
      axes: [
        { ...axis, filter: (u, splits) => splits, label: x.label, size: 28, splits: (u, i, from, to) => apart(u, x.ticks(from, to, Math.max(2, Math.floor(u.bbox.width / devicePixelRatio / 64))).filter((at) => at >= from * 0.999 && at <= to)), values: (u, splits) => splits.map(x.told) },
        { ...axis, filter: (u, splits) => splits, label: chart.y.label, size: 52, splits: yTicks, values: (u, splits) => splits.map((at) => (y.never && at === y.lane ? NEVER : number(at))) },
      ],
      series: [{ label: chart.x === "time" ? "at" : x.label, value: (u, at) => (at === null || at === undefined ? "" : x.legend(at)), class: "k-at" }, ...lines.map((line) => series(line, chart, y))],
      bands: edges.length === 2 ? [{ series: [edges[1], edges[0]], fill: faded(ink["series-1"], 0.14) }] : [],
      hooks: {
        drawClear: [(u) => chart.x === "time" && shaded(u), (u) => chart.stairs && stairs(u, chart.stairs)],
        drawAxes: [(u) => y.never && lane(u, y)],
        draw: [(u) => chart.x === "time" && names(u), (u) => y.never && crosses(u, y, lines), (u) => shapes(u, lines), (u) => chart.uprights && uprights(u, chart.uprights)],
      },
    };
    if (chart.stacked) {
      /* The tallest is drawn first, so that the others stand before it. */
      opts.bands = lines.slice(1).map((_, i) => ({ series: [i + 2, i + 1] }));
    }
    return { opts, rows };
  };

  const width = (host, small) => {
    if ("printing" in document.documentElement.dataset) return small ? PRINTED.small : PRINTED.wide;
    return Math.max(220, Math.floor(host.clientWidth));
  };

  const draw = (chart) => {
    const host = document.getElementById(chart.id);
    if (!host) return;
    const small = host.closest(".chart").classList.contains("small");
    const { opts, rows } = options(chart, host, small);
    opts.width = width(host, small);
    const plot = new uPlot(opts, rows, host);
    plots.push({ plot, chart, host, small });
  };

  const charts = Object.values(data).flatMap((section) => section.charts || []);
  const again = () => {
    ink = palette();
    plots.splice(0).forEach(({ plot }) => plot.destroy());
    charts.forEach(draw);
  };
  charts.forEach(draw);
  document.addEventListener("busyhour:theme", again);
  /* What is written in a picture is drawn in whatever letters there are by then. */
  document.fonts.load(`11px ${FAMILY}`).then((loaded) => loaded.length && again());
  new ResizeObserver(() => {
    for (const { plot, host, small } of plots) {
      const wanted = width(host, small);
      if (wanted !== plot.width) plot.setSize({ width: wanted, height: plot.height });
    }
  }).observe(document.querySelector("main"));
})();
