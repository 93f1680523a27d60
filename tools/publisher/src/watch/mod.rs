//! Watches a session's low-latency HLS and measures: time to the first playable media, age of the newest picture in each
//! part as it is received, pictures that are missing. Decodes nothing; pictures are known by their [`Stamp`]s.

mod playlist;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use reqwest::{Client, StatusCode, Url};

pub use playlist::{MediaPlaylist, Part, Segment, audio_rendition, first_variant};

use crate::stamp::{self, Stamp};

/// Pause between two looks at something that is not there yet.
const RETRY: Duration = Duration::from_millis(20);
/// Longest wait for one answer; a blocking reload is answered within three target durations.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pictures of one session, as they were found.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Numbers of the session's own pictures.
    pub pictures: BTreeSet<u32>,
    /// Pictures of other sessions.
    pub foreign: u64,
    /// Age of the newest picture of each part when the part was received, in milliseconds.
    pub ages_ms: Vec<f64>,
    /// Parts received.
    pub parts: u64,
    /// Answers that were not what they should be, and failed requests.
    pub errors: u64,
    /// The playlist ended.
    pub ended: bool,
}

impl Seen {
    /// Pictures missing between the first and the last one seen.
    pub fn gaps(&self) -> u64 {
        match (self.pictures.first(), self.pictures.last()) {
            (Some(first), Some(last)) => u64::from(last - first + 1) - self.pictures.len() as u64,
            _ => 0,
        }
    }

    /// Takes note of all stamps in `bytes`; gives the newest of this publication.
    pub fn add(&mut self, bytes: &[u8], publication: u32) -> Option<Stamp> {
        let mut newest: Option<Stamp> = None;
        for stamp in stamp::find_all(bytes) {
            if stamp.publication == publication {
                self.pictures.insert(stamp.picture);
                newest = newest.max(Some(stamp));
            } else {
                self.foreign += 1;
            }
        }
        newest
    }
}

/// When a session's first media was fetched.
#[derive(Clone, Copy, Debug)]
pub struct FirstMedia {
    /// By a player that asks for part 0 of segment 0 (blocking reload).
    pub asked: Instant,
    /// By a player that asks for the playlist as it is, as hls.js does first.
    pub plain: Instant,
}

/// The playlist's URL with the delivery directives of RFC 8216bis section 6.2.5.
fn blocking(media: &Url, (msn, part): (u64, u64)) -> Url {
    let mut url = media.clone();
    url.query_pairs_mut()
        .append_pair("_HLS_msn", &msn.to_string())
        .append_pair("_HLS_part", &part.to_string());
    url
}

/// Pauses before another try, or says why there is none.
async fn not_yet(problem: Result<()>, deadline: Instant, url: &Url) -> Result<()> {
    if Instant::now() < deadline {
        tokio::time::sleep(RETRY).await;
        return Ok(());
    }
    match problem {
        Err(error) => Err(error.context("no playable media in time")),
        Ok(()) => bail!("no playable media in time at {url}"),
    }
}

/// Follows the video of one session.
#[derive(Clone, Debug)]
pub struct Watcher {
    http: Client,
    index: Url,
    publication: u32,
    media: Option<Url>,
}

impl Watcher {
    /// For `{hls_base}{session}/index.m3u8`; `publication` is what the publisher put into its stamps.
    pub fn new(http: &Client, hls_base: &Url, session: &str, publication: u32) -> Result<Self> {
        let index = hls_base
            .join(&format!("{session}/index.m3u8"))
            .context("the session makes no URL")?;
        Ok(Self {
            http: http.clone(),
            index,
            publication,
            media: None,
        })
    }

    /// An HTTP client fit for many watchers.
    pub fn http_client() -> Result<Client> {
        Client::builder()
            .timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTP client")
    }

    /// Waits until init segment and first part (or segment) are listed and fetched, in both ways in which a player
    /// may come by them.
    pub async fn first_media(&mut self, deadline: Instant) -> Result<FirstMedia> {
        let media = loop {
            match self.media_url().await {
                Ok(Some(media)) => break media,
                outcome => not_yet(outcome.map(drop), deadline, &self.index).await?,
            }
        };
        let asked = self.first_by(&media, Some((0, 0)), deadline);
        let plain = self.first_by(&media, None, deadline);
        let (asked, plain) = tokio::try_join!(asked, plain)?;
        Ok(FirstMedia { asked, plain })
    }

    async fn first_by(
        &self,
        media: &Url,
        part: Option<(u64, u64)>,
        deadline: Instant,
    ) -> Result<Instant> {
        loop {
            match self.try_first(media, part).await {
                Ok(true) => return Ok(Instant::now()),
                outcome => not_yet(outcome.map(drop), deadline, media).await?,
            }
        }
    }

    /// Fetches init segment and first part, if there are any.
    async fn try_first(&self, media: &Url, part: Option<(u64, u64)>) -> Result<bool> {
        let url = part.map_or_else(|| media.clone(), |part| blocking(media, part));
        let Some(text) = self.get_if_there(&url).await? else {
            return Ok(false);
        };
        let playlist = MediaPlaylist::parse(&String::from_utf8_lossy(&text))?;
        let part = playlist.parts.first().map(|part| &part.uri);
        let first = part.or_else(|| playlist.segments.first().map(|segment| &segment.uri));
        let (Some(first), Some(map)) = (first, &playlist.map) else {
            return Ok(false);
        };
        self.get(&media.join(map)?).await?;
        self.get(&media.join(first)?).await?;
        Ok(true)
    }

