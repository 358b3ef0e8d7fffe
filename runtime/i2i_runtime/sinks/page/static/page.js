// The live page: reads messages from /live, draws the newest picture in the view that is chosen, sends what is pressed.

const SILENT_FOR = 4000; // ms without a word from the server after which the connection is given up
const RETRY_AFTER = [500, 1000, 2000, 4000]; // ms; the last one from then on
const SEND_EVERY = 100; // ms between two positions of the divider
const BLOCK = 16; // as in picture.py: the result begins at a multiple of it
const KEYS = {
  v: ["view", "next"], "[": ["position", "less"], "]": ["position", "more"], m: ["mirror"], f: ["freeze"],
  r: ["record"], s: ["snapshot"], e: ["next-engine"], n: ["style", "next"],
};

const $ = (id) => document.getElementById(id);
const stage = $("stage"), divider = $("divider"), canvas = $("picture");
const context = canvas.getContext("2d", { alpha: false });

let shown = null; // { bitmap, count, width, height }: the picture on the canvas
let waiting = null; // bytes of the newest picture that is not decoded yet
let view = "result", position = 0.5;
let mine = 0; // until when the position is what this person made it, not what the server reports
let drawing = false;

// -- drawing -------------------------------------------------------------------------------------------------------

function draw() {
  drawing = false;
  if (!shown) return;
  const { bitmap, count, width, height } = shown;
  const chosen = count === 2 ? view : "single";
  const across = chosen === "side-by-side" ? 2 * width : width;
  if (canvas.width !== across || canvas.height !== height) {
    canvas.width = across;
    canvas.height = height;
    document.documentElement.style.setProperty("--ratio", across / height);
  }
  const after = Math.ceil(width / BLOCK) * BLOCK;
  const put = (from, x, w, at) => w > 0 && context.drawImage(bitmap, from + x, 0, w, height, at + x, 0, w, height);
  const edge = Math.round(position * width);
  if (chosen === "single" || chosen === "input") put(0, 0, width, 0);
  if (chosen === "result" || chosen === "blend") put(after, 0, width, 0);
  if (chosen === "side-by-side") { put(0, 0, width, 0); put(after, 0, width, width); }
  if (chosen === "wipe") { put(0, 0, edge, 0); put(after, edge, width - edge, 0); }
  if (chosen === "blend") {
    context.globalAlpha = position;
    put(0, 0, width, 0);
    context.globalAlpha = 1;
  }
  // By WebRTC the server draws the view; its divider can be moved all the same.
  const drawn = peer ? view : chosen;
  const slides = drawn === "wipe" || drawn === "blend";
  stage.classList.toggle("slides", slides);
  divider.hidden = !slides;
  divider.classList.toggle("is-blend", drawn === "blend");
  divider.style.left = `${100 * position}%`;
  divider.setAttribute("aria-valuenow", Math.round(100 * position));
  divider.setAttribute("aria-valuetext", drawn === "blend"
    ? `${Math.round(100 * position)} % input` : `input up to ${Math.round(100 * position)} % of the width`);
  // More of the input is to the right in a blend, to the left of the edge in a wipe.
  set("tag-before", drawn === "blend" ? "result" : "input");
  set("tag-after", drawn === "blend" ? "input" : "result");
  $("tag-before").hidden = $("tag-after").hidden = !(slides || drawn === "side-by-side");
}

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

let decoding = false;
async function decode() {
  if (decoding) return;
  decoding = true;
  while (waiting) {
    const bytes = waiting;
    waiting = null;
    const header = new DataView(bytes.buffer, bytes.byteOffset);
    const [count, width, height] = [header.getUint8(0), header.getUint16(1), header.getUint16(3)];
    try {
      const bitmap = await createImageBitmap(new Blob([bytes.subarray(9)], { type: "image/jpeg" }));
      if (peer) { bitmap.close(); continue; }
      shown?.bitmap.close?.();
      shown = { bitmap, count, width, height };
      redraw();
    } catch { /* one damaged picture; the next one comes at once */ }
  }
  decoding = false;
}

// -- the connection ------------------------------------------------------------------------------------------------

class Messages {
  // Cuts a stream of bytes into messages: a kind, a length of four bytes, the content.
  constructor() { this.parts = []; this.size = 0; }
  add(bytes) { this.parts.push(bytes); this.size += bytes.length; }
  take(count) {
    const taken = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const part = this.parts[0], piece = part.subarray(0, count - filled);
      taken.set(piece, filled);
      filled += piece.length;
      if (piece.length === part.length) this.parts.shift(); else this.parts[0] = part.subarray(piece.length);
    }
    this.size -= count;
    return taken;
  }
  *next() {
    for (;;) {
      if (!this.head && this.size >= 5) {
        const head = this.take(5);
        this.head = { kind: String.fromCharCode(head[0]), length: new DataView(head.buffer).getUint32(1) };
      }
      if (!this.head || this.size < this.head.length) return;
      const { kind, length } = this.head;
      this.head = null;
      yield [kind, this.take(length)];
    }
  }
}

