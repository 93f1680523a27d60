// The picture of a session, fetched with the page's token. No state.
import { authorization } from '/assets/common.js';

/** The address of the latest picture as a blob, which the caller revokes; null when there is none. */
export async function loadPoster(session, token) {
  try {
    const response = await fetch(`/hls/${encodeURIComponent(session)}/poster.jpg`, { headers: authorization(token) });
    return response.ok ? URL.createObjectURL(await response.blob()) : null;
  } catch {
    return null;
  }
}
