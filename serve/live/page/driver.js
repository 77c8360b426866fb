// The face that drives: a camera, the example, a file. What runs goes on until the next one has shown its first picture.

import {emit, listen} from './line.js';
import {notice} from './notices.js';
import {results} from './results.js';
import {recall, remember} from './store.js';

const OTHERWISE = 'take the example or a file';
const CAMERA_SAYS = {
  NotAllowedError: `the camera was refused; allow it in the address bar, or ${OTHERWISE}`,
  NotFoundError: `no camera was found; ${OTHERWISE}`,
  NotReadableError: `the camera is in use by another program; close that, or ${OTHERWISE}`,
  TimeoutError: `the camera sends no picture; choose another one, or ${OTHERWISE}`,
};
const PATIENCE_MS = 8000;
const $ = id => document.getElementById(id);
const tile = $('driving-tile');
const BUTTONS = {camera: $('camera'), clip: $('clip'), file: $('film')};

// `kind`: camera, clip or file, null while nothing drives.
export const driver = {kind: null, video: $('driving'), get mirrored() { return this.kind === 'camera' && $('mirror').checked; }};
let chosen = 0; // times that something was chosen

class Unplayable extends Error {}

// A video element with its first picture.
function opened(set) {
  const video = document.createElement('video');
  Object.assign(video, {muted: true, playsInline: true, loop: true, preload: 'auto'});
  return new Promise((done, failed) => {
    const ready = () => video.videoWidth ? done(video)
      : failed(new Unplayable('this file holds only sound; choose one with a picture'));
    video.onloadeddata = ready;
    video.onloadedmetadata = () => { if (!video.videoWidth && !video.srcObject) ready(); };
    video.onerror = () => failed(new Unplayable('this browser cannot play that file; choose an mp4 (H.264) or a webm'));
    setTimeout(() => {
      if (video.videoWidth) done(video); // all that some browsers load before they play
      else if (video.srcObject) failed(new DOMException('', 'TimeoutError'));
    }, PATIENCE_MS);
    set(video);
    video.play().catch(() => {}); // said by onerror
  }).catch(error => { discard(video); throw error; });
}

function discard(video) {
  video.onerror = video.onloadeddata = video.onloadedmetadata = null;
  video.srcObject?.getTracks().forEach(track => { track.onended = null; track.stop(); });
  video.srcObject = null;
  if (video.src.startsWith('blob:')) URL.revokeObjectURL(video.src);
  video.removeAttribute('src');
}

async function openCamera(device) {
  if (!navigator.mediaDevices?.getUserMedia)
    throw new Unplayable('browsers give the camera to https and localhost only; take a file, or open a tunnel');
  const ask = id => navigator.mediaDevices.getUserMedia({audio: false, video: {
    width: {ideal: 640}, height: {ideal: 480}, frameRate: {ideal: 30},
    ...(id ? {deviceId: {ideal: id}} : {facingMode: 'user'}),
  }});
  const show = stream => opened(video => { video.srcObject = stream; });
  try {
    return await show(await ask(device));
  } catch (error) {
    if (error.name !== 'NotReadableError' || driver.kind !== 'camera') throw error;
    // Many phones open one camera at a time: the old one is let go, and taken again if the new one fails.
    const before = camera(), {deviceId} = before.getSettings();
    before.onended = null;
    before.stop();
    try { return await show(await ask(device)); } catch (again) {
      const back = await ask(deviceId).catch(() => null);
      if (back) { driver.video.srcObject = back; driver.video.play().catch(() => {}); watchCamera(); } else stop();
      throw again;
    }
  }
}

const camera = () => driver.video.srcObject?.getVideoTracks()[0];

function watchCamera() {
  camera().onended = () => {
    stop();
    notice('driving', `the camera has gone, the last pose is held; plug it in again, or ${OTHERWISE}`, 20,
      [['Use the example', () => drive('clip')]]);
  };
}

// `source`: the camera's id, or the file.
export async function drive(kind, source = null) {
  const attempt = ++chosen;
  notice('driving', '');
  const address = {clip: () => '/examples/driving.mp4', file: () => URL.createObjectURL(source)}[kind];
  let video;
  try {
    video = kind === 'camera' ? await openCamera(source) : await opened(v => { v.src = address(); });
  } catch (error) {
    if (attempt !== chosen) return;
    showCameras();
    const sentence = error instanceof Unplayable ? error.message : CAMERA_SAYS[error.name];
    return notice('driving', sentence ?? `the camera failed (${error.name}); ${OTHERWISE}`, 15);
  }
  if (attempt !== chosen) return discard(video); // something else was chosen since
  discard(driver.video);
  video.id = 'driving';
  driver.video.replaceWith(video);
  video.onerror = () => { stop(); notice('driving', 'that file broke off; choose another one', 15); };
  results.since = performance.now();
  show(kind, video);
  if (kind === 'camera') { watchCamera(); showCameras(); }
  emit('driver');
}

function show(kind, video = driver.video) {
  Object.assign(driver, {kind, video});
  for (const [name, button] of Object.entries(BUTTONS)) {
    button.classList.toggle('on', name === kind);
    button.setAttribute('aria-pressed', name === kind);
  }
  tile.classList.toggle('on', Boolean(kind));
  tile.classList.toggle('mirrored', driver.mirrored);
  $('camera-options').hidden = kind !== 'camera';
}

function stop() {
  discard(driver.video);
  results.since = 0;
  show(null);
  emit('driver');
}

// Which cameras there are is told only once one is allowed.
async function showCameras() {
  const all = await navigator.mediaDevices?.enumerateDevices?.().catch(() => []) ?? [];
  const cameras = all.filter(({kind, deviceId}) => kind === 'videoinput' && deviceId);
  $('cameras').replaceChildren(...cameras.map(({deviceId, label}, i) => new Option(label || `camera ${i + 1}`, deviceId)));
  $('which').hidden = cameras.length < 2;
  $('cameras').value = camera()?.getSettings().deviceId ?? '';
}
navigator.mediaDevices?.addEventListener?.('devicechange', () => { if (driver.kind === 'camera') showCameras(); });

$('camera').onclick = () => drive('camera', recall('camera', null));
$('clip').onclick = () => drive('clip');
$('film').onclick = () => $('driving-file').click();
$('driving-file').onchange = event => {
  const [file] = event.target.files;
  if (file) drive('file', file);
  event.target.value = '';
};
$('cameras').onchange = event => {
  remember('camera', event.target.value);
  drive('camera', event.target.value);
};
$('mirror').checked = recall('mirror', true) === true;
$('mirror').onchange = event => {
  remember('mirror', event.target.checked);
  tile.classList.toggle('mirrored', driver.mirrored);
};

listen('hello', () => { if (!chosen) drive('clip'); });