let wasLetIn = false;
let connection = null; // what ends the request that is open
async function follow() {
  const ending = (connection = new AbortController());
  let heard = performance.now();
  const watch = setInterval(() => performance.now() - heard > SILENT_FOR && ending.abort(), 500);
  try {
    const response = await fetch(peer ? "figures" : "live", { signal: ending.signal, cache: "no-store" });
    if (!response.ok) {
      return { 401: wasLetIn ? "The run was started again with a new token: open the address that i2i-run printed now"
        : "Add ?token=… to the address: the token that i2i-run printed or was started with",
        503: "As many viewers as allowed; trying again …" }[response.status] ?? `Refused (${response.status}); trying again …`;
    }
    wasLetIn = true;
    const reader = response.body.getReader(), messages = new Messages();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      heard = performance.now();
      messages.add(value);
      for (const [kind, content] of messages.next()) {
        if (kind === "P") { waiting = content; decode(); }
        if (kind === "S") report(JSON.parse(new TextDecoder().decode(content)));
      }
    }
  } catch { /* told below */ } finally {
    clearInterval(watch);
    connection = null;
  }
  return "Connection lost, retrying …";
}

let peer = null; // the WebRTC connection that the picture comes by, if it does
let changing = false; // whether the request was ended to ask for something else

async function startVideo() {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  const calling = new RTCPeerConnection();
  try {
    calling.addTransceiver("video", { direction: "recvonly" });
    calling.addEventListener("track", (event) => {
      video.srcObject = new MediaStream([event.track]);
      video.play();
    });
    await calling.setLocalDescription();
    await new Promise((resolve) => {
      // Nothing but this machine's own addresses is looked for: that is quick, or it is not to be had.
      calling.addEventListener("icegatheringstatechange", () => calling.iceGatheringState === "complete" && resolve());
      setTimeout(resolve, 2000);
    });
    const response = await fetch("offer", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ sdp: calling.localDescription.sdp }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    await calling.setRemoteDescription(answer);
    await new Promise((resolve, reject) => {
      video.addEventListener("loadeddata", resolve, { once: true });
      setTimeout(() => reject(new Error("WebRTC: no video came; is a firewall in between?")), 8000);
    });
  } catch (error) {
    calling.close();
    say(error.message, true);
    return;
  }
  peer = calling;
  calling.addEventListener("connectionstatechange", () => {
    if (peer === calling && ["failed", "disconnected", "closed"].includes(calling.connectionState)) stopVideo();
  });
  const next = () => {
    if (peer !== calling) return;
    shown?.bitmap.close?.();
    shown = { bitmap: video, count: 1, width: video.videoWidth, height: video.videoHeight };
    redraw();
    video.requestVideoFrameCallback(next);
  };
  next();
  reconnect();
}

function stopVideo() {
  peer?.close();
  peer = null;
  reconnect();
}

function reconnect() {
  $("webrtc").setAttribute("aria-pressed", peer !== null);
  changing = connection !== null;
  connection?.abort();
}

let failures = 0;
async function stayConnected() {
  for (;;) {
    if (document.hidden) {
      // Nobody looks: leave the line to others.
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      continue;
    }
    const problem = await follow();
    if (document.hidden || changing) {
      changing = false;
      continue;
    }
    offline(problem);
    await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER[Math.min(failures++, RETRY_AFTER.length - 1)]));
  }
}
document.addEventListener("visibilitychange", () => document.hidden && connection?.abort());

function offline(problem) {
  $("offline").hidden = false;
  $("offline-text").textContent = problem;
  $("state").textContent = "offline";
  $("state").className = "pill alert";
}

// -- figures and states --------------------------------------------------------------------------------------------

const set = (id, text) => { if ($(id).textContent !== String(text)) $(id).textContent = text; };
const whole = (number) => Math.round(number).toLocaleString("en");
const ms = (number) => (number < 9.95 ? number.toFixed(1) : Math.round(number));
const isWell = (state) => ["live", "opening", "ended"].includes(state);

function list(id, sources, item) {
  const text = JSON.stringify(sources);
  if ($(id).dataset.is === text) return; // what does not change is not read out again
  $(id).dataset.is = text;
  $(id).replaceChildren(...sources.map((source) => {
    const line = document.createElement("li");
    line.append(...item(source).map(([tag, className, content]) => {
      const part = document.createElement(tag);
      part.className = className;
      part.textContent = content;
      return part;
    }));
    return line;
  }));
}

