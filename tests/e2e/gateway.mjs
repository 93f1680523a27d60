// Starts and stops the real binaries: the gateway and the publishing clients. Everything listens on loopback ports
// that the system chooses, every process started here is ended here.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
const built = process.env.WHIPGATE_PROFILE ?? 'debug';
export const binary = path.join(target, built, 'whipgate');
export const publisherBinary = path.join(target, built, 'whipgate-publisher');
export const python = path.join(root, 'target/venv/bin/python');

/** Waits until `probe` returns something truthy; fails with `what` after `seconds`. */
export async function until(what, probe, seconds = 10) {
  const deadline = Date.now() + seconds * 1000;
  let last;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s${last ? ` (${last.message})` : ''}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A child process with its output collected and its end awaited. */
export class Process {
  constructor(command, args, options = {}) {
    this.name = path.basename(command);
    this.output = '';
    this.child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.output += text;
      });
    }
    this.exited = new Promise((resolve, reject) => {
      this.child.once('error', (error) => reject(new Error(`${command} cannot be started: ${error.message}`)));
      this.child.once('close', (code, signal) => resolve({ code, signal }));
    });
    this.exited.catch(() => {});
  }

  get running() {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Sends `signal` and waits for the end, bounded. */
  async stop(signal = 'SIGTERM', seconds = 15) {
    if (this.running) this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill('SIGKILL'), seconds * 1000);
    const end = await this.exited;
    clearTimeout(timer);
    return end;
  }

  /** The end of the process, bounded; fails with its output otherwise. */
  async end(seconds) {
    const timeout = new Promise((_, reject) => {
      setTimeout(() => reject(new Error(`${this.name} did not end within ${seconds} s:\n${this.output}`)), seconds * 1000).unref();
    });
    return Promise.race([this.exited, timeout]);
  }
}

/** Runs a command to its end; fails unless it exits with 0. Returns its output. */
export async function run(command, args, { seconds = 60, ...options } = {}) {
  const process = new Process(command, args, options);
  const { code, signal } = await process.end(seconds);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}\nended with ${code ?? signal}:\n${process.output}`);
  return process.output;
}

/** A running gateway with its own data folder. */
export class Gateway {
  static async start({ settings = {}, dataDir, env = {} } = {}) {
    const gateway = new Gateway();
    gateway.ownsData = !dataDir;
    gateway.dataDir = dataDir ?? (await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-')));
    const all = {
      'http.listen': '127.0.0.1:0',
      'storage.data_dir': gateway.dataDir,
      ...settings,
    };
    const args = Object.entries(all).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    gateway.process = new Process(binary, args, { env: { ...process.env, ...env } });
    await until(
      'the gateway is ready',
      () => {
        if (!gateway.process.running) throw new Error(`the gateway ended:\n${gateway.process.output}`);
        gateway.base = gateway.process.output.match(/^ *Watch +(https?:\/\/\S+)\/watch\//m)?.[1];
        return gateway.base;
      },
      20,
    );
    return gateway;
  }

  get log() {
    return this.process.output;
  }

  whip(session) {
    return `${this.base}/whip/${session}`;
  }

  hls(session) {
    return `${this.base}/hls/${session}/index.m3u8`;
  }

  async json(route) {
    const response = await fetch(`${this.base}${route}`);
    if (!response.ok) throw new Error(`GET ${route}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async text(route) {
    const response = await fetch(new URL(route, this.base));
    if (!response.ok) throw new Error(`GET ${route}: ${response.status}`);
    return response.text();
  }

  /** Paths of a session's recordings, oldest first. */
  async recordings(session) {
    const folder = path.join(this.dataDir, 'recordings', session);
    const names = await readdir(folder).catch(() => []);
    return names.filter((name) => name.endsWith('.mp4')).sort().map((name) => path.join(folder, name));
  }

  async stop(signal = 'SIGTERM') {
    const end = await this.process.stop(signal);
    if (this.ownsData) await rm(this.dataDir, { recursive: true, force: true });
    return end;
  }
}

/** The first own media playlist of a session, as text and address. */
export async function mediaPlaylist(gateway, session, kind) {
  const address = new URL(`${kind}/index.m3u8`, gateway.hls(session));
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return { address, text: await response.text() };
}

export { once };
