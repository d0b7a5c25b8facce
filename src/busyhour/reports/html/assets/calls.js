/* The worst calls: one is looked at and listened to at a time. Their pictures are drawn by calls_picture.js. */
(() => {
  "use strict";

  const { CallPicture, octets, clock } = busyhour;
  const LEAD_SECONDS = 2; // heard before the worst moment
  const ZOOM_SECONDS = 12;

  /* A WAV file of what is Ogg Vorbis in the page. Chromium seeks to another place of an Ogg Vorbis file than it says, by
     more than a second; PCM is played from exactly where it is asked to be. */
  const decoded = async ({ audio, rate_hz: rate }) => {
    const sound = await new OfflineAudioContext(2, 1, rate).decodeAudioData(octets(audio).buffer);
    const wave = new DataView(new ArrayBuffer(44 + 4 * sound.length));
    const word = (at, text) => [...text].forEach((letter, index) => wave.setUint8(at + index, letter.charCodeAt(0)));
    word(0, "RIFF");
    wave.setUint32(4, 36 + 4 * sound.length, true);
    word(8, "WAVEfmt ");
    wave.setUint32(16, 16, true);
    wave.setUint16(20, 1, true); // PCM
    wave.setUint16(22, 2, true);
    wave.setUint32(24, rate, true);
    wave.setUint32(28, 4 * rate, true);
    wave.setUint16(32, 4, true);
    wave.setUint16(34, 16, true);
    word(36, "data");
    wave.setUint32(40, 4 * sound.length, true);
    for (let channel = 0; channel < 2; channel += 1) {
      const samples = sound.getChannelData(channel);
      for (let index = 0; index < samples.length; index += 1) {
        const clipped = Math.max(-1, Math.min(1, samples[index]));
        wave.setInt16(44 + 4 * index + 2 * channel, Math.round(clipped * 32767), true);
      }
    }
    return new Blob([wave], { type: "audio/wav" });
  };

  /* ------------------------------------------------------------ one call */

  class Call {
    constructor(article, data) {
      this.article = article;
      this.data = data;
      this.find = (selector) => article.querySelector(selector);
      this.host = this.find(".call-picture");
      this.audio = this.find("audio");
      this.lines = [...article.querySelectorAll(".call-line[data-at]")].map((line) => [Number(line.dataset.at), line]);
      this.picture = null;
      this.at = data.worst ? Math.max(0, data.worst[0] - LEAD_SECONDS) : 0;
    }

    /* Its sound is decoded, and its picture drawn, when it is first looked at. */
    open() {
      this.article.hidden = false;
      if (this.picture) {
        this.picture.fit();
        return;
      }
      this.picture = new CallPicture(this.host, this.data, (seconds) => this.seek(seconds));
      this.legend();
      for (const button of this.article.querySelectorAll("button, select")) button.disabled = false;
      for (const [at, line] of this.lines) line.addEventListener("click", () => this.seek(at));
      this.find(".call-zoom").addEventListener("click", () => this.zoom());
      this.article.addEventListener("keydown", (event) => this.key(event));
      this.find(".call-zoom").hidden = this.data.seconds <= ZOOM_SECONDS;
      this.picture.plot.hooks.setScale.push(() => this.tellZoom());
      if (this.audio) this.load();
      this.moved(this.at);
    }

    load() {
      const { audio } = this;
      for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, () => this.playing());
      audio.addEventListener("error", () => this.mute("This browser could not play the sound."));
      audio.addEventListener("seeked", () => this.moved(audio.currentTime));
      audio.addEventListener("loadedmetadata", () => { audio.currentTime = this.at; }, { once: true });
      this.find(".call-play").addEventListener("click", () => this.toggle());
      this.find(".call-begin").addEventListener("click", () => this.seek(0));
      const worst = this.find(".call-worst");
      worst.hidden = !this.data.worst;
      worst.addEventListener("click", () => {
        this.seek(Math.max(0, this.data.worst[0] - LEAD_SECONDS));
        this.start();
      });
      this.find("select").addEventListener("change", (event) => { audio.playbackRate = Number(event.target.value); });
      decoded(this.data).then(
        (wave) => { audio.src = URL.createObjectURL(wave); },
        () => this.mute("This browser does not decode Ogg Vorbis; Chrome, Edge and Firefox do, and Safari from 18.4 on."),
      );
    }

    mute(why) {
      const told = document.createElement("p");
      told.className = "call-sound";
      told.textContent = why;
      this.find(".call-player").replaceWith(told);
      this.audio = null;
    }

    close() {
      this.audio?.pause();
      this.article.hidden = true;
    }

    start() {
      for (const other of calls.values()) if (other !== this) other.audio?.pause();
      this.audio?.play().catch(() => this.playing()); // refused, or overtaken by a pause
    }

    toggle() {
      if (!this.audio) return;
      if (this.audio.paused) this.start();
      else this.audio.pause();
    }

    seek(seconds) {
      const to = Math.min(Math.max(0, seconds), this.data.seconds);
      if (this.audio) this.audio.currentTime = to;
      this.moved(to);
    }

    playing() {
      const on = Boolean(this.audio) && !this.audio.paused && !this.audio.ended;
      const button = this.find(".call-play");
      if (!button) return;
      button.classList.toggle("call-playing", on);
      button.setAttribute("aria-label", on ? "Pause" : "Play");
      this.find(".call-play-word").textContent = on ? "Pause" : "Play";
      const step = () => {
        if (!this.audio || this.audio.paused) return;
        this.moved(this.audio.currentTime);
        requestAnimationFrame(step);
      };
      if (on) requestAnimationFrame(step);
    }

    moved(seconds) {
      this.at = seconds;
      this.picture.follow(seconds);
      const told = `${clock(seconds + this.data.from, 1)} / ${clock(this.data.seconds + this.data.from, 1)}`;
      const time = this.find(".call-time");
      if (time && time.textContent !== told) time.textContent = told;
      if (this.audio) {
        this.host.setAttribute("aria-valuemin", "0");
        this.host.setAttribute("aria-valuemax", this.data.seconds.toFixed(1));
        this.host.setAttribute("aria-valuenow", seconds.toFixed(1));
        this.host.setAttribute("aria-valuetext", told);
      }
      let current = null;
      for (const [at, line] of this.lines) if (at <= seconds + 0.02) current = line;
      if (current !== this.current) {
        this.current?.removeAttribute("aria-current");
        current?.setAttribute("aria-current", "true");
        this.current = current;
      }
    }

    key(event) {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select")) return;
      if (event.key === " " && event.target !== this.host) return; // a button's own
      const to = {
        ArrowLeft: () => this.seek(this.at - 1),
        ArrowRight: () => this.seek(this.at + 1),
        Home: () => this.seek(0),
        End: () => this.seek(this.data.seconds),
        " ": () => this.toggle(),
      }[event.key];
      if (!to) return;
      event.preventDefault();
      to();
    }

    zoom() {
      const { seconds, worst } = this.data;
      if (this.picture.zoomed) {
        this.picture.zoom(0, seconds);
        return;
      }
      const [from, to] = worst || [this.at, this.at];
      const wide = Math.max(ZOOM_SECONDS, (to - from) * 1.5);
      const begin = Math.min(Math.max(0, (from + to - wide) / 2), Math.max(0, seconds - wide));
      this.picture.zoom(begin, Math.min(seconds, begin + wide));
    }

    tellZoom() {
      const button = this.find(".call-zoom");
      if (!button) return;
      button.textContent = this.picture.zoomed ? "Whole call" : "Zoom in";
      button.setAttribute("aria-pressed", String(this.picture.zoomed));
    }

    legend() {
      const spans = (kind, test = () => true) => this.data.spans.some((span) => span[0] === kind && test(span));
      const ticks = (kind) => this.data.ticks.some((tick) => tick[0] === kind);
      const worst = this.data.spans.some((span) => span[5] === 2);
      const entries = [
        ["worst", "the worst moment", worst],
        ["gap", "from the caller's end to the answer, in ms above", spans("response", (span) => !span[5]) || spans("greeting", (span) => !span[5])],
        ["pause", "silence within an answer", spans("pause", (span) => !span[5])],
        ["early", "the agent cuts in", spans("early")],
        ["barge", "talked over until it yields", spans("barge_in")],
        ["hole", "hole in the agent's speech (underrun)", spans("underrun")],
        ["clear", "clear: the agent takes back what is not yet played", ticks("clear")],
        ["mark", "mark: the agent is told that its audio was played", ticks("mark")],
        ["fault", "fault injected", spans("fault")],
      ];
      this.find(".call-legend").append(
        ...entries.filter(([, , there]) => there).map(([name, words]) => {
          const entry = document.createElement("li");
          const swatch = document.createElement("span");
          swatch.className = `call-swatch call-swatch-${name}`;
          entry.append(swatch, words);
          return entry;
        }),
      );
    }
  }

  /* ------------------------------------------------------------ all of them */

  const calls = new Map();
  let shown = null;

  const show = (number, { jump = false } = {}) => {
    const call = calls.get(number);
    if (!call) return;
    for (const other of calls.values()) if (other !== call) other.close();
    call.open();
    shown = number;
    for (const link of document.querySelectorAll(".calls-list a")) {
      if (Number(link.dataset.call) === number) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (jump) call.article.scrollIntoView({ block: "start" });
  };

  const named = () => Number(/^#call-(\d+)$/.exec(location.hash)?.[1] ?? 0);

  const print = (on) => {
    if (CallPicture.printing === on) return;
    CallPicture.printing = on;
    for (const call of calls.values()) {
      if (on) call.open();
      else if (call.data.number !== shown) call.close();
    }
    for (const call of calls.values()) call.picture?.resize();
  };

  const begin = () => {
    const data = busyhour.data.calls?.calls;
    if (!data) return;
    for (const one of data) {
      const article = document.getElementById(`call-${one.number}`);
      if (article) calls.set(one.number, new Call(article, one));
    }
    if (!calls.size) return;
    show(calls.has(named()) ? named() : data[0].number, { jump: calls.has(named()) });
    addEventListener("hashchange", () => show(named(), { jump: true }));
    for (const link of document.querySelectorAll('a[href^="#call-"]')) {
      // To the one that the address names already, nothing would be told otherwise.
      link.addEventListener("click", () => { if (link.hash === location.hash) show(named(), { jump: true }); });
    }
    document.addEventListener("busyhour:theme", () => { for (const call of calls.values()) call.picture?.plot.redraw(false); });
    addEventListener("beforeprint", () => print(true));
    addEventListener("afterprint", () => print(false));
    matchMedia("print").addEventListener("change", (event) => print(event.matches));
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