    /// Follows the live edge until `until` (or the end of the stream) by blocking reload, taking each new part as it is
    /// listed, as hls.js does. What is listed at the start is left out.
    pub async fn follow(&mut self, until: Instant, seen: &mut Seen) -> Result<()> {
        let media = self
            .media_url()
            .await?
            .with_context(|| format!("{} is not there", self.index))?;
        let mut playlist =
            MediaPlaylist::parse(&String::from_utf8_lossy(&self.get(&media).await?))?;
        while Instant::now() < until && !playlist.ended {
            let next = playlist.next();
            playlist = match self.reload(&media, next).await {
                Ok(playlist) => playlist,
                Err(error) => {
                    tracing::debug!("reload failed: {error:#}");
                    seen.errors += 1;
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let mut fresh: Vec<&Part> = playlist
                .parts
                .iter()
                .filter(|part| (part.msn, part.index) >= next)
                .collect();
            fresh.sort_by_key(|part| (part.msn, part.index));
            for part in fresh {
                match self.get(&media.join(&part.uri)?).await {
                    Ok(bytes) => {
                        seen.parts += 1;
                        if let Some(newest) = seen.add(&bytes, self.publication) {
                            seen.ages_ms
                                .push(newest.age(SystemTime::now()).as_secs_f64() * 1e3);
                        }
                    }
                    Err(error) => {
                        tracing::debug!("part failed: {error:#}");
                        seen.errors += 1;
                    }
                }
            }
        }
        seen.ended |= playlist.ended;
        Ok(())
    }

    /// Fetches everything the playlist lists now: complete segments and the parts of the one in progress.
    pub async fn window(&mut self, seen: &mut Seen) -> Result<()> {
        let media = self
            .media_url()
            .await?
            .with_context(|| format!("{} is not there", self.index))?;
        let playlist = MediaPlaylist::parse(&String::from_utf8_lossy(&self.get(&media).await?))?;
        let parts = playlist
            .parts
            .iter()
            .filter(|part| part.msn == playlist.current_msn)
            .map(|part| &part.uri);
        for uri in playlist
            .segments
            .iter()
            .map(|segment| &segment.uri)
            .chain(parts)
        {
            match self.get(&media.join(uri)?).await {
                Ok(bytes) => drop(seen.add(&bytes, self.publication)),
                Err(error) => {
                    tracing::debug!("segment failed: {error:#}");
                    seen.errors += 1;
                }
            }
        }
        seen.ended |= playlist.ended;
        Ok(())
    }

    async fn media_url(&mut self) -> Result<Option<Url>> {
        if let Some(media) = &self.media {
            return Ok(Some(media.clone()));
        }
        let Some(text) = self.get_if_there(&self.index).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&text);
        let media = first_variant(&text)
            .map(|uri| self.index.join(uri))
            .transpose()?;
        self.media.clone_from(&media);
        Ok(media)
    }

    async fn reload(&self, media: &Url, next: (u64, u64)) -> Result<MediaPlaylist> {
        MediaPlaylist::parse(&String::from_utf8_lossy(
            &self.get(&blocking(media, next)).await?,
        ))
    }

    async fn get(&self, url: &Url) -> Result<bytes::Bytes> {
        let response = self
            .http
            .get(url.clone())
            .send()
            .await
            .with_context(|| format!("cannot GET {url}"))?;
        if response.status() != StatusCode::OK {
            bail!("{url} answered {}", response.status());
        }
        response
            .bytes()
            .await
            .with_context(|| format!("{url} was cut off"))
    }

    /// `None` for 404 and 503: not there yet.
    async fn get_if_there(&self, url: &Url) -> Result<Option<bytes::Bytes>> {
        let response = self
            .http
            .get(url.clone())
            .send()
            .await
            .with_context(|| format!("cannot GET {url}"))?;
        match response.status() {
            StatusCode::OK => Ok(Some(
                response
                    .bytes()
                    .await
                    .with_context(|| format!("{url} was cut off"))?,
            )),
            StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => Ok(None),
            status => bail!("{url} answered {status}"),
        }
    }
}

/// Pictures in all recordings below `recordings/{session}`.
pub fn recorded(recordings: &Path, session: &str, publication: u32) -> Result<Seen> {
    let mut seen = Seen::default();
    let folder = recordings.join(session);
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "mp4") {
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            seen.add(&bytes, publication);
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_gaps_and_foreign_pictures() {
        let mut seen = Seen::default();
        let bytes: Vec<u8> = [(1, 5), (1, 6), (2, 7), (1, 9)]
            .into_iter()
            .flat_map(|(p, n)| Stamp::now(p, n).h264_sei())
            .collect();
        assert_eq!(seen.add(&bytes, 1).unwrap().picture, 9);
        assert_eq!((seen.gaps(), seen.foreign, seen.pictures.len()), (2, 1, 3));
        assert_eq!(Seen::default().gaps(), 0);
    }
}