function report({ name, status, controls, page, webrtc }) {
  failures = 0;
  $("offline").hidden = true;
  set("name", name);
  document.title = `${name} – i2i`;
  set("fps", status.fps.toFixed(1));
  set("latency", `${ms(status.latency_ms.p50)} / ${ms(status.latency_ms.p99)}`);
  set("translate", `${ms(status.translate_ms.p50)} / ${ms(status.translate_ms.p99)}`);
  set("results", whole(status.translated + status.reused));
  for (const id of ["dropped", "skipped", "reused", "failed"]) set(id, whole(status[id]));
  set("viewers", page.clients);
  set("engine", controls.engine || "–");
  set("provider", status.provider || "–");

  const troubled = status.sources.filter((source) => !isWell(source.state));
  list("troubles", troubled, ({ name: source, state, message }) =>
    [["span", "", `${source}: ${state} `], ["small", "", message ?? ""]]);
  list("sources", status.sources, ({ name: source, state, reconnects }) =>
    [["span", "", source], ["span", isWell(state) ? "good" : "bad", reconnects ? `${state} · ${reconnects}×` : state]]);
  const state = troubled[0]?.state ?? (controls.frozen ? "frozen" : status.sources[0]?.state ?? "live");
  set("state", state);
  $("state").className = `pill ${troubled.length ? "alert" : state === "live" ? "good" : ""}`;

  view = controls.view;
  if (performance.now() > mine) position = controls.position;
  for (const button of document.querySelectorAll("[data-view]"))
    button.setAttribute("aria-pressed", button.dataset.view === view);
  const press = (action, on) => document.querySelector(`[data-action=${action}]`).setAttribute("aria-pressed", on);
  press("mirror", controls.mirror);
  press("freeze", controls.frozen);
  press("record", controls.recording !== null);
  $("recording").hidden = controls.recording === null;
  $("recording").title = controls.recording ?? "";
  for (const button of document.querySelectorAll("[data-action]")) {
    const { action } = button.dataset;
    button.hidden = !controls.actions.includes(action) || (action === "next-engine" && controls.engines.length < 2);
  }
  $("webrtc").hidden = !webrtc || !window.RTCPeerConnection;
  const styles = controls.styles > 1 && controls.actions.includes("style");
  $("style-choice").hidden = !styles;
  if (styles && $("style").length !== controls.styles)
    $("style").replaceChildren(...Array.from({ length: controls.styles }, (_, number) => new Option(number, number)));
  if (styles && document.activeElement !== $("style")) $("style").value = controls.style ?? 0;
  if (controls.message !== said) {
    said = controls.message;
    say(said);
  }
  redraw();
}

let said = "";
function say(text, isBad = false) {
  set("message", text);
  $("message").classList.toggle("bad", isBad);
}

// -- actions -------------------------------------------------------------------------------------------------------

async function send(action, value = null) {
  try {
    const response = await fetch("control", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ action, value }),
    });
    const answer = await response.json();
    if (response.ok) report(answer); else say(answer.error, true);
  } catch {
    say(`${action}: the server does not answer`, true);
  }
}

let sending = false, unsent = false;
async function sendPosition() {
  unsent = true;
  if (sending) return;
  sending = true;
  while (unsent) {
    unsent = false;
    await Promise.all([send("position", position.toFixed(4)), new Promise((resolve) => setTimeout(resolve, SEND_EVERY))]);
  }
  sending = false;
}

function slide(to) {
  position = Math.min(1, Math.max(0, to));
  mine = performance.now() + 1000;
  redraw();
  sendPosition();
}

function drag(event) {
  const { left, width } = canvas.getBoundingClientRect();
  slide((event.clientX - left) / width);
}
stage.addEventListener("pointerdown", (event) => {
  if (divider.hidden || event.button !== 0) return;
  event.preventDefault();
  divider.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  drag(event);
});
stage.addEventListener("pointermove", (event) => stage.hasPointerCapture(event.pointerId) && drag(event));
divider.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.1 : 0.02;
  const to = { ArrowLeft: position - step, ArrowDown: position - step, ArrowRight: position + step,
    ArrowUp: position + step, PageDown: position - 0.1, PageUp: position + 0.1, Home: 0, End: 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  slide(to);
});

for (const button of document.querySelectorAll("[data-view]"))
  button.addEventListener("click", () => send("view", button.dataset.view));
for (const button of document.querySelectorAll("[data-action]"))
  button.addEventListener("click", () => send(button.dataset.action));
$("style").addEventListener("change", (event) => send("style", event.target.value));
$("webrtc").addEventListener("click", () => (peer ? stopVideo() : startVideo()));
$("full-screen").hidden = !document.fullscreenEnabled;
$("full-screen").addEventListener("click", () => stage.requestFullscreen());
document.addEventListener("keydown", (event) => {
  const key = KEYS[event.key];
  // A key that is held down moves the divider, and does nothing else twice.
  if (event.repeat && key?.[0] !== "position") return;
  if (!key || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select, input")) return;
  const button = document.querySelector(`[data-action=${key[0]}]`);
  if (!button || !button.hidden) send(...key);
});

// The token is in the cookie now: keep it out of the history, of bookmarks and of pictures of the screen.
if (location.search) history.replaceState(null, "", location.pathname);
stayConnected();
