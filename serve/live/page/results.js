// Results: drawn, acknowledged, counted; kept as a recording or a picture; shown on the full screen.

import {count, showFigures, streamParts} from './figures.js';
import {line, listen, say, session} from './line.js';
import {notice} from './notices.js';

const SHOWN = 2, RESULT = 3, HEAD_OUT = 16, HEAD_IN = 40;
const STALL_MS = 4000;
const $ = id => document.getElementById(id);

const canvas = $('result'), paint = canvas.getContext('2d');
// `last` and `since`: when a result last came, and since when a face drives; `way`: how pictures travel.
export const results = {way: '', last: 0, since: 0, dropped: 0, answered: () => {}};
let drawn = 0, recording = false, rtcParts = {capture: 0, network: 0};

export function readHead(data) {
  const view = new DataView(data);
  const part = i => view.getFloat32(16 + 4 * i, true);
  return {
    kind: view.getUint8(0), view: Boolean(view.getUint8(1) & 2), number: view.getUint32(4, true),
    clock: view.getFloat64(8, true), queue: part(0) + part(4), compute: part(1) + part(2), encode: part(3),
    server: part(0) + part(1) + part(2) + part(3) + part(4), dropped: view.getUint32(36, true),
  };
}

listen('picture', async data => {
  const head = readHead(data);
  if (head.kind !== RESULT) return;
  results.dropped = head.dropped;
  try {
    const picture = await createImageBitmap(new Blob([new Uint8Array(data, HEAD_IN)], {type: 'image/jpeg'}));
    draw(picture, picture.width);
    picture.close();
  } catch { return; } finally { acknowledge(head.number); }
  if (head.view || !head.clock) return;
  const total = performance.now() - head.clock, capture = results.answered(head.number);
  count({...head, total, capture, network: Math.max(0, total - capture - head.server)});
});

function acknowledge(number) {
  const view = new DataView(new ArrayBuffer(HEAD_OUT));
  view.setUint8(0, SHOWN);
  view.setUint32(4, number, true);
  line()?.send(view.buffer);
}

export function draw(picture, side) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  paint.drawImage(picture, 0, 0, side, side);
  results.last = performance.now();
  notice('stall', '');
  document.body.dataset.results = ++drawn;
}

// Over WebRTC the numbers of a result come alone, and the browser's own figures stand for its way.
export function countStreamed(head) {
  results.dropped = head.dropped;
  if (results.way !== 'webrtc' || head.view) return;
  const {capture, network} = rtcParts;
  count({...head, capture, network, total: capture + network + head.server});
}

export function watch(peer) {
  showFigures(results.dropped, results.way);
  const driven = session.ready && results.since;
  if (driven && performance.now() - Math.max(results.last, results.since) > STALL_MS)
    notice('stall', 'nothing comes back: the network or the server stalls; it goes on by itself when it can');
  if (results.way === 'webrtc' && peer) streamParts(peer).then(parts => { rtcParts = parts; });
}

listen('hello', ({side_px}) => {
  results.dropped = 0;
  canvas.style.setProperty('--largest', `${Math.max(560, 1.5 * side_px)}px`);
});
listen('lost', () => {
  notice('stall', '');
  if (recording) notice('record', 'the recording was lost with the connection', 15);
  setRecording(false);
});

// ---- what is kept ----------------------------------------------------------------------------------------------

function setRecording(on) {
  recording = on;
  $('record').classList.toggle('on', on);
  $('record').lastElementChild.textContent = on ? 'Stop' : 'Record';
}
$('record').onclick = () => say({do: 'record', on: !recording});

listen('recording', ({on}) => {
  if (on) $('recorded').hidden = true; // the last one stays on offer until another has begun
  setRecording(on);
});
listen('recorded', ({address, seconds, bytes}) => {
  const link = $('recorded');
  link.href = address;
  link.textContent = `Save ${seconds.toFixed(1)} s, ${Math.ceil(bytes / 1024)} KB`;
  link.hidden = false;
});

$('snapshot').onclick = () => canvas.toBlob(blob => {
  if (!blob || !drawn) return notice('snapshot', 'there is no picture yet; choose a portrait first', 8);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `triportrait-${new Date().toISOString().slice(0, 19).replace(/\D/g, '')}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  notice('snapshot', `saved as ${link.download}`, 6);
}, 'image/png');

const view = $('view'), full = $('full');
full.hidden = !document.fullscreenEnabled;
full.onclick = async () => {
  try {
    await (document.fullscreenElement ? document.exitFullscreen() : view.requestFullscreen());
  } catch {
    notice('full', 'this browser refuses the full screen; enlarge its window instead', 8);
  }
};
addEventListener('fullscreenchange', () => full.setAttribute('aria-pressed', Boolean(document.fullscreenElement)));
