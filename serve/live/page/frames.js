// Driving frames on their way to the server: over WebRTC, or as JPEG over the WebSocket; never more than it can take.

import {driver} from './driver.js';
import {line, listen, say, session} from './line.js';
import {notice} from './notices.js';
import {countStreamed, draw, readHead, results, watch} from './results.js';

const FRAME = 1, HEAD_OUT = 16;
const LONGEST_SIDE = 480;      // of the driving picture that is sent, pixels
const MOST_ON_THE_WAY = 4;     // frames without an answer; more would wait in the network
const PATIENCE_MS = 4000, RTC_PATIENCE_MS = 6000;
const query = new URLSearchParams(location.search);

const grab = document.createElement('canvas'), pen = grab.getContext('2d', {alpha: false});
let sent = 0, answered = 0, lastAnswer = 0, encoding = false, due = 0;
let captures = new Map();
let peer = null, remote = null, outgoing = null, streamed = 0;

listen('hello', () => {
  begin();
  setWay('websocket');
  callUp();
});
listen('portrait', () => { if (!session.ready) lastAnswer = results.last = performance.now(); });
listen('driver', () => { follow(); callUp(); });
listen('lost', () => hangUp());
listen('answer', answer);
listen('rtc', ({state}) => { if (state === 'failed') hangUp(); });
setInterval(() => watch(peer), 500);

function begin() {
  sent = answered = 0;
  captures.clear();
}

// A frame has been answered: gives how long its capture took.
results.answered = number => {
  answered = Math.max(answered, number);
  lastAnswer = performance.now();
  const capture = captures.get(number) ?? 0;
  for (const earlier of captures.keys()) if (earlier <= number) captures.delete(earlier);
  return capture;
};

// Take the picture that plays now; mirrored for a camera, so that portrait and user move to the same side.
function take() {
  const {video, mirrored} = driver;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const width = Math.round(video.videoWidth * scale), height = Math.round(video.videoHeight * scale);
  if (grab.width !== width || grab.height !== height) [grab.width, grab.height] = [width, height];
  pen.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  pen.drawImage(video, 0, 0, width, height);
}

function frame() {
  follow();
  const now = performance.now();
  if (!session.ready || !driver.kind || !driver.video.videoWidth || now < due - 4) return;
  due = Math.max(due + 1000 / session.hello.most_fps, now);
  if (results.way === 'webrtc') {
    // Pictures of a stream are encoded and decoded one by one: none is sent that nobody will look at.
    if (streamed >= 2 && now - results.last < 250) return;
    streamed += 1;
    take();
    return outgoing.requestFrame();
  }
  if (sent - answered >= MOST_ON_THE_WAY) {
    if (now - lastAnswer < PATIENCE_MS) return;
    [answered, lastAnswer] = [sent, now]; // they are lost: a few more may try
  }
  const socket = line();
  if (encoding || !socket || socket.bufferedAmount > 0) return;
  take();
  encoding = true;
  grab.toBlob(async blob => {
    encoding = false;
    const jpeg = await blob?.arrayBuffer();
    if (!jpeg || socket !== line()) return; // of a session that has ended
    const message = new Uint8Array(HEAD_OUT + jpeg.byteLength), view = new DataView(message.buffer), number = ++sent;
    view.setUint8(0, FRAME);
    view.setUint32(4, number, true);
    view.setFloat64(8, now, true);
    message.set(new Uint8Array(jpeg), HEAD_OUT);
    captures.set(number, performance.now() - now);
    socket.send(message);
  }, 'image/jpeg', 0.85);
}

// A hidden page gets no frames from the video; a timer keeps a slow pace going.
let pending = 0, cancel = () => {};
function follow() {
  clearTimeout(pending);
  pending = setTimeout(frame, 250);
  cancel();
  const {video} = driver, byVideo = Boolean(video.requestVideoFrameCallback);
  const called = byVideo ? video.requestVideoFrameCallback(frame) : requestAnimationFrame(frame);
  cancel = () => byVideo ? video.cancelVideoFrameCallback(called) : cancelAnimationFrame(called);
}
follow();

// ---- WebRTC ----------------------------------------------------------------------------------------------------

function setWay(name) {
  results.way = name;
  document.getElementById('way').textContent = {webrtc: 'WebRTC', websocket: 'WebSocket'}[name] ?? '';
}

async function callUp() {
  if (peer || !session.hello || !driver.kind || query.get('transport') === 'websocket') return;
  if (!window.RTCPeerConnection || !grab.captureStream) return;
  take();
  const connection = peer = new RTCPeerConnection({iceServers: []});
  const patience = setTimeout(() => { if (results.way !== 'webrtc' && peer === connection) hangUp(true); }, RTC_PATIENCE_MS);
  connection.onconnectionstatechange = () => {
    if (['failed', 'disconnected'].includes(connection.connectionState) && peer === connection) hangUp(true);
  };
  connection.ontrack = event => showRemote(connection, event.track, patience);
  const numbers = connection.createDataChannel('numbers', {ordered: false, maxRetransmits: 0});
  numbers.binaryType = 'arraybuffer';
  numbers.onmessage = event => { streamed = 0; countStreamed(readHead(event.data)); };
  [outgoing] = grab.captureStream(0).getVideoTracks();
  connection.addTrack(outgoing);
  await connection.setLocalDescription();
  if (connection.iceGatheringState !== 'complete') await new Promise(done => {
    connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && done();
    setTimeout(done, 1500);
  });
  if (peer === connection) say({do: 'offer', sdp: connection.localDescription.sdp});
}

async function answer({sdp, sentence}) {
  if (!sdp) { notice('transport', sentence, 8); return hangUp(); }
  try { await peer?.setRemoteDescription({type: 'answer', sdp}); } catch { hangUp(true); }
}

function showRemote(connection, track, patience) {
  remote = document.createElement('video');
  remote.muted = remote.playsInline = true;
  remote.srcObject = new MediaStream([track]);
  remote.play().catch(() => {});
  const element = remote;
  const next = () => {
    if (peer !== connection || remote !== element) return;
    if (results.way !== 'webrtc') { clearTimeout(patience); setWay('webrtc'); }
    draw(element, element.videoWidth || session.hello.side_px);
    element.requestVideoFrameCallback(next);
  };
  if (element.requestVideoFrameCallback) element.requestVideoFrameCallback(next); else hangUp(true);
}

function hangUp(failed = false) {
  if (!peer) return;
  peer.close();
  peer = remote = null;
  begin();
  setWay(session.hello ? 'websocket' : '');
  if (!failed) return;
  say({do: 'websocket'});
  notice('transport', 'WebRTC did not come about; pictures go over a WebSocket', 8);
  query.set('transport', 'websocket');
}
