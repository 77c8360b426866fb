// The live page: a portrait, a driving face, and what the network makes of them. No framework, no build step.

import {count, showFigures, streamParts} from './figures.js';
import {notice, state} from './notices.js';

const FRAME = 1, SHOWN = 2, RESULT = 3;
const HEAD_OUT = 16, HEAD_IN = 40;
const LONGEST_SIDE = 480;      // of the driving picture that is sent, pixels
const MOST_ON_THE_WAY = 4;     // frames without an answer; more would wait in the network
const RTC_PATIENCE_MS = 6000;
const STALL_MS = 4000;
const $ = id => document.getElementById(id);
const query = new URLSearchParams(location.search);

const result = $('result'), paint = result.getContext('2d');
const video = $('driving');
const grab = document.createElement('canvas'), pen = grab.getContext('2d', {alpha: false});

let socket = null, hello = null, settings = {}, sent = 0, answered = 0, retry = 0, over = false;
let portrait = {example: null, file: null};
let wished = 0, ready = false; // portraits asked for; whether this session has one, before which it drives nothing
let driving = null;            // 'camera', 'clip' or 'file'
let chosen = 0;                // times that something was chosen to drive
let stream = null, peer = null, way = '', remote = null, outgoing = null, streamed = 0;
let recording = false, awaited = 0, lastResult = 0, lastAnswer = 0, encoding = false;
let captures = new Map(), dropped = 0, rtcParts = {capture: 0, network: 0}, drawn = 0;

// ---- the connection --------------------------------------------------------------------------------------------

