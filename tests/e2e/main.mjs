// Every end-to-end test, one after the other.
import './browser.test.mjs';
import './clients.test.mjs';
import './watch.test.mjs';
import './audio.test.mjs';
import './vp8.test.mjs';
import './lipsync.test.mjs';
import './recording.test.mjs';
import './access.test.mjs';
import './network.test.mjs';
import './keyframes.test.mjs';
import './scenarios.test.mjs';
import './isolation.test.mjs';
import './refusals.test.mjs';
import './continuity.test.mjs';
import './hls.test.mjs';
import './dvr.test.mjs';
