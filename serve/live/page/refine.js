// A portrait that is refined for its person: offered for a photo of one's own, followed while it runs, shown in the place
// of the plain one, and saved.

import {listen, say, session} from './line.js';
import {notice, speak} from './notices.js';

const $ = id => document.getElementById(id);
const NONE = {can: false, on: false, own: false, offer: false, address: '', bytes: 0};

let state = NONE;     // of the portrait that is shown
let running = null;   // the server's last word on a refinement that runs or waits
let asked = false;    // it is under way to the server

const time = seconds => seconds >= 90 ? `${Math.round(seconds / 60)} minutes` : seconds >= 60 ? '1 minute' : `${Math.round(seconds)} seconds`;
const left = seconds => `${Math.floor(seconds / 60)}:${String(Math.round(seconds) % 60).padStart(2, '0')} left`;

function show() {
  const {can, on, own, offer, address, bytes} = state, goes = asked || running;
  $('refine').hidden = !(can || offer || goes);
  $('refine-go').hidden = !offer || Boolean(goes);
  $('refine-run').hidden = !goes;
  $('refine-shown').hidden = !can;
  $('refined').checked = on;
  $('refine-save').hidden = !address;
  $('refine-save').href = address;
  $('refine-save').textContent = `Save this person, ${(bytes / (1 << 20)).toFixed(1)} MB`;
  $('refine-word').textContent = goes ? inWords(running) : '';
  $('refine-hint').hidden = Boolean(goes);
  $('refine-hint').textContent = can ? own ? 'Refined from your photo. Switch to compare.' : 'Refined for this person. Switch to compare.'
    : offer ? `About ${time(60 * session.hello.refine_minutes)}. The picture goes on meanwhile, slower on a small machine.` : '';
}

function inWords(word) {
  if (word?.state === 'waiting') return word.before === 1 ? 'Waits for one other portrait' : `Waits for ${word.before} other portraits`;
  if (word?.state !== 'running') return 'Asking the server …';
  return word.percent !== null ? `${word.percent}%, ${left(word.seconds_left)}` : 'Loading the networks …';
}

// What had the focus goes away: the next thing of its kind has it then.
function moveFocus(from, to) {
  const focused = from.some(id => document.activeElement === $(id));
  show();
  if (focused) $(to).checkVisibility() ? $(to).focus() : $('upload').focus();
}

$('refine-go').onclick = () => {
  asked = true;
  notice('wish', '');
  say({do: 'refine', on: true});
  $('refine-bar').removeAttribute('value');
  $('refine-picture').hidden = true;
  moveFocus(['refine-go'], 'refine-stop');
};
$('refine-stop').onclick = () => say({do: 'refine', on: false});
$('refined').onchange = event => {
  say({do: 'refined', on: event.target.checked});
  event.target.checked = !event.target.checked; // until the server says so
};

listen('refined', message => {
  state = {...NONE, ...message};
  show();
});

listen('refining', word => {
  asked = false;
  if (word.state === 'waiting' || word.state === 'running') {
    if (running?.state !== word.state) speak(word.state === 'running' ? 'the portrait is being refined' : inWords(word));
    running = word;
    if (word.percent !== undefined && word.percent !== null) $('refine-bar').value = word.percent;
    return show();
  }
  running = null;
  moveFocus(['refine-stop'], state.can ? 'refined' : 'refine-go');
  if (word.state === 'done') notice('refine', 'the portrait is refined; switch to compare, and save it as a file', 10);
  else if (word.sentence) notice('refine', word.sentence, 15);
});

listen('refining_picture', ({picture}) => {
  if (!running) return;
  $('refine-picture').src = picture;
  $('refine-picture').alt = 'the portrait as it is refined so far, from the front and from the side';
  $('refine-picture').hidden = false;
});

listen('notice', ({about}) => { if (about === 'wish' && asked) { asked = false; moveFocus(['refine-stop'], 'refine-go'); } });
listen('lost', () => {
  running = null;
  asked = false;
  state = NONE;
  show();
});
