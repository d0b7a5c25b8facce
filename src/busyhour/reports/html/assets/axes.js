/* What is written beside the axes of charts, and where their ticks are. */
"use strict";
(() => {
  const number = (value) => {
    if (value === 0) return "0";
    const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
    return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(6, digits) });
  };
  const clock = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    const pad = (n) => String(n).padStart(2, "0");
    const rest = `${pad(Math.floor((whole % 3600) / 60))}:${pad(whole % 60)}`;
    return whole < 3600 ? `${Math.floor(whole / 60)}:${pad(whole % 60)}` : `${Math.floor(whole / 3600)}:${rest}`;
  };
  const percent = (x) => (x <= 1 ? "p0" : named(x));
  const named = (x) => `p${Number((100 - 100 / x).toPrecision(Math.max(2, Math.ceil(Math.log10(x)) + 2)))}`;

  const nice = (least, most, wanted, whole) => {
    const rough = (most - least) / Math.max(1, wanted) || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
    if (whole) step = Math.max(1, step);
    const found = [];
    for (let at = Math.ceil(least / step - 1e-9) * step; at <= most + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
    return found;
  };
  const decades = (least, most, wanted) => {
    const found = [];
    const each = Math.log10(most / least) * 3 <= wanted ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power += 1) {
      for (const n of each) {
        const at = n * 10 ** power;
        if (at >= least * 0.999 && at <= most * 1.001) found.push(Number(at.toPrecision(6)));
      }
    }
    return found;
  };
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const times = (least, most, wanted) => {
    const step = TIMES.find((one) => (most - least) / one <= wanted) || Math.ceil((most - least) / wanted / 86400) * 86400;
    const found = [];
    for (let at = Math.ceil(least / step) * step; at <= most; at += step) found.push(at);
    return found;
  };
  const nines = (most) => {
    const found = [1, 2, 4, 10, 20];
    for (let at = 100; at <= most * 1.001; at *= 10) found.push(at);
    return found.filter((at) => at <= most * 1.001);
  };

  window.busyhour.axes = { number, clock, percent, nice, decades, times, nines };
})();
