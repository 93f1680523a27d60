// Wrong settings and a hostile environment: the error names the cause and the way out.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, symlink, writeFile, mkdir } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { binary, Gateway, Process, run, until } from './gateway.mjs';

async function refused(args, env = {}) {
  const process_ = new Process(binary, args, { env: { ...process.env, ...env } });
  const { code } = await process_.end(20);
  return { code, output: process_.output };
}

test('a setting that does not exist is refused by its name', async () => {
  for (const [args, env] of [[['--set', 'hls.part_duratoin=1s']], [[], { WHIPGATE__HLS__PART_DURATOIN: '1s' }]]) {
    const { code, output } = await refused(args, env);
    assert.equal(code, 64, output);
    assert.match(output, /part_duratoin/);
  }
});

test('listening openly without a token is refused with the two ways out', async () => {
  const { code, output } = await refused(['--set', 'http.listen=0.0.0.0:0']);
  assert.equal(code, 64, output);
  assert.match(output, /auth\.publish/);
  assert.match(output, /http\.allow_open/);
});

test('a port in use is named', async () => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    const { port } = server.address();
    const dir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
    const { code, output } = await refused(['--set', `http.listen=127.0.0.1:${port}`, '--set', 'webrtc.listen_udp=127.0.0.1:0', '--set', 'webrtc.listen_tcp=127.0.0.1:0', '--set', `storage.data_dir=${dir}`]);
    await rm(dir, { recursive: true, force: true });
    assert.equal(code, 1, output);
    assert.match(output, new RegExp(`127\\.0\\.0\\.1:${port}`));
    assert.match(output, /http\.listen/);
  } finally {
    server.close();
  }
});

test('a data folder that cannot be written is named', async () => {
  const { code, output } = await refused(['--set', 'http.listen=127.0.0.1:0', '--set', 'storage.data_dir=/proc/whipgate']);
  assert.equal(code, 1, output);
  assert.match(output, /\/proc\/whipgate/);
  assert.match(output, /storage\.data_dir/);
});

test('a missing GStreamer element is named with the package that has it', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  try {
    const empty = path.join(dir, 'plugins');
    await mkdir(empty);
    const { code, output } = await refused(['check-config'], {
      GST_PLUGIN_SYSTEM_PATH_1_0: empty, GST_PLUGIN_PATH_1_0: empty, GST_REGISTRY_1_0: path.join(dir, 'registry.bin'),
    });
    assert.equal(code, 64, output);
    assert.match(output, /rtph264depay/);
    assert.match(output, /gstreamer1\.0-plugins-good/);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

test('elements for transcoding are missed only where the configuration needs them', { timeout: 120_000 }, async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  try {
    const installed = (await run('pkg-config', ['--variable=pluginsdir', 'gstreamer-1.0'])).trim();
    const plugins = path.join(dir, 'plugins');
    await mkdir(plugins);
    for (const name of await readdir(installed)) {
      if (name.endsWith('.so') && !/libav|x264/.test(name)) await symlink(path.join(installed, name), path.join(plugins, name));
    }
    const env = { GST_PLUGIN_SYSTEM_PATH_1_0: plugins, GST_PLUGIN_PATH_1_0: plugins, GST_REGISTRY_1_0: path.join(dir, 'registry.bin') };
    const check = (...settings) => refused(['check-config', ...settings.flatMap((setting) => ['--set', setting])], env);
    const without = await check('webrtc.transcode_audio=pcmu,pcma');
    assert.equal(without.code, 0, without.output);
    for (const [setting, element] of [
      ['webrtc.transcode_audio=g722', /avdec_g722 \(Debian package gstreamer1\.0-libav\)/],
      ['hls.audio=opus,aac', /avenc_aac \(Debian package gstreamer1\.0-libav\)/],
      ['webrtc.transcode_vp8=true', /x264enc \(Debian package gstreamer1\.0-plugins-ugly\)/],
    ]) {
      const { code, output } = await check('webrtc.transcode_audio=pcmu', setting);
      assert.equal(code, 64, output);
      assert.match(output, element);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

test('a broken pipeline text is named with its file', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  try {
    const expected = { 'identity ! nosuchelement': /nosuchelement/, 'identity nosuchproperty=1 ! fakesink': /h264\.launch.*nosuchproperty/s };
    for (const [text, message] of Object.entries(expected)) {
      for (const name of ['h264', 'h265', 'av1', 'vp9', 'opus']) await writeFile(path.join(dir, `${name}.launch`), text);
      const { code, output } = await refused(['check-config', '--set', `pipelines.dir=${dir}`]);
      assert.equal(code, 64, output);
      assert.match(output, message);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

test('tokens guard publishing and playing', async () => {
  const gateway = await Gateway.start({ settings: { 'auth.publish': 'let-me-send', 'auth.play': 'let-me-see' } });
  try {
    const post = (headers) => fetch(gateway.whip('x'), { method: 'POST', headers: { 'Content-Type': 'application/sdp', ...headers }, body: 'v=0' });
    const nothing = await post({});
    assert.equal(nothing.status, 401);
    assert.match(nothing.headers.get('www-authenticate'), /^Bearer/);
    assert.doesNotMatch(nothing.headers.get('www-authenticate'), /error/);
    const wrong = await post({ Authorization: 'Bearer guess' });
    assert.equal(wrong.status, 401);
    assert.match(wrong.headers.get('www-authenticate'), /invalid_token/);
    assert.equal((await post({ Authorization: 'bearer let-me-send' })).status, 400);
    assert.equal((await fetch(gateway.hls('x'))).status, 401);
    assert.equal((await fetch(gateway.hls('x'), { headers: { Authorization: 'Bearer let-me-see' } })).status, 404);
    assert.doesNotMatch(gateway.log, /let-me-|guess/);
    await until('it still answers', async () => (await fetch(`${gateway.base}/healthz`)).ok);
  } finally {
    await gateway.stop();
  }
});