function connect() {
  over = false;
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/session`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = event => typeof event.data === 'string' ? told(JSON.parse(event.data)) : shown(event.data);
  socket.onclose = lost;
}

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

async function lost() {
  hangUp();
  hello = null;
  ready = false;
  wished += 1; // what is on its way belongs to the session that has ended
  for (const about of ['face', 'stall']) notice(about, '');
  $('record').disabled = true;
  if (recording) notice('record', 'the recording was lost with the connection', 15);
  setRecording(false);
  if (over) return;
  const wait = Math.min(15, 1 << Math.min(retry++, 4));
  state(`the connection was lost; trying again in ${wait} s`);
  setTimeout(connect, 1000 * wait);
  const status = await fetch('/live.js', {method: 'HEAD', cache: 'no-store'}).then(answer => answer.status, () => 0);
  if (status === 401) state('the server wants another token: open the address that it printed');
}

function again(seconds, sentence) {
  over = true;
  const until = Date.now() + 1000 * seconds;
  const timer = setInterval(() => {
    const left = Math.ceil((until - Date.now()) / 1000);
    state(left > 0 ? `waiting for a place: ${left} s` : 'connecting …');
    if (left <= 0) { clearInterval(timer); notice('refused', ''); connect(); }
  }, 250);
  notice('refused', sentence);
}

const hear = {
  hello(message) {
    hello = message;
    ready = false;
    retry = sent = answered = dropped = 0;
    captures.clear();
    $('neutral').checked = false;
    $('notes').textContent = message.notes.join(' ');
    state(`connected${message.can.watermark ? ', pictures carry an invisible watermark' : ', without a watermark'}`);
    result.style.setProperty('--largest', `${Math.max(560, 1.5 * message.side_px)}px`);
    showControls();
    showExamples();
    choosePortrait(portrait.file || portrait.example ? portrait : {example: message.examples[0], file: null});
    if (!chosen) drive('clip'); else callUp();
    setWay('websocket');
    $('record').disabled = false;
  },
  portrait(message) {
    if (!ready) lastAnswer = lastResult = performance.now();
    ready = true;
    $('crop').src = message.crop;
    $('crop').hidden = false;
    $('drop-hint').hidden = true;
    notice('portrait', message.sentence, 12);
  },
  notice: message => notice(message.about, message.sentence, message.about === 'face' ? 0 : 8),
  neutral(message) { $('neutral').checked = message.on; },
  recording: message => setRecording(message.on),
  recorded(message) {
    const link = $('recorded');
    link.href = message.address;
    link.textContent = `Save ${message.seconds.toFixed(1)} s, ${Math.ceil(message.bytes / 1024)} KB`;
    link.hidden = false;
  },
  refused: message => again(message.retry_s, message.sentence),
  end(message) { over = true; state(message.sentence); notice('end', message.sentence); offerRestart(); },
  answer: message => answer(message),
  rtc(message) { if (message.state === 'failed') hangUp(); },
};
function told(message) { hear[message.is]?.(message); }

function offerRestart() {
  const restart = () => { notice('end', ''); removeEventListener('pointerdown', restart); connect(); };
  addEventListener('pointerdown', restart);
}

// ---- results ---------------------------------------------------------------------------------------------------

function readHead(data) {
  const view = new DataView(data);
  const part = i => view.getFloat32(16 + 4 * i, true);
  return {
    kind: view.getUint8(0), view: Boolean(view.getUint8(1) & 2), number: view.getUint32(4, true),
    clock: view.getFloat64(8, true), queue: part(0) + part(4), compute: part(1) + part(2), encode: part(3),
    server: part(0) + part(1) + part(2) + part(3) + part(4), dropped: view.getUint32(36, true),
  };
}

async function shown(data) {
  const head = readHead(data);
  if (head.kind !== RESULT) return;
  dropped = head.dropped;
  try {
    const picture = await createImageBitmap(new Blob([new Uint8Array(data, HEAD_IN)], {type: 'image/jpeg'}));
    draw(picture, picture.width);
    picture.close();
  } catch { return; } finally { acknowledge(head.number); }
  if (head.view || !head.clock) return;
  answered = Math.max(answered, head.number);
  lastAnswer = performance.now();
  const total = performance.now() - head.clock, capture = captures.get(head.number) ?? 0;
  for (const number of captures.keys()) if (number <= head.number) captures.delete(number);
  count({...head, total, capture, network: Math.max(0, total - capture - head.server)});
}

function acknowledge(number) {
  const view = new DataView(new ArrayBuffer(HEAD_OUT));
  view.setUint8(0, SHOWN);
  view.setUint32(4, number, true);
  if (socket?.readyState === WebSocket.OPEN) socket.send(view.buffer);
}

function draw(picture, side) {
  if (result.width !== side) result.width = result.height = side;
  paint.drawImage(picture, 0, 0, side, side);
  lastResult = performance.now();
  notice('stall', '');
  document.body.dataset.results = ++drawn;
}

// ---- twice a second ----------------------------------------------------------------------------------------------

setInterval(() => {
  showFigures(dropped, way);
  const asked = ready && driving && awaited;
  if (asked && performance.now() - Math.max(lastResult, awaited) > STALL_MS)
    notice('stall', 'nothing comes back: the network or the server stalls; it goes on by itself when it can');
  if (way === 'webrtc' && peer) streamParts(peer).then(parts => { rtcParts = parts; });
}, 500);
setInterval(() => say({do: 'here'}), 10000);

// ---- the portrait ----------------------------------------------------------------------------------------------

function showExamples() {
  $('examples').replaceChildren(...hello.examples.map(name => {
    const button = document.createElement('button'), image = document.createElement('img');
    image.src = `/examples/${name}.jpg`;
    image.alt = name.replace('-', ' ');
    button.type = 'button';
    button.dataset.name = name;
    button.append(image);
    button.onclick = () => choosePortrait({example: name, file: null});
    return button;
  }));
}

async function choosePortrait(choice) {
  const {file} = choice;
  for (const about of ['portrait', 'choice']) notice(about, '');
  if (choice.example) {
    wished += 1;
    keepPortrait(choice);
    return say({do: 'example', name: choice.example});
  }
  if (/^(video|audio|text)\//.test(file.type)) return noPortrait(`${file.name} is no picture; choose a JPEG or a PNG`);
  if (file.size > hello.most_bytes)
    return noPortrait(`${file.name} is larger than ${hello.most_bytes >> 20} MB; make it smaller`);
  const mine = ++wished;
  try {
    const response = await fetch(`/portrait?session=${hello.session}`,
      {method: 'POST', body: file, headers: {'content-type': file.type || 'application/octet-stream'}});
    const told = await response.json();
    if (mine !== wished) return; // the server shows what was asked for last
    if (!response.ok) return noPortrait(told.sentence ?? `the server refused it (${response.status}); try another file`);
    keepPortrait(choice);
    hear.portrait(told);
  } catch {
    if (mine === wished) noPortrait('the portrait did not reach the server; try again');
  }
}

function noPortrait(sentence) {
  notice('choice', sentence, 12);
  if (!ready && hello) say({do: 'example', name: hello.examples[0]}); // after a reconnection: something must be there
}

// Asked for again when the connection comes back.
function keepPortrait(choice) {
  portrait = choice;
  for (const button of $('examples').children) button.setAttribute('aria-pressed', button.dataset.name === choice.example);
}

$('portrait-file').onchange = event => {
  const [file] = event.target.files;
  if (file && hello) choosePortrait({example: null, file});
  event.target.value = '';
};
const drop = $('drop');
for (const kind of ['dragover', 'dragleave', 'drop']) addEventListener(kind, event => {
  event.preventDefault();
  drop.classList.toggle('over', kind === 'dragover');
  const [file] = kind === 'drop' ? event.dataTransfer.files : [];
  if (!file) return;
  if (!hello) return notice('choice', 'there is no connection now; drop it again in a moment', 8);
  if (file.type.startsWith('video/')) driveFile(file); else choosePortrait({example: null, file});
});

// ---- the driving face ------------------------------------------------------------------------------------------

const CAMERA_SAYS = {
  NotAllowedError: 'the camera was refused; allow it in the address bar, or take the example or a file',
  NotFoundError: 'no camera was found; take the example or a file',
  NotReadableError: 'the camera is in use by another program; close that, or take the example or a file',
};

async function drive(kind, address = '') {
  const mine = ++chosen;
  stopDriving();
  notice('driving', '');
  if (kind === 'camera') {
    if (!navigator.mediaDevices?.getUserMedia)
      return notice('driving', 'browsers give the camera to https and localhost only; take a file, or open a tunnel', 15);
    try {
      const wanted = {width: {ideal: 640}, height: {ideal: 480}, frameRate: {ideal: 30}, facingMode: 'user'};
      const camera = await navigator.mediaDevices.getUserMedia({video: wanted, audio: false});
      if (mine !== chosen) return camera.getTracks().forEach(track => track.stop()); // something else was chosen since
      stream = camera;
    } catch (error) {
      if (mine === chosen) notice('driving', CAMERA_SAYS[error.name] ?? `the camera failed (${error.name}); take the example or a file`, 15);
      return;
    }
    stream.getVideoTracks()[0].onended = () => {
      notice('driving', 'the camera has gone; the last pose is held', 15);
      stopDriving();
    };
    video.srcObject = stream;
  } else {
    video.src = kind === 'clip' ? '/examples/driving.mp4' : address;
  }
  driving = kind;
  for (const id of ['camera', 'clip']) $(id).classList.toggle('on', id === kind);
  $('driving-file').parentElement.classList.toggle('on', kind === 'file');
  $('driving-tile').classList.toggle('mirrored', kind === 'camera');
  try { await video.play(); } catch { /* said by onerror, or a newer choice has come */ }
}

function stopDriving() {
  driving = null;
  awaited = 0;
  for (const part of [$('driving-tile'), $('camera'), $('clip'), $('driving-file').parentElement]) part.classList.remove('on');
  stream?.getTracks().forEach(track => { track.onended = null; track.stop(); });
  stream = null;
  video.srcObject = null;
  if (video.src.startsWith('blob:')) URL.revokeObjectURL(video.src);
  video.removeAttribute('src');
}

function driveFile(file) { drive('file', URL.createObjectURL(file)); }

video.onloadeddata = () => {
  if (!video.videoWidth) return video.onerror();
  $('driving-tile').classList.add('on');
  awaited = performance.now();
  callUp();
};
video.onloadedmetadata = () => { if (!video.videoWidth) video.onerror(); };
video.onerror = () => {
  if (!video.src) return;
  const sound = video.readyState >= 1 && !video.videoWidth;
  stopDriving();
  notice('driving', sound ? 'this file holds only sound; choose one with a picture'
    : 'this browser cannot play that file; choose an mp4 (H.264) or a webm', 15);
};

$('camera').onclick = () => drive('camera');
$('clip').onclick = () => drive('clip');
$('driving-file').onchange = event => {
  const [file] = event.target.files;
  if (file) driveFile(file);
  event.target.value = '';
};

// Take the picture that plays now, mirrored for a camera, so that portrait and user move to the same side.
function take() {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const width = Math.round(video.videoWidth * scale), height = Math.round(video.videoHeight * scale);
  if (grab.width !== width || grab.height !== height) [grab.width, grab.height] = [width, height];
  const mirrored = driving === 'camera';
  pen.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  pen.drawImage(video, 0, 0, width, height);
}

let due = 0;
function frame() {
  follow();
  const now = performance.now();
  if (!ready || !driving || !video.videoWidth || now < due - 4) return;
  due = Math.max(due + 1000 / hello.most_fps, now);
  if (way === 'webrtc') {
    // Pictures of a stream are encoded and decoded one by one: none is sent that nobody will look at.
    if (streamed >= 2 && now - lastResult < 250) return;
    streamed += 1;
    take();
    return outgoing.requestFrame();
  }
  if (sent - answered >= MOST_ON_THE_WAY) {
    if (now - lastAnswer < STALL_MS) return;
    [answered, lastAnswer] = [sent, now]; // they are lost: a few more may try
  }
  if (encoding || socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > 0) return;
  take();
  encoding = true;
  const line = socket;
  grab.toBlob(async blob => {
    encoding = false;
    const jpeg = await blob?.arrayBuffer();
    if (!jpeg || line !== socket || line.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(HEAD_OUT + jpeg.byteLength), view = new DataView(message.buffer), number = ++sent;
    view.setUint8(0, FRAME);
    view.setUint32(4, number, true);
    view.setFloat64(8, now, true);
    message.set(new Uint8Array(jpeg), HEAD_OUT);
    captures.set(number, performance.now() - now);
    line.send(message);
  }, 'image/jpeg', 0.85);
}
// A hidden page gets no frames from the video; a timer keeps a slow pace going.
let pending = 0, called = 0;
function follow() {
  clearTimeout(pending);
  pending = setTimeout(frame, 250);
  const byVideo = Boolean(video.requestVideoFrameCallback);
  if (byVideo) video.cancelVideoFrameCallback(called); else cancelAnimationFrame(called);
  called = byVideo ? video.requestVideoFrameCallback(frame) : requestAnimationFrame(frame);
}
follow();

// ---- WebRTC ----------------------------------------------------------------------------------------------------

function setWay(name) {
  way = name;
  $('way').textContent = {webrtc: 'WebRTC', websocket: 'WebSocket'}[name] ?? '';
}

async function callUp() {
  if (peer || !hello || !driving || query.get('transport') === 'websocket') return;
  if (!window.RTCPeerConnection || !grab.captureStream) return;
  take();
  const mine = peer = new RTCPeerConnection({iceServers: []});
  const patience = setTimeout(() => { if (way !== 'webrtc' && peer === mine) hangUp(true); }, RTC_PATIENCE_MS);
  mine.onconnectionstatechange = () => {
    if (['failed', 'disconnected'].includes(mine.connectionState) && peer === mine) hangUp(true);
  };
  mine.ontrack = event => showRemote(mine, event.track, patience);
  const numbers = mine.createDataChannel('numbers', {ordered: false, maxRetransmits: 0});
  numbers.binaryType = 'arraybuffer';
  numbers.onmessage = event => numbersCame(readHead(event.data));
  [outgoing] = grab.captureStream(0).getVideoTracks();
  mine.addTrack(outgoing);
  await mine.setLocalDescription();
  if (mine.iceGatheringState !== 'complete') await new Promise(done => {
    mine.onicegatheringstatechange = () => mine.iceGatheringState === 'complete' && done();
    setTimeout(done, 1500);
  });
  if (peer === mine) say({do: 'offer', sdp: mine.localDescription.sdp});
}

async function answer(message) {
  if (!message.sdp) { notice('transport', message.sentence, 8); return hangUp(); }
  try { await peer?.setRemoteDescription({type: 'answer', sdp: message.sdp}); } catch { hangUp(true); }
}

function showRemote(mine, track, patience) {
  remote = document.createElement('video');
  remote.muted = remote.playsInline = true;
  remote.srcObject = new MediaStream([track]);
  remote.play().catch(() => {});
  const element = remote;
  const next = () => {
    if (peer !== mine || remote !== element) return;
    if (way !== 'webrtc') { clearTimeout(patience); setWay('webrtc'); }
    draw(element, element.videoWidth || hello.side_px);
    element.requestVideoFrameCallback(next);
  };
  if (element.requestVideoFrameCallback) element.requestVideoFrameCallback(next); else hangUp(true);
}

function numbersCame(head) {
  dropped = head.dropped;
  streamed = 0;
  if (way !== 'webrtc' || head.view) return;
  const {capture, network} = rtcParts;
  count({...head, capture, network, total: capture + network + head.server});
}

function hangUp(told = false) {
  if (!peer) return;
  peer.close();
  peer = remote = null;
  sent = answered = 0;
  captures.clear();
  setWay(hello ? 'websocket' : '');
  if (!told) return;
  say({do: 'websocket'});
  notice('transport', 'WebRTC did not come about; pictures go over a WebSocket', 8);
  query.set('transport', 'websocket');
}

// ---- sliders, recording ----------------------------------------------------------------------------------------

const inputs = [...document.querySelectorAll('#controls [name]')];
const DEGREES = new Set(['yaw_deg', 'pitch_deg']);

function showControls() {
  for (const part of document.querySelectorAll('[data-needs]')) part.hidden = !hello.can[part.dataset.needs];
  if (!Object.keys(settings).length) settings = {...hello.settings}; else say({do: 'settings', ...settings});
  for (const input of inputs) {
    if (input.type === 'range') [input.min, input.max] = hello.ranges[input.name];
    showSetting(input);
  }
}

function showSetting(input) {
  const value = settings[input.name];
  if (input.type === 'checkbox') { input.checked = value; return; }
  input.value = value;
  input.previousElementSibling.textContent = DEGREES.has(input.name) ? `${Math.round(value)}°` : Number(value).toFixed(2);
}

let changed = {}, sending = 0;
function change(name, value) {
  settings[name] = changed[name] = value;
  inputs.filter(input => input.name === name).forEach(showSetting);
  sending ||= setTimeout(() => { say({do: 'settings', ...changed}); changed = {}; sending = 0; }, 40);
}
for (const input of inputs)
  input.oninput = () => change(input.name, input.type === 'checkbox' ? input.checked : Number(input.value));

$('reset').onclick = () => { for (const [name, value] of Object.entries(hello?.settings ?? {})) change(name, value); };
$('neutral').onchange = event => { say({do: 'neutral', on: event.target.checked}); event.target.checked = !event.target.checked; };

let held = null;
result.onpointerdown = event => {
  held = {x: event.clientX, y: event.clientY, yaw: settings.yaw_deg, pitch: settings.pitch_deg};
  result.setPointerCapture(event.pointerId);
};
result.onpointermove = event => {
  if (!held || !hello) return;
  const within = (value, [least, most]) => Math.min(Math.max(value, least), most);
  const turn = 120 / result.clientWidth;
  change('yaw_deg', within(held.yaw - turn * (event.clientX - held.x), hello.ranges.yaw_deg));
  change('pitch_deg', within(held.pitch + turn * (event.clientY - held.y), hello.ranges.pitch_deg));
};
result.onpointerup = result.onpointercancel = () => { held = null; };
result.ondblclick = () => { change('yaw_deg', 0); change('pitch_deg', 0); };

function setRecording(on) {
  recording = on;
  $('record').classList.toggle('on', on);
  $('record').lastElementChild.textContent = on ? 'Stop' : 'Record';
}
$('record').onclick = () => {
  if (!recording) $('recorded').hidden = true;
  say({do: 'record', on: !recording});
};

connect();
