// Every end-to-end test, one after the other.
import './browser.test.mjs';
import './clients.test.mjs';
import './audio.test.mjs';
import './vp8.test.mjs';
import './recording.test.mjs';
import './isolation.test.mjs';
import './refusals.test.mjs';
