// Small things all pages need. No state.

/** The session name in this page's path, as /watch/NAME or /publish/NAME. */
export function sessionFromPath() {
  return decodeURIComponent(location.pathname.split('/')[2] ?? '');
}

/** The query's parameters; `token` is a bearer token for this page's requests. */
export const query = new URLSearchParams(location.search);

/** Headers that carry the bearer token when there is one. */
export function authorization(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** An element with properties and children; text is always set as text. */
export function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The human text of a failed response: problem details (RFC 9457) when there are any. */
export async function problemText(response) {
  const type = response.headers.get('content-type') ?? '';
  if (type.startsWith('application/problem+json')) {
    const problem = await response.json().catch(() => ({}));
    return problem.detail ?? problem.title ?? `HTTP ${response.status}`;
  }
  return `HTTP ${response.status}`;
}

/** 1536 -> "1.5 KiB". */
export function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(unit === 0 || count >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** 3725 -> "1:02:05". */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
