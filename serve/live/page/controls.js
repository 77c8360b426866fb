// What the sliders say, and the same by dragging the result or with the arrow keys; remembered when the page is closed.

import {listen, say, session} from './line.js';
import {notice, speak} from './notices.js';
import {recall, remember} from './store.js';

const DEGREES = {yaw_deg: ['left', 'right'], pitch_deg: ['below', 'above']};
const FAR = {yaw_deg: 40, pitch_deg: 22}; // degrees; beyond them heads of the package's weights begin to fray
const STEP_DEG = 5;                       // of an arrow key
const KEYS = {ArrowLeft: ['yaw_deg', -1], ArrowRight: ['yaw_deg', 1], ArrowUp: ['pitch_deg', -1], ArrowDown: ['pitch_deg', 1]};
const HINTS = {
  depth: 'Yellow is near, violet is far: from 13 cm before the joint of the neck to 8 cm behind it.',
  normals: 'Where the surface faces: red to the right, green up, blue to you.',
};
const $ = id => document.getElementById(id);
const inputs = [...document.querySelectorAll('#controls [name]')];
const kinds = [...document.querySelectorAll('#shows button')];
const canvas = $('result');

let settings = {}, changed = {}, sending = 0;

listen('hello', hello => {
  for (const part of document.querySelectorAll('[data-needs]')) part.hidden = !hello.can[part.dataset.needs];
  const wishes = Object.keys(settings).length ? settings : recall('settings', {});
  const usable = Object.entries(hello.settings).filter(([name, value]) => fits(name, wishes[name], value));
  settings = {...hello.settings, ...Object.fromEntries(usable.map(([name]) => [name, wishes[name]]))};
  if (usable.length) say({do: 'settings', ...settings});
  for (const kind of kinds) {
    kind.setAttribute('aria-disabled', kind.value in hello.not_shown);
    kind.title = hello.not_shown[kind.value] ?? '';
  }
  showKind();
  for (const input of inputs) {
    if (input.type === 'range') [input.min, input.max] = hello.ranges[input.name];
    show(input);
  }
});

// Whether a value that was kept can still be sent: of the type of the server's own, and in its range.
function fits(name, value, example) {
  const {ranges, not_shown} = session.hello, [least, most] = ranges[name] ?? [-Infinity, Infinity];
  if (name === 'show' && (value in not_shown || !kinds.some(kind => kind.value === value))) return false;
  return typeof value === typeof example && (typeof value !== 'number' || (least <= value && value <= most));
}

function inWords(name, value) {
  if (!(name in DEGREES)) return `${Math.round(100 * value)}%`;
  const degrees = Math.round(value), [less, more] = DEGREES[name];
  return degrees ? `${Math.abs(degrees)}° ${degrees < 0 ? less : more}` : 'front';
}

function show(input) {
  const {name} = input, value = settings[name];
  if (input.type === 'checkbox') { input.checked = value; return; }
  input.value = value;
  input.previousElementSibling.textContent = name in DEGREES ? `${Math.round(value)}°` : inWords(name, value);
  input.setAttribute('aria-valuetext', inWords(name, value));
  $('far').hidden = !Object.entries(FAR).some(([far, degrees]) => Math.abs(settings[far]) > degrees);
}

function showKind(why = '') {
  for (const kind of kinds) kind.setAttribute('aria-pressed', kind.value === settings.show);
  const hint = why || (HINTS[settings.show] ?? '');
  $('show-hint').textContent = hint;
  $('show-hint').hidden = !hint;
}
for (const kind of kinds)
  kind.onclick = () => {
    const why = session.hello.not_shown[kind.value] ?? '';
    if (why) { showKind(`Not shown here: ${why}.`); speak($('show-hint').textContent); }
    else change('show', kind.value);
  };

function change(name, value) {
  settings[name] = changed[name] = value;
  if (name === 'show') showKind();
  inputs.filter(input => input.name === name).forEach(show);
  sending ||= setTimeout(() => {
    say({do: 'settings', ...changed});
    changed = {};
    sending = 0;
    remember('settings', settings);
  }, 40);
}
for (const input of inputs)
  input.oninput = () => change(input.name, input.type === 'checkbox' ? input.checked : Number(input.value));

$('reset').onclick = () => { for (const [name, value] of Object.entries(session.hello?.settings ?? {})) change(name, value); };

// ---- by hand on the result: the head turns to where it is pulled ----------------------------------------------

function turn(name, degrees) {
  const [least, most] = session.hello.ranges[name];
  change(name, Math.min(Math.max(degrees, least), most));
}

let held = null;
canvas.onpointerdown = event => {
  held = {x: event.clientX, y: event.clientY, yaw: settings.yaw_deg, pitch: settings.pitch_deg};
  canvas.setPointerCapture(event.pointerId);
};
canvas.onpointermove = event => {
  if (!held || !session.hello) return;
  const degrees = 120 / canvas.clientWidth;
  turn('yaw_deg', held.yaw + degrees * (event.clientX - held.x));
  turn('pitch_deg', held.pitch + degrees * (event.clientY - held.y));
};
canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
const front = () => { if (session.hello) { turn('yaw_deg', 0); turn('pitch_deg', 0); } };
canvas.ondblclick = front;

let telling = 0;
canvas.onkeydown = event => {
  if (!session.hello || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === 'Home') front();
  else if (event.key in KEYS) {
    const [name, sign] = KEYS[event.key];
    turn(name, settings[name] + sign * (event.shiftKey ? 1 : STEP_DEG));
  } else return;
  event.preventDefault();
  clearTimeout(telling);
  telling = setTimeout(() => {
    const seen = Object.keys(DEGREES).map(name => inWords(name, settings[name])).filter(words => words !== 'front');
    speak(`seen ${seen.join(', ') || 'from the front'}`);
  }, 400);
};

listen('lost', () => { held = null; notice('wish', ''); });
