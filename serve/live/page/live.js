// The live page: a portrait, a driving face, and what the network makes of them. No framework, no build step. This part
// opens the session, and says what there is to wait for while there is none.

import './frames.js';
import './controls.js';
import './neutral.js';
import './portraits.js';
import './refine.js';
import {connect, listen, say, session} from './line.js';
import {curtain, notice, state} from './notices.js';

const HELD_KEYS = new Set(['Tab', 'Shift', 'Control', 'Alt', 'Meta', 'Escape']);
const $ = id => document.getElementById(id);
const TITLE = document.title;

let over = false;    // the server has ended this session, or refused it
let retry = 0, timer = 0, restart = null;

// Controls that need a session are of no use without one.
function enable(on) {
  for (const part of document.querySelectorAll('.needs-session')) part.disabled = !on;
  $('driving-choice').disabled = !on;
  $('result').setAttribute('aria-disabled', !on);
}

function wait(title, sentence, action = null) {
  enable(false);
  curtain(title, sentence, action);
  document.title = `${title} – ${TITLE}`;
}

function begin() {
  clearInterval(timer);
  restart = null;
  over = false;
  curtain();
  state('connecting …', '');
  connect();
}

// Counts down to the next try; a button does not wait for it.
function tryAgain(seconds, title, sentence) {
  const until = Date.now() + 1000 * seconds;
  clearInterval(timer);
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left <= 0) return begin();
    state(`${title}; trying again in ${left} s`, '');
  };
  timer = setInterval(tick, 250);
  tick();
  wait(title, sentence, ['Try again now', begin]);
}

listen('hello', ({can}) => {
  retry = 0;
  curtain();
  document.title = document.hidden ? `Your turn – ${TITLE}` : TITLE; // who waited may be in another tab
  enable(true);
  state(`connected${can.watermark ? ', pictures carry an invisible watermark' : ', without a watermark'}`);
});

// The server keeps a place in its queue and begins by itself.
listen('waiting', ({position, sentence}) => {
  const nth = position === 1 ? 'you are next' : `you are number ${position}`;
  wait(`Waiting for a place: ${nth}`, sentence);
  state(`waiting for a place: ${nth}`);
});

listen('refused', ({retry_s, sentence}) => {
  over = true;
  tryAgain(retry_s, 'the server is full', sentence);
});

listen('end', ({sentence}) => {
  over = true;
  state(sentence);
  restart = begin;
  wait('the session has ended', sentence, ['Go on', () => restart?.()]);
});
addEventListener('pointerdown', event => { if (event.target !== $('curtain-go')) restart?.(); });
addEventListener('keydown', event => { if (event.target !== $('curtain-go') && !HELD_KEYS.has(event.key)) restart?.(); });

listen('lost', async () => {
  notice('face', '');
  if (over) return;
  tryAgain(Math.min(15, 1 << Math.min(retry++, 4)), 'the connection was lost', '');
  const status = await fetch('/live.js', {method: 'HEAD', cache: 'no-store'}).then(answer => answer.status, () => 0);
  if (status === 401) tryAgain(15, 'the server wants another token', 'open the address that it printed when it started');
});

listen('notice', ({about, sentence}) => notice(about, sentence, about === 'face' || about === 'place' ? 0 : 8));
setInterval(() => say({do: 'here'}), 10000);
addEventListener('visibilitychange', () => { if (!document.hidden && session.hello) document.title = TITLE; });

connect();
