//! A session's HLS as a player gets it: both media playlists with everything they list, kept in memory and on disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use reqwest::{Client, Url};

use super::mp4::{self, Sample};

/// Longest wait for the end of the playlists after that of the publication.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run of segments that continue each other: no discontinuity, one init segment.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Ticks per second.
    pub(super) timescale: u32,
    /// In the order of decoding.
    pub(super) samples: Vec<Sample>,
}

/// One rendition.
#[derive(Clone, Debug)]
pub(super) struct Captured {
    /// Everything, in the playlist's order.
    pub(super) pieces: Vec<Piece>,
    /// `EXT-X-DISCONTINUITY` tags.
    pub(super) discontinuities: usize,
    /// `PART-TARGET` of the playlist at its end, in seconds.
    pub(super) part_target: f64,
    /// A copy on disk that FFmpeg plays.
    pub(super) playlist: PathBuf,
}

/// Fetches the renditions of an ended session into `folder`: video and audio, as far as they are there.
pub(super) async fn capture(
    http: &Client,
    index: &Url,
    folder: &Path,
) -> Result<(Option<Captured>, Option<Captured>)> {
    let text = get_text(http, index).await?;
    let video = crate::watch::first_variant(&text).filter(|uri| uri.contains("video"));
    let audio = text
        .lines()
        .filter(|line| line.starts_with("#EXT-X-MEDIA:"))
        .find_map(|line| line.split_once("URI=\"")?.1.split_once('"'))
        .map(|(uri, _)| uri)
        .or_else(|| crate::watch::first_variant(&text).filter(|uri| uri.contains("audio")));
    let mut found = [None, None];
    for (slot, (uri, name)) in found.iter_mut().zip([(video, "video"), (audio, "audio")]) {
        if let Some(uri) = uri {
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder)?;
            let rendition = rendition(http, &index.join(uri)?, &folder).await;
            *slot = Some(rendition.with_context(|| format!("the {name} playlist"))?);
        }
    }
    let [video, audio] = found;
    Ok((video, audio))
}

async fn rendition(http: &Client, url: &Url, folder: &Path) -> Result<Captured> {
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = get_text(http, url).await?;
        if text.contains("#EXT-X-ENDLIST") {
            break text;
        }
        if Instant::now() > deadline {
            bail!("it does not end:\n{text}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut captured = Captured {
        pieces: Vec::new(),
        discontinuities: 0,
        part_target: 0.0,
        playlist: folder.join("index.m3u8"),
    };
    let mut local = String::new();
    let mut number = 0;
    let mut new_piece = true;
    let mut timescale = 0;
    for line in text.lines() {
        let mut keep = |bytes: &Bytes, extension: &str| -> Result<String> {
            number += 1;
            let name = format!("{number}.{extension}");
            std::fs::write(folder.join(&name), bytes)?;
            Ok(name)
        };
        if let Some(attributes) = line.strip_prefix("#EXT-X-PART-INF:PART-TARGET=") {
            captured.part_target = attributes.parse().context("PART-TARGET")?;
        } else if line.starts_with("#EXT-X-MAP:") {
            let uri = line
                .split_once("URI=\"")
                .and_then(|(_, rest)| rest.split_once('"'))
                .context("EXT-X-MAP without URI")?
                .0;
            let init = get(http, &url.join(uri)?).await?;
            timescale = mp4::timescale(&init)?;
            let name = keep(&init, "mp4")?;
            local.extend(["#EXT-X-MAP:URI=\"", name.as_str(), "\"\n"]);
            new_piece = true;
        } else if line == "#EXT-X-DISCONTINUITY" {
            captured.discontinuities += 1;
            new_piece = true;
            local.push_str("#EXT-X-DISCONTINUITY\n");
        } else if line.starts_with("#EXT-X-PART")
            || line.starts_with("#EXT-X-SERVER-CONTROL")
            || line.starts_with("#EXT-X-PRELOAD")
            || line.starts_with("#EXT-X-RENDITION")
        {
            // FFmpeg plays whole segments.
        } else if !line.is_empty() && !line.starts_with('#') {
            let bytes = get(http, &url.join(line)?).await?;
            let samples = mp4::samples(&bytes)?;
            local.push_str(&keep(&bytes, "m4s")?);
            local.push('\n');
            if std::mem::take(&mut new_piece) {
                captured.pieces.push(Piece {
                    timescale,
                    samples: Vec::new(),
                });
            }
            if let Some(piece) = captured.pieces.last_mut() {
                piece.samples.extend(samples);
            }
        } else {
            local.push_str(line);
            local.push('\n');
        }
    }
    std::fs::write(&captured.playlist, local)?;
    Ok(captured)
}

async fn get_text(http: &Client, url: &Url) -> Result<String> {
    Ok(String::from_utf8_lossy(&get(http, url).await?).into_owned())
}

async fn get(http: &Client, url: &Url) -> Result<Bytes> {
    let response = http
        .get(url.clone())
        .send()
        .await
        .with_context(|| format!("cannot GET {url}"))?;
    if !response.status().is_success() {
        bail!("{url} answered {}", response.status());
    }
    response
        .bytes()
        .await
        .with_context(|| format!("{url} was cut off"))
}
